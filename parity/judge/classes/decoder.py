"""Pointwise ops of a decoder, whose intermediates stay in float32 or are stored in the tensors' type.

Each is a reading of its own (`computed`). u is the accumulator's roundoff.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parity.judge.budget import RMS_ROUNDING, Budget, Exact, Expected, Question, rounded
from parity.judge.classes.arithmetic import rounded_once
from parity.judge.classes.attended import capped
from parity.judge.classes.computed import Computed, keep
from parity.judge.classes.movement import embedding
from parity.judge.classes.pointwise import activation_of

__all__ = ["activated", "gated", "rotate", "scaled_embedding", "softcap"]


def scaled_embedding(q: Question) -> tuple[Expected, ...]:
    """y = table[ids] scale, to the bit: the product with RN(scale), rounded once; scale 1 moves bits."""
    scale = q.number("scale")
    if scale == 1.0:
        return embedding(q)
    table, ids = q.inputs
    assert table is not None and ids is not None
    factor = rounded(torch.tensor(scale, dtype=torch.float64), q.dtype)
    exact: Exact = rounded_once(q, np.asarray((table[ids] * factor).numpy()))
    return (exact,)


def rotate(q: Question) -> tuple[Expected, ...]:
    """y = a cos - b sin, b cos + a sin over pairs (a, b); dimensions beyond them are copies.

    T = |a cos| + |b sin|: H = u (T + |y|) for two products and their sum, and what storing the
    products adds. sigma^2 = (0.42 u)^2 ((a cos)^2 + (b sin)^2 + y^2).
    """
    x, cos, sin = q.inputs
    assert x is not None and cos is not None and sin is not None
    size = 2 * cos.shape[-1]
    turned, kept = x[..., :size], x[..., size:]
    cos, sin = cos[:, None], sin[:, None]
    if q.attrs["interleaved"]:
        a, b = turned[..., 0::2], turned[..., 1::2]
    else:
        a, b = turned.chunk(2, dim=-1)

    def joined(first: Tensor, second: Tensor, rest: Tensor) -> Tensor:
        both = (first, second)
        made = torch.stack(both, -1).flatten(-2) if q.attrs["interleaved"] else torch.cat(both, -1)
        return torch.cat((made, rest), -1)

    parts = [_product(q, f, g) for f, g in ((a, cos), (b, sin), (b, cos), (a, sin))]
    first, second = _sum(q, parts[0], parts[1], -1), _sum(q, parts[2], parts[3], 1)
    nothing = torch.zeros_like(kept)
    over = [f.hard == torch.inf for f in (first, second)]
    return (
        Budget(
            dtype=q.dtype,
            value=joined(first.value, second.value, kept),
            hard=joined(first.hard, second.hard, nothing),
            sigma=joined(first.variance, second.variance, nothing).sqrt(),
            free=joined(over[0], over[1], nothing.bool()),
        ),
    )


def _product(q: Question, x: Tensor, factor: Tensor) -> Computed:
    exact = Computed(value=x, hard=torch.zeros_like(x), variance=torch.zeros_like(x))
    made = exact.times(factor, unit=q.accumulator.unit)
    # A product that may overflow leaves open what its sum is.
    over = (made.value.abs() + made.hard >= q.accumulator.dtype.max_finite) & x.isfinite() & factor.isfinite()
    made = Computed(value=made.value, hard=torch.where(over, torch.inf, made.hard), variance=made.variance)
    return keep(q, made, "product")


def _sum(q: Question, a: Computed, b: Computed, sign: int) -> Computed:
    value = a.value + sign * b.value
    own = q.accumulator.unit * value.abs()
    return Computed(
        value=value,
        hard=a.hard + b.hard + own,
        variance=a.variance + b.variance + (RMS_ROUNDING * own).square(),
    )


def gated(q: Question) -> tuple[Expected, ...]:
    """y = f(gate) up: H = |up| H(f) + 2 u |y|, f stored or not before the product.

    sigma^2 = (s up H(f))^2 + (0.42 u y)^2, s the activation's share. Where f may underflow to 0 and up
    is infinite, the NaN of 0 * inf is right too, as it is at gate = -inf.
    """
    gate, up = q.x.chunk(2, dim=-1)
    u, size = q.accumulator.unit, torch.where(up.isfinite(), up.abs(), 0.0)
    f = activated(q, gate, str(q.attrs["activation"]))
    value = f.value * up
    vanishing = up.isinf() & (f.value.abs() <= f.hard + q.accumulator.dtype.min_normal)
    return (
        Budget(
            dtype=q.dtype,
            value=value,
            hard=size * f.hard + 2 * u * value.abs(),
            sigma=(f.variance * size.square() + (RMS_ROUNDING * u * value).square()).sqrt(),
            nan_ok=(gate == -torch.inf) | vanishing,
        ),
    )


def activated(q: Question, gate: Tensor, activation: str) -> Computed:
    """Return an activation with its error, stored where the reading stores it."""
    value, hard, share = activation_of(q, gate, activation)
    # Of a subnormal it is rounded to the accumulator's smallest step before `up` magnifies it.
    hard = hard + q.accumulator.dtype.min_subnormal + q.flushed()
    return keep(q, Computed(value=value, hard=hard, variance=(share * hard).square()), "activation")


def softcap(q: Question) -> tuple[Expected, ...]:
    """y = cap t, t = tanh r, r = x / cap: H = cap ((1 - t^2) 3 u |r| + 2 c u |t|) + 2 u |y|.

    c are tanh's last places. r and t are stored or not; 1 - t^2 is the slope by which r's error passes.
    """
    x = torch.where(q.x.isfinite(), q.x, 0.0)
    nothing = torch.zeros_like(x)
    made = capped(q, Computed(value=x, hard=nothing, variance=nothing), q.number("cap"))
    value = torch.where(q.x.isfinite(), made.value, q.number("cap") * torch.tanh(q.x))
    return (Budget(dtype=q.dtype, value=value, hard=made.hard, sigma=made.variance.sqrt()),)
