"""RMS and layer normalization over the last dimension."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from parity.judge.budget import RMS_ROUNDING, Budget, Expected, Question, growth, pile_up
from parity.judge.classes.computed import Computed, keep

__all__ = [
    "Normalized",
    "layer_norm",
    "normalized",
    "over_last",
    "rms_norm",
    "variance_of_mean",
    "weighted_rms_norm",
]


def rms_norm(q: Question) -> tuple[Expected, ...]:
    """y = x / sqrt(mean(x^2) + eps) g: H = |y| u (0.5 (c(K) + 1) + 6), sigma = 0.42 u |y| sqrt(K/12 + 6).

    Half of the sum's relative error passes the square root; 6 pays for the mean, the reciprocal
    square root and the products. A profile that declares `normalized_rounded` rounds
    x / sqrt(...) to the output dtype before the product with g, as Hugging Face models do.
    """
    x, g = (*q.inputs, None)[:2]
    assert x is not None
    normal = normalized(q, x)
    value = normal.value if g is None else normal.value * g
    return (
        Budget(
            dtype=q.dtype,
            value=value,
            hard=value.abs() * normal.hard,
            sigma=value.abs() * normal.sigma,
            roundings=2 if q.declares("normalized_rounded") else 1,
            independent=normal.rows,
            free=normal.free,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalized:
    """x / sqrt(mean(x^2) + eps) with its largest and expected relative error, [..., 1]."""

    value: Tensor
    hard: Tensor
    sigma: Tensor
    rows: int
    free: Tensor


def normalized(q: Question, x: Tensor) -> Normalized:
    """Return x / sqrt(mean(x^2) + eps) by the rule of `rms_norm`, before any weight."""
    terms, u = x.shape[-1], q.accumulator.unit
    squares = x.square().sum(-1, keepdim=True)
    value = x / (squares / terms + q.number("eps")).sqrt()
    fourth = x.pow(4).sum(-1, keepdim=True)
    equal, piled = pile_up(terms=terms, squares=fourth, total=squares, unit=u)
    c = growth(terms, outputs=value.numel(), equal=equal)
    shared = torch.where(squares > 0, piled / squares.square(), 0.0)
    return Normalized(
        value=value,
        hard=u * (0.5 * (c + 1) + 6),
        sigma=((RMS_ROUNDING * u) ** 2 * (terms / 12 + 6) + shared / 4).sqrt(),
        rows=max(x.numel() // max(terms, 1), 1),
        free=_overflowing(squares, q).expand_as(value),
    )


def weighted_rms_norm(q: Question) -> tuple[Expected, ...]:
    """y = n (g + offset), n = x / sqrt(mean(x^2) + eps), by the rule of `rms_norm` and u |y| for the sum.

    With rounds_first n is rounded to the type of x before the product, or left wide by a fused kernel:
    two readings. An offset is then added in that type too, or in a wider one: + u_x |y|.
    """
    x, g = q.inputs
    assert x is not None and g is not None
    normal, u, offset = normalized(q, x), q.accumulator.unit, q.number("offset")
    first = Computed(
        value=normal.value,
        hard=normal.value.abs() * normal.hard,
        variance=(normal.value * normal.sigma).square(),
    )
    made = keep(q, first, "normal")
    gain = g + offset
    own = u + (q.dtype.unit_roundoff if q.attrs["rounds_first"] and offset else u)
    value = made.value * gain
    return (
        Budget(
            dtype=q.dtype,
            value=value,
            hard=made.hard * gain.abs() + own * value.abs() + q.accumulator.dtype.min_subnormal,
            sigma=(made.variance * gain.square() + (RMS_ROUNDING * own * value).square()).sqrt(),
            independent=normal.rows,
            free=normal.free,
        ),
    )


def layer_norm(q: Question) -> tuple[Expected, ...]:
    """y = (x - mu) r g + b, r = 1 / sqrt(var + eps), d = x - mu.

    dmu = c(K) u mean|x|;  H = |g r| (dmu + u |d| + u |mu|)
    + |g d r| (0.5 (c(K) u + 4 u + dmu^2 / (var + eps)) + 4 u) + u (|b| + |y|).
    sigma^2 = (g r)^2 (s_mu^2 + (0.42 u d)^2) + (0.42 u g d r)^2 (K/12 + 6) + (0.42 u)^2 (b^2 + y^2),
    s_mu the expected error of the mean by the sum rule. A profile that declares `normalized_rounded`
    (value: a dtype) stores d r in it before g and b are applied: H += |g| (u |d r| + eta / 2).
    """
    x, g, b = (*q.inputs, None, None)[:3]
    assert x is not None
    g = torch.ones(x.shape[-1], dtype=torch.float64) if g is None else g
    return (over_last(q, x, g, torch.zeros_like(g) if b is None else b),)


def over_last(q: Question, x: Tensor, g: Tensor, b: Tensor) -> Budget:
    """Return the budget of (x - mu) r g + b over the last dimension; g and b broadcast with x."""
    terms, u = x.shape[-1], q.accumulator.unit
    total = x.sum(-1, keepdim=True)
    mu = total / terms
    d = x - mu
    spread = d.square().mean(-1, keepdim=True) + q.number("eps")
    r = spread.rsqrt()
    value = d * r * g + b
    squares, fourth = (d.pow(n).sum(-1, keepdim=True) for n in (2, 4))
    equal, of_mean = pile_up(terms=terms, squares=x.square().sum(-1, keepdim=True), total=total, unit=u)
    dmu = growth(terms, outputs=value.numel(), equal=equal) * u * x.abs().mean(-1, keepdim=True)
    equal, of_squares = pile_up(terms=terms, squares=fourth, total=squares, unit=u)
    c = growth(terms, outputs=value.numel(), equal=equal)
    # The mean of one element is that element.
    hard = (g * r).abs() * (dmu + (u * d.abs() + u * mu.abs()) * (terms > 1))
    hard = hard + (g * d * r).abs() * (0.5 * (c * u + 4 * u + dmu.square() / spread) + 4 * u)
    hard = hard + u * (b.abs() + value.abs())
    s_mu = variance_of_mean(x, total, terms, u) + of_mean / terms**2
    tiny = (RMS_ROUNDING * u) ** 2
    variance = (g * r).square() * (s_mu * (terms > 1) + tiny * d.square())
    relative = tiny * (terms / 12 + 6) + of_squares / (terms * spread).square() / 4
    variance = variance + relative * (g * d * r).square() + tiny * (b.square() + value.square())
    mid, least = q.unit_of("normalized_rounded"), q.least_of("normalized_rounded")
    if mid:
        hard = hard + g.abs() * (mid * (d * r).abs() + least / 2)
        variance = variance + g.square() * ((RMS_ROUNDING * mid * d * r).square() + (0.3 * least) ** 2)
    rows = max(x.numel() // max(terms, 1), 1)
    free = _overflowing(x.square().sum(-1, keepdim=True), q).expand_as(value)
    return Budget(dtype=q.dtype, value=value, hard=hard, sigma=variance.sqrt(), independent=rows, free=free)


def variance_of_mean(x: Tensor, total: Tensor, terms: int, u: float) -> Tensor:
    """Square of the expected error of the mean: h^2 of the sum rule divided by K^2."""
    squares = x.square().sum(-1, keepdim=True)
    return (RMS_ROUNDING * u) ** 2 * (terms * (squares / 6 + total.square() / 3) + total.square()) / terms**2


def _overflowing(squares: Tensor, q: Question) -> Tensor:
    """Rows whose sum of squares leaves the accumulator's range: 0, infinity and NaN are all computed."""
    return squares.isfinite() & (squares >= q.accumulator.dtype.max_finite)
