"""How well a guess fits: the probability that it gives to what the step gave, element by element.

A guess predicts each element as a value with an expected error, rounded to the output's type; an
element that it misses is paid for as if any value were as likely. So the gain of a guess over the
right answer is in nats, free parameters and the place where it holds are paid for in the same coin,
and guesses of every kind are comparable (minimum description length; Rissanen, Automatica 14, 1978).
Does not make guesses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parity.case.tensor import HostTensor
from parity.judge.budget import RMS_ROUNDING, Budget, Exact, Expected, SetValued
from parity.judge.oracle import to_float64

__all__ = ["Fit", "Observed", "Place", "best_place", "fit", "tile_place"]

# How unlikely an element is that nothing explains, beside being any value at all.
_MISSED = -7.0
# Expected errors that are allowed, by strictness.
_ROOM = (math.inf, 3.0, 1.0)
# The price of NaN or infinity where it was not expected.
_STRANGE = -20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One output as it was given: its values, half a step of its type at each, and what any value costs."""

    tensor: HostTensor
    got: Tensor
    half_step: Tensor
    broad: Tensor

    @classmethod
    def of(cls, tensor: HostTensor) -> Observed:
        """Measure an output. `broad` is a Cauchy density of the tensor's own size."""
        got = to_float64(tensor)
        if not tensor.dtype.is_float:
            span = float(got.max() - got.min()) + 2 if got.numel() else 2.0
            flat = torch.zeros(got.shape, dtype=torch.float64)
            return cls(tensor=tensor, got=got, half_step=flat, broad=flat - math.log(span))
        dtype = tensor.dtype
        _, exponent = torch.frexp(got)
        lowest = 2 - dtype.bias
        steps = exponent.clamp(min=lowest) - 2 - dtype.mantissa_bits
        half = torch.ldexp(torch.ones_like(got), steps)
        finite = got[got.isfinite()].abs()
        size = float(finite.median()) if finite.numel() else 1.0
        size = size or (float(finite.mean()) if finite.numel() else 1.0) or dtype.min_normal
        broad = (2 * half / (math.pi * size * (1 + (got / size).square()))).log()
        broad = torch.where(got.isfinite(), broad.clamp(max=0.0), _STRANGE)
        return cls(tensor=tensor, got=got, half_step=half, broad=broad)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Log-probability of each element, and which of them the guess allows."""

    likelihood: Tensor
    allowed: Tensor


def fit(observed: Observed, expected: Expected, outputs: tuple[HostTensor, ...], *, strictness: int) -> Fit:
    """Weigh one output against an answer.

    `strictness` 0 allows the hard bound, 1 three expected errors at most, 2 one.
    """
    floor = observed.broad + _MISSED
    if isinstance(expected, Budget):
        return _budget(observed, expected, floor, strictness=strictness)
    if isinstance(expected, SetValued):
        wrong = torch.from_numpy(np.array(expected.wrong(outputs))).reshape(observed.got.shape)
    else:
        wrong = _unequal(observed, expected)
    # An answer out of a set is not certain either: the set has more than one.
    return Fit(likelihood=torch.where(wrong, floor, 0.0), allowed=~wrong)


def _unequal(observed: Observed, expected: Exact) -> Tensor:
    got = _raw(observed.tensor)
    wrong = np.ones(got.shape, np.bool_)
    for legal in (expected.bits, *expected.alternatives):
        wrong &= got != _raw(legal)
    result = torch.from_numpy(wrong).reshape(observed.got.shape)
    if expected.any_nan and observed.tensor.dtype.is_float:
        result &= ~(observed.got.isnan() & to_float64(expected.bits).isnan())
    return result if expected.free is None else result & ~expected.free


def _raw(tensor: HostTensor) -> np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]:
    array = np.asarray(tensor.array(), order="C").reshape(-1)
    return array.view(f"u{array.dtype.itemsize}")


def _budget(observed: Observed, expected: Budget, floor: Tensor, *, strictness: int) -> Fit:
    got, value = observed.got, expected.value
    u = expected.dtype.unit_roundoff
    inner = (expected.roundings - 1) * u * value.abs()
    hard = expected.hard.expand(value.shape) + inner * (1 + u)
    sigma = (expected.sigma.square() + (RMS_ROUNDING * inner).square()).sqrt().expand(value.shape)
    sigma = torch.where(sigma.isfinite(), sigma, 0.0)
    error = (got - value).abs()
    room = torch.minimum(hard, _ROOM[strictness] * sigma) if strictness else hard
    allowed = error <= room + observed.half_step * (1 + 1e-9) + expected.dtype.min_subnormal / 2
    # A logistic error of scale sigma: legitimate results are up to three times as far off.
    scale = torch.maximum(sigma, observed.half_step * 1e-3).clamp(min=1e-300)
    near, far = (error - observed.half_step) / scale, (error + observed.half_step) / scale
    mass = (torch.sigmoid(-near) - torch.sigmoid(-far)).clamp(min=1e-300).log()
    thin = far - near < 1e-3
    middle = error / scale
    density = (far - near).clamp(min=1e-300).log() - middle - 2 * torch.log1p(torch.exp(-middle))
    likely = torch.maximum(torch.where(thin, density, mass), floor)
    same = _same_class(got, value, expected)
    likely = torch.where(got.isfinite() & value.isfinite(), likely, torch.where(same, 0.0, floor))
    allowed = torch.where(got.isfinite() & value.isfinite(), allowed, same)
    if expected.flush:
        zero = (got == 0) & (value.abs() < expected.dtype.min_normal)
        likely, allowed = torch.where(zero, 0.0, likely), allowed | zero
    if expected.free is not None:
        free = expected.free.expand(value.shape)
        likely, allowed = torch.where(free, 0.0, likely), allowed | free
    return Fit(likelihood=likely, allowed=allowed)


def _same_class(got: Tensor, value: Tensor, expected: Budget) -> Tensor:
    """Whether what is not finite on one side is what the other allows."""
    edge = expected.dtype.max_finite * (1 + expected.dtype.unit_roundoff / 2)
    over = (value.abs() + expected.hard >= edge) & (torch.signbit(got) == torch.signbit(value))
    same = (got.isnan() & value.isnan()) | (got.isinf() & over)
    if expected.nan_ok is not None:
        same = same | (got.isnan() & expected.nan_ok.expand(value.shape))
    return same


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in an output a guess holds: everywhere when `text` is empty; `gain` is net of its price."""

    gain: float
    mask: Tensor
    text: str = ""


def best_place(gain: Tensor, failing: Tensor, *, scattered: bool, origin: tuple[int, ...]) -> Place:
    """Return where a guess that gains so much at each element holds best, counted from `origin`.

    Everywhere, on some indices of one or more dimensions, or on the failing elements alone if
    `scattered`; each costs what it takes to say which.
    """
    nowhere = Place(gain=0.0, mask=torch.zeros_like(failing))
    found = [nowhere, Place(gain=float(gain.sum()), mask=torch.ones_like(failing))]
    if gain.ndim:
        found += [_indices(gain, origin), _around(gain, failing, origin)]
    if scattered and bool(failing.any()):
        count, total = int(failing.sum()), failing.numel()
        price = count * (math.log(total / count) + 1)
        text = f"{count:,} scattered elements"
        found.append(Place(gain=float(gain[failing].sum()) - price, mask=failing, text=text))
    return max(found, key=lambda p: p.gain)


def _indices(gain: Tensor, origin: tuple[int, ...]) -> Place:
    """Narrow the place dimension by dimension, as long as that pays."""
    mask = torch.ones_like(gain, dtype=torch.bool)
    best, price, words = float(gain.sum()), 0.0, []
    left = list(range(gain.ndim))
    while left:
        options = [(*_subset(gain.where(mask, 0.0), dim, origin[dim]), dim) for dim in left]
        value, cost, chosen, text, dim = max(options, key=lambda o: o[0] - o[1])
        if value - cost - price <= best:
            break
        best, price = value - cost - price, price + cost
        shape = [1] * gain.ndim
        shape[dim] = -1
        mask = mask & chosen.reshape(shape)
        words.append(f"{_dimension(dim, gain.ndim)} {text}")
        left.remove(dim)
    return Place(gain=best, mask=mask, text=", ".join(words))


def _around(gain: Tensor, failing: Tensor, origin: tuple[int, ...]) -> Place:
    """The indices of every dimension that hold a failing element which the guess gains at."""
    guide = gain.where(failing & (gain > 0), 0.0) - 1e-9
    mask, price, words = torch.ones_like(failing), 0.0, []
    for dim, n in enumerate(gain.shape):
        _, cost, chosen, text = _subset(guide, dim, origin[dim])
        if int(chosen.sum()) < n:
            shape = [1] * gain.ndim
            shape[dim] = -1
            mask, price = mask & chosen.reshape(shape), price + cost
            words.append(f"{_dimension(dim, gain.ndim)} {text}")
    return Place(gain=float(gain[mask].sum()) - price, mask=mask, text=", ".join(words))


def _subset(gain: Tensor, dim: int, origin: int) -> tuple[float, float, Tensor, str]:
    """Return (gain, price, which, words) of the best indices of a dimension: a range or a few."""
    along = gain.sum([d for d in range(gain.ndim) if d != dim]) if gain.ndim > 1 else gain
    n = len(along)
    positive = along > 0
    count = int(positive.sum())
    few = min(count, n - count) * math.log(max(n, 2)) + math.log(2)
    sums = torch.cat((torch.zeros(1, dtype=along.dtype), along.cumsum(0)))
    lowest, at = torch.cummin(sums, 0)
    end = int((sums - lowest).argmax())
    start = int(at[end])
    span, ranged = float(sums[end] - sums[start]), 2 * math.log(max(n, 2))
    if start == 0 or end == n:
        ranged /= 2
    if span - ranged >= float(along[positive].sum()) - few:
        inside = torch.zeros(n, dtype=torch.bool)
        inside[start:end] = True
        first, final = start + origin, end - 1 + origin
        return span, ranged, inside, f"{first}" if first == final else f"{first} to {final}"
    listed = positive.nonzero().reshape(-1).tolist()
    shown = ", ".join(str(i + origin) for i in listed[:4]) + (" and others" if len(listed) > 4 else "")
    return float(along[positive].sum()), few, positive, shown


def _dimension(dim: int, ndim: int) -> str:
    if ndim == 1:
        return "elements"
    if dim == 0:
        return "rows"
    return "columns" if dim == ndim - 1 else "heads" if ndim == 3 else f"dimension {dim}"


# A tile is a multiple of this wide.
_TILE = 16


def tile_place(fine: Fit, observed: Observed, *, origin: tuple[int, ...]) -> Place:
    """Return the tiles that all failing elements lie in, and nowhere where they keep to none.

    What is gained is only that they lie there: the values themselves stay unexplained.
    """
    failing = ~fine.allowed
    nowhere = Place(gain=0.0, mask=torch.zeros_like(failing))
    if not bool(failing.any()):
        return nowhere
    inside, words = torch.ones_like(failing), []
    price = 0.0
    for dim, n in enumerate(failing.shape):
        which = failing.movedim(dim, 0).reshape(n, -1).any(1).nonzero().reshape(-1)
        start, end = int(which[0]), int(which[-1]) + 1
        if end - start == n:
            continue
        first, final = start + origin[dim], end + origin[dim]
        aligned = first % _TILE == 0 and (end == n or final % _TILE == 0)
        if not aligned:
            return nowhere
        shape = [1] * failing.ndim
        shape[dim] = -1
        index = torch.arange(n)
        inside &= ((index >= start) & (index < end)).reshape(shape)
        price += 2 * math.log(n)
        ragged = end == n and n % _TILE
        words.append(
            f"{_dimension(dim, failing.ndim)} {first} to {final - 1}{', the ragged end' if ragged else ''}"
        )
    if not words or int(failing.sum()) * 2 < int(inside.sum()):
        return nowhere
    gain = (observed.broad - fine.likelihood)[inside].sum()
    return Place(gain=float(gain) - price, mask=inside, text=", ".join(words))
