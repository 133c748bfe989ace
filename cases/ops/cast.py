"""Conversions. Gaudi 2's own E4M3 is not here: no framework has a dtype for it."""

from itertools import product

from parity.case.family import FLOATS, Params, Parts, family, one, tensor

FP8 = ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz")
INTEGERS = ("i8", "i16", "i32", "i64", "u8")
ALL = ("f64", *FLOATS, *FP8, *INTEGERS, "bool")
SHAPE = {"codes": (256, 256), "boundaries": (2048,), "special": (21, 33)}


def cast(p: Params, shape: tuple[int, ...]) -> Parts:
    options = {"of": p.to} if p.dist == "boundaries" else {}
    x = tensor("x", p.dtype, shape, p.dist, layout=p.layout, **options)
    return one("cast", x, to=p.to)


def fits_source(p: Params) -> bool:
    if p.dtype in INTEGERS:
        return p.dist in {"bits", "ties"}
    return p.dtype != "bool" or p.dist == "bits"


@family(
    "ops/cast",
    dtype=ALL,
    to=ALL,
    dist=("bits", "ties", "normal", "heavy", "special"),
    layout=("contiguous", "transposed", "strided", "offset", "expanded"),
    allowed=lambda p: p.dtype != p.to and fits_source(p),
)
def cast_(p: Params) -> Parts:
    """Truncation for rounding to nearest even, a wrapped integer that saturates, -0 that is true, a
    NaN that becomes a number, an 8-bit float read in another variant."""
    return cast(p, (13, 33))


@family(
    "ops/cast_from_fp8",
    dtype=FP8,
    to=("f32", "bf16", "f16", "f64"),
    dist=("codes",),
    layout=("contiguous", "strided"),
)
def cast_from_fp8(p: Params) -> Parts:
    """Every code of an 8-bit float: the other bias, the other NaN, subnormals that are flushed."""
    return cast(p, (16, 16))


@family(
    "ops/cast_to_fp8",
    dtype=FLOATS,
    to=FP8,
    dist=("boundaries", "codes"),
    layout=("contiguous", "transposed", "strided", "offset"),
    allowed=lambda p: (
        (p.dist == "codes") <= (p.dtype != "f32") and (p.dist == "codes" or p.layout != "transposed")
    ),
    also=[
        {"dtype": dtype, "to": to, "dist": dist, "layout": "contiguous"}
        for dtype, to, dist in product(FLOATS, FP8, ("boundaries", "codes"))
        if dtype != "f32" or dist == "boundaries"
    ],
)
def cast_to_fp8(p: Params) -> Parts:
    """Each value, midpoint and neighbour of an 8-bit float, and every 16-bit number: ties, subnormals,
    the largest value and what lies beyond it."""
    return cast(p, SHAPE[p.dist])


@family(
    "ops/cast_narrow",
    dtype=("f32",),
    to=("bf16", "f16"),
    dist=("boundaries", "bits", "special"),
    layout=("contiguous", "strided"),
)
def cast_narrow(p: Params) -> Parts:
    """Ties of a 16-bit float: the rounding of every stored activation."""
    return cast(p, {**SHAPE, "bits": (2048,)}[p.dist])
