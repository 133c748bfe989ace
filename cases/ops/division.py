"""Differences, whole quotients and remainders: signs, zeros, and quotients beside a whole number."""

from parity.case.case import TensorSpec
from parity.case.family import FLOATS, Params, Parts, family, fits, one, operands, tensor

SHAPES = ("33x129.33x129", "7x1x5.1x13x1", "0x8.8")
LAYOUTS = ("contiguous", "strided")
# What a is and what b is, of floats and of integers. `whole` has divisors of 0; a tenth is no number of any
# float type, so that multiples of it lie beside a whole quotient.
DIVIDENDS = {
    "normal": ("normal", {}),
    "large": ("normal", {"exponent": 12}),
    "whole": ("ties", {"distinct": 101}),
    "tenths": ("ties", {"distinct": 201}),
    "special": ("special", {}),
    "bits": ("bits", {}),
    "small": ("index", {"low": -1000, "high": 1001}),
}
DIVISORS = {
    "normal": ("normal", {}),
    "large": ("normal", {}),
    "whole": ("ties", {"distinct": 13}),
    "tenths": ("constant", {"value": 0.1}),
    "special": ("special", {}),
    "bits": ("index", {"low": 1, "high": 1 << 20}),
    "small": ("index", {"low": -12, "high": 0}),
}


def sensible(p: Params) -> bool:
    return fits(p.layout, operands(p.shape)[0]) and (p.dtype == "i64") == (p.dist in ("bits", "small"))


def divided(op: str, p: Params) -> Parts:
    a_shape, b_shape = operands(p.shape)
    (a_dist, a_options), (b_dist, b_options) = DIVIDENDS[p.dist], DIVISORS[p.dist]
    a = tensor("a", p.dtype, a_shape, a_dist, layout=p.layout, **a_options)
    b = tensor("b", p.dtype, b_shape, b_dist, **b_options)
    return one(op, a, b, result=a_shape)


DTYPES, DISTS = (*FLOATS, "i64"), tuple(DIVIDENDS)


@family("ops/floor_divide", dtype=DTYPES, shape=SHAPES, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def floor_divide(p: Params) -> Parts:
    """Truncated where it is to be floored, a quotient by a fast reciprocal, integers by way of floats or
    of 32 bits, a division by 0 that is a number."""
    return divided("floor_divide", p)


@family("ops/trunc_divide", dtype=DTYPES, shape=SHAPES, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def trunc_divide(p: Params) -> Parts:
    """Floored where it is to be truncated, rounded to the nearest, integers by way of floats."""
    return divided("trunc_divide", p)


@family("ops/remainder", dtype=DTYPES, shape=SHAPES, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def remainder(p: Params) -> Parts:
    """The sign of the dividend in place of the divisor's, a - b floor(a / b) with a product that is
    rounded and so all error for a large quotient, a NaN that is a number."""
    return divided("remainder", p)


def operand(p: Params, name: str, shape: tuple[int, ...], *, layout: str = "contiguous") -> TensorSpec:
    if p.dist == "overflow":
        exponent = {"f16": 15}.get(p.dtype, 127)
        return tensor(name, p.dtype, shape, layout=layout, exponent=exponent)
    return tensor(name, p.dtype, shape, p.dist, layout=layout)


@family(
    "ops/sub",
    dtype=DTYPES,
    shape=SHAPES,
    dist=("normal", "special", "bits", "overflow"),
    layout=LAYOUTS,
    allowed=lambda p: fits(p.layout, operands(p.shape)[0]) and (p.dtype != "i64" or p.dist == "bits"),
)
def sub(p: Params) -> Parts:
    """The operands exchanged, infinity less infinity that is a number, int64 as 32 bits or saturated."""
    a_shape, b_shape = operands(p.shape)
    a = operand(p, "a", a_shape, layout=p.layout)
    return one("sub", a, operand(p, "b", b_shape), result=(0, 8) if 0 in a_shape else (1,))
