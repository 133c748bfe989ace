"""From the samples of one output to what it may be: exact, a budget, or nothing that can be said.

Symbols: d is a sample's distance from the oracle, sigma its rms over the samples of an element. Does
not run anything.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from parity.backend.torch_tensor import dtype_of
from parity.case.dtype import DTYPES, DType, encode
from parity.case.tensor import HostTensor
from parity.judge.budget import FALSE_ALARM, RMS_ROUNDING, Budget, Exact, Expected, rounded
from parity.judge.monte_carlo_twins import Result
from parity.judge.oracle import to_float64

__all__ = ["Spread", "Unjudgeable", "encoded"]

# Elements by which it is told how many are rounded independently.
_WATCHED = 4096
# Below this, relative to the result, a distance is what float64 itself rounds.
_NEGLIGIBLE = 2.0**-44
# Samples' weight of the typical relative sigma beside an element's own.
_TYPICAL = 4
# How many times farther than by its size a larger rounding moves what jumps.
_JUMP = 8.0


class Unjudgeable(Exception):
    """Why nothing can be said of what a call gave."""


class Spread:
    """The samples of one output, as sums over them."""

    def __init__(self, oracle: Result) -> None:
        self._value, self._dtype = oracle.values, dtype_of(oracle.dtype)
        self._count = 0
        self._changed = torch.zeros(self._value.shape, dtype=torch.bool)  # where any value is right
        if self._dtype.is_float:
            self._total, self._squares, self._largest, self._jump, self._reach = (
                torch.zeros_like(self._value) for _ in range(5)
            )
            step = max(1, -(-self._value.numel() // _WATCHED))
            self._places = torch.arange(0, self._value.numel(), step)
            self._watched: list[Tensor] = []

    def add(self, values: Tensor, *, by: float) -> None:
        """Take in a sample whose rounding was `by` times that of the arithmetic; 0 only broke ties."""
        if not self._dtype.is_float:
            self._changed |= values != self._value
        elif by:
            self._add(values, by)

    def _add(self, values: Tensor, by: float) -> None:
        same = (values == self._value) | (values.isnan() & self._value.isnan())
        both = values.isfinite() & self._value.isfinite()
        self._changed |= ~both & ~same
        d = torch.where(both, values - self._value, 0.0)
        d = torch.where(d.abs() <= _NEGLIGIBLE * self._value.abs(), 0.0, d)
        self._reach = torch.maximum(self._reach, d.abs())
        if by != 1.0:
            self._jump = torch.maximum(self._jump, d.abs() / by)
            return
        self._count += 1
        self._total += d
        self._squares += d.square()
        self._largest = torch.maximum(self._largest, d.abs())
        self._watched.append(d.reshape(-1)[self._places])

    def expected(self, *, unit: float, moves_only: bool, flush: bool) -> Expected:
        """Return what the output may be on an arithmetic of that unit. Raises Unjudgeable."""
        if not self._dtype.is_float:
            return self._integers()
        if not bool(self._reach.any() or self._changed.any()):
            exact = self._exact(moves_only=moves_only)
            if exact is not None:
                return exact
        jumps = self._jump > _JUMP * self._largest
        self._refuse_lost(jumps)
        sigma = self._sigma()
        hard = self._multiple(self._count) * sigma
        roundings = 1 if self._dtype.unit_roundoff > unit else 0
        if not roundings:
            # Rounded by the last operation, so in the samples; a number that was never computed is not.
            given = (self._squares == 0) & (rounded(self._value, self._dtype) != self._value)
            step = self._dtype.unit_roundoff * self._value.abs()
            sigma, hard = torch.where(given, RMS_ROUNDING * step, sigma), torch.where(given, step, hard)
        # Where the call jumps, each side and what lies between them is right.
        sigma, hard = torch.where(jumps, self._reach, sigma), torch.where(jumps, 2 * self._reach, hard)
        return Budget(
            dtype=self._dtype,
            value=self._value,
            hard=hard,
            sigma=sigma,
            roundings=roundings,
            independent=self._independent(sigma),
            free=self._changed if bool(self._changed.any()) else None,
            flush=flush,
        )

    def least(self, *, of: int, unit: float, flush: bool) -> Expected | None:
        """Return what `expected` will allow at least when `of` samples are in; None where that is not known.

        A sum of squares only grows: with S of the samples so far, sigma^2 >= S / (of + 4), and what is within
        that many of these sigmas will be. What jumps or depends on rounding is given more room then, too.
        """
        if not self._dtype.is_float:
            return Exact(bits=self._bits())
        if not bool(self._reach.any() or self._changed.any()):
            return self._exact(moves_only=True)
        try:
            self._refuse_lost(torch.zeros_like(self._changed))
        except Unjudgeable:
            return None
        sigma = (self._squares / (of + _TYPICAL)).sqrt()
        return Budget(
            dtype=self._dtype,
            value=self._value,
            hard=self._multiple(of) * sigma,
            sigma=sigma,
            roundings=1 if self._dtype.unit_roundoff > unit else 0,
            free=self._changed if bool(self._changed.any()) else None,
            flush=flush,
        )

    def _bits(self) -> HostTensor:
        return HostTensor.of(self._value.numpy().astype(self._dtype.storage), self._dtype)

    def _integers(self) -> Expected:
        if self._value.numel() and bool(self._changed.all()):
            raise Unjudgeable("each of its elements depends on rounding")
        return Exact(bits=self._bits(), free=self._changed if bool(self._changed.any()) else None)

    def _exact(self, *, moves_only: bool) -> Exact | None:
        """Return the bits where the type holds every element; zeros have either sign unless only moved."""
        bits = encoded(self._value, self._dtype)
        held = to_float64(bits)
        if not bool(((held == self._value) | (held.isnan() & self._value.isnan())).all()):
            return None
        negated = torch.where(self._value == 0, -self._value, self._value)
        others = () if moves_only else (encoded(negated, self._dtype),)
        return Exact(bits=bits, alternatives=others, any_nan=True)

    def _sigma(self) -> Tensor:
        """Return the rms of d, an element's own with a little of the typical one of its size.

        A few of many elements have samples that happen to lie close; none has its sigma made up
        where every sample is exact.
        """
        own = self._squares / self._count
        share = own / self._value.square()
        usable = share[(share > 0) & share.isfinite()]
        typical = float(usable.median()) if usable.numel() else 0.0
        mixed = (self._count * own + _TYPICAL * typical * self._value.square()) / (self._count + _TYPICAL)
        return torch.where(own > 0, torch.where(self._value.isfinite(), mixed, 0.0), 0.0).sqrt()

    def _multiple(self, count: int) -> float:
        """Return how many sigmas no honest element exceeds, with probability 1e-6 over all of them.

        lambda = sqrt(2 ln(2N / 1e-6)) for a normal error of known sigma; with one known from n
        samples, t^2 = n (e^(lambda^2 / n) - 1) bounds the quantile of Student's t (Wallace 1959).
        """
        normal = 2 * math.log(2 * max(self._value.numel(), 1) / FALSE_ALARM)
        n = count + _TYPICAL
        return math.sqrt(n * math.expm1(normal / n))

    def _independent(self, sigma: Tensor) -> int | None:
        """Return half the number of independent errors that would scatter as the samples' mean squares do."""
        at = sigma.reshape(-1)[self._places]
        kept = at > 0
        if not bool(kept.any()) or self._count < 2:
            return None
        means = torch.stack([(d[kept] / at[kept]).square().mean() for d in self._watched])
        scatter = float(means.var())
        return max(1, int(float(means.mean()) ** 2 / scatter)) if scatter else None

    def _refuse_lost(self, jumps: Tensor) -> None:
        usable = ~self._changed & ~jumps & self._value.isfinite()
        if self._value.numel() and 2 * int(usable.sum()) < int(self._value.isfinite().sum()):
            raise Unjudgeable("more than half of its elements overflow or jump within rounding")
        mean = self._total / self._count
        variance = (self._squares / self._count - mean.square()).clamp(min=0)
        # 45 standard errors of a mean of 32: no noise has it, but what leaves the range of float32 has.
        if bool((usable & (mean.abs() > 8 * variance.sqrt() + DTYPES["f32"].min_normal)).any()):
            raise Unjudgeable("torch's own parts of it do not give what it gives in float64")
        noise, size = (float(t[usable].sum()) for t in (self._squares / self._count, self._value.square()))
        if noise > size / 16:
            raise Unjudgeable(
                "its samples lie farther apart than a quarter of the result: it is lost in rounding"
            )


def encoded(values: Tensor, dtype: DType) -> HostTensor:
    """Return float64 values rounded to nearest even in a type, by our own encoder."""
    codes = encode(values.numpy(), dtype)
    return HostTensor.of(codes.reshape(-1).view(dtype.storage).reshape(codes.shape), dtype)
