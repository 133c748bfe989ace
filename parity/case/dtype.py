"""Element types by exact name, with an integer encoder and decoder of our own.

Torch's casts are a subject under test, never the specification: inputs and oracles use these
functions, which work on integers alone and so give the same bits on every machine, whatever
its flush-to-zero mode. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache

import numpy as np
import numpy.typing as npt

from parity.errors import UsageError, near_miss

__all__ = ["DTYPES", "DType", "Kind", "Overflow", "decode", "dtype", "encode", "nearest"]


class Kind(Enum):
    """What the bits of an element mean."""

    FLOAT = "float"
    INT = "int"
    BOOL = "bool"


class Overflow(Enum):
    """What a conversion does with a value beyond the largest finite one."""

    NATIVE = "native"  # infinity where the format has one, else NaN
    SATURATE = "saturate"  # the largest finite value, infinities included; NaN stays NaN


@dataclass(frozen=True, slots=True, kw_only=True)
class DType:
    """One element type.

    `tag` is the exact name that golden files carry. For floats: `exponent_bits`, `mantissa_bits`
    and `bias` as in IEEE 754; `has_inf` says whether the top exponent is reserved; `fnuz` marks
    formats whose only NaN is the code of minus zero; `max_code` is the largest finite magnitude.
    """

    name: str
    tag: str
    kind: Kind
    bits: int
    signed: bool = True
    exponent_bits: int = 0
    mantissa_bits: int = 0
    bias: int = 0
    has_inf: bool = True
    fnuz: bool = False
    max_code: int = 0

    def __reduce__(self) -> tuple[Callable[[str], DType], tuple[str]]:
        return dtype, (self.name,)  # the one of its name, since types are compared by identity

    @property
    def storage(self) -> np.dtype:
        """The numpy type that holds the elements: raw bits where numpy has no such type."""
        if self.kind is Kind.BOOL:
            return np.dtype(np.bool_)
        if self.kind is Kind.INT:
            return np.dtype(f"{'i' if self.signed else 'u'}{self.bits // 8}")
        if self.name in ("f16", "f32", "f64"):
            return np.dtype(f"f{self.bits // 8}")
        return np.dtype(f"u{self.bits // 8}")

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.storage.itemsize

    @property
    def is_float(self) -> bool:
        """Whether elements are floating point."""
        return self.kind is Kind.FLOAT

    @property
    def unit_roundoff(self) -> float:
        """Half the distance from 1 to the next larger value."""
        return 2.0 ** -(self.mantissa_bits + 1)

    @property
    def max_finite(self) -> float:
        """The largest finite value."""
        fraction = (self.max_code & (2**self.mantissa_bits - 1)) / 2**self.mantissa_bits
        return float((1 + fraction) * 2.0 ** ((self.max_code >> self.mantissa_bits) - self.bias))

    @property
    def min_normal(self) -> float:
        """The smallest positive normal value."""
        return 2.0 ** (1 - self.bias)

    @property
    def min_subnormal(self) -> float:
        """The smallest positive value."""
        return 2.0 ** (1 - self.bias - self.mantissa_bits)

    def __str__(self) -> str:
        return self.name


def _unsigned(bits: int) -> np.dtype:
    return np.dtype(f"u{bits // 8}")


def _ieee(name: str, tag: str, bits: int, exponent_bits: int) -> DType:
    mantissa_bits = bits - 1 - exponent_bits
    return DType(
        name=name,
        tag=tag,
        kind=Kind.FLOAT,
        bits=bits,
        exponent_bits=exponent_bits,
        mantissa_bits=mantissa_bits,
        bias=2 ** (exponent_bits - 1) - 1,
        max_code=((2**exponent_bits - 1) << mantissa_bits) - 1,
    )


def _fp8(
    name: str, exponent_bits: int, bias: int, max_code: int, *, has_inf: bool = False, fnuz: bool = False
) -> DType:
    return DType(
        name=name,
        tag=f"float8_{name}",
        kind=Kind.FLOAT,
        bits=8,
        exponent_bits=exponent_bits,
        mantissa_bits=7 - exponent_bits,
        bias=bias,
        has_inf=has_inf,
        fnuz=fnuz,
        max_code=max_code,
    )


def _int(name: str, bits: int, *, signed: bool = True) -> DType:
    return DType(name=name, tag=f"{'' if signed else 'u'}int{bits}", kind=Kind.INT, bits=bits, signed=signed)


DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        _ieee("f64", "float64", 64, 11),
        _ieee("f32", "float32", 32, 8),
        _ieee("f16", "float16", 16, 5),
        _ieee("bf16", "bfloat16", 16, 8),
        # OCP 8-bit floating point specification 1.0: E4M3 has no infinity and one NaN a sign.
        _fp8("e4m3fn", 4, 7, 0x7E),
        _fp8("e5m2", 5, 15, 0x7B, has_inf=True),
        # arXiv 2206.02915 (AMD, Graphcore): no infinity, no minus zero, bias one higher.
        _fp8("e4m3fnuz", 4, 8, 0x7F, fnuz=True),
        _fp8("e5m2fnuz", 5, 16, 0x7F, fnuz=True),
        # Gaudi 2 keeps the IEEE reading of E4M3: the top exponent is infinity and NaN, max 240.
        _fp8("e4m3_gaudi2", 4, 7, 0x77, has_inf=True),
        _int("i8", 8),
        _int("i16", 16),
        _int("i32", 32),
        _int("i64", 64),
        _int("u8", 8, signed=False),
        DType(name="bool", tag="bool", kind=Kind.BOOL, bits=8, signed=False),
    )
}
_BY_TAG = {d.tag: d for d in DTYPES.values()}


def dtype(name: str) -> DType:
    """Return the type of a short name (`bf16`) or an exact tag (`bfloat16`).

    Raises UsageError with the near miss for any other.
    """
    found = DTYPES.get(name) or _BY_TAG.get(name)
    if found is None:
        raise UsageError(f"unknown dtype '{name}'{near_miss(name, [*DTYPES, *_BY_TAG])}")
    return found


def decode(codes: npt.NDArray[np.unsignedinteger], to: DType) -> npt.NDArray[np.float64]:
    """Return the exact float64 value of each code of a float type, NaN where it has none."""
    if to.bits == 64:
        return (
            np.array(codes, dtype=np.uint64, order="C").reshape(-1).view(np.float64).reshape(np.shape(codes))
        )
    if to.bits <= 16:
        return np.asarray(_values(to)[codes])
    return _decode(np.asarray(codes).reshape(-1), to).reshape(np.shape(codes))


@cache
def _values(of: DType) -> npt.NDArray[np.float64]:
    """Return the value of every code of a type of at most 16 bits."""
    return _decode(np.arange(2**of.bits, dtype=np.uint64), of)


def _decode(codes: npt.NDArray[np.unsignedinteger], to: DType) -> npt.NDArray[np.float64]:
    code = codes.astype(np.uint64)
    magnitude = code & np.uint64(2 ** (to.bits - 1) - 1)
    sign = np.where(code >> np.uint64(to.bits - 1), -1.0, 1.0)
    exponent = (magnitude >> np.uint64(to.mantissa_bits)).astype(np.int64)
    fraction = (magnitude & np.uint64(2**to.mantissa_bits - 1)).astype(np.int64)
    significand = np.where(exponent == 0, fraction, fraction + (1 << to.mantissa_bits))
    power = np.maximum(exponent, 1) - to.bias - to.mantissa_bits
    value = sign * np.ldexp(significand.astype(np.float64), power)
    value = np.where(magnitude > to.max_code, np.nan, value)
    if to.has_inf:
        value = np.where(magnitude == to.max_code + 1, sign * np.inf, value)
    return np.where(code == 1 << (to.bits - 1), np.nan, value) if to.fnuz else value


def encode(
    values: npt.NDArray[np.float64], to: DType, *, overflow: Overflow = Overflow.NATIVE
) -> npt.NDArray[np.unsignedinteger]:
    """Return the codes of float64 values rounded once, to nearest with ties to even.

    A NaN becomes the canonical quiet NaN of the format with its sign dropped.
    """
    bits = np.asarray(values, dtype=np.float64, order="C").reshape(-1).view(np.uint64)
    if to.bits == 64:
        return bits.reshape(np.shape(values)).copy()
    magnitude = bits & np.uint64(2**63 - 1)
    # Between the smallest normal and the largest finite value nothing special can happen: the
    # significand's lowest bits are rounded off and the exponent gets another bias.
    low, high = np.array([to.min_normal, to.max_finite]).view(np.uint64)
    plain = (magnitude >= low) & (magnitude <= high)
    drop = np.uint64(52 - to.mantissa_bits)
    code = magnitude >> drop
    code &= np.uint64(1)
    code += magnitude
    code += np.uint64((1 << (int(drop) - 1)) - 1)
    code >>= drop
    code -= np.uint64((1023 - to.bias) << to.mantissa_bits)
    code |= bits >> np.uint64(63) << np.uint64(to.bits - 1)
    if not plain.all():
        code[~plain] = _encode(bits[~plain], to, overflow)
    return code.astype(_unsigned(to.bits)).reshape(np.shape(values))


def nearest(values: npt.NDArray[np.float64], to: DType) -> npt.NDArray[np.float64]:
    """Return `decode(encode(values, to), to)`: float64 values rounded once to what `to` holds."""
    exact = np.asarray(values, dtype=np.float64, order="C").reshape(-1)
    bits = exact.view(np.uint64)
    if to.bits == 64:
        return exact.copy().reshape(np.shape(values))
    magnitude = bits & np.uint64(2**63 - 1)
    low, high = np.array([to.min_normal, to.max_finite]).view(np.uint64)
    plain = (magnitude >= low) & (magnitude <= high)
    if not to.fnuz:
        plain |= magnitude == 0
    # Rounded where they are: a carry out of the significand moves to the next exponent by itself.
    drop = np.uint64(52 - to.mantissa_bits)
    code = bits >> drop
    code &= np.uint64(1)
    code += bits
    code += np.uint64((1 << (int(drop) - 1)) - 1)
    code &= ~np.uint64((1 << int(drop)) - 1)
    result = code.view(np.float64)
    if not plain.all():
        result[~plain] = decode(encode(exact[~plain], to), to)
    return result.reshape(np.shape(values))


def _encode(bits: npt.NDArray[np.uint64], to: DType, overflow: Overflow) -> npt.NDArray[np.uint64]:
    """Encode float64 bits by the general rule: subnormals, zeros, overflow, infinities and NaN too."""
    sign, magnitude = bits >> np.uint64(63), bits & np.uint64(2**63 - 1)
    is_nan = magnitude > np.uint64(0x7FF << 52)
    exponent = (magnitude >> np.uint64(52)).astype(np.int64) - 1023
    significand = (magnitude & np.uint64(2**52 - 1)) | np.uint64(1 << 52)
    # Bits to drop: those below the last place of the result, which for subnormals is fixed.
    # A float64 subnormal is far below half of any narrower format's smallest value.
    drop = (52 - to.mantissa_bits) + np.maximum(1 - to.bias - exponent, 0)
    drop = np.clip(drop, 0, 54).astype(np.uint64)
    kept = significand >> drop
    remainder = significand & ((np.uint64(1) << drop) - np.uint64(1))
    half = np.uint64(1) << (drop - np.uint64(1))
    kept += ((remainder > half) | ((remainder == half) & (kept & np.uint64(1) == 1))).astype(np.uint64)
    # A normal's significand carries its implicit bit into the exponent field, and a carry out of
    # rounding moves to the next exponent by itself.
    biased = np.maximum(exponent + to.bias - 1, 0).astype(np.uint64)
    code = (biased << np.uint64(to.mantissa_bits)) + kept
    code = np.where(magnitude < np.uint64(1 << 52), np.uint64(0), code)
    over = (code > to.max_code) & ~is_nan
    beyond = (
        to.max_code if overflow is Overflow.SATURATE else to.max_code + 1 if to.has_inf else _nan_code(to)
    )
    code = np.where(over, np.uint64(beyond), code) | (sign << np.uint64(to.bits - 1))
    code = np.where(is_nan, np.uint64(_nan_code(to)), code)
    if to.fnuz:
        minus_zero = np.uint64(1 << (to.bits - 1))
        if overflow is Overflow.NATIVE:
            code = np.where(over, minus_zero, code)
        code = np.where((code == minus_zero) & ~is_nan & ~over, np.uint64(0), code)
    return code


def _nan_code(to: DType) -> int:
    if to.fnuz:
        return 1 << (to.bits - 1)
    if to.has_inf:
        return to.max_code + 1 + (1 << (to.mantissa_bits - 1))
    return to.max_code + 1
