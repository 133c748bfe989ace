"""Attention and rotary positions, and what their kernels get wrong.

B batch, H query heads, G key heads, T queries, S keys, D head dimension.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from parity.selftest.arithmetic import LEGITIMATE, TILE, Arithmetic, contracted, exp, nearest, total
from parity.selftest.kernel import LOW_SUMS, MIDDLE, Kernel
from parity.selftest.problem import Problem
from parity.selftest.reductions import unguarded

__all__ = [
    "ATTENTION",
    "KERNELS",
    "ROPE",
    "attention",
    "flash_without_rescaling",
    "rope",
]


def _bias(p: Problem, how: Arithmetic, *, T: int, S: int, bug: str) -> Tensor:
    """What is added to the scores: 0 and -inf from causal, window and a boolean mask, or the mask."""
    position = torch.arange(T)[:, None] + (0 if bug == "causal_from_first_key" else S - T)
    position = position + {"causal_one_less": -1, "causal_one_more": 1}.get(bug, 0)
    key = torch.arange(S)[None, :]
    seen = torch.ones(T, S, dtype=torch.bool)
    if p.attrs["causal"]:
        seen &= key <= position
    if p.attrs["window"] is not None and bug != "window_ignored":
        window = p.integer("window") + {"window_one_less": -1, "window_one_more": 1}.get(bug, 0)
        seen &= key > torch.arange(T)[:, None] + S - T - window
    away = -1e4 if bug == "mask_finite" else -torch.inf
    bias = torch.where(seen, 0.0, away).to(torch.float64 if how.wide else torch.float32)
    if not p.has(3) or bug == "mask_ignored":
        return bias
    mask = p.x(3)
    if bug == "mask_of_first_head" and mask.ndim == 4:
        mask = mask[:, :1]
    elif bug == "mask_of_first_batch" and mask.ndim == 4:
        mask = mask[:1]
    elif bug == "mask_off_by_one":
        mask = mask.roll(1, -1)
    if mask.dtype == torch.bool:
        mask = ~mask if bug == "mask_inverted" else mask
        return bias + torch.where(mask, 0.0, away).to(bias.dtype)
    return bias - how.number(mask) if bug == "mask_inverted" else bias + how.number(mask)


def _heads(p: Problem, how: Arithmetic, bug: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k, v with key heads repeated for each group of query heads."""
    q, k, v = (how.number(p.x(i)) for i in range(3))
    match bug:
        case "heads_transposed":
            q = q.reshape(q.shape[0], q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)
        case "last_key_stale" if k.shape[-2] > 1:
            k, v = (torch.cat((t[..., :-1, :], t[..., -2:-1, :]), -2) for t in (k, v))
        case "value_blocks_swapped":
            order = torch.arange(v.shape[-2])
            if v.shape[-2] >= 2 * TILE:
                order[: 2 * TILE] = order[: 2 * TILE].roll(TILE)
            v = v[..., order, :]
        case "heads_of_first_batch":
            k, v = k[:1].expand_as(k), v[:1].expand_as(v)
    groups = q.shape[1] // k.shape[1]
    if bug == "groups_tiled":
        return q, k.repeat(1, groups, 1, 1), v.repeat(1, groups, 1, 1)
    return q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)


def _scale(p: Problem, D: int, bug: str) -> float:
    match bug:
        case "scale_omitted":
            return 1.0
        case "scale_of_d_plus_1":
            return 1 / math.sqrt(D + 1)
        case "scale_1_over_d":
            return 1 / D
        case "scale_5_percent":
            return 1.05 * _scale(p, D, "")
        case "default_scale":
            return 1 / math.sqrt(D)
    return 1 / math.sqrt(D) if p.attrs["scale"] is None else p.number("scale")


def attention(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """softmax(scale q k^T + mask) v."""
    q, k, v = _heads(p, how, bug)
    D, S = q.shape[-1], k.shape[-2]
    # A short accumulator is planted in the sums over keys; scores have a fault of their own.
    plain = dataclasses.replace(how, middle="", keep="")
    scale = _scale(p, D, bug)
    if how.reciprocal:
        scores = contracted(q * scale, k.transpose(-1, -2), plain)
    else:
        scores = contracted(q, k.transpose(-1, -2), plain) * scale
    scores = scores + _bias(p, how, T=q.shape[-2], S=S, bug=bug)
    if bug == "scores_bf16":
        scores = nearest(scores, "bf16")
    if bug == "last_key_dropped":
        scores, v = scores[..., :-1], v[..., :-1, :]
    if how.online and not bug and not how.keep and not how.middle:
        return _flash(scores, v, how)
    return _weighted(p, how.mid(scores), v, how, bug)


def _weighted(p: Problem, scores: Tensor, v: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """Softmax over all keys at once, then the product with v."""
    top = scores.amax(-1, keepdim=True) if scores.shape[-1] else torch.zeros(*scores.shape[:-1], 1)
    base = torch.where(top == -torch.inf, 0.0, top)
    if bug == "max_not_subtracted":
        base = unguarded(scores, base, torch.zeros_like(base))
    e = how.mid(exp(scores - base, how))
    denominator = total(e, how)[..., None]
    match bug:
        case "denominator_padded":
            denominator = denominator + (-scores.shape[-1] % TILE or TILE) * exp(-base, how)
        case "masked_row_mean":
            e = torch.where(top == -torch.inf, 1.0, e)
            denominator = torch.where(top == -torch.inf, float(scores.shape[-1]), denominator)
        case "weights_rounded":
            e = nearest(e, "bf16" if p.out.bits == 32 else p.out.name)
        case "not_normalized":
            return contracted(e, v, how)
    denominator = how.mid(denominator)
    if how.exp2 or bug == "weights_rounded":
        return how.divide(contracted(e, v, how), denominator)
    return contracted(how.mid(how.divide(e, denominator)), v, how)


def _flash(scores: Tensor, v: Tensor, how: Arithmetic, *, tile: int = 32, rescaled: bool = True) -> Tensor:
    """Keys in tiles, with a running maximum and what is summed rescaled when it grows."""
    top = torch.full((*scores.shape[:-1], 1), -torch.inf, dtype=scores.dtype)
    denominator = torch.zeros_like(top)
    y = torch.zeros((*scores.shape[:-1], v.shape[-1]), dtype=scores.dtype)
    for start in range(0, scores.shape[-1], tile):
        part, values = scores[..., start : start + tile], v[..., start : start + tile, :]
        new = torch.maximum(top, part.amax(-1, keepdim=True))
        base = torch.where(new == -torch.inf, 0.0, new)
        scale = (
            torch.where(top == -torch.inf, 0.0, exp(top - base, how)) if rescaled else torch.ones_like(top)
        )
        e = exp(part - base, how)
        denominator = denominator * scale + total(e, how)[..., None]
        y = y * (scale if rescaled else 1.0) + contracted(e, values, how)
        top = new
    return how.divide(y, denominator)


def flash_without_rescaling(p: Problem, how: Arithmetic) -> Tensor:
    """Tiles of keys, each with its own maximum, whose sums are added as they are."""
    q, k, v = _heads(p, how, "")
    scores = contracted(q, k.transpose(-1, -2), how) * _scale(p, q.shape[-1], "")
    scores = scores + _bias(p, how, T=q.shape[-2], S=k.shape[-2], bug="")
    return _flash(scores, v, how, tile=min(32, -(-scores.shape[-1] // 2)), rescaled=False)


def _compute(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    return flash_without_rescaling(p, how) if bug == "online_not_rescaled" else attention(p, how, bug)


def rope(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """x cos(p base^(-2i/D)) + rotate(x) sin(...), tables in float32."""
    x = how.number(p.x(0))
    D, base = x.shape[-1], p.number("base")
    cos, sin = _tables(p, how, D, {"base_10000": 1e4, "base_500000": 5e5}.get(bug, base), bug)
    interleaved = bool(p.attrs["interleaved"]) != (bug == "other_pairs")
    if interleaved:
        first, second = x[..., ::2], x[..., 1::2]
    else:
        first, second = x[..., : D // 2], x[..., D // 2 :]
    match bug:
        case "sine_negated":
            sin = -sin
        case "sine_and_cosine_swapped":
            cos, sin = sin, cos
        case "first_half_only":
            late = torch.arange(D // 2) >= D // 4
            cos, sin = torch.where(late, 1.0, cos), torch.where(late, 0.0, sin)
    turned = (how.mid(first * cos) - how.mid(second * sin), how.mid(second * cos) + how.mid(first * sin))
    return torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)


def _tables(p: Problem, how: Arithmetic, D: int, base: float, bug: str) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the angles, [T, D/2]."""
    positions = p.x(1).to(torch.float64)
    match bug:
        case "position_plus_1":
            positions = positions + 1
        case "position_from_0":
            positions = positions - positions[:1]
        case "first_position_for_all":
            positions = positions[:1].expand_as(positions)
        case "positions_bf16":
            positions = nearest(positions, "bf16")
    exponent = torch.arange(0, D, 2, dtype=torch.float64) / (D // 2 if bug == "exponent_twice" else D)
    number = how.number
    if how.exp2:
        inverse = torch.exp(-number(exponent) * math.log(base))
    elif how.reciprocal:
        inverse = torch.pow(torch.tensor(base, dtype=number(exponent).dtype), -number(exponent))
    else:
        inverse = 1 / torch.tensor(base, dtype=number(exponent).dtype) ** number(exponent)
    if how.online:
        # A table made in float64 on the host and rounded once.
        inverse = number(base**-exponent)
    angle = number(positions)[..., None] * inverse
    if bug == "angles_f16":
        angle = nearest(angle, "f16")
    cos, sin = how.mid(how.off(angle.cos())), how.mid(how.off(angle.sin()))
    return (nearest(cos, "bf16"), nearest(sin, "bf16")) if bug == "tables_bf16" else (cos, sin)


ATTENTION = (
    "scale_omitted",
    "scale_of_d_plus_1",
    "scale_1_over_d",
    "scale_5_percent",
    "default_scale",
    "mask_inverted",
    "mask_ignored",
    "mask_finite",
    "mask_off_by_one",
    "mask_of_first_head",
    "mask_of_first_batch",
    "causal_from_first_key",
    "causal_one_less",
    "causal_one_more",
    "window_ignored",
    "window_one_less",
    "window_one_more",
    "groups_tiled",
    "heads_transposed",
    "heads_of_first_batch",
    "last_key_dropped",
    "last_key_stale",
    "value_blocks_swapped",
    "denominator_padded",
    "max_not_subtracted",
    "masked_row_mean",
    "not_normalized",
    "scores_bf16",
    "weights_rounded",
    "online_not_rescaled",
)
ROPE = (
    "other_pairs",
    "position_plus_1",
    "position_from_0",
    "first_position_for_all",
    "positions_bf16",
    "base_10000",
    "base_500000",
    "exponent_twice",
    "angles_f16",
    "tables_bf16",
    "sine_negated",
    "sine_and_cosine_swapped",
    "first_half_only",
)
_WAYS = ("plain", "reversed", "pairwise", "blocked16", "functions_high", "functions_low", "float64")

KERNELS = {
    "attention": Kernel(compute=_compute, bugs=ATTENTION, arithmetics={**LOW_SUMS, **MIDDLE}),
    "rope": Kernel(
        compute=rope,
        bugs=ROPE,
        legitimate=tuple(how for how in LEGITIMATE if how.name in _WAYS),
        arithmetics=MIDDLE,
    ),
}
