"""Ops that kernels fuse, and what a kernel that fuses them gets wrong.

T tokens, H query heads, G key heads, D their size. A way may store what is between two operations in
the tensors' type, as a chain of calls does, or keep it in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from parity.selftest.arithmetic import LEGITIMATE, TILE, Arithmetic, contracted, exp, nearest, total
from parity.selftest.decoder import JOINED, STORED, activation, stored
from parity.selftest.kernel import LOW_SUMS, MIDDLE, Kernel, Moves
from parity.selftest.norms import OTHER_EPS, mean_of, rsqrt
from parity.selftest.problem import Problem

__all__ = ["KERNELS", "add_rms_norm", "hstu_attention", "norm_rotate"]


def _normal(p: Problem, how: Arithmetic, x: Tensor, bug: str) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension."""
    mean = how.mid(mean_of(how.mid(x * x), how, bug))
    match bug:
        case "eps_outside_root":
            return x / (mean.sqrt() + p.number("eps"))
        case "mean_subtracted":
            d = x - mean_of(x, how, "")
            return x * rsqrt(mean_of(d * d, how, "") + p.number("eps"), how)
        case "rsqrt_12_bits":
            return x * nearest(rsqrt(mean + p.number("eps"), how), "tf32")
    return x * rsqrt(mean + OTHER_EPS.get(bug, p.number("eps")), how)


def _gain(g: Tensor, bug: str) -> Tensor:
    return {"gain_omitted": torch.ones_like(g), "gain_of_next_channel": g.roll(1)}.get(bug, g)


def add_rms_norm(p: Problem, how: Arithmetic, bug: str) -> tuple[Tensor, Tensor]:
    """x + residual, and its norm times g."""
    x, residual, g = (how.number(p.x(i)) for i in range(3))
    total_ = x + residual
    s = stored(p, how, total_)
    match bug:
        case "residual_not_normalised":
            s = x
        case "residual_normalised_alone":
            s = residual
        case "residual_twice":
            s = s + residual
        case "sum_stale":
            total_ = residual
        case "sum_without_residual":
            total_ = x
        case "sum_is_the_norm":
            total_ = _normal(p, how, s, "") * g
        case "sum_in_bf16":
            total_ = nearest(total_, "bf16")
        case "residual_of_next_row":
            s = x + residual.roll(1, 0)
    n = how.mid(_normal(p, how, s, bug))
    if bug == "normalized_rounded" and p.out.bits == 16:
        n = nearest(n, p.out.name)
    return total_, n * _gain(g, bug)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, p: Problem, how: Arithmetic, bug: str) -> Tensor:
    match bug:
        case "position_plus_1":
            cos, sin = cos.roll(-1, 0), sin.roll(-1, 0)
        case "sine_negated":
            sin = -sin
        case "sine_and_cosine_swapped":
            cos, sin = sin, cos
        case "tables_bf16":
            cos, sin = nearest(cos, "bf16"), nearest(sin, "bf16")
        case "angle_of_next_pair":
            cos, sin = cos.roll(1, -1), sin.roll(1, -1)
    cos, sin = cos[:, None], sin[:, None]
    a, b = (x[..., ::2], x[..., 1::2]) if bug == "other_pairs" else x.chunk(2, -1)
    if bug == "halves_swapped":
        a, b = b, a
    whole = how.name == "norms_stored"
    parts = [t if whole else stored(p, how, t) for t in (a * cos, b * sin, b * cos, a * sin)]
    made = (parts[0] - parts[1], parts[2] + parts[3])
    return torch.stack(made, -1).flatten(-2) if bug == "other_pairs" else torch.cat(made, -1)


def norm_rotate(p: Problem, how: Arithmetic, bug: str) -> tuple[Tensor, Tensor, Tensor]:
    """Heads of q and k normalised, weighed and turned, and those of v."""
    x, q_weight, k_weight, cos, sin = (how.number(p.x(i)) for i in range(5))
    heads, groups = p.integer("heads"), p.integer("kv_heads")
    by_head = x.reshape(len(x), heads + 2 * groups, q_weight.shape[-1])
    q, k, v = by_head[:, :heads], by_head[:, heads : heads + groups], by_head[:, heads + groups :]
    match bug:
        case "weights_swapped":
            q_weight, k_weight = k_weight, q_weight
        case "weight_of_q_for_both":
            k_weight = q_weight
        case "next_head":
            q, k = q.roll(1, 1), k.roll(1, 1)
        case "k_and_v_swapped":
            k, v = v, k
        case "heads_in_groups" if not heads % groups:
            parts = by_head.reshape(len(x), groups, heads // groups + 2, by_head.shape[-1])
            q, k, v = parts[:, :, :-2].reshape(q.shape), parts[:, :, -2], parts[:, :, -1]

    def made(t: Tensor, g: Tensor) -> Tensor:
        if bug == "rotated_first":
            return _normal(p, how, _turned(t, cos, sin, p, how, ""), "") * g
        if bug == "norm_over_all_heads":
            n = _normal(p, how, t.flatten(1), "").reshape(t.shape)
        else:
            n = t if bug == "norm_omitted" else _normal(p, how, t, bug)
        w = how.mid(n) * _gain(g, bug)
        if how.name == "norms_stored" and p.out.bits == 16:
            w = nearest(w, p.out.name)
        return _turned(stored(p, how, w), cos, sin, p, how, bug)

    new_k = made(k, k_weight)
    match bug:
        case "k_not_turned":
            new_k = _normal(p, how, k, "") * k_weight
        case "v_normalised":
            v = _normal(p, how, v, "")
        case "v_turned":
            v = _turned(v, cos, sin, p, how, "")
        case "v_of_next_group":
            v = v.roll(1, 1)
    return made(q, q_weight), new_k, v


def _seen(T: int, bug: str) -> Tensor:
    """Whether key j of a row is seen by query i, [T, T]."""
    query, key = torch.arange(T)[:, None], torch.arange(T)[None, :]
    last = key >= (T - 1) // TILE * TILE
    match bug:
        case "causal_one_less":
            return key < query
        case "causal_one_more":
            return key <= query + 1
        case "causal_one_more_in_last_tile":
            return key <= query + last.long()
        case "causal_one_less_in_last_tile":
            return key <= query - last.long()
        case "last_tile_left_out":
            return (key <= query) & ~last
        case "not_causal":
            return torch.ones(T, T, dtype=torch.bool)
        case "mask_by_tiles":
            return key // TILE <= query // TILE
    return key <= query


def _activated(s: Tensor, seen: Tensor, how: Arithmetic, bug: str) -> Tensor:
    if bug == "softmax":
        s = torch.where(seen, s, -torch.inf)
        e = exp(s - s.amax(-1, keepdim=True), how)
        return e / total(e, how)[..., None]
    return activation(s, "silu", how, bug)


def hstu_attention(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """silu(scale q k^T + bias), 0 for later keys, over the length, times v."""
    q, k, v = (how.number(p.x(i)).transpose(0, 1) for i in range(3))
    T, length, scale = q.shape[1], p.integer("length"), p.number("scale")
    match bug:
        case "values_of_next_head":
            v = v.roll(1, 0)
        case "keys_of_next_head":
            k = k.roll(1, 0)
        case "last_key_stale" if T > 1:
            k = torch.cat((k[:, :-1], k[:, -2:-1]), 1)
        case "scale_omitted":
            scale = 1.0
        case "scale_of_attention":
            scale = q.shape[-1] ** -0.5
    s = stored(p, how, contracted(q, k.transpose(-1, -2), how), product=True)
    s = stored(p, how, how.mid(s) * scale)
    if p.has(3) and bug != "bias_omitted":
        bias = how.number(p.x(3))
        match bug:
            case "bias_of_next_head":
                bias = bias.roll(1, 0)
            case "bias_transposed":
                bias = bias.transpose(-1, -2)
            case "bias_scaled":
                bias = bias * scale
        s = stored(p, how, s + bias)
    seen = _seen(T, bug)
    a = stored(p, how, how.mid(_activated(s, seen, how, bug)))
    n = torch.full((T, 1), float(length), dtype=a.dtype)
    match bug:
        case "not_divided":
            n = torch.ones_like(n)
        case "divided_by_what_is_seen":
            n = torch.arange(1, T + 1).to(a.dtype)[:, None]
        case "divided_by_tokens":
            n = torch.full_like(n, T)
    a = torch.where(seen, how.divide(a, n), 0.0)
    a = stored(p, how, stored(p, how, a, product=True), weights=True)
    return contracted(how.mid(a), v, how).transpose(0, 1)


_NORM = (
    *OTHER_EPS,
    *("eps_outside_root", "mean_subtracted", "rsqrt_12_bits", "padding_counted", "n_minus_1"),
    *("dropped_tail", "dropped_tile", "gain_omitted", "gain_of_next_channel"),
)
_SUM = (
    *("residual_not_normalised", "residual_normalised_alone", "residual_twice", "residual_of_next_row"),
    *("sum_stale", "sum_without_residual", "sum_is_the_norm", "sum_in_bf16", "normalized_rounded"),
)
_HEADS = (
    *("weights_swapped", "weight_of_q_for_both", "next_head", "k_and_v_swapped", "heads_in_groups"),
    *("rotated_first", "norm_over_all_heads", "norm_omitted", "k_not_turned", "v_normalised", "v_turned"),
    *("v_of_next_group", "position_plus_1", "sine_negated", "sine_and_cosine_swapped", "tables_bf16"),
    *("angle_of_next_pair", "other_pairs", "halves_swapped"),
)
_HSTU = (
    *("softmax", "sigmoid", "relu", "gelu_for_silu", "quick", "hard"),
    *("not_divided", "divided_by_what_is_seen", "divided_by_tokens", "scale_omitted", "scale_of_attention"),
    *("causal_one_less", "causal_one_more", "causal_one_more_in_last_tile", "not_causal", "mask_by_tiles"),
    *("causal_one_less_in_last_tile", "last_tile_left_out", "last_key_stale", "values_of_next_head"),
    *("keys_of_next_head", "bias_omitted", "bias_of_next_head", "bias_transposed", "bias_scaled"),
)
KERNELS: dict[str, Kernel | Moves] = {
    "add_rms_norm": Kernel(
        compute=add_rms_norm,
        bugs=(*_NORM, *_SUM),
        legitimate=(*LEGITIMATE, *STORED),
        arithmetics={**LOW_SUMS, **MIDDLE},
    ),
    "norm_rotate": Kernel(
        compute=norm_rotate,
        bugs=(*_NORM, *_HEADS),
        legitimate=(*LEGITIMATE, *STORED, Arithmetic(name="norms_stored")),
        arithmetics={**LOW_SUMS, **MIDDLE},
    ),
    "hstu_attention": Kernel(
        compute=hstu_attention,
        bugs=_HSTU,
        legitimate=(*LEGITIMATE, *STORED, *JOINED),
        arithmetics={**LOW_SUMS, **MIDDLE},
    ),
}
