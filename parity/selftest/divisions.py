"""Whole quotients, remainders and differences: signs, discontinuities, and integers by way of floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from parity.case.dtype import decode, encode
from parity.case.tensor import HostTensor
from parity.selftest.arithmetic import EXACT, PLAIN
from parity.selftest.basic import of_two, of_two_wide
from parity.selftest.kernel import Kernel, Moves
from parity.selftest.problem import Outputs, Problem

__all__ = ["KERNELS", "Array", "divided", "is_legal", "remainder"]

Array = np.ndarray
_U = Fraction(1, 2**24)


def _operands(p: Problem) -> tuple[Array, Array]:
    """Return both, broadcast: float32 of floats, which hold all of them, or integers as they are."""
    a, b = np.broadcast_arrays(p.x(0).numpy(), p.x(1).numpy())
    return (a.astype(np.float32), b.astype(np.float32)) if p.dtype.is_float else (a, b)


def _stored(p: Problem, y: Array) -> Outputs:
    if not p.dtype.is_float:
        return (HostTensor.of(y.astype(p.dtype.storage), p.dtype),)
    code = encode(y.astype(np.float64), p.dtype)
    return (HostTensor.of(code.reshape(-1).view(p.dtype.storage).reshape(code.shape), p.dtype),)


def _whole(a: Array, b: Array, *, floor: bool) -> Array:
    """The whole part of integers' quotients, also of Python's."""
    below = a // b
    return np.asarray(below if floor else below + ((below * b != a) & ((a < 0) != (b < 0))))


def _narrowed(a: Array, b: Array, bug: str) -> tuple[Array, Array]:
    """Return integers as a device holds them that has fewer bits, or only floats."""
    match bug:
        case "as_32_bits":
            a, b = a.astype(np.int32).astype(np.int64), b.astype(np.int32).astype(np.int64)
        case "as_float64" | "as_float32":
            to = np.float64 if bug == "as_float64" else np.float32
            # Beyond the largest integer there is none to convert to.
            a = np.clip(a.astype(to).astype(np.float64), -(2.0**63), 2.0**63 - 1024).astype(np.int64)
    return a, np.where(b == 0, 1, b)


def divided(p: Problem, bug: str) -> Outputs:
    """floor(a / b), or a / b without its fraction."""
    a, b = _operands(p)
    floor = (p.op == "floor_divide") != (bug == "other_rounding")
    if not p.dtype.is_float:
        if bug == "swapped":
            a, b = b, np.where(a == 0, 1, a)
        if bug == "magnitude_taken":
            a = np.abs(a)
        return _stored(p, _whole(*_narrowed(a, b, bug), floor=floor))
    whole: Callable[[Array], Array] = np.floor if floor else np.trunc
    match bug:
        case "fmod":
            # As C code has it: what fmod leaves makes the quotient whole before it is divided.
            rest = np.fmod(a, b)
            quotient = np.rint((a - rest) / b)
            y = quotient - (floor & (rest != 0) & ((b < 0) != (rest < 0)))
            y = np.where(np.isfinite(a) & np.isfinite(b) & (b != 0), y, whole(a / b))
        case "float64":
            y = whole(a.astype(np.float64) / b.astype(np.float64))
        case "by_fast_reciprocal":
            y = whole(a * _bf16(1 / b))
        case "operand_bf16":
            y = whole(_bf16(a) / b)
        case "to_nearest":
            y = np.rint(a / b)
        case "fraction_kept":
            y = a / b
        case "upwards":
            y = np.ceil(a / b)
        case "swapped":
            y = whole(b / a)
        case "by_0_is_0":
            y = np.where(b == 0, 0.0, whole(a / b))
        case "magnitude_taken":
            y = whole(np.abs(a / b))
        case "through_32_bit_integer":
            y = np.clip(np.nan_to_num(whole(a / b)), -(2.0**31), 2.0**31)
        case _:
            y = whole(a / b)
    return _stored(p, np.asarray(y))


def remainder(p: Problem, bug: str) -> Outputs:
    """a - b floor(a / b)."""
    a, b = _operands(p)
    if not p.dtype.is_float:
        if bug == "magnitude_taken":
            a = np.abs(a)
        a, b = _narrowed(a, b, bug)
        return _stored(p, a - b * _whole(a, b, floor=bug != "sign_of_dividend"))
    rest = np.fmod(a, b)
    y = np.where((rest != 0) & ((b < 0) != (rest < 0)), rest + b, rest)
    match bug:
        case "fused":
            # Only where a quotient in float32 has a fraction is it any guide.
            quotient = np.floor(a / b).astype(np.float64)
            once = (a.astype(np.float64) - quotient * b.astype(np.float64)).astype(np.float32)
            y = np.where((np.abs(a / b) < 2.0**20) & np.isfinite(b), once, y)
        case "sign_of_dividend":
            y = rest
        case "by_rounded_product":
            y = a - b * np.floor(a / b)
        case "by_fraction":
            y = (a / b - np.floor(a / b)) * b
        case "operand_bf16":
            y = np.fmod(_bf16(a), b)
            y = np.where((y != 0) & ((b < 0) != (y < 0)), y + b, y)
        case "of_nearest":
            y = a - b * np.rint(a / b)
        case "magnitude_taken":
            y = np.abs(y)
        case "by_0_is_dividend":
            y = np.where(b == 0, a, y)
        case "divisor_returned":
            y = np.where(rest == 0, b, y)
    return _stored(p, np.asarray(y))


def _bf16(x: Array) -> Array:
    """Cut to 16 bits."""
    return (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def is_legal(p: Problem, outputs: Outputs) -> bool:
    """Whether each element is a right one, by exact fractions; those of the plain kernel are."""
    plain = (remainder if p.op == "remainder" else divided)(p, "")
    got, right = (_numbers(outputs[0]), _numbers(plain[0]))
    if not p.dtype.is_float:
        return bool((got == right).all())
    other = ~((got == right) | (np.isnan(got) & np.isnan(right)))
    a, b = (t.astype(np.float64)[other].tolist() for t in _operands(p))
    return all(_one_is_legal(p, *each) for each in zip(a, b, got[other].tolist(), strict=True))


def _numbers(tensor: HostTensor) -> Array:
    array = np.asarray(tensor.array(), order="C")
    if not tensor.dtype.is_float:
        return array
    return decode(array.reshape(-1).view(f"u{tensor.dtype.itemsize}"), tensor.dtype).reshape(tensor.shape)


def _one_is_legal(p: Problem, a: float, b: float, got: float) -> bool:
    if not (math.isfinite(a) and math.isfinite(b)) or b == 0:
        # Both sides of the limit are right, and NaN by way of fmod.
        if p.op == "remainder":
            return math.isinf(b) and math.isnan(got)
        below = math.isinf(b) and (a < 0) != (b < 0) and a != 0 and math.isfinite(a)
        return (math.isinf(a) and math.isnan(got)) or (
            below and p.op == "floor_divide" and got in (0.0, -1.0)
        )
    quotient = Fraction(a) / Fraction(b)
    least = Fraction(2) ** -149
    reach = 2 * _U * abs(quotient) + (least if quotient else 0)
    far = abs(quotient) >= 2**22
    if p.op == "remainder":
        lower = math.floor(quotient)
        choices = [lower] if far or quotient + reach < lower + 1 or quotient == lower else [lower, lower + 1]
        return any(got == _rounded(p, Fraction(a) - Fraction(b) * n) for n in choices)
    if p.op == "trunc_divide":
        sign = -1 if quotient < 0 else 1
        low, high = (math.floor(abs(quotient) + d) for d in (-reach if far else 0, reach))
        ends = sorted(_rounded(p, Fraction(sign * max(n, 0))) for n in (low, high))
    else:
        low, high = (math.floor(quotient + d) for d in (-reach if far else 0, reach))
        ends = [_rounded(p, Fraction(n)) for n in (low, high if quotient > 0 else min(high, 0))]
    return ends[0] <= got <= ends[1] and (math.isinf(got) or got == math.floor(got))


def _rounded(p: Problem, value: Fraction) -> float:
    near = np.array([float(value)])
    return float(decode(encode(near, p.dtype), p.dtype)[0])


_WHOLE = ("other_rounding", "swapped", "magnitude_taken", "as_32_bits", "as_float64", "as_float32")
_QUOTIENT = (
    *_WHOLE,
    *("by_fast_reciprocal", "operand_bf16", "to_nearest", "fraction_kept", "upwards", "by_0_is_0"),
    "through_32_bit_integer",
)
_REMAINDER = (
    *("sign_of_dividend", "by_rounded_product", "by_fraction", "operand_bf16", "of_nearest"),
    *("magnitude_taken", "by_0_is_dividend", "divisor_returned", "as_32_bits", "as_float64", "as_float32"),
)
_DIFFERENCE = (
    "operands_flushed",
    "operand_bf16",
    "first_row_for_all",
    "invalid_is_0",
    "subtracted",
    "swapped",
)
_WIDE = (
    "first_row_for_all",
    "subtracted",
    "as_32_bits",
    "kept_as_32_bits",
    "saturated",
    "as_float64",
    "swapped",
)

KERNELS: dict[str, Kernel | Moves] = {
    **{
        name: Moves(compute=divided, bugs=_QUOTIENT, ways=("", "fmod", "float64"), legal=is_legal)
        for name in ("floor_divide", "trunc_divide")
    },
    "remainder": Moves(compute=remainder, bugs=_REMAINDER, ways=("", "fused"), legal=is_legal),
    "sub": Kernel(compute=of_two, bugs=_DIFFERENCE, legitimate=(PLAIN, EXACT)),
    "sub:wide": Moves(compute=of_two_wide, bugs=_WIDE),
}
