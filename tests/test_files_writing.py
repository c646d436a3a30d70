"""Writing is atomic: a file is complete or untouched, keeps its mode and its links, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlp_xp.files import disk
from mlp_xp.files.disk import FileError, check_folder

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX")


def write(path: Path | str, content: bytes = b"new") -> None:
    disk.write(path, lambda file: file.write_bytes(content))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write(str(tmp_path / "f"), content)
        assert (tmp_path / "f").read_bytes() == content
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("function", ["write", "fsync", "replace"])
def test_an_error_of_the_system_names_the_path_and_keeps_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    write(tmp_path / "f", b"old")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if function != "write":
            patch.setattr(os, function, full)
        with pytest.raises(
            FileError, match=r"cannot write .*f: No space left on device; an existing file is unchanged"
        ) as caught:
            disk.write(tmp_path / "f", full if function == "write" else lambda file: file.write_bytes(b"new"))
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


@posix
def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    """The same holds for a device, which is not tested: for root, a wrong check would replace /dev/null by a file."""
    os.mkfifo(tmp_path / "pipe")
    for function in (write, check_folder):
        with pytest.raises(FileError, match="it is a pipe or a device, not a regular file"):
            function(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


FULL = """
import resource, sys
import numpy as np
from mlp_xp.files import container
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
container.write(sys.argv[1], "model", {"a": np.zeros(100_000)}, {})
"""


@posix
def test_a_file_that_cannot_grow_gets_the_error_of_the_system(tmp_path: Path) -> None:
    """The safetensors package reports it in words of its own."""
    write(tmp_path / "f", b"old")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FULL, str(tmp_path / "f")]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert f"FileError: cannot write {tmp_path / 'f'}: {os.strerror(errno.EFBIG)}" in done.stderr
    assert (names(tmp_path), (tmp_path / "f").read_bytes()) == (["f"], b"old")


def test_an_exception_while_writing_keeps_the_file(tmp_path: Path) -> None:
    write(tmp_path / "f", b"old")

    def interrupted(file: Path) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        disk.write(tmp_path / "f", interrupted)
    assert (names(tmp_path), (tmp_path / "f").read_bytes()) == (["f"], b"old")


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_the_mode_of_an_existing_file_is_kept(tmp_path: Path, mode: int) -> None:
    write(tmp_path / "f")
    (tmp_path / "f").chmod(mode)
    write(tmp_path / "f")
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == mode


@posix
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    write(tmp_path / "f")
    (tmp_path / "g").touch()
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "g").stat().st_mode


@posix
def test_a_secret_is_never_readable_for_others(tmp_path: Path) -> None:
    write(tmp_path / "f")
    (tmp_path / "f").chmod(0o600)
    modes = []
    disk.write(tmp_path / "f", lambda file: modes.append(stat.S_IMODE(file.parent.stat().st_mode)))
    assert modes == [0o700]


@posix
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_written_through(tmp_path: Path, exists: bool) -> None:
    target, link, second = tmp_path / "a" / "target", tmp_path / "link", tmp_path / "second"
    target.parent.mkdir()
    link.symlink_to("a/target")
    second.symlink_to(link)
    if exists:
        target.write_bytes(b"old")
    write(second)
    assert second.is_symlink() and link.is_symlink()
    assert target.read_bytes() == b"new" and not target.is_symlink()
    assert (names(tmp_path), names(target.parent)) == (["a", "link", "second"], ["target"])


@posix
def test_a_loop_of_links_gets_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(FileError, match="cannot write"):
        write(tmp_path / "a")
    assert names(tmp_path) == ["a", "b"]


def test_a_name_of_the_greatest_length_is_possible(tmp_path: Path) -> None:
    write(tmp_path / ("x" * 255))
    assert names(tmp_path) == ["x" * 255]


KILLED = """
import os, signal, sys
from mlp_xp.files import disk
disk.write(sys.argv[1], lambda file: (file.write_bytes(b"half"), os.kill(os.getpid(), signal.SIGKILL)))
"""


@posix
def test_what_a_killed_process_leaves_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "f")], env=environment, check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(names(tmp_path)) == 1  # the second writer removed what the first one left
    write(tmp_path / "f")
    assert names(tmp_path) == ["f"]


@posix
def test_an_interruption_while_cleaning_up_leaves_nothing_after_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", interrupted)
        write(tmp_path / "f")
    assert len(names(tmp_path)) == 2  # the file is complete, its empty temporary folder is left
    write(tmp_path / "f")
    assert names(tmp_path) == ["f"]


@posix
def test_temporary_files_of_others_stay(tmp_path: Path) -> None:
    """Those of running processes, those for other targets, and whatever merely looks similar."""
    prefix, other = disk._prefix(tmp_path / "f"), disk._prefix(tmp_path / "g")
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    pid = int(dead.stdout)
    stay = [f"{prefix}{os.getppid()}.{'0' * 16}.tmp", f"{prefix}1.{'0' * 16}.tmp", f"{other}{pid}.{'0' * 16}.tmp"]
    stay += [f"{prefix}{pid}.{'0' * 15}.tmp", f"{prefix}{pid}.{'0' * 16}.tmp2", f"{prefix}x.{'0' * 16}.tmp"]
    go = [f"{prefix}{pid}.{'0' * 16}.tmp", f"{prefix}{os.getpid()}.{'1' * 16}.tmp", f"{prefix}999999999.{'2' * 16}.tmp"]
    stay = list(dict.fromkeys(stay))  # our parent may be process 1
    for name in stay + go:
        (tmp_path / name).mkdir()
        (tmp_path / name / "new").touch()
    write(tmp_path / "f")
    assert names(tmp_path) == sorted(["f", *stay])


def test_threads_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    contents = [bytes([i]) * 100_000 for i in range(8)]
    threads = [
        threading.Thread(target=lambda c=content: [write(tmp_path / "f", c) for _ in range(20)]) for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "f").read_bytes() in contents
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("path", [None, 3, b"bytes", Path, ["a"]])
@pytest.mark.parametrize("function", [write, check_folder])
def test_a_path_must_be_a_path(path: object, function: object) -> None:
    with pytest.raises(TypeError, match="expected the path of a file"):
        function(path)


@pytest.mark.parametrize("function", [write, check_folder])
def test_an_impossible_target_gets_one_clear_error(tmp_path: Path, function: object) -> None:
    write(tmp_path / "f")
    for path, message in [
        ("", "expected the path"),
        ("a\0b", "expected the path"),
        (tmp_path, "it is a folder"),
        (tmp_path / "no" / "f", "there is no folder"),
        (tmp_path / "f" / "g", "there is no folder"),
    ]:
        with pytest.raises(FileError, match=message):
            function(path)


@posix
def test_a_name_that_is_too_long_gets_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="File name too long"):
        write(tmp_path / ("x" * 256))
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_writing_leaves_no_file_open(tmp_path: Path) -> None:
    write(tmp_path / "f")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  what the kernel lists
    for _ in range(5):
        write(tmp_path / "f")
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208  those of garbage may be closed meanwhile
