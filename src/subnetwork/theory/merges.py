"""Line 9 of Algorithm 1, three ways. They agree for Perm on paper and for nothing much besides.

None is the default: which merge a result belongs to has to be said where it is made.
"""

from collections.abc import Sequence

import numpy as np

from subnetwork.shapes import Vector
from subnetwork.theory.sketches import LinearPartition


def merge_form(x: Vector, partition: LinearPartition, trained: Sequence[Vector]) -> Vector:
    """x+ = mean_i z_i, the plain mean of Algorithm 1 and eq. (4).

    Literal: where mean_i C_i is not I, x is multiplied by it in every round.
    """
    del x, partition
    return np.asarray(np.mean(np.stack(trained), axis=0))


def update_form(x: Vector, partition: LinearPartition, trained: Sequence[Vector]) -> Vector:
    """x+ = x + mean_i (z_i - w_i): the workers' displacements, eq. (2).

    With one local step this is x - gamma g. The same as (4) if and only if mean_i C_i = I.
    """
    moved = np.stack(trained) - np.stack([partition.select(x, i) for i in range(len(trained))])
    return np.asarray(x + moved.mean(axis=0))


def holders_form(x: Vector, partition: LinearPartition, trained: Sequence[Vector]) -> Vector:
    """As networks are merged: every entry is averaged over the workers that hold it.

    For 0/1 masks. One holder: its value; several: x + mean of z_i - x over them; none: x stays.
    """
    z, held = np.stack(trained), np.stack([partition.held(i) for i in range(len(trained))]) != 0
    holders = held.sum(axis=0)
    moved = np.where(held, z - x, 0.0).sum(axis=0) / np.maximum(holders, 1)
    assigned = np.where(held, z, 0.0).sum(axis=0)
    return np.asarray(np.where(holders == 1, assigned, x + moved))
