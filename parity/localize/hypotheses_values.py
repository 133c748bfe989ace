"""Right values that were changed on their way: scaled, shifted, negated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from parity.judge.budget import Budget
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import (
    Asked,
    Guess,
    float_outputs,
    hypothesis,
    only,
    price,
    replaced,
)

__all__ = []

_FACTORS = (
    0.5,
    2.0,
    0.25,
    4.0,
    math.sqrt(2),
    math.sqrt(0.5),
    math.log(2),
    1 / math.log(2),
    127 / 128,
    128 / 127,
)
# Ops whose rows are divided by a sum of their own.
_DIVIDED = ("softmax", "attention", "paged_attention", "latent_attention")


@hypothesis()
def _signs(asked: Asked) -> Iterator[Guess]:
    for i, right, value, _ in float_outputs(asked):
        for text, changed in (
            ("the sign is the other one", -value),
            ("the sign was lost", value.abs()),
            ("every value is negative", -value.abs()),
            ("negative values became 0", value.clamp(min=0)),
        ):
            expected = replaced(right, changed, factor=1.0)
            guess = Guess(kind=CauseKind.SIGN, text=text, expected=only(asked, i, expected))
            yield from (guess, _once_more(guess))


@hypothesis()
def _scaled(asked: Asked) -> Iterator[Guess]:
    """Times one factor, times one for each index of a dimension, or one for each row."""
    for i, right, value, got in float_outputs(asked):
        u = right.dtype.unit_roundoff
        for factor in (*_FACTORS, *_constant_factor(value, got, u)):
            known = factor in _FACTORS
            if abs(abs(factor) - 1) < u:  # which rounding may do, but for a sign
                continue
            guess = Guess(
                kind=CauseKind.SCALE,
                text=f"times {factor:.6g}",
                expected=only(asked, i, replaced(right, value * factor, factor=factor)),
                cost=math.log(len(_FACTORS)) if known else price(u),
                whole=True,
            )
            yield from (guess, _once_more(guess))
        for dims, name in _ways(value):
            factors = _ratio(got, value, dims)
            off = ((factors - 1).abs() > 4 * u) & factors.isfinite()
            factors = torch.where(off, factors, 1.0)
            low, high = float(factors.min()), float(factors.max())
            if off.all() and high - low < 8 * u * abs(high):  # one factor of all
                continue
            text = f"each {name} times a factor of its own, {low:.6g} to {high:.6g}"
            kind = CauseKind.ROW_SCALE
            if name == "row" and low > 0 and _is_divided(asked, value.ndim):
                kind = CauseKind.DENOMINATOR
                size = f"{1 / high:.6g} to {1 / low:.6g} times as large"
                text = f"the denominator of each row is another one, {size}"
            expected = replaced(right, value * factors, factor=factors)
            cost = float(off.sum()) * price(u)
            yield Guess(kind=kind, text=text, expected=only(asked, i, expected), cost=cost, whole=True)


def _is_divided(asked: Asked, ndim: int) -> bool:
    """Whether the step divides each row of its result by a sum of that row alone."""
    return asked.op in _DIVIDED and int(asked.attrs.get("dim", -1) or 0) % ndim == ndim - 1


def _once_more(guess: Guess) -> Guess:
    """Return a guess for results that were rounded before they were changed as it says."""
    again = (
        dataclasses.replace(e, roundings=e.roundings + 1) if isinstance(e, Budget) else e
        for e in guess.expected
    )
    return dataclasses.replace(guess, expected=tuple(again), noise=True)


def _ways(value: Tensor) -> Iterator[tuple[list[int], str]]:
    """Yield the dimensions along which a factor is shared, and the name of what shares it."""
    if value.ndim > 1:
        yield [value.ndim - 1], "row"
        yield list(range(value.ndim - 1)), "column"
    if value.ndim > 2:
        yield list(range(1, value.ndim)), "index of the first dimension"
        yield [d for d in range(value.ndim) if d != value.ndim - 2], "head"


def _constant_factor(value: Tensor, got: Tensor, u: float) -> list[float]:
    """Return the usual ratio of what is off, from the larger half of the values."""
    off = (got - value).abs() > 2 * u * value.abs()
    usable = off & value.isfinite() & got.isfinite() & (value != 0) & (got != 0)
    if int(usable.sum()) < 4:
        return []
    size = value[usable].abs()
    large = size >= size.median()
    ratio = float((got[usable] / value[usable])[large].median())
    found = [ratio, _centred(value, got, u, ratio)]
    return [*found, 1 / round(1 / ratio)] if abs(ratio) > 1e-6 and round(1 / ratio) else found


def _centred(value: Tensor, got: Tensor, u: float, ratio: float) -> float:
    """Return a ratio as the mean over all that are near it: that of what is off is too far off itself."""
    every = (got / value)[(value.abs() >= value.abs().nanmedian()) & (value != 0)]
    for _ in range(3):
        near = every[(every / ratio - 1).abs() < 3 * u]
        ratio = float(near.mean()) if near.numel() else ratio
    return ratio


def _ratio(got: Tensor, value: Tensor, dims: list[int]) -> Tensor:
    """Median of got / value over the larger half of each slice, kept as dimensions of size 1."""
    kept = [d for d in range(value.ndim) if d not in dims]
    order = [*kept, *dims]
    flat = value.permute(order).reshape(*(value.shape[d] for d in kept), -1)
    given = got.permute(order).reshape(flat.shape)
    ratio = torch.where((flat != 0) & given.isfinite(), given / flat, torch.nan)
    size = torch.where(ratio.isnan(), torch.nan, flat.abs())
    large = size >= size.nanmedian(-1, keepdim=True).values
    factor = torch.where(large, ratio, torch.nan).nanmedian(-1).values
    return factor.reshape([1 if d in dims else value.shape[d] for d in range(value.ndim)])


@hypothesis()
def _shifted(asked: Asked) -> Iterator[Guess]:
    for i, right, value, got in float_outputs(asked):
        error, u = got - value, right.dtype.unit_roundoff
        off = (error.abs() > 4 * u * value.abs()) & error.isfinite()
        if not bool(off.any()):
            continue
        shift = float(error[off].median())
        text = f"plus {shift:.6g}"
        expected = replaced(right, value + shift, factor=1.0)
        yield Guess(
            kind=CauseKind.OFFSET, text=text, expected=only(asked, i, expected), cost=price(u), whole=True
        )
        for dims, name in _ways(value):
            shifts = error.nan_to_num(0.0, 0.0, 0.0)
            for dim in dims:
                shifts = shifts.median(dim, keepdim=True).values
            moved = shifts.abs() > 4 * u * value.abs().mean()
            shifts = torch.where(moved, shifts, 0.0)
            expected = replaced(right, value + shifts, factor=1.0)
            cost = float(moved.sum()) * price(u)
            text = f"each {name} plus a number of its own"
            yield Guess(
                kind=CauseKind.OFFSET, text=text, expected=only(asked, i, expected), cost=cost, whole=True
            )
