"""Distributions of integers, booleans and raw codes, and those that suit every kind of element.

An int64 result is a value, kept exactly; a uint64 result is the bits of an element. Validity for
an op (an index in range) is the case's part: it says `high`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from parity.case.dist_float import SCALED, named_value
from parity.case.draw import Distribution, Draw, Floats, Ints, Words
from parity.case.dtype import DType, Kind, decode, dtype, encode
from parity.errors import UsageError

__all__ = ["INTEGER_DISTRIBUTIONS"]


def _index(draw: Draw) -> Ints:
    """Uniform in [low, high), repeats included; the first element is high - 1, the last low."""
    low, high = draw.option("low", 0), draw.option("high", 0)
    if high <= low and draw.numel:
        raise UsageError(f"dist 'index' needs low < high, got {low} and {high}")
    return _with_ends(low + draw.below("value", max(high - low, 1)), first=high - 1, last=low)


def _int8(draw: Draw) -> Ints:
    """Quantised values from `low` (-128, or -127 for symmetric ones) to 127, both present."""
    low = draw.option("low", -128)
    return _with_ends(low + draw.below("value", 128 - low), first=low, last=127)


def _with_ends(values: Ints, *, first: int, last: int) -> Ints:
    flat = values.reshape(-1)
    flat[-1:] = last
    flat[:1] = first
    return flat.reshape(values.shape)


def _permutation(draw: Draw) -> Ints:
    """Distinct integers of [0, high) in each row of the last dimension, by default all of them."""
    high = draw.option("high", draw.last)
    if high < draw.last:
        raise UsageError(f"dist 'permutation' cannot draw {draw.last} distinct values below {high}")
    order = np.argsort(draw.words("order", (*draw.shape[:-1], high)), axis=-1, kind="stable")
    return order[..., : draw.last].astype(np.int64).reshape(draw.shape)


def _range(draw: Draw) -> Ints:
    """start + step * i along the last dimension, the same in each row: positions."""
    return draw.option("start", 0) + draw.option("step", 1) * draw.column()


def _ties(draw: Draw) -> Floats | Ints:
    """Few distinct values: multiples of 1/2 around 0 for floats, of 1 for integers."""
    distinct = draw.option("distinct", 5)
    value = draw.below("value", distinct)
    if draw.dtype.is_float:
        return (value - distinct // 2).astype(np.float64) * 0.5
    return value - distinct // 2 if draw.dtype.signed else value


def _constant(draw: Draw) -> Floats | Ints:
    """One value everywhere: a number, or for floats min, max, inf, -inf, nan."""
    value: float | str = draw.options["value"]  # type: ignore[assignment]  # checked before
    if draw.dtype.is_float:
        return np.full(draw.shape, named_value(value, draw.dtype))
    return np.full(draw.shape, int(value), dtype=np.int64)


def _exponents(draw: Draw) -> Ints:
    """Biased exponents of scales, 127 for 1: from 127 - reach to 127 + reach.

    With `nan`, every third row has 255 in one place, which stands for NaN.
    """
    reach = draw.option("reach", 8)
    value = 127 - reach + draw.below("value", 2 * reach + 1)
    where = (draw.row() % 3 == 1) & (draw.column() == draw.last // 2)
    return np.where(where & draw.option("nan", False), 255, value)


def _bool(draw: Draw) -> Ints:
    """True with `probability`, by default one half."""
    return (draw.unit("value") < draw.option("probability", 0.5)).astype(np.int64)


def _bits(draw: Draw) -> Words:
    """Random bit patterns: every exponent, every NaN payload, every nibble."""
    width = 1 if draw.dtype.kind is Kind.BOOL else draw.dtype.bits
    return draw.words("value") >> np.uint64(64 - width)


def _codes(draw: Draw) -> Words:
    """Every code of an 8- or 16-bit type in order, again and again."""
    if draw.dtype.bits > 16:
        raise UsageError(f"dist 'codes' is for types of 8 and 16 bits, not {draw.dtype}")
    return np.arange(draw.numel, dtype=np.uint64).reshape(draw.shape) % np.uint64(1 << draw.dtype.bits)


def _boundaries(draw: Draw) -> Words:
    """Where a conversion to the narrower float type `of` changes its mind.

    Each finite value of `of`, each midpoint of two neighbours, and the element's own neighbours
    of both; in order if they fit, else sampled. Nothing that rounds beyond the largest value.
    """
    table = _boundary_codes(draw.dtype, dtype(draw.option("of", "")))
    if table.size > draw.numel:
        return table[draw.below("pick", table.size)]
    return table[np.arange(draw.numel).reshape(draw.shape) % table.size]


@lru_cache
def _boundary_codes(source: DType, target: DType) -> Words:
    if not target.is_float or target.mantissa_bits >= source.mantissa_bits:
        raise UsageError(f"dist 'boundaries' needs a float type narrower than {source}, got {target}")
    value = decode(np.arange(target.max_code + 1, dtype=np.uint64), target)
    middle = (value[:-1] + value[1:]) / 2.0
    code = encode(np.concatenate([value, middle]), source).astype(np.int64)
    near = np.unique(np.concatenate([code - 1, code, code + 1]))
    near = near[(near >= 0) & (near <= source.max_code)].astype(np.uint64)
    return np.concatenate([near, near | np.uint64(1 << (source.bits - 1))])


_INT = frozenset({Kind.INT})
_NUMBER = frozenset({Kind.FLOAT, Kind.INT})
_ANY = frozenset(Kind)

INTEGER_DISTRIBUTIONS = {
    "index": Distribution(
        make=_index, kinds=_INT, options={"low": (int,), "high": (int,)}, required=("high",)
    ),
    "int8": Distribution(make=_int8, kinds=_INT, options={"low": (int,)}),
    "permutation": Distribution(make=_permutation, kinds=_INT, options={"high": (int,)}),
    "range": Distribution(make=_range, kinds=_NUMBER, options={**SCALED, "start": (int,), "step": (int,)}),
    "ties": Distribution(make=_ties, kinds=_NUMBER, options={**SCALED, "distinct": (int,)}),
    "constant": Distribution(
        make=_constant, kinds=_ANY, options={**SCALED, "value": (int, float, str)}, required=("value",)
    ),
    "exponents": Distribution(make=_exponents, kinds=_INT, options={"reach": (int,), "nan": (bool,)}),
    "bool": Distribution(make=_bool, kinds=frozenset({Kind.BOOL}), options={"probability": (int, float)}),
    "bits": Distribution(make=_bits, kinds=_ANY),
    "codes": Distribution(make=_codes, kinds=_NUMBER),
    "boundaries": Distribution(
        make=_boundaries, kinds=frozenset({Kind.FLOAT}), options={"of": (str,)}, required=("of",)
    ),
}
