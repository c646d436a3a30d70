"""Word 4-grams, three words and the next one, for a neural language model (Bengio et al. 2003)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .dataset import DataError, Dataset, Split, cut
from .locate import MissingDataError, find
from .readers import read_npy
from .vocabulary import PARAGRAPH, Vocabulary, sentences

__all__ = ["load_ngrams", "ngrams"]

CONTEXT = 3
PARTS = (8, 1, 1)  # train, valid, test: the published proportions
ARRAYS = tuple(f"{part}_{kind}.npy" for part in ("train", "valid", "test") for kind in ("inputs", "targets"))
TEXT = "raw_sentences.txt"
MARKS = str.maketrans("", "", '"*“”')  # quotation marks and emphasis in the reference
PROSE = re.compile(r"[A-Z](?!.*::=).*[.:]", re.DOTALL)
WANTED = f"train_inputs.npy, train_targets.npy, valid_..., test_..., vocab.npy, or {TEXT}"


def load_ngrams(
    rng: np.random.Generator,
    data_dir: str | os.PathLike[str] | None = None,
    corpus: str | os.PathLike[str] | None = None,
    vocab_size: int = 250,
) -> Dataset:
    """Load word 4-grams from a text of the user, the published arrays or text, or prose included in Python.

    Parameters
    ----------
    rng
        Draws the sentences for training, validation and test (the published arrays are already split).
    data_dir
        The folder of ``{train,valid,test}_{inputs,targets}.npy`` and ``vocab.npy``, or of
        ``raw_sentences.txt``, or the folder that contains it as ``ngram250``. By default ``$MLP_XP_DATA``, then
        the cache, then the prose included in Python.
    corpus
        A text file in UTF-8 that is read instead: see `ngrams`.
    vocab_size
        The size of the vocabulary of a text: its most frequent words.

    Returns
    -------
    Parts with ``x`` (n, 3) ``int32`` and ``y`` (n,) ``int32``; ``classes`` are the words, for `Vocabulary`.

    Raises
    ------
    DataError
        Files are missing, unreadable or contradict each other, or a text is too short.
    """
    if corpus is not None:
        return ngrams(_read_text(Path(corpus).expanduser()), rng, vocab_size, str(corpus))
    try:
        files = find("ngram250", WANTED, _pick, data_dir)
    except MissingDataError as error:
        data = ngrams(_embedded_text(), rng, vocab_size, "Python's own reference")
        return data._replace(source=f"{data.source}, because the published 4-grams were not found: {error}")
    if files[0].name == TEXT:
        return ngrams(_read_text(files[0]), rng, vocab_size, str(files[0]))
    return _read_arrays(files)


def ngrams(text: str, rng: np.random.Generator, vocab_size: int = 250, source: str = "a text") -> Dataset:
    """Return the 4-grams of ``text``: four adjacent words of a sentence, all among its most frequent words.

    Whole sentences are drawn for training, validation and test (80, 10 and 10 %), and all copies of a sentence are in
    the same part, so no test sentence is used for training. Single 4-grams still occur in several parts, as in any
    language.
    """
    spoken = list(sentences(text))
    if max(map(len, spoken), default=0) <= CONTEXT:
        raise DataError(f"{source} has no sentence of four words: use a longer text")
    vocabulary = Vocabulary.of(chain.from_iterable(spoken), vocab_size)
    number: dict[tuple[str, ...], int] = {}
    distinct = [number.setdefault(sentence, len(number)) for sentence in spoken]
    grams, origin = _windows(spoken, vocabulary)
    part = np.empty(len(number), np.int8)
    for i, members in enumerate(_cut_sentences(len(number), rng)):
        part[members] = i
    belongs = part[np.asarray(distinct)[origin]]
    train, valid, test = (_split(grams[belongs == i], source) for i in range(len(PARTS)))
    note = f"4-grams from {source} ({len(grams):,} from {len(spoken):,} sentences, {len(vocabulary)} words)"
    return Dataset("ngrams", note, train, valid, test, vocabulary.words, (CONTEXT,))


def _windows(
    spoken: Sequence[tuple[str, ...]], vocabulary: Vocabulary
) -> tuple[npt.NDArray[np.int32], npt.NDArray[Any]]:
    """All 4-grams (n, 4) within sentences and vocabulary, and the number of the sentence of each (n,)."""
    ids = vocabulary.ids
    stream = np.array([ids.get(token, -1) for sentence in spoken for token in (*sentence, "")], np.int32)
    origin = np.repeat(np.arange(len(spoken)), [len(sentence) + 1 for sentence in spoken])
    grams = np.lib.stride_tricks.sliding_window_view(stream, CONTEXT + 1)
    known = np.flatnonzero(np.all(grams >= 0, axis=1))
    return grams[known], origin[known]


def _cut_sentences(n: int, rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    try:
        return cut(rng.permutation(n), PARTS)
    except DataError:
        raise DataError(
            f"the text has {n} different sentences (they end with '.', '?', '!' or a blank line), too few "
            "for training, validation and test: use a longer one"
        ) from None


def _split(grams: npt.NDArray[np.int32], source: str) -> Split:
    if not len(grams):
        raise DataError(f"{source} has too few 4-grams of frequent words: use a longer text or a larger vocabulary")
    return Split(np.ascontiguousarray(grams[:, :CONTEXT]), np.ascontiguousarray(grams[:, CONTEXT]))


def _pick(folder: Path) -> tuple[Path, ...] | None:
    """The published arrays in ``folder``, otherwise the published text."""
    for names in ((*ARRAYS, "vocab.npy"), (TEXT,)):
        files = tuple(folder / name for name in names)
        if all(file.is_file() for file in files):
            return files
    return None


def _read_arrays(files: Sequence[Path]) -> Dataset:
    *parts, words = map(read_npy, files)
    if words.dtype.kind != "U" or words.ndim != 1:
        raise DataError(f"{files[-1]} holds {words.dtype} of shape {words.shape}, expected words (n,)")
    vocabulary = Vocabulary(tuple(words.tolist()))
    train, valid, test = (
        Split(
            _ids(x, (*x.shape[:1], CONTEXT), len(vocabulary), x_file),
            _ids(y, x.shape[:1], len(vocabulary), y_file),
        )
        for x, y, x_file, y_file in zip(parts[::2], parts[1::2], files[0:6:2], files[1:6:2], strict=True)
    )
    sizes = f"{len(train.x):,} + {len(valid.x):,} + {len(test.x):,}"
    source = f"4-grams from {files[0].parent} ({sizes}, {len(vocabulary)} words)"
    return Dataset("ngrams", source, train, valid, test, vocabulary.words, (CONTEXT,))


def _ids(array: npt.NDArray[Any], shape: tuple[int, ...], words: int, path: Path) -> npt.NDArray[np.int32]:
    if array.dtype.kind not in "iu" or array.shape != shape or not array.size:
        raise DataError(f"{path} holds {array.dtype} of shape {array.shape}, expected integers of shape {shape}")
    if array.min() < 0 or array.max() >= words:
        raise DataError(f"{path} holds ids from {array.min()} to {array.max()}, but vocab.npy has {words} words")
    return np.ascontiguousarray(array, np.int32)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text in UTF-8 (byte {error.start}): convert it, for example with iconv -f latin1 -t utf-8"
        ) from error


def _embedded_text() -> str:
    """The prose of the reference that Python's ``help`` shows, without headings, grammar rules and code."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError("this Python does not include its reference (pydoc_data): name a text file instead") from error
    paragraphs = chain.from_iterable(PARAGRAPH.split(topics[key]) for key in sorted(topics))
    bare = (paragraph.translate(MARKS).strip() for paragraph in paragraphs)
    return "\n\n".join(dict.fromkeys(filter(PROSE.fullmatch, bare)))
