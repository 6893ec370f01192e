"""Sparse matrices by dense ones, with a gradient for the dense one: `torch.sparse.mm`, faster."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True, eq=False)
class Matrix:
    """The entries of a sparse matrix, row after row; what products need of it is found once."""

    shape: tuple[int, int]
    rows: Tensor  # of each entry, ascending
    columns: Tensor
    values: Tensor  # without a gradient

    @classmethod
    def of(cls, a: Tensor) -> "Matrix":
        """The entries of a tensor, at best in coordinate form.

        Raises:
            ValueError: where it wants a gradient.
        """
        if a.requires_grad:
            raise ValueError(
                "A sparse matrix gets no gradient here, and this one requires it. Detach it."
            )
        a = a.to_sparse().coalesce()
        rows, columns = a.indices().int()
        values = a.values().clone()  # torch.compile fails on views of sparse tensors
        return cls((a.shape[0], a.shape[1]), rows, columns, values)

    def dropped(self, share: float, training: bool) -> "Matrix":
        """The same places after dropout of the values."""
        return replace(self, values=F.dropout(self.values, share, training))

    def times(self, dense: Tensor) -> Tensor:
        """The product with (columns, C): (rows, C), in the type of the values under autocast."""
        kind = self.values.dtype
        if dense.dtype != kind and torch.is_autocast_enabled(dense.device.type):
            dense = dense.to(kind)
        if torch.compiler.is_compiling():  # a graph has the gradients of torch's operations
            return _summed(self, dense)
        out: Tensor = _Product.apply(self, dense)  # type: ignore[no-untyped-call]
        return out

    @cached_property
    def starts(self) -> Tensor:
        """Where each row starts among the entries, and where the last one ends."""
        numbers = torch.arange(self.shape[0] + 1, dtype=torch.int32, device=self.rows.device)
        return torch.searchsorted(self.rows, numbers, out_int32=True)

    @cached_property
    def transposed(self) -> "Matrix":
        """The same entries, column after column."""
        columns, order = self.columns.sort(stable=True)
        rows, values = self.rows.index_select(0, order), self.values.index_select(0, order)
        return Matrix(self.shape[::-1], columns, rows, values)


class _Product(torch.autograd.Function):
    """A row of the product is a bag of rows of the dense matrix, weighted by a row's entries."""

    @staticmethod
    def forward(ctx: Any, matrix: Matrix, dense: Tensor) -> Tensor:  # noqa: ANN401
        ctx.matrix = matrix
        return _summed(matrix, dense.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # noqa: ANN401
        return None, _summed(ctx.matrix.transposed, gradient)


def _summed(matrix: Matrix, dense: Tensor) -> Tensor:
    """Entry by entry in the order of the matrix, as torch.sparse.mm adds them up."""
    return F.embedding_bag(
        matrix.columns,
        dense.contiguous(),
        matrix.starts,
        mode="sum",
        per_sample_weights=matrix.values,
        include_last_offset=True,
    )
