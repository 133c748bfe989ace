"""Attention of a step's segments over slots and over latents, and what its kernels get wrong.

H query heads, L queries of a segment, S keys, D head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from parity.selftest.arithmetic import LEGITIMATE, TILE, Arithmetic, contracted, exp, nearest, total
from parity.selftest.decoder import JOINED, STORED, stored
from parity.selftest.kernel import LOW_SUMS, MIDDLE, Kernel
from parity.selftest.problem import Problem

__all__ = [
    "KERNELS",
    "LATENT",
    "PAGED",
    "SEGMENTS",
    "latent_attention",
    "paged_attention",
]


def _segments(p: Problem, bug: str, window: int | None) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield the rows of each segment, the slots of its keys, and which of them each query sees."""
    slots, first = p.x(3), 0
    for start, length, context in p.x(4).tolist():
        total_keys = context + length
        held = slots[first : first + total_keys]
        match bug:
            case "slots_in_order":
                held = held.sort().values
            case "slots_of_the_first_request":
                held = slots[:total_keys] if total_keys <= len(slots) else held
            case "slots_one_late" if first:
                held = slots[first - 1 : first - 1 + total_keys]
            case "last_key_stale" if total_keys > 1:
                held = torch.cat((held[:-1], held[-2:-1]))
            case "pages_swapped" if total_keys >= 2 * TILE:
                held = torch.cat((held[TILE : 2 * TILE], held[:TILE], held[2 * TILE :]))
        place = 0 if bug == "causal_from_chunk" else context
        place += {"causal_one_less": -1, "causal_one_more": 1}.get(bug, 0)
        query = torch.arange(place, place + length)[:, None]
        key = torch.arange(total_keys)
        seen = key <= query if bug != "not_causal" else torch.ones(length, total_keys, dtype=torch.bool)
        if window is not None and bug != "window_ignored":
            wide = window + {"window_one_less": -1, "window_one_more": 1}.get(bug, 0)
            seen = seen & (key > torch.arange(context, context + length)[:, None] - wide)
        yield slice(start, start + length), held, seen
        first += total_keys


def _softmax(
    p: Problem, how: Arithmetic, bug: str, scores: Tensor, seen: Tensor, v: Tensor, *, cap: float | None
) -> Tensor:
    """softmax(softcap(scores)) v for scores [H, L, S], v [H, S, E]."""
    away = -1e4 if bug == "mask_finite" else -torch.inf
    if bug == "cap_after_mask":
        scores = torch.where(seen, scores, away)
    if cap is not None and bug != "cap_omitted":
        cap = 1.01 * cap if bug == "cap_1_percent" else cap
        t = stored(p, how, how.off(torch.tanh(stored(p, how, scores / cap))))
        scores = stored(p, how, t * cap)
    if bug != "cap_after_mask" or cap is None:
        scores = torch.where(seen, scores, away)
    if bug == "scores_bf16":
        scores = nearest(scores, "bf16")
    if bug == "last_key_dropped":
        scores, v = scores[..., :-1], v[..., :-1, :]
    if not scores.numel():
        return torch.zeros(*scores.shape[:-1], v.shape[-1], dtype=v.dtype)
    scores = how.mid(scores)
    top = scores.amax(-1, keepdim=True)
    e = how.mid(exp(scores - torch.where(top == -torch.inf, 0.0, top), how))
    sums = total(e, how)[..., None]
    if bug == "denominator_padded":
        sums = sums + (-e.shape[-1] % TILE or TILE) * exp(-top, how)
    if bug == "weights_bf16":
        e = nearest(e, "bf16")
    # What is not seen is not multiplied: another request's NaN stays where it is.
    shown = (e > 0).any(-2)[..., None]
    v = torch.where(shown.expand(v.shape), v, torch.zeros_like(v))
    if how.online:
        return how.divide(contracted(stored(p, how, e, weights=True), v, how), sums)
    return contracted(stored(p, how, how.divide(e, sums), product=True), v, how)


def _scaled(p: Problem, how: Arithmetic, bug: str, q: Tensor, k: Tensor) -> Tensor:
    scale = p.number("scale")
    match bug:
        case "scale_omitted":
            scale = 1.0
        case "scale_5_percent":
            scale = 1.05 * scale
        case "scale_squared":
            scale = scale * scale
    product = stored(p, how, contracted(q, k.transpose(-1, -2), _plain(how)), product=True)
    return stored(p, how, product * scale)


def _plain(how: Arithmetic) -> Arithmetic:
    # A short accumulator is planted in the sums over keys.
    return Arithmetic(name=how.name, order=how.order, wide=how.wide, fused=how.fused)


def paged_attention(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """Softmax attention of each segment over its slots."""
    q, keys, values = (how.number(p.x(i)) for i in range(3))
    window = None if p.attrs["window"] is None else p.integer("window")
    cap = None if p.attrs["softcap"] is None else p.number("softcap")
    repeat = q.shape[1] // keys.shape[1]
    y = torch.zeros(*q.shape[:2], values.shape[-1], dtype=q.dtype)
    for rows, held, seen in _segments(p, bug, window):
        k, v = (pool[held].transpose(0, 1) for pool in (keys, values))
        if bug == "value_of_next_slot":
            v = v.roll(1, 1)
        if bug == "groups_tiled":
            k, v = k.repeat(repeat, 1, 1), v.repeat(repeat, 1, 1)
        else:
            k, v = k.repeat_interleave(repeat, 0), v.repeat_interleave(repeat, 0)
        scores = _scaled(p, how, bug, q[rows].transpose(0, 1), k)
        y[rows] = _softmax(p, how, bug, scores, seen, v, cap=cap).transpose(0, 1).to(y.dtype)
    return y


def _operand(p: Problem, how: Arithmetic, x: Tensor) -> Tensor:
    """What one product makes for another: a fused attention reads it as it is stored too."""
    return stored(p, how, x, product=True, weights=how.name.startswith("flash"))


def latent_attention(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """Attention over keys and values made of latents, or over the latents themselves."""
    q, latents, w = (how.number(p.x(i)) for i in range(3))
    heads, latent, nope = q.shape[1], w.shape[1], p.integer("nope")
    of_heads = w.reshape(heads, -1, latent)
    if bug == "weight_by_column":
        of_heads = w.reshape(-1, heads, latent).transpose(0, 1)
    width = of_heads.shape[1] - nope
    w_k, w_v = of_heads[:, :nope], of_heads[:, nope:]
    if bug == "key_and_value_swapped":
        w_v, w_k = of_heads[:, :width], of_heads[:, width:]
    y = torch.zeros(*q.shape[:2], width, dtype=q.dtype)
    for rows, held, seen in _segments(p, bug, None):
        mine, found = q[rows].transpose(0, 1), latents[held]
        small, shared = (t.expand(heads, -1, -1) for t in (found[:, :latent], found[:, latent:]))
        match bug:
            case "shared_key_omitted":
                shared = torch.zeros_like(shared)
            case "shared_key_of_next":
                shared = shared.roll(1, 1)
            case "shared_key_first":
                mine = torch.cat((mine[..., nope:], mine[..., :nope]), -1)
        if p.attrs["absorbed"]:
            turned = _operand(p, how, contracted(mine[..., :nope], w_k, _plain(how)))
            both = torch.cat((turned, mine[..., nope:]), -1)
            scores = _scaled(p, how, bug, both, torch.cat((small, shared), -1))
            sums = _operand(p, how, _softmax(p, how, bug, scores, seen, small, cap=None))
            made = contracted(sums, w_v.transpose(-1, -2), _plain(how))
        else:
            k, v = (_operand(p, how, contracted(small, t.transpose(-1, -2), _plain(how))) for t in (w_k, w_v))
            scores = _scaled(p, how, bug, mine, torch.cat((k, shared), -1))
            made = _softmax(p, how, bug, scores, seen, v, cap=None)
        if bug == "scale_of_latent":
            made = made * math.sqrt((nope + shared.shape[-1]) / (latent + shared.shape[-1]))
        y[rows] = made.transpose(0, 1).to(y.dtype)
    return y


SEGMENTS = (
    "slots_in_order",
    "slots_of_the_first_request",
    "slots_one_late",
    "last_key_stale",
    "last_key_dropped",
    "pages_swapped",
    "not_causal",
    "causal_from_chunk",
    "causal_one_less",
    "causal_one_more",
    "scale_omitted",
    "scale_5_percent",
    "scale_squared",
    "mask_finite",
    "scores_bf16",
    "weights_bf16",
    "denominator_padded",
)
PAGED = (
    *SEGMENTS,
    "window_ignored",
    "window_one_less",
    "window_one_more",
    "cap_omitted",
    "cap_after_mask",
    "cap_1_percent",
    "groups_tiled",
    "value_of_next_slot",
)
LATENT = (
    *SEGMENTS,
    "weight_by_column",
    "key_and_value_swapped",
    "shared_key_omitted",
    "shared_key_of_next",
    "shared_key_first",
    "scale_of_latent",
)
_WAYS = tuple(
    how
    for how in LEGITIMATE
    if how.name in {"plain", "reversed", "blocked32", "split4", "fused", "functions_high", "float64"}
)

KERNELS = {
    "paged_attention": Kernel(
        compute=paged_attention,
        bugs=PAGED,
        legitimate=(*_WAYS, *STORED, *JOINED),
        arithmetics={**LOW_SUMS, **MIDDLE},
    ),
    "latent_attention": Kernel(
        compute=latent_attention,
        bugs=LATENT,
        legitimate=(*_WAYS, *STORED, *JOINED),
        arithmetics={**LOW_SUMS, **MIDDLE},
    ),
}
