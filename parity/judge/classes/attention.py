"""Scaled dot-product attention as a whole and in parts, and rotary position embedding."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from parity.judge.budget import RMS_ROUNDING, Budget, Expected, Question
from parity.judge.classes.attended import Attended, Chain, Heads, attend

__all__ = ["attention", "attention_bias", "rope", "split_attention"]


# Scores that are judged at once: each takes about 150 bytes in the formulas.
_BLOCK = 1 << 21


def attention_bias(q: Question, *, queries: int, keys: int, rows: slice) -> Tensor:
    """Return what is added to the scores of some rows: 0 or -inf by causal, window and boolean mask, or
    the mask.

    Query i stands at key position i + keys - queries, so the last query sees the last key.
    """
    position = torch.arange(queries)[rows, None] + keys - queries
    key = torch.arange(keys)[None, :]
    visible = torch.ones(len(position), keys, dtype=torch.bool)
    if q.attrs["causal"]:
        visible &= key <= position
    if q.attrs["window"] is not None:
        visible &= key > position - q.integer("window")
    bias = torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, -torch.inf)
    mask = (*q.inputs, None)[3]
    if mask is None:
        return bias
    mask = mask[..., rows, :] if mask.shape[-2] > 1 else mask
    if mask.dtype == torch.bool:
        return bias + torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -torch.inf)
    return bias + mask


def attention(q: Question) -> tuple[Expected, ...]:
    """y = p v, p = softmax(scale q k^T + mask), by the rule of `attended`.

    u_P is 0 unless the profile declares `p_rounded`, the roundoff of scores is u unless it
    declares `scores_rounded`.
    """
    return (_attention(q, _declared_chain(q)),)


def split_attention(q: Question) -> tuple[Expected, ...]:
    """The same function of the same inputs. Parts of heads and of queries are attentions as such; parts of
    keys keep everything in float32, and merging n of them adds, with w = n - 1 and d = max s - s:

    rel_m = 3 u d + 5 u for the factor exp(max of the part - max) and its product, in numerator and sum;
    H += (p rel_m) |v| + sum_j p_j rel_m,j |y| + (2 w + 1) u (p |v|);
    sigma^2 += (0.42 u)^2 ((p^2 (2 d^2 + 5)) v^2 + (2 w + 1) (p^2 v^2 + y^2)), both at most the hull.
    """
    if q.attrs["along"] != "keys":
        return (_attention(q, _declared_chain(q)),)
    return (_attention(q, Chain(), parts=q.integer("parts")),)


def _declared_chain(q: Question) -> Chain:
    return Chain(
        scores=q.unit_of("scores_rounded"),
        weights=q.unit_of("p_rounded"),
        least_weight=q.least_of("p_rounded"),
    )


def _attention(q: Question, chain: Chain, *, parts: int = 1) -> Budget:
    """Return the budget of attention over keys that are merged from so many parts."""
    query, key, v = q.inputs[:3]
    assert query is not None and key is not None and v is not None
    groups = query.shape[-3] // key.shape[-3]
    key, v = key.repeat_interleave(groups, -3), v.repeat_interleave(groups, -3)
    scale = 1 / math.sqrt(query.shape[-1]) if q.attrs["scale"] is None else q.number("scale")
    queries, keys = query.shape[-2], key.shape[-2]
    # One row at least, and a block of no row where there is none.
    each = max(_BLOCK // max(query.shape[:-2].numel() * keys, 1), 1)
    made = []
    for first in range(0, max(queries, 1), each):
        rows = slice(first, first + each)
        bias = attention_bias(q, queries=queries, keys=keys, rows=rows)
        heads = Heads(query=query[..., rows, :], key=key, value=v, bias=bias, scale=scale)
        part = attend(q, heads, chain, outputs=max(query.numel(), 1))
        made.append(part if parts == 1 else _merged(q, part, v, parts=parts))
    return Budget(
        dtype=q.dtype,
        value=_rows([m.value for m in made]),
        hard=_rows([m.hard for m in made]),
        sigma=_rows([m.variance for m in made]).sqrt(),
        independent=max(query.shape[:-1].numel(), 1),
        free=_rows([m.free for m in made]),
        nan_ok=_rows([m.nan_ok for m in made]),
    )


def _merged(q: Question, made: Attended, value: Tensor, *, parts: int) -> Attended:
    """Return what a merge of parts of the keys makes of attention over all of them."""
    u, p = q.accumulator.unit, made.weights
    v = value.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    # A difference of logarithms: a quotient of weights may exceed what float64 holds.
    distance = torch.where(p > 0, p.amax(-1, keepdim=True).log() - p.log(), 0.0)
    apart, adds = p * (3 * u * distance + 5 * u), (2 * parts - 1) * u
    weight, squares = p @ v.abs(), p.square() @ v.square()
    bound = apart @ v.abs() + apart.sum(-1, keepdim=True) * made.value.abs() + adds * weight
    spread = (p.square() * (2 * distance.square() + 5)) @ v.square()
    spread = (RMS_ROUNDING * u) ** 2 * (spread + (2 * parts - 1) * (squares + made.value.square()))
    hull = 2 * v.abs().amax(-2, keepdim=True)
    return dataclasses.replace(
        made,
        hard=torch.minimum(made.hard + bound, hull),
        variance=torch.minimum(made.variance + spread, hull.square()),
    )


def _rows(blocks: list[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-2)


def rope(q: Question) -> tuple[Expected, ...]:
    """y = x cos a + x' sin a, a = p base^(-2i/D), in f32: sigma = 0.3 H,
    H = T (3 u + 2 u_table) + A u (a (4 + e ln base) + 2).

    T = |x cos| + |x' sin|, A = |x sin| + |x' cos|; x' is the partner, negated in the first half.
    The angle's own error is 4 u for power, reciprocal and product, plus e ln base u for the
    rounded exponent e = 2i/D. u_table is the accumulator's: tables are kept in f32. The sign of an
    infinite operand is free where that error leaves open the sign of what it is multiplied with.
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
    unsure = u * (slope + 2)
    free = (x.isinf() & (cos.abs() <= unsure)) | (partner.isinf() & (sin.abs() <= unsure))
    free &= slope > 0
    return (Budget(dtype=q.dtype, value=value, hard=hard, sigma=0.3 * hard, free=free),)
