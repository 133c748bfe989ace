"""The three tests of a rounded result (NUMERICS.md 1.2 and 9), after its non-finite pattern.

T1 max |e| / B <= 1.  T2 rms(e / sigma) <= max(3, 1.5 sqrt(chi2_{1-1e-6}(N) / N)), N the elements
that are rounded independently.  T1 for 16-bit results rounded once: each is the rounding of a
value within H, RN(y - H) <= t <= RN(y + H). T3 for them: the number of elements that are not the
correctly rounded oracle, at most 4 mu + 10 sqrt(mu) + 3; mu is the larger of sum min(1, 2 m / ulp)
and of how many values lie within m of an edge between two results, m = min(H, 3 h).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.case.dtype import DType
from parity.judge.budget import FALSE_ALARM, Budget, rounded
from parity.judge.measure import Measured, measure

__all__ = ["FLIPS", "RMS_FLOOR", "Held", "hold", "rms_limit", "ulp", "wrong_pattern"]

# The only typed-in constants of a verdict. `tools/bench.py faults` measures what they give on
# fresh seeds; the README's table holds the figures.
RMS_FLOOR = 3.0
FLIPS = (4.0, 10.0, 3.0)  # slope of mu, slope of sqrt(mu), base


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Measurements beside their limits; `failures` names each test that did not hold."""

    free: int
    worst: float
    worst_index: tuple[int, ...] | None
    rms: float
    rms_limit: float
    flips: int | None
    flips_limit: int | None
    failures: tuple[str, ...]


def hold(got: Tensor, budget: Budget) -> Held:
    """Hold a float64 copy of a result against its budget, element by element."""
    shape, got, value = got.shape, got.reshape(-1), budget.value.reshape(-1)
    free = torch.zeros_like(value, dtype=torch.bool)
    if budget.free is not None:
        free = budget.free.expand(shape).reshape(-1)
    bound, sigma = (t.expand(shape).reshape(-1) for t in budget.total())
    # A formula that is not finite at a finite value gives no room at all.
    bound, sigma = (torch.where(t.isfinite(), t, budget.dtype.min_subnormal) for t in (bound, sigma))
    wrong = wrong_pattern(got, value, budget) & ~free
    usable = got.isfinite() & value.isfinite() & ~free & ~wrong
    where = None if bool(usable.all()) else usable.nonzero().reshape(-1)
    streams = [got, value, bound, sigma]
    if where is not None:
        streams = [t[where] for t in streams]
    measured = measure(streams[0], streams[1], streams[2], streams[3])
    outside, flips, flips_limit = _roundings(streams[0], streams[1], budget, where)
    limit = rms_limit(min(budget.independent or measured.count, measured.count))
    failures = _failures(measured, limit, flips, flips_limit)
    if outside:
        failures.append(f"{outside:,} elements are the rounding of no value within the bound")
    at = None
    if bool(wrong.any()):
        at = int(wrong.to(torch.uint8).argmax())
        kind = f"{_class(float(got[at]))} where the oracle is {_class(float(value[at]))}"
        failures.insert(0, f"{int(wrong.sum()):,} of {got.numel():,} elements {kind}")
    elif measured.count:
        at = measured.worst_at if where is None else int(where[measured.worst_at])
    return Held(
        free=int(free.sum()),
        worst=measured.worst,
        worst_index=None if at is None else _unravel(at, tuple(shape)),
        rms=measured.rms,
        rms_limit=limit,
        flips=flips,
        flips_limit=flips_limit,
        failures=tuple(failures),
    )


def _failures(measured: Measured, limit: float, flips: int | None, flips_limit: int | None) -> list[str]:
    """Name each test that does not hold. A NaN holds none: comparisons are written to fail on it."""
    failures = []
    if not measured.worst <= 1:
        failures.append("worst |e|/B exceeds 1")
    if not measured.rms <= limit:
        failures.append("rms e/sigma exceeds its limit")
    if flips is not None and flips_limit is not None and flips > flips_limit:
        failures.append("more flips than rounding explains")
    return failures


def wrong_pattern(got: Tensor, value: Tensor, budget: Budget) -> Tensor:
    """Mark elements whose NaN, infinity or finiteness is not one that the value allows.

    The last rounding gives infinity from half a step beyond the largest value on; what it rounds
    is off by `hard` and the roundings before it.
    """
    edge = budget.dtype.max_finite * (1 + budget.dtype.unit_roundoff / 2)
    size = value.abs()
    bound = budget.hard.expand(budget.value.shape).reshape(-1)
    if value.numel() and _is_far(got, size, bound, edge):
        return torch.zeros_like(value, dtype=torch.bool)
    bound = bound + (budget.roundings - 1) * budget.dtype.unit_roundoff * size
    bound = torch.where(bound.isfinite(), bound, 0.0)
    must_overflow = (size - bound > edge) | value.isinf()
    may_overflow = (size + bound >= edge) | value.isinf()
    same_sign = torch.signbit(got) == torch.signbit(value)
    legal = torch.where(got.isinf(), may_overflow & same_sign, ~must_overflow & got.isfinite())
    legal = torch.where(value.isnan(), got.isnan(), legal)
    if budget.nan_ok is not None:
        legal |= got.isnan() & budget.nan_ok.expand(budget.value.shape).reshape(-1)
    return ~legal


def _is_far(got: Tensor, size: Tensor, bound: Tensor, edge: float) -> bool:
    """Whether all results are finite and nothing comes near `edge`, nor is NaN: extremes carry NaN on."""
    low, high = torch.aminmax(got)
    # Further roundings, each of a small share of the value, stay below twice this.
    return float(size.max()) + float(bound.max()) < edge / 2 and math.isfinite(float(high) - float(low))


def _class(x: float) -> str:
    if math.isnan(x):
        return "NaN"
    if math.isinf(x):
        return "inf" if x > 0 else "-inf"
    return f"finite ({x:.6g})"


def _roundings(
    got: Tensor, value: Tensor, budget: Budget, where: Tensor | None
) -> tuple[int, int | None, int | None]:
    """Return how many 16-bit results round no value within `hard`, then flips and their limit.

    None where a result is wider or rounded twice. A flip is as likely as its value is near an edge
    between two results: counted as the values lie, or as they would at random, whichever is more.
    """
    if budget.dtype.bits != 16 or budget.roundings != 1:
        return 0, None, None
    hard = budget.hard.expand(budget.value.shape).reshape(-1)
    expected = budget.sigma.expand(budget.value.shape).reshape(-1)
    if where is not None:
        hard, expected = hard[where], expected[where]
    hard, expected = (torch.where(t.isfinite(), t, 0.0) for t in (hard, expected))
    near = torch.minimum(hard, 3 * expected)
    step = ulp(value, budget.dtype)
    share = (2 * near / step).clamp(max=1)
    # Where all of y - H to y + H rounds to t, nothing is outside and nothing can flip. Half a step
    # around t does, and a quarter beneath a power of two; what is closer to an edge is rounded.
    clear = ((got - value).abs() + hard < 0.4999 * step) & (hard < 0.2499 * step)
    if budget.flush:
        clear &= value.abs() >= budget.dtype.min_normal
    at = (~clear).nonzero().reshape(-1)
    outside, may_flip, flipped, small = _rounded(got[at], value[at], hard[at], near[at], budget)
    share[at] = torch.where(small, 1.0, share[at])
    mu = max(float(share.sum()), float(may_flip.sum()))
    slope, spread, base = FLIPS
    flips = int(flipped.sum())
    return int(outside.sum()), flips, int(slope * mu + spread * math.sqrt(mu) + base)


def _rounded(
    got: Tensor, value: Tensor, hard: Tensor, near: Tensor, budget: Budget
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mark what is the rounding of no value within `hard`, what may flip, what did, and what was flushed."""
    exact = rounded(value, budget.dtype)
    outside = (got < rounded(value - hard, budget.dtype)) | (got > rounded(value + hard, budget.dtype))
    may_flip = rounded(value - near, budget.dtype) != rounded(value + near, budget.dtype)
    small = torch.zeros_like(may_flip)
    if budget.flush:
        small = (value.abs() < budget.dtype.min_normal) & (exact != 0)
        outside &= ~(small & (got == 0))
    return outside, may_flip | small, exact != got, small


def ulp(value: Tensor, dtype: DType) -> Tensor:
    """Return the distance between neighbours of a dtype of at most 32 bits at each finite float64 value."""
    # The exponent's bits alone are the power of two below; float64 subnormals are below any other type's.
    power = (value.view(torch.int64) & (0x7FF << 52)).view(torch.float64)
    return power.clamp(min=dtype.min_normal) * 2.0**-dtype.mantissa_bits


@functools.lru_cache(maxsize=256)
def rms_limit(independent: int) -> float:
    """Return max(3, 1.5 sqrt(chi2_{1-1e-6}(N) / N)) for N independently rounded elements.

    A mean over few elements scatters: a constant limit of 3 alone gave up to 3 % false alarms
    on one output of a sum of 7 terms.
    """
    # 16 elements give 2.89; from there on the floor decides.
    if independent >= 16 or independent < 1:
        return RMS_FLOOR
    low, high = 0.0, 200.0
    shape = torch.tensor(independent / 2, dtype=torch.float64)
    for _ in range(60):
        middle = (low + high) / 2
        tail = torch.special.gammaincc(shape, torch.tensor(middle / 2, dtype=torch.float64))
        low, high = (middle, high) if float(tail) > FALSE_ALARM else (low, middle)
    return max(RMS_FLOOR, 1.5 * math.sqrt(high / independent))


def _unravel(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index = []
    for n in reversed(shape):
        index.append(flat % n)
        flat //= n
    return tuple(reversed(index))
