"""Benchmarks: ``python -m benchmarks`` lists them. The loaders of data sets are those of the examples."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "examples"))
