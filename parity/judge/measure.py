"""One pass over a result, its oracle and its budget, in chunks that stay in cache.

Non-finite values are counted before anything is measured and never enter a metric; nothing is
written to the inputs, and memory beside them is a few chunks. Does not know limits: `compare`
holds results against them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CHUNK", "Difference", "Measured", "difference", "measure"]

# Elements of a chunk: 32 k give three quarters of this speed on four float32 streams, 256 k a
# twentieth more for twice the memory (`tools/bench.py compare` measures it).
CHUNK = 131_072
# A sum of float32 squares below this may have lost elements whose square underflowed; above it they
# are less than a float32 rounding of the sum.
_LEAST_SQUARES = 2.0**-60


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Error of a result against a value: `worst` = max |e| / bound at flat index `worst_at`, and the
    sum over `count` elements of (e / sigma)^2."""

    count: int
    worst: float
    worst_at: int
    squares: float

    @property
    def rms(self) -> float:
        """Root of the mean of (e / sigma)^2, 0 for no elements."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


def measure(got: Tensor, value: Tensor, bound: Tensor, sigma: Tensor) -> Measured:
    """Measure flat float tensors of one length, finite throughout; sums are kept in float64."""
    worst, worst_at, squares = -1.0, 0, 0.0
    kind = functools.reduce(torch.promote_types, (t.dtype for t in (got, value, bound, sigma)))
    # Allocated once: a chunk's worth of fresh pages costs as much as the arithmetic on it.
    errors, ratios = (torch.empty(min(CHUNK, got.numel()), dtype=kind) for _ in range(2))
    for start, (t, y, b, s) in _chunks(got, value, bound, sigma):
        error, ratio = errors[: t.numel()], ratios[: t.numel()]
        torch.sub(t, y, out=error)
        squares += float(torch.div(error, s, out=ratio).square_().sum(dtype=torch.float64))
        low, high = torch.aminmax(torch.div(error, b, out=ratio))
        largest = max(-float(low), float(high))
        # A NaN is the worst of all, and stays it whatever later chunks hold.
        if largest > worst or (math.isnan(largest) and not math.isnan(worst)):
            worst, worst_at = largest, start + int(ratio.abs_().argmax())
    return Measured(count=got.numel(), worst=0.0 if worst < 0 else worst, worst_at=worst_at, squares=squares)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Distance of two results that have no budget between them, over elements finite in both.

    `unequal` counts elements that differ in value; `mismatched` those that are not finite in
    both and not the same infinity or NaN in both.
    """

    count: int
    unequal: int
    mismatched: int
    largest: float
    relative_l2: float


def difference(reference: Tensor, target: Tensor) -> Difference:
    """Compare two float tensors of one shape in one pass and bounded memory.

    `largest` and `relative_l2` are to four digits, as float32 gives them; counts are exact.
    """
    total = _Distance()
    wide = torch.float64 in {reference.dtype, target.dtype}
    flat = (reference.reshape(-1), target.reshape(-1))
    buffers = [torch.empty(min(CHUNK, reference.numel()), dtype=torch.float32) for _ in range(2)]
    for _, (r, t) in _chunks(*flat):
        quick = None if wide else _in_float32(r, t, [b[: r.numel()] for b in buffers])
        total.add(quick or _in_float64(r, t))
    scale = math.sqrt(total.reference_squares)
    distance = math.sqrt(total.error_squares)
    return Difference(
        count=reference.numel(),
        unequal=total.unequal,
        mismatched=total.mismatched,
        largest=total.largest,
        relative_l2=distance / scale if scale else (0.0 if not distance else math.inf),
    )


@dataclass(slots=True, kw_only=True)
class _Distance:
    """What `difference` sums up; `unequal` includes what is mismatched."""

    unequal: int = 0
    mismatched: int = 0
    largest: float = 0.0
    error_squares: float = 0.0
    reference_squares: float = 0.0

    def add(self, other: _Distance) -> None:
        self.unequal += other.unequal
        self.mismatched += other.mismatched
        self.largest = max(self.largest, other.largest)
        self.error_squares += other.error_squares
        self.reference_squares += other.reference_squares


def _in_float32(r: Tensor, t: Tensor, buffers: list[Tensor]) -> _Distance | None:
    """Compare a chunk in float32, or return None where a value or a square leaves its range."""
    error, unequal = buffers
    r, t = r.to(torch.float32), t.to(torch.float32)
    torch.sub(t, r, out=error)
    error_squares, reference_squares = float(torch.dot(error, error)), float(torch.dot(r, r))
    low, high = torch.aminmax(error)
    largest = max(-float(low), float(high))
    if not (math.isfinite(error_squares) and _LEAST_SQUARES <= reference_squares < math.inf):
        return None
    if largest and error_squares < _LEAST_SQUARES:
        return None
    torch.ne(r, t, out=unequal)
    return _Distance(
        # Exact: a chunk counts far fewer than 2^24 elements.
        unequal=int(unequal.sum()),
        largest=largest,
        error_squares=error_squares,
        reference_squares=reference_squares,
    )


def _in_float64(r: Tensor, t: Tensor) -> _Distance:
    r, t = r.to(torch.float64), t.to(torch.float64)
    error, mismatched = t - r, 0
    if not bool(error.isfinite().all()):
        both = r.isfinite() & t.isfinite()
        same = (r == t) | (r.isnan() & t.isnan())
        mismatched = int((~both & ~same).sum())
        error, r = torch.where(both, error, 0.0), torch.where(both, r, 0.0)
    return _Distance(
        unequal=int(error.count_nonzero()) + mismatched,
        mismatched=mismatched,
        largest=float(error.abs().max()),
        error_squares=float(error.square().sum()),
        reference_squares=float(r.square().sum()),
    )


def _chunks(*tensors: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    for start in range(0, tensors[0].numel(), CHUNK):
        yield start, tuple(t[start : start + CHUNK] for t in tensors)
