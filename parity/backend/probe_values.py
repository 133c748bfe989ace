"""Find what happens to single values: subnormals, overflow, wide types, fp8 codes, moved bits.

Every answer is judged by value, since many devices convert silently. Does not look at sums.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from parity.backend.arithmetic import Flush
from parity.backend.base import Unsupported
from parity.backend.probe_ask import Asker, Elsewhere, Unsure, bits, rounded, tensor, values
from parity.case.dtype import DTYPES, DType, decode
from parity.case.tensor import HostTensor

__all__ = ["float64", "flush", "fp8", "fp8_overflow", "int64", "movement", "overflow"]

_FP8 = ("e4m3fn", "e4m3fnuz", "e4m3_gaudi2")
# fnuz has other codes for all values, so a device that knows one flavour may be given another's name.
_CODES = np.arange(256, dtype=np.uint8)


def flush(ask: Asker, of: str) -> str:
    """Return where a product of two elements loses subnormals."""
    to = DTYPES[of]
    tiny = to.min_subnormal * np.array([1.0, -1.0, 3.0, 2.0**to.mantissa_bits - 1])
    large = 2.0 ** (to.mantissa_bits + 2)
    got = ask.values("mul", tiny, np.full(4, large), of=of)
    inputs = _lost(got, tiny * large)
    # Halves of normal numbers, rounded once: the operands are normal, the results are not.
    normal = to.min_normal * np.array([1.0, -1.0, 1.5, 1.25])
    got = ask.values("mul", normal, np.full(4, 0.5), of=of)
    results = _lost(got, normal * 0.5)
    return {
        (False, False): Flush.NEVER,
        (True, False): Flush.INPUTS,
        (False, True): Flush.RESULTS,
        (True, True): Flush.BOTH,
    }[inputs, results].value


def _lost(got: npt.NDArray[np.float64], kept: npt.NDArray[np.float64]) -> bool:
    if np.array_equal(got, kept):
        return False
    if not got.any() and np.array_equal(np.signbit(got), np.signbit(kept)):
        return True
    raise Unsure(f"{kept[0]:g} and others became {', '.join(f'{each:g}' for each in got)}")


def overflow(ask: Asker, of: str) -> str:
    """Return what a finite product beyond the largest value becomes."""
    most = DTYPES[of].max_finite
    got = ask.values("mul", np.array([most, -most, most]), np.array([2.0, 2.0, most]), of=of)
    for name, value in (("inf", np.inf), ("max", most)):
        if np.array_equal(got, [value, -value, value]):
            return name
    raise Unsure(f"twice the largest {of} became {got[0]:g} and {got[1]:g}")


def int64(ask: Asker) -> str:
    """Return which bits of int64 an addition keeps."""
    whole = np.array([2**40 + 5, -(2**40) - 7, 2**31 + 3, 2**62 + 1, -1, 11], dtype=np.int64)
    try:
        got = ask.run("add", tensor(whole, "i64"), tensor(np.zeros(6), "i64")).array()
    except Unsupported:
        return "unsupported"
    low = (whole.view(np.uint64) & np.uint64(2**32 - 1)).astype(np.uint32).view(np.int32)
    for name, expected in (("i64", whole), ("i32", low)):
        if np.array_equal(got, expected):
            return name
    raise Unsure(f"2^40 + 5 became {got[0]}")


def float64(ask: Asker) -> str:
    """Return the precision in which float64 is computed."""
    x = 1.0 + 2.0 ** -np.arange(10.0, 53.0)
    try:
        got = values(ask.run("mul", tensor(x, "f64"), tensor(x[::-1], "f64")))
    except Unsupported:
        return "unsupported"
    narrow = rounded(x, DTYPES["f32"])
    for name, expected in (("f64", x * x[::-1]), ("f32", rounded(narrow * narrow[::-1], DTYPES["f32"]))):
        if np.array_equal(got, expected):
            return name
    raise Unsure("products of float64 are neither float64 nor float32")


def fp8(ask: Asker) -> str:
    """Return what the codes of `e4m3fn` are: decoded, and encoded again."""
    try:
        return _flavour(ask).name
    except Unsupported:
        return "unsupported"


def _flavour(ask: Asker) -> DType:
    got = values(ask.run("cast", HostTensor.of(_CODES, DTYPES["e4m3fn"]), to="f32"))
    for name in _FP8:
        expected = decode(_CODES, DTYPES[name])
        if not np.array_equal(got, expected, equal_nan=True):
            continue
        finite = _CODES[np.isfinite(expected)]
        again = bits(ask.run("cast", tensor(expected[finite], "f32"), to="e4m3fn"))
        if not np.array_equal(again, finite):
            raise Unsure(f"codes are decoded as {name}, and not encoded as such")
        return DTYPES[name]
    raise Unsure(f"the codes fit none of {', '.join(_FP8)}")


def fp8_overflow(ask: Asker) -> str:
    """Return what a conversion to fp8 does with values beyond the largest, infinities included."""
    to = _flavour(ask)
    most = to.max_finite
    got = bits(ask.run("cast", tensor([2 * most, -2 * most, np.inf, -np.inf], "f32"), to="e4m3fn"))
    found = decode(got, to)
    if np.array_equal(found, [most, -most, most, -most]):
        return "saturate"
    beyond = np.array([1, -1, 1, -1]) * (np.inf if to.has_inf else np.nan)
    if np.array_equal(found, beyond, equal_nan=True):
        return "native"
    shown = ", ".join(f"{each:g}" for each in found)
    raise Unsure(f"±{2 * most:g} and ±inf became {shown}")


def movement(ask: Asker) -> str:
    """Return whether random bit patterns survive being joined, sliced and selected."""
    found: set[str] = set()
    refused: Unsupported | Elsewhere | None = None
    for of, op in itertools.product(("f32", "bf16", "f16"), ("cat", "slice", "where")):
        try:
            found.add(_moved(ask, of, op))
        except (Unsupported, Elsewhere) as error:
            refused = error
    changed = sorted(found - {"exact"})
    if len(changed) > 1:
        raise Unsure(f"some moves are {' and others '.join(changed)}")
    if not found and refused is not None:
        raise refused
    return changed[0] if changed else "exact"


def _moved(ask: Asker, of: str, op: str) -> str:
    to = DTYPES[of]
    draw = np.random.Generator(np.random.Philox(key=8))
    codes = draw.integers(0, 2**to.bits, 512, dtype=f"u{to.itemsize}")
    exponent = (2**to.exponent_bits - 1) << to.mantissa_bits
    codes[::4] &= ~codes.dtype.type(exponent)  # subnormals
    codes[1::4] |= codes.dtype.type(exponent)  # NaN of any payload
    x = HostTensor.of(codes.view(to.storage), to)
    if op == "cat":
        got = bits(ask.run("cat", x, x, dim=0))[:512]
    elif op == "slice":
        got, codes = bits(ask.run("slice", x, index="x[::2]")), codes[::2]
    else:
        got = bits(ask.run("where", tensor(np.arange(512) >= 0, "bool"), x, x))
    if np.array_equal(got, codes):
        return "exact"
    magnitude = codes & codes.dtype.type(2 ** (to.bits - 1) - 1)
    quiet = np.where(magnitude > exponent, codes | codes.dtype.type(2 ** (to.mantissa_bits - 1)), codes)
    subnormal = magnitude < 2**to.mantissa_bits
    flushed = np.where(subnormal, codes & codes.dtype.type(2 ** (to.bits - 1)), codes)
    for name, expected in (("quiets", quiet), ("flushes", flushed)):
        if np.array_equal(got, expected):
            return name
    raise Unsure(f"{op} changes {int((got != codes).sum())} of {len(codes)} patterns of {of}")
