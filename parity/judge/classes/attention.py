"""Scaled dot-product attention as a whole, and rotary position embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from parity.judge.budget import Budget, Expected, Question
from parity.judge.classes.attended import Chain, Heads, attend

__all__ = ["attention", "attention_bias", "rope"]


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
    """y = p v, p = softmax(scale q k^T + mask), by the rule of `attended`.

    u_P is 0 unless the profile declares `p_rounded`, the roundoff of scores is u unless it
    declares `scores_rounded`.
    """
    query, key, v = q.inputs[:3]
    assert query is not None and key is not None and v is not None
    groups = query.shape[-3] // key.shape[-3]
    key, v = key.repeat_interleave(groups, -3), v.repeat_interleave(groups, -3)
    scale = 1 / math.sqrt(query.shape[-1]) if q.attrs["scale"] is None else q.number("scale")
    bias = attention_bias(q, queries=query.shape[-2], keys=key.shape[-2])
    chain = Chain(
        scores=q.unit_of("scores_rounded"),
        weights=q.unit_of("p_rounded"),
        least_weight=q.least_of("p_rounded"),
    )
    heads = Heads(query=query, key=key, value=v, bias=bias, scale=scale)
    made = attend(q, heads, chain, outputs=max(query.numel(), 1))
    return (
        Budget(
            dtype=q.dtype,
            value=made.value,
            hard=made.hard,
            sigma=made.variance.sqrt(),
            independent=max(query.shape[:-1].numel(), 1),
            free=made.free,
            nan_ok=made.nan_ok,
        ),
    )


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
