"""The trees of additions that `Products` can describe, and which terms a tree loses.

A large M, a later -M and small terms: those that are added to M before the two have met are lost.
Does not ask a device; `probe_order` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from parity.backend.arithmetic import Order

__all__ = ["Indices", "Tree", "Trial", "meeting"]

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One way to add: which small terms are lost follows from it."""

    block: int
    order: Order
    splits: int

    def run(self, length: int) -> int:
        """Return how many terms a run has, the last ones fewer."""
        return -(-length // self.splits)


def meeting(tree: Tree, first: Indices, second: Indices, length: int) -> tuple[Indices, Indices]:
    """Return the terms [start, end) that are added before those at `first` < `second` have met.

    Empty where the two are in one block, which is added exactly.
    """
    size = tree.run(length)
    run = first // size
    one, other = (first % size) // tree.block, (second % size) // tree.block
    if tree.order is Order.SEQUENTIAL:
        start, end = run * size, run * size + (other + 1) * tree.block
    else:
        # Neighbours meet level by level: where both have become one node, they have met.
        level = np.ceil(np.log2((one ^ other) + 1)).astype(np.int64)
        start = run * size + ((one >> level) << level) * tree.block
        end = run * size + (((one >> level) + 1) << level) * tree.block
    end = np.minimum(end, np.minimum((run + 1) * size, length))
    apart = second // size != run
    start = np.where(apart, 0, np.where(one == other, 0, start))
    end = np.where(apart, np.minimum((second // size + 1) * size, length), np.where(one == other, 0, end))
    return start, end


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """Rows of terms: M at `first`, -M at `second`, small ones where `present`; read in column `column`.

    All rows share their right operands, so a column fixes which places are `large`.
    """

    first: Indices
    second: Indices
    column: Indices
    present: npt.NDArray[np.bool_]  # [rows, K]
    large: npt.NDArray[np.bool_]  # [K, columns]
    before: Indices = field(init=False)  # [rows, K + 1]: how many small terms lie before a place

    def __post_init__(self) -> None:
        before = np.zeros((len(self.present), self.present.shape[1] + 1), dtype=np.int64)
        np.cumsum(self.present, axis=1, out=before[:, 1:])
        object.__setattr__(self, "before", before)

    def rows(self, chosen: Indices) -> Trial:
        """Return some of the rows."""
        return Trial(
            first=self.first[chosen],
            second=self.second[chosen],
            column=self.column[chosen],
            present=self.present[chosen],
            large=self.large,
        )

    def count(self, start: Indices, end: Indices) -> Indices:
        """Return how many small terms of each row lie in [start, end)."""
        rows = np.arange(len(self.before))
        return np.asarray(self.before[rows, end] - self.before[rows, start])
