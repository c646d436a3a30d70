"""Benchmarks, which ``python -m benchmarks`` lists. They load data sets with the loaders of the examples."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "examples"))
