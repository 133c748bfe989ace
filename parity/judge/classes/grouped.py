"""Products of the rows of groups and of routed rows, each with a matrix of its own: the matmul rule.

What no row is multiplied with is not read.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from parity.judge.budget import Budget, Expected, Question
from parity.judge.classes.sums import product

__all__ = ["grouped_mm", "routed_mm"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Rows:
    """What a budget is made of, [rows, N] each, filled row by row; a row that nothing fills is 0."""

    value: Tensor
    hard: Tensor
    variance: Tensor
    free: Tensor

    @classmethod
    def zeros(cls, *shape: int) -> _Rows:
        value, hard, variance = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
        return cls(value, hard, variance, torch.zeros(shape, dtype=torch.bool))

    def put(self, at: tuple[Tensor, ...], made: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        for field, new in zip(dataclasses.fields(self), made, strict=True):
            getattr(self, field.name)[at] = new

    def budget(self, q: Question) -> Budget:
        return Budget(
            dtype=q.dtype, value=self.value, hard=self.hard, sigma=self.variance.sqrt(), free=self.free
        )


def grouped_mm(q: Question) -> tuple[Expected, ...]:
    """y = x_g w_g for the rows of each group, by the matmul rule with its K terms; other rows are 0."""
    x, w, ends = q.inputs
    assert x is not None and w is not None and ends is not None
    y, start = _Rows.zeros(x.shape[0], w.shape[2]), 0
    for group, end in enumerate(ends.tolist()):
        rows = torch.arange(start, end)
        y.put((rows,), product(q, x[rows], w[group], dtype=q.dtype))
        start = end
    return (y.budget(q),)


def routed_mm(q: Question) -> tuple[Expected, ...]:
    """y[t, j] = x[t] w_e^T for e = chosen[t, j], by the matmul rule with its K terms."""
    x, chosen, w = q.inputs
    assert x is not None and chosen is not None and w is not None
    y = _Rows.zeros(*chosen.shape, w.shape[1])
    for expert in sorted(set(chosen.flatten().tolist())):
        rows, place = torch.where(chosen == expert)
        y.put((rows, place), product(q, x[rows], w[expert].T, dtype=q.dtype))
    return (y.budget(q),)
