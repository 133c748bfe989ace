"""Ops that write or add at indices, and what their kernels get wrong."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parity.case.tensor import HostTensor
from parity.judge.oracle import to_float64
from parity.selftest.arithmetic import EXACT, LEGITIMATE, Arithmetic, nearest, total
from parity.selftest.kernel import Kernel, Moves
from parity.selftest.problem import Outputs, Problem, store

__all__ = [
    "KERNELS",
    "Array",
    "index_put",
    "index_put_adds",
    "one_of_the_written",
]

Array = np.ndarray


def _slots(p: Problem, bug: str) -> tuple[Array, Array]:
    """Return the rows that are written and their values, [n] and [n, ...]."""
    x, index, values = p.raw(0), p.raw(1).reshape(-1), p.raw(2)
    rows = np.broadcast_to(values, (index.size, *x.shape[1:]))
    match bug:
        case "negative_clamped":
            index = np.maximum(index, 0)
        case "index_off_by_one":
            index = index + 1
        case "last_not_written":
            index, rows = index[:-1], rows[:-1]
        case "values_of_next":
            rows = np.roll(rows, 1, axis=0)
    return np.where(index < 0, index + len(x), index) % len(x), rows


def index_put(p: Problem, bug: str) -> Outputs:
    """A copy of x with rows at index replaced; `first` and `last` are the two orders of writing."""
    x = p.raw(0)
    index, rows = _slots(p, bug)
    for i in range(len(index)) if bug != "first" else reversed(range(len(index))):
        x[index[i]] = rows[i]
    if bug == "added":
        return (store(index_put_adds(p, EXACT, ""), p.dtype),)
    return (HostTensor.of(x, p.dtype),)


def one_of_the_written(p: Problem, outputs: Outputs) -> bool:
    """Whether every element is one of those written to it, or x's own where none was."""
    x, got = p.raw(0), np.array(outputs[0].array())
    index, rows = _slots(p, "")
    code = f"u{x.dtype.itemsize}"
    for row in range(len(x)):
        may = [rows[i] for i in range(len(index)) if index[i] == row] or [x[row]]
        if not np.any([np.ascontiguousarray(m).view(code) == got[row].view(code) for m in may], axis=0).all():
            return False
    return True


def _meeting(p: Problem, bug: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x, flat slot of each term, terms) of an op that adds at indices."""
    x = p.x(0)
    if p.op == "index_put":
        rows_at, rows = _slots(p, bug)
        rest = x[0].numel() if len(x) else 0
        slots = torch.from_numpy(rows_at)[:, None] * rest + torch.arange(rest)
        return (
            x,
            slots.reshape(-1),
            to_float64(HostTensor.of(np.ascontiguousarray(rows), p.dtype)).reshape(-1),
        )
    dim, index, src = p.integer("dim"), p.x(1), p.x(2)
    if bug == "index_off_by_one":
        index = (index + 1) % x.shape[dim]
    elif bug == "values_of_next":
        src = src.roll(1, dim)
    places = torch.arange(x.numel()).reshape(x.shape)
    places = places[tuple(slice(n) if i != dim % x.ndim else slice(None) for i, n in enumerate(index.shape))]
    slots = places.gather(dim, index).reshape(-1)
    terms = src[tuple(slice(n) for n in index.shape)].reshape(-1)
    return (x, slots[:-1], terms[:-1]) if bug == "last_not_written" else (x, slots, terms)


def index_put_adds(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """x with terms added at their slots: index_put that accumulates, and scatter_add."""
    x, slots, terms = _meeting(p, bug)
    order = torch.argsort(slots, stable=True)
    slots, terms = slots[order], terms[order]
    _, counts = torch.unique_consecutive(slots, return_counts=True)
    first = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)[:-1])) if len(counts) else counts
    rank = torch.arange(len(slots)) - first.repeat_interleave(counts)
    # Each slot's own value, then its terms, in a row; what is not there adds 0.
    most = int(counts.max()) if len(counts) else 0
    meeting = torch.zeros(x.numel(), most + 1, dtype=torch.float64)
    meeting[:, 0] = x.reshape(-1)
    meeting[slots, rank + 1] = terms
    if bug == "overwritten":
        y = x.reshape(-1).clone()
        y[slots] = terms
        return how.number(y).reshape(x.shape)
    if bug == "update_lost":
        meeting = meeting[:, :2]
    if bug == "added_twice":
        meeting[slots[:1], 0] += terms[:1]
    if bug == "each_sum_rounded" and p.out.bits == 16:
        partial = how.number(meeting[:, 0])
        for column in meeting[:, 1:].unbind(1):
            partial = nearest(partial + how.number(column), p.out.name)
        return partial.reshape(x.shape)
    return total(how.number(meeting), how).reshape(x.shape)


_ADDS = (
    "overwritten",
    "update_lost",
    "added_twice",
    "each_sum_rounded",
    "index_off_by_one",
    "values_of_next",
    "last_not_written",
)
_WAYS = tuple(how for how in LEGITIMATE if how.order != "exact16")

KERNELS: dict[str, Kernel | Moves] = {
    "index_put": Moves(
        compute=index_put,
        bugs=("negative_clamped", "index_off_by_one", "last_not_written", "values_of_next", "added"),
        ways=("", "first"),
        legal=one_of_the_written,
    ),
    "index_put+": Kernel(compute=index_put_adds, bugs=(*_ADDS, "negative_clamped"), legitimate=_WAYS),
    "scatter_add": Kernel(compute=index_put_adds, bugs=_ADDS, legitimate=_WAYS),
}
