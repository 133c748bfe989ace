"""Scaled dot-product attention as a whole, and rotary position embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from parity.judge.budget import RMS_ROUNDING, Budget, Expected, Question, coherent, growth, pile_up
from parity.judge.classes.sums import finite

__all__ = ["attention", "attention_bias", "rope"]

# B batch, H heads, T query tokens, S key tokens, D head dim


def attention_bias(q: Question, *, queries: int, keys: int) -> Tensor:
    """Return what is added to the scores: 0 or -inf from causal, window and boolean mask, or the mask.

    Query i stands at key position i + keys - queries, so the last query sees the last key.
    """
    position = torch.arange(queries)[:, None] + keys - queries
    key = torch.arange(keys)[None, :]
    visible = torch.ones(queries, keys, dtype=torch.bool)
    if q.attrs["causal"]:
        visible &= key <= position
    if q.attrs["window"] is not None:
        visible &= key > position - q.integer("window")
    bias = torch.zeros(queries, keys, dtype=torch.float64).masked_fill(~visible, -torch.inf)
    mask = (*q.inputs, None)[3]
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        return bias + torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -torch.inf)
    return bias + mask


def attention(q: Question) -> tuple[Expected, ...]:
    """y = p v, p = softmax(s), s = scale q k^T + mask, d = max s - s:

    dS = c(D) u S_a + 2 u |s|, S_a = scale |q||k|;  rel = dS + 3 u d + 4 u, then
    rel += sum_j p_j rel_j + (c(S) + 3) u;  H = (p (rel + u_P)) |v| + c(S) u (p |v|) + u_P |y|.
    relx^2 = (0.42 u)^2 (D S_a^2/6 + 4 s^2 + 2 d^2 + S/3 + 8) + (0.42 u_P)^2;
    sigma^2 = (p^2 relx^2) v^2 + (0.42 u_P y)^2 + (0.42 u)^2 S (p^2 v^2 / 6 + y^2 / 3).
    u_P is 0 unless the profile declares `p_rounded`, the roundoff of scores is u unless it
    declares `scores_rounded`. A rounded p that underflows costs eta_P / (2 sum) |v|. Weights are
    convex, so no error exceeds 2 max |v|. A fully masked row is 0 or NaN: kernels give either
    (pytorch #103749).
    """
    query, key, v = q.inputs[:3]
    assert query is not None and key is not None and v is not None
    groups = query.shape[-3] // key.shape[-3]
    key, v = key.repeat_interleave(groups, -3), v.repeat_interleave(groups, -3)
    T, D = query.shape[-2:]
    S = key.shape[-2]
    scale = 1 / math.sqrt(D) if q.attrs["scale"] is None else q.number("scale")
    bias = attention_bias(q, queries=T, keys=S)
    scores = scale * (query @ key.transpose(-1, -2)) + bias
    # What is not seen may be skipped, or multiplied by 0: then its NaN and infinities show.
    hidden, lost, given = (bias == -torch.inf).to(torch.float64), (~v.isfinite()).to(torch.float64), v
    v = v.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    size = scale * (query.abs() @ key.abs().transpose(-1, -2))
    p, d, masked, total = _weights(scores)
    u, u_p, u_s = q.accumulator.unit, q.unit_of("p_rounded"), q.unit_of("scores_rounded")
    magnitude = torch.where(p == 0, 0.0, scores.abs())
    rel = growth(D, outputs=p.numel()) * u * size + (2 * u + u_s) * magnitude + 3 * u * d + 4 * u
    seen = (p > 0).sum(-1, keepdim=True)
    # The denominator is a sum of its own, in units of which these are its terms.
    sums, powers = (p.pow(n).sum(-1, keepdim=True) for n in (1, 2))
    equal, piled = pile_up(terms=seen, squares=powers, total=sums, unit=u)
    c = growth(S, outputs=max(query.numel(), 1), equal=equal)
    rel = rel + (p * rel).sum(-1, keepdim=True) + (c + 3) * u
    value, weight = p @ v, p @ v.abs()
    hard = (p * (rel + u_p)) @ v.abs() + c * u * weight + u_p * value.abs()
    relx = (RMS_ROUNDING * u) ** 2 * (
        D * size.square() / 6 + 4 * magnitude.square() + 2 * d.square() + S / 3 + 8
    )
    relx = relx + RMS_ROUNDING**2 * (u_p**2 + (u_s * magnitude).square())
    variance = (p.square() * relx) @ v.square() + (RMS_ROUNDING * u_p * value).square()
    spread = p.square() @ v.square() / 6 + value.square() / 3
    variance = variance + (RMS_ROUNDING * u) ** 2 * S * spread
    squares = p.square() @ v.square()
    variance = variance + coherent(terms=seen, squares=squares, total=value, unit=u)
    variance = variance + value.square() * piled
    if u_p:
        # Weights are rounded before they are divided by their sum, so small ones underflow.
        eta = q.least_of("p_rounded") / total
        shown = (p > 0).to(torch.float64)
        hard = hard + 0.5 * eta * (shown @ v.abs())
        variance = variance + (0.3 * eta).square() * (shown @ v.square())
    value = torch.where((1 - hidden) @ lost > 0, p @ given, value)
    free = _overflows(q, query, key, v, scores=scores, scale=scale)
    hull = 2 * v.abs().amax(-2, keepdim=True) if S else torch.zeros_like(value)
    return (
        Budget(
            dtype=q.dtype,
            value=value,
            hard=torch.minimum(hard, hull),
            sigma=torch.minimum(variance.sqrt(), hull),
            independent=max(p.numel() // max(S, 1), 1),
            free=free & ~value.isnan(),
            nan_ok=masked | (hidden @ lost > 0),
        ),
    )


def _overflows(q: Question, query: Tensor, key: Tensor, v: Tensor, *, scores: Tensor, scale: float) -> Tensor:
    """Mark elements whose scores or weighted sum can overflow in some order: any value is legal there."""
    largest = q.accumulator.dtype.max_finite
    size = finite(query) @ finite(key).transpose(-1, -2) * max(scale, 1.0)
    shown = scores.isnan() | (scores > -torch.inf) | (size >= largest)
    row = ((size >= largest) & shown).any(-1, keepdim=True)
    return row | (finite(v).sum(-2, keepdim=True) >= largest)


def _weights(scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (p, d = max - s where p > 0, rows that are masked throughout, sum of exp(-d))."""
    if not scores.shape[-1]:
        row = scores.sum(-1, keepdim=True)
        return scores, scores, row == 0, row + 1
    top = scores.amax(-1, keepdim=True)
    masked = top == -torch.inf
    distance = torch.where(masked, torch.inf, top - scores)
    e = (-distance).exp()
    total = torch.where(masked, 1.0, e.sum(-1, keepdim=True))
    p = torch.where(masked, 0.0, e / total)
    return p, torch.where(p == 0, 0.0, distance), masked, total


def rope(q: Question) -> tuple[Expected, ...]:
    """y = x cos a + x' sin a, a = p base^(-2i/D), in f32: sigma = 0.3 H,
    H = T (3 u + 2 u_table) + A u (a (4 + e ln base) + 2).

    T = |x cos| + |x' sin|, A = |x sin| + |x' cos|; x' is the partner, negated in the first half.
    The angle's own error is 4 u for power, reciprocal and product, plus e ln base u for the
    rounded exponent e = 2i/D. u_table is the accumulator's: tables are kept in f32.
    """
    x, positions = q.inputs
    assert x is not None and positions is not None
    D, base = x.shape[-1], q.number("base")
    exponent = torch.arange(0, D, 2, dtype=torch.float64) / D
    angle = positions.to(torch.float64)[..., None] * base**-exponent
    # base^0 is 1 and the angle of its pair the position, exactly.
    slope = torch.where(exponent == 0, 0.0, angle.abs() * (4 + exponent * math.log(base)))
    if q.attrs["interleaved"]:
        cos, sin, slope = (t.repeat_interleave(2, -1) for t in (angle.cos(), angle.sin(), slope))
        partner = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    else:
        cos, sin, slope = (torch.cat((t, t), -1) for t in (angle.cos(), angle.sin(), slope))
        partner = torch.cat((-x[..., D // 2 :], x[..., : D // 2]), -1)
    u = q.accumulator.unit
    value = x * cos + partner * sin
    through = (x * cos).abs() + (partner * sin).abs()
    across = (x * sin).abs() + (partner * cos).abs()
    hard = through * 5 * u + across * u * (slope + 2)
    return (Budget(dtype=q.dtype, value=value, hard=hard, sigma=0.3 * hard),)
