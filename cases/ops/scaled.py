"""Products over 8-bit floats, written T x K x N: scales by tensor and row, by blocks, and their fall-back.

A flavour `e5m2.e4m3fn` is that of x, then that of w.
"""

from parity.case.case import Role, TensorSpec
from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, parts, rows, step, tensor

SAME = ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz")
MIXED = ("e5m2.e4m3fn", "e4m3fn.e5m2", "e5m2fnuz.e4m3fnuz")
SCALES = ("scalar", "row", "row.scalar", "scalar.row")
# The largest value of `heavy`, 30,000, divided by 2^8 is within the 240 of every flavour.
EXPONENT = {"heavy": -8, "small": 3}


def pair(text: str) -> tuple[str, str]:
    """What is said of x and of w, where that is not one thing."""
    first, _, second = text.partition(".")
    return first, second or first


def operands(p: Params, shape: tuple[int, ...], layout: str) -> tuple[TensorSpec, TensorSpec]:
    """x [T, K] of the distribution under test and w [N, K]; `max` is the largest value there is."""
    t, k, n = shape
    of_x, of_w = pair(p.flavour)
    options = {"value": "max"} if p.dist == "max" else {"exponent": EXPONENT.get(p.dist, 0)}
    x = tensor("x", of_x, (t, k), "constant" if p.dist == "max" else p.dist, layout=layout, **options)
    return x, tensor("w", of_w, (n, k), role=Role.WEIGHT)


def scales(p: Params, t: int, n: int) -> tuple[TensorSpec, TensorSpec]:
    """One scale, or one for each row, of both operands."""
    of_x, of_w = pair(p.scales)
    return (
        tensor("x_scale", "f32", (t, 1) if of_x == "row" else (), "positive", exponent=-4),
        tensor("w_scale", "f32", (n, 1) if of_w == "row" else (), "positive", exponent=-4, role=Role.WEIGHT),
    )


def sensible(p: Params, shape: tuple[int, ...]) -> bool:
    """Whether the activations have this distribution."""
    return p.dist != "special" or rows(shape) > 1


@family(
    "ops/scaled_mm",
    flavour=(*SAME, *MIXED),
    out=FLOATS,
    shape=("1x16x16", "17x64x32", "33x128x80", "5x33x7", "16x1024x48", "0x16x8"),
    scales=SCALES,
    dist=("normal", "heavy", "positive", "small", "max", "special"),
    layout=("contiguous", "offset", "strided"),
    allowed=lambda p: sensible(p, dims(p.shape)[:2]) and fits(p.layout, dims(p.shape)[:2]),
)
def scaled_mm(p: Params) -> Parts:
    """Codes read in the other variant of their type, a factor of 2; a scale that is inverted, applied
    twice or the next row's; a sum kept in 16 bits or 14; a tail of K left out; NaN as a number."""
    t, k, n = dims(p.shape)
    x, w = operands(p, (t, k, n), p.layout)
    return one("scaled_mm", x, w, *scales(p, t, n), result=(t, n), result_dtype=p.out, out=p.out)


@family(
    "ops/fp8_forms",
    flavour=(*SAME, *MIXED),
    out=FLOATS,
    shape=("1x16x16", "17x64x32", "33x128x80", "5x256x48"),
    scales=("scalar", "row"),
    dist=("normal", "heavy", "positive", "small", "special"),
    allowed=lambda p: sensible(p, dims(p.shape)[:2]),
)
def fp8_forms(p: Params) -> Parts:
    """The two ways in which ports compute a scaled product, on the same operands: by the native kernel, and
    dequantised to the type of the result first. Each has a budget of its own."""
    t, k, n = dims(p.shape)
    given = (*operands(p, (t, k, n), "contiguous"), *scales(p, t, n))
    return parts(
        given,
        step("scaled_mm", *given, outputs="native", out=p.out),
        step("dequantised_mm", *given, outputs="dequantised", out=p.out),
    )


@family(
    "ops/block_scaled_mm",
    flavour=("e4m3fn", "e5m2", "e4m3fnuz", "e5m2.e4m3fn"),
    out=FLOATS,
    shape=("1x128x128", "17x256x160", "5x384x129", "33x512x96", "0x128x16"),
    dist=("normal", "heavy", "positive", "small", "special"),
    allowed=lambda p: sensible(p, dims(p.shape)[:2]),
)
def block_scaled_mm(p: Params) -> Parts:
    """Scales of blocks of 128 x 128 that are read by column, or a block too far; the last block of N,
    which is not whole."""
    t, k, n = dims(p.shape)
    x, w = operands(p, (t, k, n), "contiguous")
    x_scale = tensor("x_scale", "f32", (t, k // 128), "positive", exponent=-4)
    w_scale = tensor("w_scale", "f32", (-(-n // 128), k // 128), "positive", exponent=-4, role=Role.WEIGHT)
    return one(
        "block_scaled_mm",
        *(x, w, x_scale, w_scale),
        result=(t, n),
        result_dtype=p.out,
        block=128,
        block_rows=128,
        out=p.out,
    )


@family(
    "ops/mx_scaled_mm",
    flavour=("e4m3fn", "e5m2", "e5m2.e4m3fn"),
    out=FLOATS,
    shape=("1x32x16", "17x96x33", "9x256x48", "0x32x8"),
    scales=("near", "far", "nan"),
    dist=("normal", "heavy", "positive", "special"),
    allowed=lambda p: sensible(p, dims(p.shape)[:2]) and (p.scales != "nan" or dims(p.shape)[0] > 1),
)
def mx_scaled_mm(p: Params) -> Parts:
    """Powers of two for blocks of 32, as biased exponents: a bias that is one off, 255 that is a number,
    the scale of the block before, sums of blocks that are far apart."""
    t, k, n = dims(p.shape)
    x, w = operands(p, (t, k, n), "contiguous")
    reach = 8 if p.scales == "far" else 2
    x_scale = tensor("x_scale", "u8", (t, k // 32), "exponents", reach=reach, nan=p.scales == "nan")
    w_scale = tensor("w_scale", "u8", (n, k // 32), "exponents", reach=2, role=Role.WEIGHT)
    return one(
        "block_scaled_mm",
        *(x, w, x_scale, w_scale),
        result=(t, n),
        result_dtype=p.out,
        block=32,
        block_rows=1,
        out=p.out,
    )
