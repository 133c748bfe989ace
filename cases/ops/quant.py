"""Linear layers over quantised weights, written T x K x N."""

from parity.case.case import Role
from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, rows, tensor

DISTS = ("normal", "heavy", "positive", "small", "special")
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded")


def sensible(p: Params, shape: tuple[int, ...]) -> bool:
    """Whether the activations have this layout and distribution."""
    return fits(p.layout, shape) and (p.dist != "special" or rows(shape) > 1)


@family(
    "ops/int8_linear",
    dtype=FLOATS,
    shape=("1x1x1", "1x64x32", "17x63x33", "33x128x65", "5x257x129", "32x64x64", "16x2048x7"),
    values=("full", "symmetric", "lowest"),
    layout=LAYOUTS,
    allowed=lambda p: fits(p.layout, dims(p.shape)[:2]),
)
def int8_linear(p: Params) -> Parts:
    """An accumulator of 16 bits or in float, -128 read as -127, a scale by row taken by column.

    `dtype` is the output's. `lowest` is -128 everywhere, the largest sum there is.
    """
    t, k, n = dims(p.shape)
    dist, options = {
        "full": ("int8", {}),
        "symmetric": ("int8", {"low": -127}),
        "lowest": ("constant", {"value": -128}),
    }[p.values]
    x = tensor("x", "i8", (t, k), dist, layout=p.layout, **options)
    w = tensor("w", "i8", (n, k), dist, role=Role.WEIGHT, **options)
    # 2^-14 keeps 2048 products of 128 * 128 within float16.
    x_scale = tensor("x_scale", "f32", (t, 1), "positive", exponent=-7)
    w_scale = tensor("w_scale", "f32", (n,), "positive", role=Role.WEIGHT, exponent=-7)
    return one("int8_linear", x, w, x_scale, w_scale, result=(t, n), result_dtype=p.dtype, out=p.dtype)


@family(
    "ops/int8_weight_linear",
    dtype=FLOATS,
    shape=("1x1x1", "1x64x64", "2x16x4", "7x257x129", "33x128x60", "16x1024x16", "0x16x8"),
    dist=DISTS,
    layout=LAYOUTS,
    allowed=lambda p: sensible(p, dims(p.shape)[:2]),
)
def int8_weight_linear(p: Params) -> Parts:
    """A weight that is dequantised twice or rounded to low precision, a scale by row taken by column."""
    t, k, n = dims(p.shape)
    x = tensor("x", p.dtype, (t, k), p.dist, layout=p.layout)
    w = tensor("w", "i8", (n, k), "int8", role=Role.WEIGHT)
    scale = tensor("scale", p.dtype, (n, 1), "positive", role=Role.WEIGHT, exponent=-7)
    return one("int8_weight_linear", x, w, scale, result=(t, n))


@family(
    "ops/int4_weight_linear",
    dtype=FLOATS,
    shape=("1x128x16", "1x256x64", "7x256x33", "33x128x48", "2x1024x17", "5x384x1", "0x128x8"),
    group=("32", "64", "128"),
    dist=DISTS,
    layout=LAYOUTS,
    allowed=lambda p: sensible(p, dims(p.shape)[:2]),
)
def int4_weight_linear(p: Params) -> Parts:
    """High nibble first, another zero point, a scale of the neighbouring group."""
    t, k, n = dims(p.shape)
    x = tensor("x", p.dtype, (t, k), p.dist, layout=p.layout)
    w = tensor("w", "u8", (n, k // 2), "bits", role=Role.WEIGHT)
    scale = tensor("scale", p.dtype, (n, k // int(p.group)), "positive", role=Role.WEIGHT, exponent=-4)
    return one("int4_weight_linear", x, w, scale, result=(t, n), group=int(p.group))
