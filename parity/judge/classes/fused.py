"""Ops that kernels fuse: held to one oracle, whether intermediates stay in float32 or are stored.

Each way to store them is a reading (`computed`). u is the accumulator's roundoff.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parity.case.tensor import HostTensor
from parity.judge.budget import RMS_ROUNDING, Budget, Exact, Expected, Question, sum_error
from parity.judge.classes.arithmetic import rounded_once
from parity.judge.classes.computed import Computed, keep
from parity.judge.classes.norms import normalized
from parity.judge.classes.pointwise import activation_of
from parity.judge.classes.sums import EXACT_PRODUCT_BITS, finite

__all__ = ["add_rms_norm", "hstu_attention", "norm_rotate"]


def add_rms_norm(q: Question) -> tuple[Expected, ...]:
    """s = x + residual, to the bit, and y = n g, n = s / sqrt(P), P = mean(s^2) + eps.

    n by the rule of `rms_norm`, of the s that is stored, or of one in the accumulator, which is off by
    e = u |s|: H_n += e / sqrt P + |n| sum |s| e / (K P), the derivative of n by every s, and H = |g| H_n +
    u |y|; sigma^2 likewise with (0.42 e)^2, squares for magnitudes.
    """
    x, residual, g = q.inputs
    assert x is not None and residual is not None and g is not None
    exact, u = x + residual, q.accumulator.unit
    # Rounded at once from the operands where it is stored, so nothing is uncertain of it.
    off = torch.zeros_like(exact) if "sum" in q.stored else u * exact.abs()
    s = keep(q, Computed(value=exact, hard=off, variance=(RMS_ROUNDING * off).square()), "sum")
    normal = normalized(q, s.value)
    power = s.value.square().mean(-1, keepdim=True) + q.number("eps")
    size, terms = normal.value.abs(), max(s.value.shape[-1], 1)
    shared = (s.value.abs() * s.hard).sum(-1, keepdim=True) / (terms * power)
    common = (s.value.square() * s.variance).sum(-1, keepdim=True) / (terms * power).square()
    n = Computed(
        value=normal.value,
        hard=size * (normal.hard + shared) + s.hard / power.sqrt(),
        variance=size.square() * (normal.sigma.square() + common) + s.variance / power,
    )
    y = keep(q, n, "normal").times(g, unit=u)
    return (
        rounded_once(q, np.asarray(exact.numpy())),
        Budget(
            dtype=q.dtype,
            value=y.value,
            hard=y.hard,
            sigma=y.variance.sqrt(),
            independent=normal.rows,
            free=normal.free,
        ),
    )


def norm_rotate(q: Question) -> tuple[Expected, ...]:
    """q and k: w = n g with n by the rule of `rms_norm`, then a c - b s, b c + a s over halves a, b of w.

    H of w is |w| (H_n + u); of a product with c it is |c| H_w + u |w c|, and of a sum those of its
    products and u |y|. v is moved, bit for bit.
    """
    heads, kv_heads = q.integer("heads"), q.integer("kv_heads")
    qkv, q_weight, k_weight, _, _ = q.inputs
    assert qkv is not None and q_weight is not None and k_weight is not None
    by_head = qkv.reshape(len(qkv), heads + 2 * kv_heads, q_weight.shape[-1])
    source = q.raw[0]
    assert source is not None
    moved = np.array(source.array(), order="C").reshape(tuple(by_head.shape))[:, heads + kv_heads :]
    return (
        _turned(q, by_head[:, :heads], q_weight),
        _turned(q, by_head[:, heads : heads + kv_heads], k_weight),
        Exact(bits=HostTensor.of(moved, source.dtype)),
    )


def _turned(q: Question, x: Tensor, g: Tensor) -> Budget:
    cos, sin = q.inputs[3:5]
    assert cos is not None and sin is not None
    cos, sin, u = cos[:, None], sin[:, None], q.accumulator.unit
    normal = normalized(q, x)
    n = Computed(
        value=normal.value,
        hard=normal.value.abs() * normal.hard,
        variance=(normal.value * normal.sigma).square(),
    )
    w = keep(q, keep(q, n, "normal").times(g, unit=u), "norm")
    size = cos.shape[-1]
    low, high = (
        Computed(value=w.value[part], hard=w.hard[part], variance=w.variance[part])
        for part in ((..., slice(size)), (..., slice(size, None)))
    )
    products = [
        keep(q, half.times(by, unit=u), "product")
        for half, by in ((low, cos), (high, -sin), (high, cos), (low, sin))
    ]
    first, second = _added(*products[:2], unit=u), _added(*products[2:], unit=u)
    return Budget(
        dtype=q.dtype,
        value=torch.cat((first.value, second.value), -1),
        hard=torch.cat((first.hard, second.hard), -1),
        sigma=torch.cat((first.variance, second.variance), -1).sqrt(),
        independent=normal.rows,
        free=normal.free,
    )


def _added(a: Computed, b: Computed, *, unit: float) -> Computed:
    value = a.value + b.value
    own = unit * value.abs()
    return Computed(
        value=value,
        hard=a.hard + b.hard + own,
        variance=a.variance + b.variance + (RMS_ROUNDING * own).square(),
    )


def hstu_attention(q: Question) -> tuple[Expected, ...]:
    """y_i = sum of a_ij v_j over keys j <= i, a = silu(s) / n, s = scale q k^T + bias (arXiv 2402.17152).

    s by the sum rule over D, and u |s| for each of scale and bias. |silu'| <= 1.1 and |silu''| <= 1/2, so
    H(silu) = own + min(|silu'(s)| + H_s / 4, 1.1) H_s; dividing by n costs 2 u of it. Of y: H_a |v| and
    the sum rule over the keys that are seen; sigma^2 likewise with squares.
    """
    query, key, v = (t.transpose(0, 1) for t in q.inputs[:3] if t is not None)
    seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    s = _scores(q, query, key)
    a = _weights(q, s, seen)
    # Infinities and NaN come in at the end.
    finite_a, known = (t.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for t in (a.value, v))
    value, magnitude = finite_a @ known, finite_a.abs() @ known.abs()
    hard, variance = sum_error(
        terms=seen.sum(-1, keepdim=True),
        magnitude=magnitude,
        squares=finite_a.square() @ known.square(),
        total=value,
        outputs=value.numel(),
        accumulator=q.accumulator,
        exact_terms=False,
    )
    hard, variance = hard + a.hard @ known.abs(), variance + a.variance @ known.square()
    least, largest = q.accumulator.dtype.min_subnormal, q.accumulator.dtype.max_finite
    # What overflows in some order of a sum: scores, and weights that are divided by n at the end.
    reach = finite(query) @ finite(key).transpose(-1, -2) * max(q.number("scale"), 1.0)
    free = (hard == torch.inf) | ((reach >= largest) & seen).any(-1, keepdim=True)
    free |= finite(a.value) @ finite(v) * q.integer("length") >= largest
    hidden = (~seen).to(torch.float64)
    # A kernel may multiply what is hidden by 0, which shows its infinities and NaN, or leave it out.
    lost = hidden @ (~v.isfinite()).to(torch.float64) > 0
    lost |= ((s.value == -torch.inf) & seen | ~s.value.isfinite() & ~seen).any(-1, keepdim=True)
    # A weight of which not even the sign is known leaves open what it makes of an infinity.
    unsure = ((a.value.abs() <= a.hard) & seen).to(torch.float64)
    free |= unsure @ v.isinf().to(torch.float64) > 0
    value = _with_infinities(value, a.value, v, seen)
    return (
        Budget(
            dtype=q.dtype,
            value=value.transpose(0, 1),
            hard=(hard + least).transpose(0, 1),
            sigma=(variance + (0.3 * least) ** 2).sqrt().transpose(0, 1),
            free=free.transpose(0, 1),
            nan_ok=lost.transpose(0, 1),
        ),
    )


def _scores(q: Question, query: Tensor, key: Tensor) -> Computed:
    """s [H, T, T] of query and key [H, T, D], stored where the reading stores it."""
    turned, u = key.transpose(-1, -2), q.accumulator.unit
    product = query @ turned
    hard, variance = sum_error(
        terms=query.shape[-1],
        magnitude=query.abs() @ turned.abs(),
        squares=query.square() @ turned.square(),
        total=product,
        outputs=product.numel(),
        accumulator=q.accumulator,
        exact_terms=q.dtype.mantissa_bits + 1 <= EXACT_PRODUCT_BITS,
    )
    made = keep(q, Computed(value=product, hard=hard, variance=variance), "product")
    made = keep(q, made.times(q.number("scale"), unit=u), "scaled")
    bias = (*q.inputs, None)[3]
    if bias is not None:
        exact = Computed(value=bias, hard=torch.zeros_like(bias), variance=torch.zeros_like(bias))
        made = _added(made, exact, unit=u)
    infinite = product.isinf() if bias is None else product.isinf() | bias.isinf()
    return _sure(keep(q, made, "score"), infinite)


def _sure(made: Computed, where: Tensor) -> Computed:
    """Return the same without an error where an infinity is exact: u times it is no error."""
    return Computed(
        value=made.value,
        hard=torch.where(where, 0.0, made.hard),
        variance=torch.where(where, 0.0, made.variance),
    )


def _weights(q: Question, s: Computed, seen: Tensor) -> Computed:
    """silu(s) / n [H, T, T], 0 where a key is not seen."""
    value, own, share = activation_of(q, s.value, "silu")
    sigmoid = torch.sigmoid(s.value)
    # Where s is infinite the slope's formula is not a number, and the slope 0 or 1.
    slope = (sigmoid * (1 + s.value * (1 - sigmoid))).nan_to_num(nan=1.0).abs()
    slope = (slope + s.hard / 4).clamp(max=1.1)
    own = own + q.accumulator.dtype.min_subnormal
    made = Computed(
        value=value,
        hard=own + slope * s.hard,
        variance=(share * own).square() + slope.square() * s.variance,
    )
    made = keep(q, made, "activation").times(1 / q.integer("length"), unit=2 * q.accumulator.unit)
    made = _sure(keep(q, made, "weights"), s.value.isinf() & (s.hard == 0))
    return Computed(
        value=torch.where(seen, made.value, 0.0),
        hard=torch.where(seen, made.hard, 0.0),
        variance=torch.where(seen, made.variance, 0.0),
    )


def _with_infinities(value: Tensor, a: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Add to a sum of finite terms what the infinities and NaN of a and v make of it, where they are seen."""
    if bool(v.isfinite().all()) and bool(a.isfinite().all()):
        return value

    def any_of(weights: Tensor, values: Tensor) -> Tensor:
        return weights.to(torch.float64) @ values.to(torch.float64) > 0

    up, down, large, least = v == torch.inf, v == -torch.inf, a == torch.inf, a == -torch.inf
    high = any_of(a > 0, up) | any_of(a < 0, down) | any_of(large, v > 0) | any_of(least, v < 0)
    low = any_of(a > 0, down) | any_of(a < 0, up) | any_of(large, v < 0) | any_of(least, v > 0)
    unknown = any_of((a == 0) & seen, v.isinf()) | any_of(a.isinf(), v == 0) | (high & low)
    unknown |= any_of(seen.expand(a.shape), v.isnan()) | a.isnan().any(-1, keepdim=True)
    value = torch.where(high, torch.inf, torch.where(low, -torch.inf, value))
    return torch.where(unknown, torch.nan, value)
