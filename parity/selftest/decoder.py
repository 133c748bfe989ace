"""The pointwise ops and the norm of a decoder, and what their kernels get wrong.

A kernel may keep what is between two operations in float32 or in the tensors' type: `stored` ways do
the latter, and are as right.
"""

from __future__ import annotations

import torch
from torch import Tensor

from parity.selftest.arithmetic import EXACT, LEGITIMATE, PLAIN, Arithmetic, nearest
from parity.selftest.kernel import LOW_SUMS, MIDDLE, Kernel, Moves
from parity.selftest.norms import OTHER_EPS, mean_of, rsqrt
from parity.selftest.pointwise import WAYS, gelu_erf, gelu_tanh, sigmoid, silu
from parity.selftest.problem import Problem

__all__ = [
    "ACTIVATIONS",
    "GATED",
    "JOINED",
    "KERNELS",
    "NORM",
    "ROTATE",
    "STORED",
    "activation",
    "gated",
    "rotate",
    "scaled_embedding",
    "softcap",
    "stored",
    "weighted_rms_norm",
]

STORED = (
    Arithmetic(name="stored"),
    Arithmetic(name="stored_lanes8", order="lanes8", exp2=True),
    Arithmetic(name="stored_high", order="pairwise", ulps=1),
)

# What compilers and fused kernels of products store.
JOINED = (
    Arithmetic(name="products"),
    Arithmetic(name="products_pairwise", order="pairwise", exp2=True),
    Arithmetic(name="flash", online=True, order="blocked16"),
)


def stored(p: Problem, how: Arithmetic, x: Tensor, *, product: bool = False, weights: bool = False) -> Tensor:
    """Round what is between two operations where this way does.

    A `product` is what goes into or comes from a matrix product; `weights` are those of a softmax
    before they are normalised.
    """
    here = how.name.startswith("stored") and not weights
    here |= how.name.startswith("products") and product
    here |= how.name.startswith("flash") and weights
    return nearest(x, p.out.name) if here and p.out.bits == 16 else how.mid(x)


def weighted_rms_norm(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """x / sqrt(mean(x^2) + eps), rounded if rounds_first, times (g + offset)."""
    x, g = how.number(p.x(0)), how.number(p.x(1))
    mean = how.mid(mean_of(how.mid(x * x), how, bug))
    r = rsqrt(mean + OTHER_EPS.get(bug, p.number("eps")), how)
    if bug == "eps_outside_root":
        r = 1 / (mean.sqrt() + p.number("eps"))
    elif bug == "rsqrt_12_bits":
        r = nearest(r, "tf32")
    n, offset = x * r, p.number("offset")
    # A fused kernel may leave wide what is to be rounded first, so only the other way round is a bug.
    rounds = bool(p.attrs["rounds_first"]) and not how.name.startswith("wide")
    if (rounds or bug == "rounded_first") and p.out.bits == 16:
        n = nearest(n, p.out.name)
    match bug:
        case "gain_omitted":
            return n
        case "gain_of_next_channel":
            g = g.roll(1)
        case "offset_of_the_other_family":
            offset = 1 - offset
        case "gain_rounded":
            return n * nearest(g + offset, "bf16")
    return how.mid(n) * (g + offset)


def rotate(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """Pairs of the first 2R dimensions turned by cos and sin, the rest kept."""
    x, cos, sin = (how.number(p.x(i)) for i in range(3))
    match bug:
        case "position_plus_1":
            cos, sin = cos.roll(-1, 0), sin.roll(-1, 0)
        case "first_position_for_all":
            cos, sin = cos[:1].expand_as(cos), sin[:1].expand_as(sin)
        case "sine_negated":
            sin = -sin
        case "sine_and_cosine_swapped":
            cos, sin = sin, cos
        case "tables_bf16":
            cos, sin = nearest(cos, "bf16"), nearest(sin, "bf16")
        case "tables_f16":
            cos, sin = nearest(cos, "f16"), nearest(sin, "f16")
        case "angle_of_next_pair":
            cos, sin = cos.roll(1, -1), sin.roll(1, -1)
    cos, sin, size = cos[:, None], sin[:, None], 2 * cos.shape[-1]
    turned, kept = x[..., :size], x[..., size:]
    if bug == "kept_dimensions_first":
        turned, kept = x[..., x.shape[-1] - size :], x[..., : x.shape[-1] - size]
    interleaved = bool(p.attrs["interleaved"]) != (bug == "other_pairs")
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    parts = [stored(p, how, t) for t in (a * cos, b * sin, b * cos, a * sin)]
    if how.fused:
        # A product and the addition with one rounding.
        wide = [t.to(torch.float64) for t in (a, b, cos, sin)]
        first, second = wide[0] * wide[2] - parts[1], wide[1] * wide[2] + parts[3]
        made = [t.to(x.dtype) for t in (first, second)]
    else:
        made = [parts[0] - parts[1], parts[2] + parts[3]]
    if bug == "second_half_not_turned":
        made[1] = b
    y = torch.stack(made, -1).flatten(-2) if interleaved else torch.cat(made, -1)
    if bug == "kept_dimensions_first":
        return torch.cat((kept, y), -1)
    return torch.cat((y, torch.zeros_like(kept) if bug == "rest_not_copied" else kept), -1)


def activation(x: Tensor, kind: str, how: Arithmetic, bug: str = "") -> Tensor:
    """The activation of an attribute, or the one that a bug takes for it."""
    match bug:
        case "silu_for_gelu" if kind != "silu":
            return silu(x, how, "")
        case "gelu_for_silu" if kind == "silu":
            return gelu_erf(x, how, "")
        case "other_gelu" | "quick" | "tails_cut" if kind != "silu":
            return (gelu_erf if kind == "gelu" else gelu_tanh)(x, how, bug)
        case "quick" | "hard" | "tails_cut" if kind == "silu":
            return silu(x, how, bug)
        case "sigmoid":
            return sigmoid(x, how, "")
        case "relu":
            return x.clamp(min=0)
    return {"silu": silu, "gelu": gelu_erf, "gelu_pytorch_tanh": gelu_tanh}[kind](x, how, "")


def gated(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """activation(gate) up."""
    x = how.number(p.x(0))
    gate, up = x.chunk(2, -1)
    match bug:
        case "gate_and_up_swapped":
            gate, up = up, gate
        case "gate_and_up_interleaved":
            gate, up = x[..., ::2], x[..., 1::2]
        case "up_of_next_channel":
            up = up.roll(-1, -1)
        case "up_plus_1":
            up = up + 1
    f = stored(p, how, activation(gate, str(p.attrs["activation"]), how, bug))
    if bug == "activation_bf16":
        f = nearest(f, "bf16")
    return f if bug == "up_omitted" else f * up


def softcap(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """cap tanh(x / cap)."""
    x, cap = how.number(p.x(0)), p.number("cap")
    match bug:
        case "clamped":
            return x.clamp(-cap, cap)
        case "omitted":
            return x
        case "cap_1_percent":
            cap = 1.01 * cap
        case "cap_of_the_other_place":
            cap = 50.0 if cap != 50 else 30.0
        case "divided_only":
            return torch.tanh(x / cap)
        case "rational":
            r = x / cap
            return cap * r * (27 + r * r) / (27 + 9 * r * r)
    r = stored(p, how, x * (1 / cap) if how.reciprocal else x / cap)
    if how.fused or how.exp2:
        # tanh r = 2 / (1 + e^-2r) - 1 would cancel; expm1 does not.
        e = torch.expm1(-2 * r.abs())
        t = (-e / (2 + e)).copysign(r)
    else:
        t = torch.tanh(r)
    t = how.off(t)
    if bug == "tanh_bf16":
        t = nearest(t, "bf16")
    return stored(p, how, t) * cap


def scaled_embedding(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """table[ids] times scale, rounded to the table's type."""
    table, ids = how.number(p.x(0)), p.x(1)
    scale = nearest(
        torch.tensor(p.number("scale"), dtype=table.dtype), {16: p.out.name}.get(p.out.bits, "f32")
    )
    match bug:
        case "index_off_by_one":
            ids = (ids + 1) % len(table)
        case "index_at_8_bits":
            ids = ids % 256 % len(table)
        case "last_row_out_of_reach":
            ids = ids.clamp(max=max(len(table) - 2, 0))
        case "scale_omitted":
            return table[ids]
        case "scale_twice":
            return table[ids] * scale * scale
        case "scale_in_f32":
            scale = torch.tensor(p.number("scale"), dtype=table.dtype)
        case "scale_in_bf16":
            scale = nearest(scale, "bf16")
    return table[ids] * scale


NORM = (
    *OTHER_EPS,
    "eps_outside_root",
    "n_minus_1",
    "padding_counted",
    "dropped_tail",
    "dropped_tile",
    "rsqrt_12_bits",
    "gain_omitted",
    "gain_of_next_channel",
    "gain_rounded",
    "offset_of_the_other_family",
    "rounded_first",
)
ROTATE = (
    "other_pairs",
    "position_plus_1",
    "first_position_for_all",
    "sine_negated",
    "sine_and_cosine_swapped",
    "tables_bf16",
    "tables_f16",
    "angle_of_next_pair",
    "kept_dimensions_first",
    "rest_not_copied",
    "second_half_not_turned",
)
ACTIVATIONS = (
    "silu_for_gelu",
    "gelu_for_silu",
    "other_gelu",
    "quick",
    "hard",
    "tails_cut",
    "sigmoid",
    "relu",
)
GATED = (
    *ACTIVATIONS,
    "gate_and_up_swapped",
    "gate_and_up_interleaved",
    "up_of_next_channel",
    "up_plus_1",
    "up_omitted",
    "activation_bf16",
)
_TURNS = tuple(how for how in LEGITIMATE if how.name in {"plain", "fused", "float64"})
_CAPS = (
    "clamped",
    "omitted",
    "cap_1_percent",
    "cap_of_the_other_place",
    "divided_only",
    "rational",
    "tanh_bf16",
)
_ROWS = (
    "index_off_by_one",
    "index_at_8_bits",
    "last_row_out_of_reach",
    "scale_omitted",
    "scale_twice",
    "scale_in_f32",
    "scale_in_bf16",
)

KERNELS: dict[str, Kernel | Moves] = {
    "weighted_rms_norm": Kernel(compute=weighted_rms_norm, bugs=NORM, arithmetics={**LOW_SUMS, **MIDDLE}),
    "rotate": Kernel(compute=rotate, bugs=ROTATE, legitimate=(*_TURNS, *STORED), arithmetics=MIDDLE),
    "gated": Kernel(compute=gated, bugs=GATED, legitimate=(*WAYS, *STORED), arithmetics=MIDDLE),
    "softcap": Kernel(compute=softcap, bugs=_CAPS, legitimate=(*WAYS, *STORED), arithmetics=MIDDLE),
    "scaled_embedding": Kernel(compute=scaled_embedding, bugs=_ROWS, legitimate=(PLAIN, EXACT)),
}
