"""Products over 8-bit floats with scales, and what their kernels get wrong."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parity.case.dtype import decode, dtype
from parity.selftest.arithmetic import Arithmetic, nearest
from parity.selftest.kernel import LOW_SUMS, Kernel
from parity.selftest.problem import Problem
from parity.selftest.products import product

__all__ = ["KERNELS", "block_scaled_mm", "dequantised_mm", "scaled_mm"]

_OTHER = {"e4m3fn": "e4m3fnuz", "e4m3fnuz": "e4m3fn", "e5m2": "e5m2fnuz", "e5m2fnuz": "e5m2"}
_GAUDI = {"e4m3fn": "e4m3_gaudi2", "e4m3fnuz": "e4m3_gaudi2"}
_CONTRACTION = (
    "dropped_k_tile",
    "dropped_k_tail",
    "k_tail_twice",
    "k_tiles_swapped",
    "partial_sums_rounded",
)
_CODES = (
    "x_in_other_flavour",
    "w_in_other_flavour",
    "both_in_other_flavour",
    "x_as_gaudi2",
    "subnormals_flushed",
    "nan_as_zero",
)
_SCALES = (
    "scale_of_next_row",
    "scale_of_next_column",
    "scale_of_first_row",
    "scale_inverted",
    "scale_twice",
    "scale_omitted",
    "scale_bf16",
)


def _codes(p: Problem, how: Arithmetic, bug: str) -> tuple[Tensor, Tensor]:
    """Return what the codes of x and w stand for."""
    held = []
    for number, name in enumerate(("x", "w")):
        tensor = p.inputs[number]
        assert tensor is not None
        kind, value = tensor.dtype.name, p.x(number)
        if bug in (f"{name}_in_other_flavour", "both_in_other_flavour"):
            value = torch.from_numpy(decode(p.raw(number).view(np.uint8), dtype(_OTHER[kind])))
        elif bug == f"{name}_as_gaudi2" and kind in _GAUDI:
            value = torch.from_numpy(decode(p.raw(number).view(np.uint8), dtype(_GAUDI[kind])))
        elif bug == "subnormals_flushed":
            value = torch.where(value.abs() < tensor.dtype.min_normal, 0.0, value)
        elif bug == "nan_as_zero":
            value = value.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
        held.append(how.number(value))
    return held[0], held[1]


def _scales(p: Problem, how: Arithmetic, bug: str) -> tuple[Tensor, Tensor]:
    """Return the scales of x and of w, as they are given."""
    by_row, by_column = how.number(p.x(2)), how.number(p.x(3))
    match bug:
        case "scale_of_next_row":
            by_row = by_row.roll(1, 0) if by_row.ndim else by_row
        case "scale_of_next_column":
            by_column = by_column.roll(1, 0) if by_column.ndim else by_column
        case "scale_of_first_row":
            by_row = by_row[:1].expand_as(by_row) if by_row.ndim else by_row
        case "scale_inverted":
            by_row = 1 / by_row
        case "scale_twice":
            by_row = by_row * by_row
        case "scale_omitted":
            by_column = torch.ones_like(by_column)
        case "scale_bf16":
            by_row, by_column = nearest(by_row, "bf16"), nearest(by_column, "bf16")
    return by_row, by_column


def scaled_mm(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """(x @ w.T) x_scale w_scale; both operands scaled in float32 first where `online`."""
    (x, w), (by_row, by_column) = _codes(p, how, bug), _scales(p, how, bug)
    across = by_column.reshape(1, -1)
    if how.online:
        return product(p, x * by_row, (w * by_column).T, how, bug)
    y = product(p, x, w.T, how, bug)
    return y * (by_row * across) if how.reciprocal else y * by_row * across


def dequantised_mm(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """Operands scaled in float32 (directly where wide), rounded to the result's type, then multiplied."""
    (x, w), (by_row, by_column) = _codes(p, how, bug), _scales(p, how, bug)
    to = {"bf16_operands": "bf16", "f16_operands": "f16"}.get(bug, p.out.name)
    if bug == "operands_not_rounded":
        to = "f32"
    if bug == "rounded_before_scaled" and p.out.bits == 16:
        x, w, by_row, by_column = (nearest(t, p.out.name) for t in (x, w, by_row, by_column))
    return product(p, nearest(x * by_row, to), nearest(w * by_column, to).T, how, bug)


def block_scaled_mm(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """A product for each block of K, scaled, then added; both operands scaled first where `online`."""
    x, w = _codes(p, how, bug)
    block, blocks = p.integer("block"), x.shape[1] // p.integer("block")
    by_row, by_column = (_block_scales(p, how, i, bug) for i in (2, 3))
    by_column = _spread(by_column, p.integer("block_rows"), w.shape[0], bug)
    if how.online:
        left, right = (t * s.repeat_interleave(block, -1) for t, s in ((x, by_row), (w, by_column)))
        return product(p, left, right.T, how, bug)
    y = torch.zeros(x.shape[0], w.shape[0], dtype=x.dtype)
    for number in range(blocks):
        if bug == "last_block_dropped" and number == blocks - 1:
            break
        here = slice(number * block, (number + 1) * block)
        part = product(p, x[:, here], w[:, here].T, how, bug if bug in _CONTRACTION else "")
        rows, columns = by_row[:, number, None], by_column[None, :, number]
        y = y + (part * (rows * columns) if how.reciprocal else part * rows * columns)
        y = nearest(y, how.keep) if how.keep in ("bf16", "f16") else y
    return y


def _block_scales(p: Problem, how: Arithmetic, number: int, bug: str) -> Tensor:
    """Return the scales of x (2) or w (3) by block."""
    held = p.inputs[number]
    assert held is not None
    scale = p.x(number)
    if not held.dtype.is_float:
        bias = 128 if bug == "bias_off_by_one" else 127
        power = torch.exp2(scale.to(torch.float64) - bias)
        scale = power if bug == "nan_scale_as_number" else torch.where(scale == 255, torch.nan, power)
    scale = how.number(scale)
    match bug:
        case "scale_of_next_block":
            return scale.roll(1, -1)
        case "scale_of_first_block":
            return scale[:, :1].expand_as(scale)
        case "block_rows_by_column" if number == 3:
            return scale.T.reshape(scale.shape)
        case "scale_of_next_row" if number == 2:
            return scale.roll(1, 0)
        case "scale_inverted" if number == 2:
            return 1 / scale
        case "scale_twice" if number == 2:
            return scale * scale
        case "scale_bf16":
            return nearest(scale, "bf16")
        case _:
            return scale


def _spread(scale: Tensor, each: int, rows: int, bug: str) -> Tensor:
    """Return one row of scales for each row of w."""
    at = torch.arange(rows) // each
    match bug:
        case "tail_block_of_first":
            at = torch.where(at == scale.shape[0] - 1, 0, at)
        case "block_edge_off_by_one":
            at = (torch.arange(rows) + 1).clamp(max=rows - 1) // each
        case "next_block_of_rows":
            at = (at + 1) % scale.shape[0]
    return scale[at]


KERNELS = {
    "scaled_mm": Kernel(compute=scaled_mm, bugs=(*_CONTRACTION, *_CODES, *_SCALES), arithmetics=LOW_SUMS),
    "dequantised_mm": Kernel(
        compute=dequantised_mm,
        bugs=(
            *_CONTRACTION,
            *_CODES,
            *_SCALES,
            "bf16_operands",
            "f16_operands",
            "operands_not_rounded",
            "rounded_before_scaled",
        ),
        arithmetics=LOW_SUMS,
    ),
    "block_scaled_mm": Kernel(
        compute=block_scaled_mm,
        bugs=(
            *_CONTRACTION,
            *_CODES,
            "scale_of_next_block",
            "scale_of_first_block",
            "block_rows_by_column",
            "scale_of_next_row",
            "scale_inverted",
            "scale_twice",
            "scale_bf16",
            "bias_off_by_one",
            "nan_scale_as_number",
            "last_block_dropped",
            "tail_block_of_first",
            "block_edge_off_by_one",
            "next_block_of_rows",
        ),
        arithmetics=LOW_SUMS,
    ),
}
