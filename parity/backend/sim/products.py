"""Matrix products summed as a `Products` says, on CPU tensors.

Where nothing is declared for a dtype there is no emulation: the caller then takes the host's own
kernel. An operand pair (a, b) of one k is one product, whatever parts it is read in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from parity.backend.arithmetic import Order, Products, Reads
from parity.backend.profile import Accumulator, Rounding
from parity.backend.sim.rounding import bits_kept, rounded, two_sum
from parity.case.dtype import DTYPES

__all__ = ["product"]

_DEFAULT = Accumulator(dtype=DTYPES["f32"])
_KEPT = {Reads.TF32: 10, Reads.HF32: 11, Reads.BF16: 7}
_Add = Callable[[Tensor, Tensor], Tensor]


def product(a: Tensor, b: Tensor, how: Products, *, call: int) -> Tensor:
    """Return a [..., M, K] times b [..., K, N] in the accumulator's format, held in float64.

    `call` numbers the calls: where the runs have no order, it chooses the one of this call. What a
    declaration leaves open is a float32 accumulator of block 1, sequential, K not split.
    """
    accumulator = how.accumulator or _DEFAULT
    length = a.shape[-1]
    if length == 0 or 0 in a.shape or 0 in b.shape:
        shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return torch.zeros(*shape, a.shape[-2], b.shape[-1], dtype=torch.float64)
    terms = _Terms(a, b, how.reads)
    add = _adder(accumulator)
    run = math.ceil(length / (how.splits or 1))
    totals = [
        _meet(_blocks(terms, start, min(start + run, length), accumulator), how.order, add)
        for start in range(0, length, run)
    ]
    if how.ordered is False:
        turn = call % len(totals)
        totals = totals[turn:] + totals[:turn]
    return _meet(iter(totals), Order.SEQUENTIAL, add).double()


class _Terms:
    """The products of each k, exact in float64: every operand part has at most 24 bits."""

    def __init__(self, a: Tensor, b: Tensor, reads: Reads) -> None:
        left, right = _parts(a, reads), _parts(b, reads)
        # Of bf16x2 lo lo is left out, of bf16x3 whatever is smaller than mid mid.
        self._pairs = [
            (left[i].double(), right[j].double())
            for i in range(len(left))
            for j in range(len(right))
            if i + j < max(len(left), 1)
        ]

    def __getitem__(self, k: int) -> Tensor:
        each = [x[..., :, k, None] * y[..., k, None, :] for x, y in self._pairs]
        return sum(each[1:], start=each[0])


def _parts(x: Tensor, reads: Reads) -> list[Tensor]:
    if reads is Reads.IEEE or x.dtype != torch.float32:
        return [x]
    if reads in _KEPT:
        return [bits_kept(x, _KEPT[reads])]
    parts, rest = [], x
    for _ in range(2 if reads is Reads.BF16X2 else 3):
        part = bits_kept(rest, _KEPT[Reads.BF16])
        parts.append(part)
        rest = rest - part  # of an infinity NaN, and so are its products
    return parts


def _blocks(terms: _Terms, start: int, stop: int, accumulator: Accumulator) -> Iterator[Tensor]:
    for first in range(start, stop, accumulator.block):
        high, low = terms[first], None
        for k in range(first + 1, min(first + accumulator.block, stop)):
            high, error = two_sum(high, terms[k])
            low = error if low is None else low + error
        if low is not None:
            high, low = two_sum(high, low)
        yield _narrow(high, low, accumulator)


def _is_native(accumulator: Accumulator) -> bool:
    return accumulator.dtype.name == "f32" and accumulator.rounding is Rounding.NEAREST


def _narrow(high: Tensor, low: Tensor | None, accumulator: Accumulator) -> Tensor:
    # One product is exact in float64, so the processor's own conversion rounds it once.
    if low is None and _is_native(accumulator):
        return high.float()
    value = rounded(high, low, accumulator.dtype, accumulator.rounding)
    return value.float() if _is_native(accumulator) else value


def _adder(accumulator: Accumulator) -> _Add:
    if _is_native(accumulator):
        return torch.add
    return lambda x, y: rounded(*two_sum(x, y), accumulator.dtype, accumulator.rounding)


def _meet(values: Iterator[Tensor], order: Order | None, add: _Add) -> Tensor:
    if order is Order.PAIRWISE:
        level = list(values)
        while len(level) > 1:
            pairs = [add(x, y) for x, y in zip(level[::2], level[1::2], strict=False)]
            level = [*pairs, *level[len(pairs) * 2 :]]
        return level[0]
    total = next(values)
    for value in values:
        total = add(total, value)
    return total
