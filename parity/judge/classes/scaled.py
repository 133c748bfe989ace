"""Products over 8-bit floats with scales: by tensor and row, by blocks, and dequantised first.

Significands of 8-bit floats have at most 4 bits and exponents lie within 2^-17 and 2^16, so a product of
two is exact in float32, and so is a sum of which no order can need more bits than the accumulator has
(`_exact_where`): there nothing is granted but the scales.
"""

from __future__ import annotations

import torch
from torch import Tensor

from parity.case.dtype import DTYPES, DType, dtype
from parity.judge.budget import RMS_ROUNDING, Budget, Expected, Question, rounded, sum_error
from parity.judge.classes.computed import Computed
from parity.judge.classes.sums import overflows, product

__all__ = ["block_scaled_mm", "dequantised_mm", "scaled_mm"]

_F32 = DTYPES["f32"]


def scaled_mm(q: Question) -> tuple[Expected, ...]:
    """y = s_x s_w (x w^T): H = s H(x w^T) + 2 u (1 + u) |y|, h^2 = s^2 h^2(x w^T) + 2 (0.42 u y)^2.

    A kernel without fp8 products scales both operands in float32 first, which is emulated: then the
    matmul rule on those.
    """
    x, w, by_row, by_column = q.inputs
    assert x is not None and w is not None and by_row is not None and by_column is not None
    if "operands" in q.stored:
        return (_budget(q, *_of_scaled(q, x * by_row, w * by_column)),)
    scale = by_row * by_column.reshape(1, -1)
    return (_budget(q, *_scaled(q, *_codes_product(q, x, w), scale, unit=q.accumulator.unit)),)


def dequantised_mm(q: Question) -> tuple[Expected, ...]:
    """y = x' w'^T, x' and w' the operands times their scales, rounded to `out`: the matmul rule on them.

    A scaled value is rounded to float32 before it is rounded to 16 bits, or not: where the two differ,
    dx and dw are how far, and H += dx |w'| + |x'| dw + dx dw, h^2 += dx^2 w'^2 + x'^2 dw^2.
    """
    x, w, by_row, by_column = q.inputs
    assert x is not None and w is not None and by_row is not None and by_column is not None
    to = dtype(str(q.attrs["out"]))
    (left, dx), (right, dw) = (_dequantised(t, to) for t in (x * by_row, w * by_column))
    value, hard, variance, free = product(q, left, right.T, dtype=to)
    hard = hard + dx @ right.abs().T + left.abs() @ dw.T + dx @ dw.T
    variance = variance + dx.square() @ right.square().T + left.square() @ dw.square().T
    return (_budget(q, Computed(value=value, hard=hard, variance=variance), free),)


def block_scaled_mm(q: Question) -> tuple[Expected, ...]:
    """y = sum_b y_b, y_b = s_b (x_b w_b^T) by the rule of `scaled_mm`, then the sum rule over blocks:

    H = sum_b H_b + c(n_b) u sum_b |y_b|, h^2 = sum_b h_b^2 + the sum rule's with q = y_b^2, s = y.
    Scales that are powers of two round nothing.
    """
    x, w = q.inputs[:2]
    assert x is not None and w is not None
    block, by_row, by_column = q.integer("block"), *_block_scales(q, rows=w.shape[0])
    if "operands" in q.stored:
        of_rows, of_columns = (s.repeat_interleave(block, -1) for s in (by_row, by_column))
        return (_budget(q, *_of_scaled(q, x * of_rows, w * of_columns)),)
    raw = q.raw[2]
    unit = q.accumulator.unit if raw is not None and raw.dtype.is_float else 0.0
    zero = torch.zeros(x.shape[0], w.shape[0], dtype=torch.float64)
    value, hard, variance, magnitude, squares = (zero.clone() for _ in range(5))
    free = torch.zeros(zero.shape, dtype=torch.bool)
    blocks = x.shape[1] // block
    for number in range(blocks):
        here = slice(number * block, (number + 1) * block)
        scale = by_row[:, number, None] * by_column[None, :, number]
        part, over = _scaled(q, *_codes_product(q, x[:, here], w[:, here]), scale, unit=unit)
        value, hard, variance = value + part.value, hard + part.hard, variance + part.variance
        magnitude, squares = magnitude + part.value.abs(), squares + part.value.square()
        free |= over
    own_hard, own_variance = sum_error(
        terms=blocks,
        magnitude=magnitude,
        squares=squares,
        total=value,
        outputs=value.numel(),
        accumulator=q.accumulator,
        exact_terms=True,
    )
    made = Computed(value=value, hard=hard + own_hard, variance=variance + own_variance)
    return (_budget(q, made, free | overflows(value, magnitude, q, terms=blocks)),)


def _budget(q: Question, made: Computed, free: Tensor) -> Budget:
    return Budget(
        dtype=dtype(str(q.attrs["out"])),
        value=made.value,
        hard=made.hard,
        sigma=made.variance.sqrt(),
        free=free,
    )


def _codes_product(q: Question, x: Tensor, w: Tensor) -> tuple[Computed, Tensor]:
    """Return x w^T of unscaled values, without any error where no order of the sum can round."""
    value, hard, variance, free = product(q, x, w.T, dtype=q.dtype)
    exact = _exact_where(x, w, unit=q.accumulator.unit)
    hard, variance = (torch.where(exact, 0.0, t) for t in (hard, variance))
    return Computed(value=value, hard=hard, variance=variance), free


def _exact_where(x: Tensor, w: Tensor, *, unit: float) -> Tensor:
    """Mark elements of x w^T whose every partial sum the accumulator holds, in any order.

    With 2^i the last place that a row of x uses and 2^j that of w, all partial sums are multiples of
    2^(i + j) and at most S = |x||w|; below half of 1/u units also where terms are aligned first.
    """
    places = _last_place(x)[:, None] + _last_place(w)[None, :]
    return x.abs() @ w.abs().T <= torch.exp2(places.to(torch.float64)) * (0.5 / unit)


def _last_place(x: Tensor) -> Tensor:
    """Return the exponent of the lowest bit that any element of each row has set, 0 for a row of zeros."""
    finite = torch.where(x.isfinite(), x, 0.0)
    fraction, exponent = torch.frexp(finite)
    whole = torch.ldexp(fraction, torch.tensor(53)).to(torch.int64)
    _, lowest = torch.frexp((whole & -whole).to(torch.float64))
    none = torch.iinfo(torch.int64).max
    least = torch.where(whole == 0, none, (exponent - 53 + lowest - 1).to(torch.int64)).amin(-1)
    return torch.where(least == none, 0, least)


def _scaled(
    q: Question, made: Computed, free: Tensor, scale: Tensor, *, unit: float
) -> tuple[Computed, Tensor]:
    """Return a product times both its scales, each of which rounds to `unit` once."""
    size, value = scale.abs(), made.value * scale
    hard = made.hard * size + 2 * unit * (1 + unit) * value.abs() + q.accumulator.dtype.min_subnormal
    variance = made.variance * size.square() + 2 * (RMS_ROUNDING * unit * value).square()
    return Computed(value=value, hard=hard, variance=variance), free & ~value.isnan()


def _of_scaled(q: Question, x: Tensor, w: Tensor) -> tuple[Computed, Tensor]:
    """Return the product of operands that were scaled, each rounded to float32."""
    value, hard, variance, free = product(q, rounded(x, _F32), rounded(w, _F32).T, dtype=_F32)
    return Computed(value=value, hard=hard, variance=variance), free


def _dequantised(x: Tensor, to: DType) -> tuple[Tensor, Tensor]:
    """Return x rounded once, and how far it is from x rounded by way of float32."""
    once, twice = rounded(x, to), rounded(rounded(x, _F32), to)
    return once, torch.where(once == twice, 0.0, (once - twice).abs()).nan_to_num(nan=0.0)


def _block_scales(q: Question, *, rows: int) -> tuple[Tensor, Tensor]:
    """Return float64 scales [T, blocks] and [N, blocks]."""
    by_row, by_column = (_scale(t) for t in q.inputs[2:])
    return by_row, by_column.repeat_interleave(q.integer("block_rows"), 0)[:rows]


def _scale(held: Tensor | None) -> Tensor:
    """Return scales as they are, or the powers of two that uint8 stands for."""
    assert held is not None
    if held.dtype.is_floating_point:
        return held
    power = torch.exp2(held.to(torch.float64) - 127)
    return torch.where(held == 255, torch.nan, power)
