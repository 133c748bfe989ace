"""Sums, products and quotients: correctly rounded by IEEE 754, integers modulo 2^64."""

from parity.case.case import TensorSpec
from parity.case.dtype import dtype
from parity.case.family import FLOATS, Params, Parts, family, fits, one, operands, tensor

SHAPES = ("scalar.scalar", "17.scalar", "1x65.33x1", "7x1x5.1x13x1", "33x129.33x129", "0x8.8")
DISTS = ("normal", "special", "bits", "overflow", "subnormal")
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded")
# Sums and products of them span the 64 bits of an integer: half of them wrap.
WIDE = "i64"


def sensible(p: Params) -> bool:
    return fits(p.layout, operands(p.shape)[0]) and (p.dtype != WIDE or p.dist == "bits")


def operand(p: Params, name: str, shape: tuple[int, ...], *, layout: str = "contiguous") -> TensorSpec:
    """Normal numbers scaled to where half of the results overflow, or are subnormal."""
    if p.dist in ("overflow", "subnormal"):
        power = dtype(p.dtype).bias if p.dist == "overflow" else 1 - dtype(p.dtype).bias
        return tensor(name, p.dtype, shape, layout=layout, exponent=power)
    return tensor(name, p.dtype, shape, p.dist, layout=layout)


def of_two(op: str, p: Params, *, scaled: bool) -> Parts:
    """`scaled` says that the second operand has the first one's range; else it is of size 1."""
    a_shape, b_shape = operands(p.shape)
    a = operand(p, "a", a_shape, layout=p.layout)
    b = operand(p, "b", b_shape) if scaled or p.dist in ("special", "bits") else tensor("b", p.dtype, b_shape)
    return one(op, a, b, result=(0, 8) if 0 in a_shape else (1,))


@family("ops/add", dtype=(*FLOATS, "f64", WIDE), shape=SHAPES, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def add(p: Params) -> Parts:
    """A sum rounded in a narrower type, float64 kept as float32, int64 as 32 bits or saturated,
    subnormals that are flushed, inf - inf that is a number."""
    return of_two("add", p, scaled=True)


@family("ops/mul", dtype=(*FLOATS, "f64", WIDE), shape=SHAPES, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def mul(p: Params) -> Parts:
    """A product in a narrower type, 0 times infinity that is 0, an overflow that saturates, subnormal
    operands or results that are flushed, int64 that is multiplied as 32 bits."""
    return of_two("mul", p, scaled=False)


@family("ops/div", dtype=FLOATS, shape=SHAPES, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def div(p: Params) -> Parts:
    """A product with the reciprocal, which rounds twice and overflows for a subnormal divisor, x / -0
    that is not -inf, 0 / 0 that is a number, integer division."""
    return of_two("div", p, scaled=False)
