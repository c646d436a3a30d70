"""Loaders: files that follow the format are read correctly, and all others raise one clear error."""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from example_data import (
    ELLIPSE_LEVEL,
    DataError,
    MissingDataError,
    Split,
    Vocabulary,
    draw_letters,
    ellipse,
    ellipse_form,
    load_digits,
    load_handwritten,
    load_mnist,
    load_moons,
    load_ngrams,
    load_notmnist,
    ngrams,
    read_idx,
    split,
    tokenize,
)
from example_data.locate import download
from example_data.mnist import MNIST_FILES
from example_data.vocabulary import sentences

IDX_CODE = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}  # LeCun's table
REAL = os.environ.get("MLP_XP_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="MLP_XP_DATA is not set")
in_tmp = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No data folder, an empty cache and no network."""
    pooch, requests = pytest.importorskip("pooch"), pytest.importorskip("requests")

    def fail(*args, **kwargs):
        raise requests.ConnectionError("no network")

    monkeypatch.delenv("MLP_XP_DATA", raising=False)
    monkeypatch.setenv("MLP_XP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pooch, "retrieve", fail)
    monkeypatch.setattr(requests, "head", fail)


# IDX


def idx_bytes(array):
    """An array in the published layout, written independently of our reader."""
    code = IDX_CODE[array.dtype.str[1:]]
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def written(folder, content, name="file"):
    path = folder / name
    path.write_bytes(content)
    return path


idx_arrays = st.sampled_from(sorted(IDX_CODE)).flatmap(
    lambda code: hnp.arrays(np.dtype(code), hnp.array_shapes(min_dims=1, max_dims=4, max_side=5))
)


@in_tmp
@given(array=idx_arrays, zipped=st.booleans())
def test_idx_round_trip(tmp_path, array, zipped):
    content = idx_bytes(array)
    got = read_idx(written(tmp_path, gzip.compress(content) if zipped else content))
    assert got.dtype == array.dtype and got.flags.writeable
    np.testing.assert_array_equal(got, array)


def test_idx_magic_of_images_is_2051(tmp_path):
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    content = struct.pack(">IIII", 2051, 2, 3, 4) + bytes(range(24))
    np.testing.assert_array_equal(read_idx(written(tmp_path, content)), images)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_cut_anywhere_or_too_long_is_a_data_error(tmp_path, zipped):
    content = idx_bytes(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))
    content = gzip.compress(content) if zipped else content
    for end in range(len(content)):
        with pytest.raises(DataError):
            read_idx(written(tmp_path, content[:end]))
    for tail in (b"\0", content):
        with pytest.raises(DataError, match="follow"):
            read_idx(written(tmp_path, content + tail))


@in_tmp
@given(data=st.data(), zipped=st.booleans())
def test_idx_with_a_wrong_byte_is_an_array_or_a_data_error(tmp_path, data, zipped):
    content = bytearray(idx_bytes(np.arange(12, dtype=np.int16).reshape(3, 4)))
    content = bytearray(gzip.compress(bytes(content))) if zipped else content
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DataError):
        assert isinstance(read_idx(written(tmp_path, bytes(content))), np.ndarray)


@pytest.mark.parametrize(
    "head",
    [
        struct.pack(">IIII", 2051, 2**32 - 1, 2**32 - 1, 2**32 - 1),
        struct.pack(">IIII", 2051, 0, 2**32 - 1, 2**32 - 1),
        struct.pack(">BBBB", 0, 0, 0x0A, 1) + b"\0\0\0\1\0",
        struct.pack(">BBBB", 0, 0, 0x08, 0) + b"\0",
        struct.pack(">BBBB", 0, 0, 0x08, 255) + b"\0\0\0\1" * 255 + b"\0",
        b"\x89PNG\r\n\x1a\n" + bytes(40),
        b"",
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_with_absurd_header(tmp_path, head, zipped):
    path = written(tmp_path, gzip.compress(head) if zipped else head)
    with pytest.raises(DataError, match=str(path)):
        read_idx(path)


def test_idx_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / "nothing")


# MNIST and the digits


def write_mnist(folder, names=tuple(MNIST_FILES), labels=(0, 9, 3)):
    folder.mkdir(parents=True, exist_ok=True)
    images = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    for name in names:
        content = idx_bytes(images if "images" in name else np.array(labels, np.uint8))
        written(folder, gzip.compress(content) if name.endswith(".gz") else content, name)
    return images


@pytest.mark.parametrize(
    "rename",
    [str, lambda name: name.removesuffix(".gz"), lambda name: name.removesuffix(".gz").replace("-idx", ".idx")],
)
@pytest.mark.parametrize("below", ["", "mnist"])
def test_mnist_from_a_folder(tmp_path, rename, below):
    images = write_mnist(tmp_path / below, map(rename, MNIST_FILES))
    data = load_mnist(tmp_path)
    np.testing.assert_array_equal(data.train.x, images.reshape(3, 20))
    assert data.train.y.tolist() == [0, 9, 3] and data.train.y.dtype == np.int32
    assert data.shape == (4, 5) and data.valid is None and str(tmp_path) in data.source


def test_mnist_by_environment_and_cache(tmp_path, monkeypatch, offline):
    write_mnist(tmp_path / "cache" / "mnist")
    assert "cache" in load_mnist().source
    write_mnist(tmp_path / "mine")
    monkeypatch.setenv("MLP_XP_DATA", str(tmp_path / "mine"))
    assert "mine" in load_mnist().source


def test_mnist_that_does_not_fit_together(tmp_path):
    write_mnist(tmp_path, labels=(1, 2))
    with pytest.raises(DataError, match=r"3 images, but its labels have the shape \(2,\)"):
        load_mnist(tmp_path)
    write_mnist(tmp_path, labels=(1, 2, 10))
    with pytest.raises(DataError, match="from 1 to 10"):
        load_mnist(tmp_path)
    write_mnist(tmp_path)
    written(tmp_path, gzip.compress(idx_bytes(np.zeros((3, 4, 5), np.int16))), "t10k-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match="int16"):
        load_mnist(tmp_path)


@pytest.mark.parametrize("load", [load_mnist, partial(load_handwritten, "auto", np.random.default_rng(0))])
def test_named_folder_without_mnist_is_an_error(tmp_path, load, offline):
    written(tmp_path, b"", "readme.txt")
    with pytest.raises(DataError, match=r"expected the four IDX files.*found readme\.txt"):
        load(data_dir=tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        load(data_dir=tmp_path / "nowhere")


@needs_data
def test_real_mnist():
    folder = Path(REAL, "mnist")
    if not folder.is_dir():
        pytest.skip(f"{REAL} holds no mnist/")
    data = load_mnist(REAL)
    for name, checksum in MNIST_FILES.items():
        if (folder / name).is_file():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == checksum
    assert data.train.x.shape == (60_000, 784) and data.test.x.shape == (10_000, 784)
    assert data.train.y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # as LeCun's page shows them
    assert data.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    np.testing.assert_allclose(data.train.x.mean() / 255, 0.1307, atol=5e-5)  # the figure in common use
    np.testing.assert_allclose(data.train.x.std() / 255, 0.3081, atol=5e-5)


def test_digits_are_scikit_learns(rng):
    reference = pytest.importorskip("sklearn.datasets").load_digits()
    data = load_digits(rng)
    assert (len(data.train.x), len(data.test.x)) == (1438, 359) and data.shape == (8, 8)
    both = np.concatenate([data.train.x, data.test.x])
    rows = sorted(map(tuple, np.rint(both / 255 * 16).astype(int).tolist()))
    assert rows == sorted(map(tuple, reference.data.astype(int).tolist()))
    assert Counter(np.concatenate([data.train.y, data.test.y]).tolist()) == Counter(reference.target.tolist())


def test_without_network_auto_takes_the_digits_and_says_so(offline, rng):
    pytest.importorskip("sklearn")
    data = load_handwritten("auto", rng)
    assert data.name == "digits" and "\n" not in data.source
    assert "because MNIST was not found: MLP_XP_DATA is not set; no download" in data.source
    with pytest.raises(MissingDataError, match="MLP_XP_DATA is not set; no download"):
        load_handwritten("mnist", rng)


def test_handwritten_by_name(rng):
    pytest.importorskip("sklearn")
    assert load_handwritten("digits", rng).name == "digits"
    with pytest.raises(DataError, match="'mnist', 'digits' or 'auto'"):
        load_handwritten("cifar", rng)


# Downloads


@pytest.fixture
def mirrors(monkeypatch, tmp_path):
    """A server on this machine: ``/good/`` has the file, ``/bad/`` another, ``/cut/`` stops half way."""
    pytest.importorskip("pooch")
    monkeypatch.setenv("MLP_XP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self, body=b""):
            self.send_response(404 if "/gone/" in self.path else 200)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.do_HEAD({"good": b"abcdef", "bad": b"ABCDEF", "cut": b"abc"}[self.path.split("/")[1]])

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield lambda *names: [f"http://127.0.0.1:{server.server_port}/{name}/" for name in names]
        server.shutdown()


SUM = {"letters.txt": hashlib.sha256(b"abcdef").hexdigest()}


@pytest.mark.parametrize("names", [("good",), ("bad", "good"), ("gone", "good"), ("cut", "good")])
def test_download_takes_the_mirror_that_has_the_right_file(mirrors, names):
    folder = download("letters", SUM, mirrors(*names))
    assert [file.name for file in folder.iterdir()] == ["letters.txt"]
    assert (folder / "letters.txt").read_bytes() == b"abcdef"


@pytest.mark.parametrize("name", ["bad", "cut", "gone"])
def test_failed_download_leaves_nothing(mirrors, tmp_path, name):
    with pytest.raises(MissingDataError, match=f"/{name}/"):
        download("letters", SUM, mirrors(name))
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def test_a_mirror_that_never_answers_is_given_up(mirrors, monkeypatch):
    monkeypatch.setattr("example_data.locate.CONNECT_SECONDS", 0.2)
    monkeypatch.setattr("requests.head", lambda *args, **kwargs: threading.Event().wait(5))
    with pytest.raises(MissingDataError, match="no answer"):
        download("letters", SUM, mirrors("good"))


def test_download_without_pooch_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.delenv("MLP_XP_CACHE", raising=False)
    with pytest.raises(MissingDataError, match="pip install"):
        download("letters", SUM, ["http://127.0.0.1:9/"])


# notMNIST


def png(pixels):
    stream = io.BytesIO()
    pytest.importorskip("PIL.Image").fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def some_letters(n=40):
    pixels = np.random.default_rng(1).integers(0, 256, (n, 28, 28)).astype(np.uint8)
    return pixels, np.arange(n) % 10


def pairs(data):
    """The images of a data set with their labels, independent of their order."""
    parts = (data.train, data.valid, data.test)
    return sorted((int(y), x.tobytes()) for part in parts for x, y in zip(part.x, part.y, strict=True))


PIXELS, LABELS = some_letters()
EXPECTED = sorted((int(y), x.tobytes()) for x, y in zip(PIXELS, LABELS, strict=True))


@pytest.mark.parametrize("keys", [("Images", "Labels"), ("images", "labels")])
@pytest.mark.parametrize(
    "images",
    [
        PIXELS,
        PIXELS.reshape(-1, 784),
        PIXELS[..., None],
        np.moveaxis(PIXELS, 0, -1),
        PIXELS.astype(np.int64),
        PIXELS / 255,
        (PIXELS / 255 - 0.5).astype(np.float32),
        PIXELS.astype(np.float64),
    ],
)
def test_notmnist_npz_in_every_form(tmp_path, rng, keys, images):
    np.savez(tmp_path / "notMNIST.npz", **dict(zip(keys, (images, LABELS), strict=True)))
    data = load_notmnist(rng, tmp_path)
    assert pairs(data) == EXPECTED
    assert data.train.x.dtype == np.uint8 and data.train.y.dtype == np.int32
    assert len(data.train.x) == 21 and len(data.valid.x) == 13  # 40 in the proportions 10,000 : 6,000 : 2,724


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.astype(np.float32),
        LABELS[:, None],
        np.eye(10)[LABELS],
        np.eye(10, dtype=bool)[LABELS],
        np.array(list("ABCDEFGHIJ"))[LABELS],
        np.array(list("ABCDEFGHIJ"))[LABELS].astype("S1"),
    ],
)
def test_notmnist_labels_in_every_form(tmp_path, rng, labels):
    np.savez_compressed(tmp_path / "notMNIST_small.npz", images=PIXELS, labels=labels)
    assert pairs(load_notmnist(rng, tmp_path / "notMNIST_small.npz")) == EXPECTED


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS}, "expected the keys images and labels"),
        ({"images": PIXELS, "labels": LABELS + 1}, "0 to 9"),
        ({"images": PIXELS, "labels": LABELS + 0.5}, "0 to 9"),
        ({"images": PIXELS, "labels": LABELS[:-1]}, "39 labels, but images are"),
        ({"images": PIXELS, "labels": LABELS[:0]}, "0 to 9"),
        ({"images": PIXELS, "labels": np.int64(3)}, r"int64 of shape \(\)"),
        ({"images": PIXELS, "labels": np.array(["K"] * 40)}, "letters A to J"),
        ({"images": PIXELS, "labels": np.zeros((40, 10))}, "one 1 and nine 0"),
        ({"images": PIXELS[:, :20], "labels": LABELS}, r"expected numbers of shape \(40, 28, 28\)"),
        ({"images": PIXELS.astype("U3"), "labels": LABELS}, "expected numbers"),
        ({"images": PIXELS * 2.0, "labels": LABELS}, "pixels run from"),
        ({"images": np.where(PIXELS > 9, np.nan, 1.0), "labels": LABELS}, "pixels run from nan"),
        ({"images": PIXELS, "labels": LABELS.astype(object)}, "pickled objects.*allow_pickle=True"),
    ],
)
def test_notmnist_npz_that_is_wrong(tmp_path, rng, arrays, message):
    np.savez(tmp_path / "notMNIST.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_notmnist(rng, tmp_path)


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_is_unpickled(tmp_path, rng):
    trap = Trap(tmp_path / "sprung")
    np.savez(tmp_path / "notMNIST.npz", images=np.array([trap]), labels=LABELS)
    with pytest.raises(DataError, match="save it again"):
        load_notmnist(rng, tmp_path)
    written(tmp_path, pickle.dumps(trap), "notMNIST.npz")
    with pytest.raises(DataError, match="save it again"):
        load_notmnist(rng, tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_notmnist_npz_cut_anywhere(tmp_path, rng):
    np.savez_compressed(tmp_path / "notMNIST.npz", images=PIXELS, labels=LABELS)
    whole = (tmp_path / "notMNIST.npz").read_bytes()
    for end in range(0, len(whole), 397):
        with pytest.raises(DataError):
            load_notmnist(rng, written(tmp_path, whole[:end], "notMNIST.npz"))


def png_files():
    """The original's layout, with files that are no letters among them."""
    files = {f"{'ABCDEFGHIJ'[y]}/{i:02}.png": png(x) for i, (x, y) in enumerate(zip(PIXELS, LABELS, strict=True))}
    broken = {"A/cut.png": files["A/00.png"][:60], "B/empty.png": b"", "C/large.png": png(np.zeros((9, 9), np.uint8))}
    return files | broken | {"A/notes.txt": b"not an image"}


def test_notmnist_archive_and_folder_agree(tmp_path):
    with tarfile.open(tmp_path / "notMNIST_small.tar.gz", "w:gz") as tar:
        for name, content in png_files().items():
            member = tarfile.TarInfo(f"notMNIST_small/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("notMNIST_small/A/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    for name, content in png_files().items():
        path = tmp_path / "unpacked" / "notMNIST_small" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    places = (tmp_path, tmp_path / "unpacked", tmp_path / "unpacked" / "notMNIST_small")
    archive, *folders = (load_notmnist(np.random.default_rng(3), place) for place in places)
    assert pairs(archive) == EXPECTED and "0 copies of others, 3 unreadable files" in archive.source
    for folder in folders:
        np.testing.assert_array_equal(folder.train.x, archive.train.x)
        np.testing.assert_array_equal(folder.test.y, archive.test.y)


def test_notmnist_archive_that_is_none(tmp_path, rng):
    with pytest.raises(DataError, match="tar archive"):
        load_notmnist(rng, written(tmp_path, b"\x1f\x8b nonsense", "notMNIST_small.tar.gz"))
    with tarfile.open(tmp_path / "empty.tar.gz", "w:gz"):
        pass
    with pytest.raises(DataError, match="no PNG image"):
        load_notmnist(rng, tmp_path / "empty.tar.gz")


def test_notmnist_counts_repeats(tmp_path, rng):
    np.savez(tmp_path / "notMNIST.npz", images=np.concatenate([PIXELS, PIXELS[:7]]), labels=np.arange(47) % 10)
    assert "47 letters, 7 copies of others" in load_notmnist(rng, tmp_path).source


@needs_data
def test_real_notmnist(rng):
    if not Path(REAL, "notmnist").is_dir():
        pytest.skip(f"{REAL} holds no notmnist/")
    data = load_notmnist(rng, REAL)
    assert [len(part.x) for part in (data.train, data.valid, data.test)] == [10_000, 6_000, 2_724]
    assert "18,724 letters, 492 copies of others" in data.source


# Letters from fonts


def test_letters_are_reproducible_balanced_and_white_on_black():
    pytest.importorskip("matplotlib")
    first, again, other = (draw_letters(200, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.x, again.x)
    np.testing.assert_array_equal(first.y, again.y)
    assert not np.array_equal(first.x, other.x)
    assert first.x.shape == (200, 784) and first.x.dtype == np.uint8 and first.y.dtype == np.int32
    assert np.bincount(first.y).tolist() == [20] * 10
    images = first.x.reshape(-1, 28, 28).astype(float)
    centre, border = images[:, 6:22, 6:22].mean(), images[:, [0, -1]].mean()
    assert centre > 3 * border and border < 20


def test_letters_have_the_shapes_of_their_names():
    """Mean images: I is the narrowest, A is broader below than above, B and D have their stem on the left."""
    pytest.importorskip("matplotlib")
    data = draw_letters(2000, np.random.default_rng(0))
    mean = [data.x[data.y == k].reshape(-1, 28, 28).mean(0) for k in range(10)]
    columns = np.abs(np.arange(28) - 13.5)
    spread = [(image.sum(0) * columns).sum() / image.sum() for image in mean]
    assert np.argmin(spread) == "ABCDEFGHIJ".index("I")
    upper, lower = mean[0][:14], mean[0][14:]
    assert (lower.sum(0) * columns).sum() / lower.sum() > (upper.sum(0) * columns).sum() / upper.sum()
    for letter in "CEF":
        image = mean["ABCDEFGHIJ".index(letter)]
        assert image[:, 4:14].sum() > image[:, 14:24].sum()
    assert mean[9][:, 14:].sum() > mean[9][:, :14].sum()  # J


def test_notmnist_without_files_draws_letters_and_says_so(offline, rng):
    pytest.importorskip("matplotlib")
    data = load_notmnist(rng)
    assert data.shape == (28, 28) and data.classes == tuple("ABCDEFGHIJ")
    assert "because notMNIST was not found" in data.source and "\n" not in data.source


# Words


def test_tokens_of_a_sentence():
    text = "Mr. Smith’s dog didn't eat 3.5 kg, i.e. 1,000 bones -- did it?"
    assert " ".join(tokenize(text)) == "mr. smith 's dog didn't eat 3.5 kg , i.e. 1,000 bones -- did it ?"


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_tokens_joined_by_spaces_are_the_same_tokens(text):
    tokens = tokenize(text)
    assert tokenize(" ".join(tokens)) == tokens


@given(st.text(alphabet="aB mr.'s1,-?!_\n", max_size=60))
def test_tokens_keep_every_sign(text):
    assert "".join(tokenize(text)) == "".join(text.lower().split())


@given(st.text(alphabet="ab .?!\n", max_size=60))
def test_sentences_have_one_stop_at_their_end_and_lose_nothing(text):
    parts = list(sentences(text))
    assert [token for part in parts for token in part] == tokenize(text)
    assert all(part and not set(part[:-1]) & {".", "?", "!"} for part in parts if "..." not in part)


def test_sentences_end_at_blank_lines_only():
    assert list(sentences("a heading\n \nno stop\nhere. b")) == [("a", "heading"), ("no", "stop", "here", "."), ("b",)]


@given(st.lists(st.text("abcde", min_size=1), min_size=1, unique=True), st.data())
def test_vocabulary_decodes_what_it_encodes(words, data):
    vocabulary = Vocabulary(tuple(words))
    phrase = data.draw(st.lists(st.sampled_from(words)))
    ids = vocabulary.encode(phrase)
    assert ids.dtype == np.int32 and ids.shape == (len(phrase),)
    assert vocabulary.decode(ids) == phrase
    np.testing.assert_array_equal(vocabulary.encode(" ".join(phrase)), ids)


def test_unknown_words_are_named_with_their_neighbours():
    vocabulary = Vocabulary(("city", "of", "new", "york", "."))
    with pytest.raises(DataError, match=r"5 words .*'yorkk' \(near: york\); 'zzz'$"):
        vocabulary.encode("City of new yorkk zzz zzz")
    with pytest.raises(DataError, match=r"0 to 4, not \[5, -1\]"):
        vocabulary.decode([0, 5, -1])
    with pytest.raises(DataError, match=r"repeated: \['a'\]"):
        Vocabulary(("a", "b", "a"))
    with pytest.raises(DataError, match="one or more"):
        Vocabulary(())


def test_vocabulary_holds_the_most_frequent_and_breaks_ties_by_the_alphabet():
    assert Vocabulary.of(["b", "a", "c", "c", "b", "a", "d"], 3).words == ("a", "b", "c")
    assert Vocabulary.of(["b", "a", "a"], 9).words == ("a", "b")
    with pytest.raises(DataError, match="not 0"):
        Vocabulary.of("a", 0)


def prose(n, seed=0):
    """``n`` sentences over 30 words with frequencies that differ."""
    rng = np.random.default_rng(seed)
    words = [f"w{chr(97 + i // 6)}{chr(97 + i % 6)}" for i in range(30)]
    odds = 1 / np.arange(1, 31)
    draw = partial(rng.choice, words, p=odds / odds.sum())
    return " ".join(" ".join(draw(rng.integers(3, 9))) + "." for _ in range(n))


def reference_grams(text, words):
    """4-grams by their definition, one sentence at a time."""
    found = Counter()
    for sentence in sentences(text):
        for i in range(len(sentence) - 3):
            if words.issuperset(sentence[i : i + 4]):
                found[sentence[i : i + 4]] += 1
    return found


def grams(data, *parts):
    words = data.classes
    rows = np.concatenate([np.column_stack([part.x, part.y]) for part in parts])
    return Counter(tuple(words[i] for i in row) for row in rows.tolist())


@pytest.mark.parametrize("vocab_size", [10, 250])
def test_ngrams_are_those_of_the_definition(vocab_size, rng):
    text = prose(200)
    data = ngrams(text, rng, vocab_size)
    assert len(data.classes) == min(vocab_size, 31)
    assert data.train.x.shape[1] == 3 and data.train.x.dtype == data.train.y.dtype == np.int32
    assert grams(data, data.train, data.valid, data.test) == reference_grams(text, set(data.classes))


def test_ngrams_of_a_sentence_stay_in_one_part(rng):
    spoken = [" ".join(f"{word}{i:02}" for word in ("one", "two", "three", "four", "five")) + "." for i in range(99)]
    data = ngrams(" ".join(spoken * 2), rng, 1000)
    parts = [set(grams(data, part)) for part in (data.train, data.valid, data.test)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert [len(part.x) for part in (data.train, data.valid, data.test)] == [79 * 6, 10 * 6, 10 * 6]


def test_ngrams_are_reproducible():
    first, again, other = (ngrams(prose(50), np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.test.x, again.test.x)
    assert not np.array_equal(first.test.x, other.test.x)


@pytest.mark.parametrize("text", ["", "one", "one two three four five", "a. b. c. d. e. f. g. h. i. j. k. l."])
def test_text_that_is_too_short(text, rng):
    with pytest.raises(DataError, match="longer"):
        ngrams(text, rng)


def test_corpus_files(tmp_path, rng):
    data = load_ngrams(rng, corpus=written(tmp_path, b"\xef\xbb\xbf" + prose(50).encode()), vocab_size=12)
    assert len(data.classes) == 12 and str(tmp_path) in data.source
    with pytest.raises(DataError, match=r"UTF-8 \(byte 3\).*iconv"):
        load_ngrams(rng, corpus=written(tmp_path, b"caf\xe9."))
    with pytest.raises(DataError, match="cannot be read"):
        load_ngrams(rng, corpus=tmp_path / "nothing.txt")


def write_arrays(folder, **replaced):
    folder.mkdir(exist_ok=True)
    arrays = {"vocab": np.array(["a", "b", "c"])}
    for part, n in (("train", 8), ("valid", 2), ("test", 1)):
        arrays |= {f"{part}_inputs": np.arange(3 * n).reshape(n, 3) % 3, f"{part}_targets": np.arange(n) % 3}
    for name, array in (arrays | replaced).items():
        np.save(folder / f"{name}.npy", array)


def test_ngram_arrays(tmp_path, rng):
    write_arrays(tmp_path / "ngram250")
    data = load_ngrams(rng, tmp_path)
    assert data.classes == ("a", "b", "c") and data.train.x.dtype == np.int32
    assert data.train.x.tolist() == [[0, 1, 2]] * 8 and data.valid.y.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"vocab": np.array(["a", "b"])}, "from 0 to 2, but vocab.npy has 2 words"),
        ({"vocab": np.array(["a", "a", "b"])}, "repeated"),
        ({"vocab": np.array(["a", "b", "c"], object)}, "save it again"),
        ({"vocab": np.arange(3)}, "expected words"),
        ({"test_inputs": np.zeros((1, 4), int)}, r"expected integers of shape \(1, 3\)"),
        ({"test_inputs": np.int64(0)}, "expected integers of shape"),
        ({"test_inputs": np.zeros((1, 3))}, "float64"),
        ({"test_targets": np.zeros(2, int)}, r"expected integers of shape \(1,\)"),
        ({"test_targets": np.array([-1])}, "from -1 to -1"),
    ],
)
def test_ngram_arrays_that_are_wrong(tmp_path, rng, replaced, message):
    write_arrays(tmp_path, **replaced)
    with pytest.raises(DataError, match=message):
        load_ngrams(rng, tmp_path)


def test_raw_sentences_serve_where_arrays_are_missing(tmp_path, rng):
    written(tmp_path, prose(50).encode(), "raw_sentences.txt")
    assert "raw_sentences.txt" in load_ngrams(rng, tmp_path).source
    with pytest.raises(DataError, match=r"or raw_sentences\.txt there"):
        load_ngrams(rng, tmp_path / "..")


def test_embedded_text_is_there(offline, rng):
    data = load_ngrams(rng)
    assert len(data.classes) == 250 and {"the", ".", "class", "object"} <= set(data.classes)
    assert len(data.train.x) > 5_000 and "because the published 4-grams were not found" in data.source


@needs_data
def test_real_ngrams(rng):
    folder = Path(REAL, "ngram250")
    if not folder.is_dir():
        pytest.skip(f"{REAL} holds no ngram250/")
    data = load_ngrams(rng, REAL)
    assert [len(part.x) for part in (data.train, data.valid, data.test)] == [372_500, 46_500, 46_500]
    vocabulary = Vocabulary(data.classes)
    assert vocabulary.encode("city of new").tolist() == [133, 108, 84]  # as published with the data
    assert vocabulary.encode("Life in the").tolist() == [156, 200, 248]
    assert vocabulary.encode("he is the").tolist() == [169, 191, 248]
    assert vocabulary.decode([143]) == ["."]
    share = np.mean(data.test.y == 143)
    np.testing.assert_allclose(share, 0.173, atol=0.003)
    text = load_ngrams(rng, corpus=folder / "raw_sentences.txt")
    assert set(text.classes) == set(data.classes)


# Synthetic sets


def test_ellipse_is_its_definition():
    data = ellipse(1000, np.random.default_rng(0))
    np.testing.assert_array_equal(data.x, np.random.default_rng(0).standard_normal((1000, 2)))
    for (u, v), form, label in zip(data.x, ellipse_form(data.x), data.y, strict=True):
        np.testing.assert_allclose(form, u * u + 0.95 * u * v + 0.4 * v * v, rtol=1e-12, atol=1e-15)
        assert label == (form > ELLIPSE_LEVEL)


def test_moons_are_the_published_split():
    pytest.importorskip("sklearn")
    from sklearn.datasets import make_moons
    from sklearn.model_selection import train_test_split

    x, y = make_moons(5000, noise=0.1, random_state=42)
    expected = train_test_split(x, y, test_size=0.3, random_state=42)
    data = load_moons()
    for got, want in zip((data.train.x, data.test.x, data.train.y, data.test.y), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    assert len(data.test.x) == 1500


@pytest.mark.parametrize("load", [load_moons, partial(load_digits, np.random.default_rng(0))])
def test_without_scikit_learn_the_error_says_how_to_get_it(monkeypatch, load):
    for name in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match="scikit-learn: pip install"):
        load()


@pytest.mark.parametrize("missing", ["matplotlib", "PIL", "PIL.Image"])
def test_without_matplotlib_or_pillow_the_error_says_how_to_get_them(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DataError, match=r"matplotlib and Pillow .*: pip install"):
        draw_letters(1, np.random.default_rng(0))


# Splits


@given(st.integers(3, 200), st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_split_is_a_partition_in_proportion(n, parts, seed):
    data = Split(np.arange(2 * n).reshape(n, 2), np.arange(n, dtype=np.int32))
    try:
        pieces = split(data, parts, np.random.default_rng(seed))
    except DataError:
        assert min(parts) / sum(parts) * n < 1.5
        return
    assert sorted(np.concatenate([piece.y for piece in pieces]).tolist()) == list(range(n))
    for piece, part in zip(pieces, parts, strict=True):
        np.testing.assert_array_equal(piece.x[:, 0], 2 * piece.y)
        assert abs(len(piece.y) - part / sum(parts) * n) <= 1


def test_split_by_sizes_and_seed(rng):
    data = Split(np.arange(60)[:, None], np.arange(60, dtype=np.int32))
    assert [len(piece.x) for piece in split(data, (55, 5), rng)] == [55, 5]
    first, again = (split(data, (0.5, 0.5), np.random.default_rng(4))[0].y for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for parts in ((), (1, -1), (1, 0), (float("nan"), 1)):
        with pytest.raises(DataError, match="positive numbers"):
            split(data, parts, rng)


def test_import_brings_nothing_heavy():
    code = "import sys, example_data; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    loaded = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert not {"pooch", "requests", "PIL", "sklearn", "matplotlib", "scipy"} & set(ast.literal_eval(loaded))
