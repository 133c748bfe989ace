"""Conversions between dtypes, and what they get wrong: rounding, range, the variant of an 8-bit float."""

from __future__ import annotations

import numpy as np

from parity.case.dtype import DTYPES, DType, Kind, Overflow, decode, encode
from parity.case.tensor import HostTensor
from parity.selftest.kernel import Kernel, Moves
from parity.selftest.problem import Outputs, Problem

__all__ = [
    "KERNELS",
    "MIXED",
    "Floats",
    "cast",
    "defined",
]

# Formats that are taken for each other.
MIXED = {"e4m3fn": "e4m3fnuz", "e4m3fnuz": "e4m3fn", "e5m2": "e5m2fnuz", "e5m2fnuz": "e5m2"}
Floats = np.ndarray


def cast(p: Problem, bug: str) -> Outputs:
    """x as `to`."""
    x, to = p.inputs[0], DTYPES[str(p.attrs["to"])]
    assert x is not None
    values = _read(p, x.dtype, bug)
    if to.kind is not Kind.FLOAT:
        return (HostTensor.of(_to_integer(p, values, to, bug), to),)
    if bug == "minus_zero_lost":
        values = values + 0.0
    if bug == "subnormals_flushed":
        values = np.where(np.abs(values) < to.min_normal, np.copysign(0.0, values), values)
    return (_tensor(_to_float(values, to, bug), to),)


def _read(p: Problem, dtype: DType, bug: str) -> Floats:
    raw = p.raw(0)
    if not dtype.is_float:
        # Integers beyond 2^53 are rounded to odd, so that the second rounding sees lost bits.
        near = raw.astype(np.float64)
        if bug == "through_float":
            return raw.astype(np.float32).astype(np.float64)
        if dtype.kind is Kind.INT and dtype.bits == 64 and p.attrs["to"] != "f64":
            back = np.array([int(v) for v in near.reshape(-1)], object).reshape(raw.shape)
            lost = back != raw.astype(object)
            below = np.where(np.abs(back) > np.abs(raw.astype(object)), np.nextafter(near, 0.0), near)
            odd = (below.view(np.uint64) | np.uint64(1)).view(np.float64)
            return np.where(lost.astype(bool), odd, near)
        return near
    code = raw.reshape(-1).view(f"u{raw.dtype.itemsize}").reshape(raw.shape)
    if bug == "read_as_other_variant" and dtype.name in MIXED:
        return decode(code, DTYPES[MIXED[dtype.name]])
    values = decode(code, dtype)
    if bug == "subnormal_inputs_flushed":
        return np.where(np.abs(values) < dtype.min_normal, np.copysign(0.0, values), values)
    if bug == "through_f16" and dtype.name != "f16":
        return decode(encode(values, DTYPES["f16"]), DTYPES["f16"])
    if bug == "through_bf16" and dtype.name != "bf16":
        return decode(encode(values, DTYPES["bf16"]), DTYPES["bf16"])
    return values


def _to_float(values: Floats, to: DType, bug: str) -> np.ndarray:
    match bug:
        case "saturated":
            # Not for 8-bit formats: there both are legal.
            return encode(values, to, overflow=Overflow.SATURATE if to.bits > 8 else Overflow.NATIVE)
        case "saturating":
            return encode(values, to, overflow=Overflow.SATURATE if to.bits == 8 else Overflow.NATIVE)
        case "truncated" | "ties_away" | "rounded_up":
            return _directed(values, to, bug)
        case "nan_to_number":
            return encode(np.where(np.isnan(values), to.max_finite, values), to)
        case "nan_to_zero":
            return encode(np.where(np.isnan(values), 0.0, values), to)
        case "written_as_other_variant" if to.name in MIXED:
            return encode(values, DTYPES[MIXED[to.name]])
        case "wraps":
            # The exponent is cut to its field: what is too large comes back small.
            most = to.max_finite
            return encode(np.where(np.abs(values) > most, np.fmod(values, most), values), to)
        case _:
            return encode(values, to)


def _directed(values: Floats, to: DType, bug: str) -> np.ndarray:
    """Round toward zero, ties away from zero, or up."""
    code = encode(values, to, overflow=Overflow.SATURATE)
    near = decode(code, to)
    larger = np.abs(near) > np.abs(values)
    if bug == "truncated":
        return np.where(np.isfinite(values) & larger, code - 1, code).astype(code.dtype)
    next_code = np.where(
        np.abs(near) < np.abs(values), np.minimum(code + 1, to.max_code | (code & (1 << (to.bits - 1)))), code
    )
    above = decode(next_code.astype(code.dtype), to)
    if bug == "ties_away":
        tie = (
            np.isfinite(values) & (np.abs(above) - np.abs(values) == np.abs(values) - np.abs(near)) & ~larger
        )
        return np.where(tie, next_code, code).astype(code.dtype)
    up = np.isfinite(values) & (values > 0)
    return np.where(up, next_code, code).astype(code.dtype)


def _to_integer(p: Problem, values: Floats, to: DType, bug: str) -> np.ndarray:
    x = p.inputs[0]
    assert x is not None
    if to.kind is Kind.BOOL:
        true: np.ndarray = values != 0
        if bug == "minus_zero_true":
            true = true | ((values == 0) & np.signbit(values))
        if bug == "fraction_lost":
            true = np.trunc(np.nan_to_num(values, nan=1.0)) != 0
        return true
    if not x.dtype.is_float and bug != "through_float":
        raw = p.raw(0)
        if bug == "saturated" and raw.dtype != np.bool_:
            limits = np.iinfo(to.storage)
            own = np.iinfo(raw.dtype)
            raw = np.clip(raw, max(limits.min, own.min), min(limits.max, own.max))
        whole: np.ndarray = raw.astype(to.storage)
        return whole
    values = {"rounded_to_nearest": np.rint, "floored": np.floor}.get(bug, np.trunc)(values)
    low = -(2.0 ** (to.bits - 1)) if to.signed else 0.0
    high = 2.0 ** (to.bits - 1) if to.signed else 2.0**to.bits
    return np.where((values >= low) & (values < high), values, 0.0).astype(to.storage)


def _tensor(code: np.ndarray, to: DType) -> HostTensor:
    return HostTensor.of(code.reshape(-1).view(to.storage).reshape(code.shape), to)


def defined(p: Problem, outputs: Outputs) -> bool:
    """Whether outputs differ only where C leaves the conversion undefined, or in a NaN's payload."""
    x, got = p.inputs[0], outputs[0]
    assert x is not None
    right = cast(p, "")[0]
    if got.dtype is not right.dtype or got.shape != right.shape:
        return False
    a, b = (np.array(t.array()).reshape(-1) for t in (right, got))
    if got.dtype.is_float:
        code = f"u{a.dtype.itemsize}"
        a, b = a.view(code), b.view(code)
        both = np.isnan(decode(a, got.dtype)) & np.isnan(decode(b, got.dtype))
        return bool(((a == b) | both).all())
    free = np.zeros(a.shape, bool)
    if x.dtype.is_float and got.dtype.kind is Kind.INT:
        values = np.trunc(_read(p, x.dtype, "")).reshape(-1)
        bits, signed = got.dtype.bits, got.dtype.signed
        free = ~((values >= (-(2.0 ** (bits - 1)) if signed else 0)) & (values < 2.0 ** (bits - signed)))
    return bool(((a == b) | free).all())


KERNELS: dict[str, Kernel | Moves] = {
    "cast": Moves(
        compute=cast,
        bugs=(
            "truncated",
            "rounded_up",
            "ties_away",
            "saturated",
            "wraps",
            "nan_to_number",
            "nan_to_zero",
            "minus_zero_lost",
            "minus_zero_true",
            "fraction_lost",
            "subnormals_flushed",
            "subnormal_inputs_flushed",
            "read_as_other_variant",
            "written_as_other_variant",
            "through_f16",
            "through_bf16",
            "through_float",
            "rounded_to_nearest",
            "floored",
        ),
        ways=("", "saturating"),
        legal=defined,
    )
}
