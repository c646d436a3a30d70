"""Words as numbers: the tokenizer and the vocabulary of the word model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .dataset import DataError

__all__ = ["Vocabulary", "sentences", "tokenize"]

TOKEN = re.compile(
    r"""  (?:mr|mrs|ms|dr|st|vs|e\.g|i\.e|u\.s)\.      # abbreviations keep their full stop
        | 's\b                                         # the genitive is a word of its own
        | [^\W\d]\w*(?:'(?!s\b)[^\W\d]\w*)*            # words: don't, python3, __name__
        | \d+(?:[.,]\d+)*                              # numbers: 1999, 3.14, 10,000
        | \.{3} | -{2,}
        | \w | [^\w\s]                                 # any other sign by itself
    """,
    re.VERBOSE,
)
PARAGRAPH = re.compile(r"\n\s*\n")
STOPS = frozenset({".", "?", "!"})


def tokenize(text: str) -> list[str]:
    """Split ``text``, in lower case, into words, numbers and punctuation marks.

    Tokens joined by spaces yield the same tokens, so text that is already tokenized does not change.
    """
    return TOKEN.findall(text.lower().replace("’", "'"))


def sentences(text: str) -> Iterator[tuple[str, ...]]:
    """The tokens of each sentence. A sentence ends at ``.``, ``?``, ``!`` or a blank line."""
    for paragraph in PARAGRAPH.split(text):
        sentence: list[str] = []
        for token in tokenize(paragraph):
            sentence.append(token)
            if token in STOPS:
                yield tuple(sentence)
                sentence = []
        if sentence:
            yield tuple(sentence)


@dataclass(frozen=True)
class Vocabulary:
    """Words and their ids: the id of a word is its position in ``words``."""

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.words or len(self.ids) != len(self.words):
            repeated = [word for word, n in Counter(self.words).items() if n > 1]
            raise DataError(f"expected one or more different words for a vocabulary; repeated: {repeated}")

    @classmethod
    def of(cls, tokens: Iterable[str], size: int) -> Vocabulary:
        """The ``size`` most frequent of ``tokens`` (or all, if there are fewer), with ties in alphabetical order."""
        if size < 1:
            raise DataError(f"expected a vocabulary of one or more words, not {size}")
        ranked = sorted(Counter(tokens).items(), key=lambda item: (-item[1], item[0]))
        return cls(tuple(word for word, _ in ranked[:size]))

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each word."""
        return {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, phrase: str | Iterable[str]) -> npt.NDArray[np.int32]:
        """Return the ids (n,) ``int32`` of the words of ``phrase``, a text or a sequence of tokens.

        Raises `DataError` that names every word that is not in the vocabulary, and the words with the most similar
        spelling.
        """
        tokens = tokenize(phrase) if isinstance(phrase, str) else list(phrase)
        unknown = [token for token in dict.fromkeys(tokens) if token not in self.ids]
        if unknown:
            hints = "; ".join(map(self._hint, unknown))
            raise DataError(f"not among the {len(self)} words of the vocabulary: {hints}")
        return np.array([self.ids[token] for token in tokens], np.int32)

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the words of ``ids``. Raises `DataError` for an id outside the vocabulary."""
        ids = [int(i) for i in ids]
        wrong = [i for i in ids if not 0 <= i < len(self)]
        if wrong:
            raise DataError(f"expected word ids from 0 to {len(self) - 1}, not {wrong[:5]}")
        return [self.words[i] for i in ids]

    def _hint(self, word: str) -> str:
        from difflib import get_close_matches

        near = get_close_matches(word, self.words, n=3)
        return f"{word!r} (near: {', '.join(near)})" if near else f"{word!r}"
