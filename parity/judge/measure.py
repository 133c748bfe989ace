"""One pass over a result, its oracle and its budget, in chunks that stay in cache.

Non-finite values are counted before anything is measured and never enter a metric; nothing is
written to the inputs. Does not know limits: `compare` holds results against them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CHUNK", "Difference", "Measured", "difference", "measure"]

# 64 k elements of three float64 streams are 1.5 MB: within the second-level caches in use.
CHUNK = 65_536


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
        """rms(e / sigma), 0 for no elements."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


def measure(got: Tensor, value: Tensor, bound: Tensor, sigma: Tensor) -> Measured:
    """Measure flat float tensors of one length, finite throughout; sums are kept in float64."""
    worst, worst_at, squares = -1.0, 0, 0.0
    for start, (t, y, b, s) in _chunks(got, value, bound, sigma):
        error = (t - y).abs_()
        squares += float((error / s).square_().sum(dtype=torch.float64))
        ratio, at = error.div_(b).max(0)
        # A NaN must not lose a comparison: it would vanish from the maximum.
        if not float(ratio) <= worst:
            worst, worst_at = float(ratio), start + int(at)
    return Measured(count=got.numel(), worst=max(worst, 0.0), worst_at=worst_at, squares=squares)


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
    """Compare two float tensors of one shape in one pass and bounded memory."""
    unequal = mismatched = 0
    largest = error_squares = reference_squares = 0.0
    for _, (r, t) in _chunks(reference.reshape(-1), target.reshape(-1)):
        r, t = r.to(torch.float64), t.to(torch.float64)
        error = t - r
        if not bool(error.isfinite().all()):
            both = r.isfinite() & t.isfinite()
            same = (r == t) | (r.isnan() & t.isnan())
            mismatched += int((~both & ~same).sum())
            error, r = torch.where(both, error, 0.0), torch.where(both, r, 0.0)
        unequal += int(error.count_nonzero())
        largest = max(largest, float(error.abs().max()))
        error_squares += float(error.square_().sum())
        reference_squares += float(r.square().sum())
    scale = math.sqrt(reference_squares)
    distance = math.sqrt(error_squares)
    return Difference(
        count=reference.numel(),
        unequal=unequal + mismatched,
        mismatched=mismatched,
        largest=largest,
        relative_l2=distance / scale if scale else (0.0 if not distance else math.inf),
    )


def _chunks(*tensors: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    for start in range(0, tensors[0].numel(), CHUNK):
        yield start, tuple(t[start : start + CHUNK] for t in tensors)
