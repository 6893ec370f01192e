"""Benchmarks are scripts beside each other, as `python benchmarks/NAME.py` finds them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
