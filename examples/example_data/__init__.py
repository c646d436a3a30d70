"""Data sets: loaders that find files, download them, or fall back on data that are always available.

Every loader returns a `Dataset` of host arrays or raises `DataError`. Random choices come from a
``numpy.random.Generator`` that the caller passes in.
"""

from .dataset import DataError, Dataset, Split, split
from .digits import load_digits
from .idx import read_idx
from .letters import draw_letters
from .locate import MissingDataError
from .mnist import load_handwritten, load_mnist
from .ngrams import load_ngrams, ngrams
from .notmnist import load_notmnist
from .synthetic import ELLIPSE_LEVEL, ELLIPSE_Q, ellipse, ellipse_form, load_moons
from .vocabulary import Vocabulary, tokenize

__all__ = [
    "ELLIPSE_LEVEL",
    "ELLIPSE_Q",
    "DataError",
    "Dataset",
    "MissingDataError",
    "Split",
    "Vocabulary",
    "draw_letters",
    "ellipse",
    "ellipse_form",
    "load_digits",
    "load_handwritten",
    "load_mnist",
    "load_moons",
    "load_ngrams",
    "load_notmnist",
    "ngrams",
    "read_idx",
    "split",
    "tokenize",
]
