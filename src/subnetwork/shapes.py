"""Shapes of the arrays that the lab passes around, as types.

The letters are the paper's: ``n`` workers, ``d`` coordinates. The fast tests check every annotated
call and dataclass against them (jaxtyping with beartype); a type checker sees plain NumPy arrays.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int64

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Floats = NDArray[np.float64]
    _Integers = NDArray[np.int64]
else:
    _Floats = np.ndarray
    _Integers = np.ndarray

Floats = _Floats  # any shape
Vector = Float64[_Floats, "d"]  # a model x, a gradient
Matrix = Float64[_Floats, "d d"]  # L-bar, W, E[B]
PerWorker = Float64[_Floats, "n d"]  # b_i, diagonals of C_i: one row a worker
Matrices = Float64[_Floats, "n d d"]  # L_i: one matrix a worker
Curve = Float64[_Floats, "K"]  # one number a round
Units = Int64[_Integers, "_"]  # indices of the units a worker holds, ascending
