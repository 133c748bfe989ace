"""Variance, 2-norm, group normalization and running products: composed of sums, roots and products.

u is the accumulator's roundoff, n the number of terms, c(n) the growth of a sum (`budget.growth`).
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from parity.judge.budget import RMS_ROUNDING, Budget, Expected, Question, growth, pile_up
from parity.judge.classes.norms import over_last, variance_of_mean
from parity.judge.classes.sums import finite

__all__ = ["cumprod", "group_norm", "norm", "var"]


def _rows(q: Question) -> Tensor:
    """Return x with the reduced dimension last."""
    return q.x.movedim(q.integer("dim"), -1) if q.x.ndim else q.x[None]


def _reduced(q: Question, y: Tensor) -> Tensor:
    return y.unsqueeze(q.integer("dim")) if q.attrs["keepdim"] and q.x.ndim else y


def var(q: Question) -> tuple[Expected, ...]:
    """y = S / (n - correction), S = sum d^2, d = x - mean; m = c(n) u mean|x|:
    H = (u S (c(n) + 3) + n m^2 + 2 m sum|d|) / (n - correction) + 2 u y.

    d is rounded once, squared and added; the mean's error enters S squared in two passes, n m^2, and once
    in Welford's updates, whose mean is not yet that of all terms: 2 m sum|d| (Chan, Golub and LeVeque,
    The American Statistician 37, 1983: n kappa u). E[x^2] - mean^2 is off by c(n) u sum x^2.
    sigma^2 = ((0.42 u)^2 (n (q4 / 6 + S^2 / 3) + S^2 + 4 q4 + n mean^2 S) + 3 n^2 s^4) / (n - correction)^2
    + (0.42 u y)^2, q4 = sum d^4, s the expected error of the mean: what Welford's n means are off is as
    random as the d that it meets. Rows whose squares overflow in some order are free, unless y itself is
    infinite: then NaN, of infinity less infinity, is right too.
    """
    x, u = _rows(q), q.accumulator.unit
    n = x.shape[-1]
    divisor = max(n - q.integer("correction"), 0)
    total = x.sum(-1)
    mean = total / n
    d = x - mean[..., None]
    squares, fourth = (d.pow(k).sum(-1) for k in (2, 4))
    value, outputs = squares / divisor, squares.numel()
    equal, of_mean = pile_up(terms=n, squares=x.square().sum(-1), total=total, unit=u)
    m = growth(n, outputs=outputs, equal=equal) * u * x.abs().sum(-1) / max(n, 1)
    equal, of_squares = pile_up(terms=n, squares=fourth, total=squares, unit=u)
    c = growth(n, outputs=outputs, equal=equal)
    hard = u * squares * (c + 3) + n * m.square() + 2 * m * d.abs().sum(-1)
    tiny = (RMS_ROUNDING * u) ** 2
    random = n * (fourth / 6 + squares.square() / 3) + squares.square() + 4 * fourth
    random = tiny * (random + n * mean.square() * squares) + of_squares
    s_mean = (variance_of_mean(x, total[..., None], n, u)[..., 0] + of_mean / max(n, 1) ** 2) * (n > 1)
    variance = (random + 3 * (n * s_mean).square()) / divisor**2 + tiny * value.square()
    most = 2 * finite(x).amax(-1) if n else torch.zeros_like(total)
    over = (n * most.square() >= q.accumulator.dtype.max_finite) & ~value.isnan()
    hard = hard / divisor + 2 * u * value
    lost = value - hard > q.accumulator.dtype.max_finite * (1 + u / 2)
    made = [_reduced(q, t) for t in (value, hard, variance.sqrt(), over & ~lost, over & lost)]
    return (Budget(dtype=q.dtype, value=made[0], hard=made[1], sigma=made[2], free=made[3], nan_ok=made[4]),)


def norm(q: Question) -> tuple[Expected, ...]:
    """y = sqrt S, S = sum x^2: H = |y| u (0.5 (c(n) + 1) + 2) + min(sqrt e, e / (2 |y|)), e = n eta.

    Half of the sum's relative error passes the root. Squares beneath the accumulator's normal range lose
    up to its smallest step eta each; rows whose squares overflow it though y does not are free, since a
    kernel may scale them first. sigma = 0.42 u |y| sqrt(n / 12 + 2).
    """
    x, u, to = _rows(q), q.accumulator.unit, q.accumulator.dtype
    n = x.shape[-1]
    squares, fourth = (x.pow(k).sum(-1) for k in (2, 4))
    value = squares.sqrt()
    equal, piled = pile_up(terms=n, squares=fourth, total=squares, unit=u)
    c = growth(n, outputs=value.numel(), equal=equal)
    lost = n * (to.min_normal if q.profile.flush_subnormals else to.min_subnormal)
    # All of a sum of nothing but zeros is exact.
    below = torch.where(squares > 0, (lost / (2 * value)).clamp(max=math.sqrt(lost)), 0.0)
    shared = torch.where(squares > 0, piled / squares.square(), 0.0)
    relative = ((RMS_ROUNDING * u) ** 2 * (n / 12 + 2) + shared / 4).sqrt()
    hard = value * u * (0.5 * (c + 1) + 2) + below
    over = (value - hard <= to.max_finite * (1 + u / 2)) & (squares * (1 + n * u) >= to.max_finite)
    made = [_reduced(q, t) for t in (value, hard, value * relative + 0.3 * below, over)]
    return (Budget(dtype=q.dtype, value=made[0], hard=made[1], sigma=made[2], free=made[3]),)


def group_norm(q: Question) -> tuple[Expected, ...]:
    """y = (x - mu) r g + b by the rule of layer_norm over each group, + 2 u |g r| (|x| + |mu|).

    Kernels fold the mean into one factor g r and one addend b - mu g r for a whole channel: products of
    the size of |x| and |mu| then cancel. sigma^2 grows by (0.42 u g r)^2 (x^2 + 2 mu^2).
    """
    x, g, b = (*q.inputs, None, None)[:3]
    assert x is not None
    batch, channels = x.shape[:2]
    groups = q.integer("groups")
    rows = x.reshape(batch, groups, -1)

    def spread(t: Tensor | None, default: float) -> Tensor:
        t = torch.full((channels,), default, dtype=torch.float64) if t is None else t
        each = t.reshape(-1, *[1] * (x.ndim - 2)).expand(x.shape[1:])
        return each.reshape(groups, rows.shape[-1])

    g, b = spread(g, 1.0), spread(b, 0.0)
    made, u = over_last(q, rows, g, b), q.accumulator.unit
    mean = rows.mean(-1, keepdim=True)
    scale = g * ((rows - mean).square().mean(-1, keepdim=True) + q.number("eps")).rsqrt()
    hard = made.hard + 2 * u * scale.abs() * (rows.abs() + mean.abs())
    folded = (RMS_ROUNDING * u * scale).square() * (rows.square() + 2 * mean.square())
    sigma = (made.sigma.square() + folded).sqrt()
    assert made.free is not None
    value, hard, sigma, free = (t.reshape(x.shape) for t in (made.value, hard, sigma, made.free))
    return (dataclasses.replace(made, value=value, hard=hard, sigma=sigma, free=free),)


def cumprod(q: Question) -> tuple[Expected, ...]:
    """y_i = product of the first i terms: H = 2 i u |y_i|; sigma = 0.42 u |y_i| sqrt(i).

    i - 1 products are rounded once each, in any order that a scan has them. Where the product P of a run of
    the terms so far, which some scan forms first, is beneath the normal range, each is off by the smallest
    step, and what follows multiplies that: H += i eta |y_i / P|; NaN where an infinity meets it. Where one
    overflows, any value is legal.
    """
    x, u, to = _rows(q), q.accumulator.unit, q.accumulator.dtype
    value = x.cumprod(-1)
    place = torch.arange(1, x.shape[-1] + 1, dtype=torch.float64)
    size = torch.where(x.isfinite() & (x != 0), x.abs(), 1.0).log2()
    most, least = _extreme_runs(size)
    step = to.min_normal if q.profile.flush_subnormals else to.min_subnormal
    lost = place * step * (size.cumsum(-1) - least).exp2()
    lost = torch.where((least < math.log2(to.min_normal)) & ~(x == 0).cummax(-1).values, lost, 0.0)
    roundings = torch.where(place > 1, place, 0.0)
    out = (most > math.log2(to.max_finite) - 2 * u * place) & ~value.isnan()
    made = (
        value,
        2 * roundings * u * value.abs() + lost,
        (RMS_ROUNDING * u * value.abs() * roundings.sqrt()).hypot(0.3 * lost),
        out,
        value.isinf() & (least < math.log2(to.min_normal)),
    )
    shaped = [t.movedim(-1, q.integer("dim")) if q.x.ndim else t[0] for t in made]
    return (
        Budget(
            dtype=q.dtype,
            value=shaped[0],
            hard=shaped[1],
            sigma=shaped[2],
            independent=max(value.numel() // max(x.shape[-1], 1), 1),
            free=shaped[3],
            nan_ok=shaped[4],
        ),
    )


def _extreme_runs(size: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest and the smallest sum of two or more neighbours that ends at or before each."""
    if not size.shape[-1]:
        return size, size
    ends = size.cumsum(-1)
    # A run ends here and starts at the element before, or earlier.
    starts = torch.nn.functional.pad((ends - size)[..., :-1], (1, 0), value=torch.nan)
    first = starts.isnan()
    low, high = (torch.where(first, inf, starts) for inf in (torch.inf, -torch.inf))
    rise, fall = ends - low.cummin(-1).values, ends - high.cummax(-1).values
    return rise.cummax(-1).values, fall.cummin(-1).values
