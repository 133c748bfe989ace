"""Matrix products, plain and over quantised weights, and what their kernels get wrong."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from parity.selftest.arithmetic import LEGITIMATE, TILE, Arithmetic, contracted, nearest, total
from parity.selftest.kernel import LOW_SUMS, Kernel, Moves
from parity.selftest.problem import Problem

__all__ = [
    "CONTRACTION",
    "KERNELS",
    "addmm",
    "int8_linear",
    "linear",
    "matmul",
    "product",
    "weight_linear",
]

CONTRACTION = (
    "dropped_k_tile",
    "dropped_k_tail",
    "k_tail_twice",
    "k_tiles_swapped",
    "tf32_inputs",
    "bf16_inputs",
    "f16_inputs",
    "bf16_two_passes",
    "partial_sums_rounded",
)


def product(p: Problem, a: Tensor, b: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """Multiply [..., M, K] by [..., K, N], with one of the bugs of a contraction or none."""
    K = a.shape[-1]
    tail = K % TILE or 1
    tile = max(1, min(TILE, K // 4))
    at = K // 2 // tile * tile
    match bug:
        case "dropped_k_tile":
            kept = torch.tensor([not at <= k < at + tile for k in range(K)], dtype=torch.bool)
            a, b = a[..., kept], b[..., kept, :]
        case "dropped_k_tail":
            a, b = a[..., : K - tail], b[..., : K - tail, :]
        case "k_tail_twice":
            a, b = torch.cat((a, a[..., K - tail :]), -1), torch.cat((b, b[..., K - tail :, :]), -2)
        case "k_tiles_swapped":
            b = b[..., _swapped(K, tile), :]
        case "tf32_inputs" | "bf16_inputs" | "f16_inputs":
            a, b = (nearest(t, bug.removesuffix("_inputs")) for t in (a, b))
        case "bf16_two_passes":
            return _two_passes(a, b, how)
        case "partial_sums_rounded":
            ends = [K * i // 4 for i in range(5)]
            parts = [
                nearest(
                    contracted(a[..., i:j], b[..., i:j, :], how), p.out.name if p.out.bits == 16 else "bf16"
                )
                for i, j in pairwise(ends)
            ]
            return total(torch.stack(parts, -1), how)
    return contracted(a, b, how)


def _swapped(length: int, tile: int) -> list[int]:
    """Positions with the first two whole tiles exchanged."""
    order = list(range(length))
    if length >= 2 * tile:
        order[: 2 * tile] = order[tile : 2 * tile] + order[:tile]
    return order


def _two_passes(a: Tensor, b: Tensor, how: Arithmetic) -> Tensor:
    """Split each input in two bf16 halves and leave out the product of the low ones."""
    high_a, high_b = nearest(a, "bf16"), nearest(b, "bf16")
    low_a, low_b = nearest(a - high_a, "bf16"), nearest(b - high_b, "bf16")
    return contracted(high_a, high_b, how) + contracted(high_a, low_b, how) + contracted(low_a, high_b, how)


def matmul(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """a @ b with broadcast batches; vectors as torch reads them."""
    a, b = how.number(p.x(0)), how.number(p.x(1))
    left, right = a.ndim == 1, b.ndim == 1
    a, b = a[None] if left else a, b[:, None] if right else b
    if bug == "first_batch_for_all" and b.ndim > 2:
        b = b[:1].expand_as(b)
    elif bug == "previous_batch" and b.ndim > 2:
        b = b.roll(1, 0)
    elif bug == "operand_transposed" and b.shape[-1] == b.shape[-2]:
        b = b.transpose(-1, -2)
    y = product(p, a, b, how, bug)
    y = y[..., 0, :] if left else y
    return y[..., 0] if right else y


def linear(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """x @ w.T + bias."""
    x, w = how.number(p.x(0)), how.number(p.x(1))
    if bug == "operand_transposed" and w.shape[0] == w.shape[1]:
        w = w.T
    y = product(p, x if x.ndim > 1 else x[None], w.T, how, bug)
    y = y if x.ndim > 1 else y[0]
    if not p.has(2) or bug == "bias_omitted":
        return y
    bias = how.number(p.x(2))
    match bug:
        case "bias_twice":
            bias = bias + bias
        case "bias_of_next_channel":
            bias = bias.roll(1)
        case "product_rounded" if p.out.bits == 16:
            y = nearest(y, p.out.name)
        case "bias_rounded_bf16":
            bias = nearest(bias, "bf16")
    return y + bias


def addmm(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """beta c + alpha a @ b; beta = 0 ignores c."""
    c, alpha, beta = how.number(p.x(0)), p.number("alpha"), p.number("beta")
    y = product(p, how.number(p.x(1)), how.number(p.x(2)), how, bug)
    match bug:
        case "alpha_ignored":
            alpha = 1.0
        case "beta_ignored":
            beta = 1.0
        case "alpha_on_addend":
            beta *= alpha
        case "bias_omitted":
            beta = 0.0
        case "bias_twice":
            beta *= 2
        case "product_rounded" if p.out.bits == 16:
            y = nearest(y, p.out.name)
    return alpha * y + beta * c if beta else alpha * y


def int8_linear(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """(x @ w.T) x_scale w_scale, the sum exact in integers."""
    x, w = (p.x(i).to(torch.int64) for i in (0, 1))
    row, column = how.number(p.x(2)), how.number(p.x(3))
    match bug:
        case "lowest_as_127":
            x, w = x.clamp(min=-127), w.clamp(min=-127)
        case "unsigned":
            x = x % 256
        case "dropped_k_tail":
            x = x[:, : x.shape[1] - (x.shape[1] % TILE or 1)]
            w = w[:, : x.shape[1]]
        case "scale_of_next_channel":
            column = column.roll(1)
        case "scale_of_first_row":
            row = row[:1]
        case "scale_bf16":
            row, column = nearest(row, "bf16"), nearest(column, "bf16")
    sums = x @ w.T
    match bug:
        case "sum_wraps_at_16_bits":
            sums = (sums + 2**15) % 2**16 - 2**15
        case "sum_saturates_at_16_bits":
            sums = sums.clamp(-(2**15), 2**15 - 1)
        case "sum_f16" | "sum_bf16":
            sums = nearest(sums.to(torch.float32), bug.removeprefix("sum_"))
        case "sum_tf32":
            sums = nearest(sums.to(torch.float32), "tf32")
    y = how.number(sums.to(torch.float64))
    if bug == "scaled_once_more":
        return y * row * column * row
    return y * (row * column) if how.reciprocal else y * row * column


def _nibbles(p: Problem, bug: str) -> Tensor:
    codes = torch.from_numpy(p.raw(1).astype(np.int64))
    low, high = codes & 15, codes >> 4
    pair = (high, low) if bug == "nibbles_swapped" else (low, high)
    code = torch.stack(pair, -1).flatten(-2)
    if bug == "twos_complement":
        return torch.where(code > 7, code - 16, code)
    return code - (7 if bug == "zero_point_7" else 8)


def _groups(p: Problem, scale: Tensor, bug: str) -> Tensor:
    """Spread scales [N, groups] over K."""
    size = p.integer("group")
    groups = torch.arange(scale.shape[1] * size) // size
    match bug:
        case "scale_of_next_group":
            groups = (groups + 1) % scale.shape[1]
        case "group_twice_as_large":
            groups = groups // 2
        case "first_group_for_all":
            groups = groups * 0
        case "group_edge_off_by_one":
            groups = (torch.arange(groups.numel()) + 1).clamp(max=groups.numel() - 1) // size
    return scale[:, groups]


def weight_linear(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """x @ (w scale).T for int8 weights by row, or int4 weights by group along K."""
    x, scale = how.number(p.x(0)), how.number(p.x(2))
    if p.op == "int8_weight_linear":
        code, scale = p.x(1).to(torch.int64), scale.reshape(-1, 1)
        code = code % 256 if bug == "unsigned" else code + (bug == "zero_point_1")
    else:
        code, scale = _nibbles(p, bug), _groups(p, scale, bug)
    match bug:
        case "scale_of_next_channel":
            scale = scale.roll(1, 0)
        case "scaled_twice":
            scale = scale * scale
    late = how.reciprocal and p.op == "int8_weight_linear"
    w = how.number(code.to(torch.float64))
    w = w if late else w * scale
    if bug == "weights_dequantised_bf16":
        w = nearest(w, "bf16")
    y = product(p, x, w.T, how, bug)
    return y * scale.T if late else y


_BATCH = ("first_batch_for_all", "previous_batch", "operand_transposed")
_SCALE = ("scale_of_next_channel", "scaled_twice", "weights_dequantised_bf16")
# A late scale is legitimate for whole rows alone, and its order shows by `reciprocal`.
_EXACT_SUM = tuple(dataclasses.replace(how, order="sequential", fused=False) for how in LEGITIMATE)

KERNELS: dict[str, Kernel | Moves] = {
    "matmul": Kernel(compute=matmul, bugs=(*CONTRACTION, *_BATCH), arithmetics=LOW_SUMS),
    "bmm": Kernel(compute=matmul, bugs=(*CONTRACTION, *_BATCH), arithmetics=LOW_SUMS),
    "linear": Kernel(
        compute=linear,
        bugs=(
            *CONTRACTION,
            "operand_transposed",
            "bias_omitted",
            "bias_twice",
            "bias_of_next_channel",
            "product_rounded",
            "bias_rounded_bf16",
        ),
        arithmetics=LOW_SUMS,
    ),
    "addmm": Kernel(
        compute=addmm,
        bugs=(
            *CONTRACTION,
            "alpha_ignored",
            "beta_ignored",
            "alpha_on_addend",
            "bias_omitted",
            "bias_twice",
            "product_rounded",
        ),
        arithmetics=LOW_SUMS,
    ),
    "int8_linear": Kernel(
        compute=int8_linear,
        bugs=(
            "lowest_as_127",
            "unsigned",
            "dropped_k_tail",
            "scale_of_next_channel",
            "scale_of_first_row",
            "scale_bf16",
            "sum_wraps_at_16_bits",
            "sum_saturates_at_16_bits",
            "sum_f16",
            "sum_bf16",
            "sum_tf32",
            "scaled_once_more",
        ),
        legitimate=_EXACT_SUM,
    ),
    "int8_weight_linear": Kernel(
        compute=weight_linear, bugs=(*CONTRACTION, *_SCALE, "unsigned", "zero_point_1"), arithmetics=LOW_SUMS
    ),
    "int4_weight_linear": Kernel(
        compute=weight_linear,
        bugs=(
            *CONTRACTION,
            *_SCALE,
            "nibbles_swapped",
            "twos_complement",
            "zero_point_7",
            "scale_of_next_group",
            "group_twice_as_large",
            "first_group_for_all",
            "group_edge_off_by_one",
        ),
        arithmetics=LOW_SUMS,
    ),
}
