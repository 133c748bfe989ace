"""Functions that model code calls beside activations. Every 16-bit input is tried once: `codes`."""

from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, operands, tensor

SHAPES = ("17", "33x129", "256x256")
LAYOUTS = ("contiguous", "strided")


def sensible(p: Params) -> bool:
    """The exhaustive shape is for exhaustive codes, and for types that have so few."""
    exhaustive = p.dist == "codes"
    return exhaustive == (p.shape == "256x256") and not (exhaustive and p.dtype == "f32")


def pointwise(op: str, p: Params, **options: int) -> Parts:
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout, **options)
    return one(op, x, result=x.shape)


@family(
    "ops/sqrt",
    dtype=FLOATS,
    shape=SHAPES,
    dist=("positive", "special", "bits", "codes"),
    layout=LAYOUTS,
    allowed=sensible,
)
def sqrt(p: Params) -> Parts:
    """x times an estimate of 1 / sqrt x, which is NaN at 0 and at infinity; the root of a magnitude."""
    return pointwise("sqrt", p)


@family(
    "ops/reciprocal",
    dtype=FLOATS,
    shape=SHAPES,
    dist=("normal", "special", "bits", "codes"),
    layout=LAYOUTS,
    allowed=sensible,
)
def reciprocal(p: Params) -> Parts:
    """An estimate with one Newton step, which is a last place off and NaN at 0; a subnormal result that
    is flushed."""
    return pointwise("reciprocal", p)


@family(
    "ops/relu_squared",
    dtype=FLOATS,
    shape=SHAPES,
    dist=("normal", "special", "bits", "codes"),
    layout=LAYOUTS,
    allowed=sensible,
)
def relu_squared(p: Params) -> Parts:
    """A maximum with 0 that swallows NaN, squares of negative numbers, the maximum without its square."""
    return pointwise("relu_squared", p)


@family(
    "ops/softplus",
    dtype=FLOATS,
    shape=SHAPES,
    dist=("normal", "special", "sweep", "codes"),
    layout=LAYOUTS,
    allowed=sensible,
)
def softplus(p: Params) -> Parts:
    """1 + e^x that is rounded, so that the negative tail is 0; e^x that overflows; a low threshold."""
    return pointwise("softplus", p)


@family(
    "ops/expm1",
    dtype=FLOATS,
    shape=SHAPES,
    dist=("normal", "small", "special", "sweep", "codes"),
    layout=LAYOUTS,
    allowed=sensible,
)
def expm1(p: Params) -> Parts:
    """e^x less 1, which cancels near 0."""
    return pointwise("expm1", p)


@family(
    "ops/log",
    dtype=FLOATS,
    shape=SHAPES,
    dist=("positive", "near_one", "special", "bits", "codes"),
    layout=LAYOUTS,
    allowed=sensible,
)
def log(p: Params) -> Parts:
    """A fast logarithm, whose error near 1 is absolute; subnormals taken for 0; another base."""
    return pointwise("log", p)


@family(
    "ops/log1p",
    dtype=FLOATS,
    shape=SHAPES,
    dist=("positive", "small", "special", "bits", "codes"),
    layout=LAYOUTS,
    allowed=sensible,
)
def log1p(p: Params) -> Parts:
    """log of 1 + x that is rounded: 0 for a small x."""
    return pointwise("log1p", p)


# Angles up to about 100, and up to 2^20 radians, where a position without its fraction is a guess.
ANGLES = ("normal", "large", "special", "sweep", "bits", "codes")


def angles(op: str, p: Params) -> Parts:
    if p.dist != "large":
        return pointwise(op, p)
    exponent = 13 if p.dtype == "f16" else 18
    x = tensor("x", p.dtype, dims(p.shape), layout=p.layout, exponent=exponent)
    return one(op, x, result=x.shape)


@family("ops/sin", dtype=FLOATS, shape=SHAPES, dist=ANGLES, layout=LAYOUTS, allowed=sensible)
def sin(p: Params) -> Parts:
    """An angle reduced by a multiple of a short 2 pi, a fast sine with an absolute error, a range
    that ends, magnitudes in place of angles."""
    return angles("sin", p)


@family("ops/cos", dtype=FLOATS, shape=SHAPES, dist=ANGLES, layout=LAYOUTS, allowed=sensible)
def cos(p: Params) -> Parts:
    """As for the sine; beside odd multiples of pi/2 an absolute error is all of the result."""
    return angles("cos", p)


@family(
    "ops/pow",
    dtype=FLOATS,
    shape=("17.17", "33x129.33x129", "33x65.scalar", "0x8.8"),
    base=("positive", "normal", "special"),
    exponent=("normal", "whole", "special"),
    layout=LAYOUTS,
    allowed=lambda p: fits(p.layout, operands(p.shape)[0]),
)
def pow_(p: Params) -> Parts:
    """e^(b log a), which is NaN for a negative base and far off for a large result; 1^NaN and NaN^0."""
    a_shape, b_shape = operands(p.shape)
    a = tensor("a", p.dtype, a_shape, p.base, layout=p.layout)
    kind = {"whole": "ties"}.get(p.exponent, p.exponent)
    b = tensor("b", p.dtype, b_shape, kind, exponent=1 if kind != "special" else 0)
    return one("pow", a, b, result=a_shape)


@family(
    "ops/pow_scalar",
    dtype=(*FLOATS, "i64"),
    shape=SHAPES,
    exponent=("2", "3", "0.5", "-1"),
    dist=("normal", "special", "bits", "codes"),
    layout=LAYOUTS,
    allowed=lambda p: sensible(p) and (p.dtype != "i64" or (p.dist == "bits" and p.exponent in "23")),
)
def pow_scalar(p: Params) -> Parts:
    """A square that is NaN for a negative base, a square for a cube, a cube rounded on the way,
    integers that go through floats."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    value = float(p.exponent) if "." in p.exponent else int(p.exponent)
    return one("pow_scalar", x, result=x.shape, exponent=value)


@family(
    "ops/rope_partial",
    dtype=FLOATS,
    shape=("1x1x3x8", "2x4x17x64", "1x3x33x80", "2x2x65x32"),
    turned=("quarter", "half"),
    pairs=("half", "interleaved"),
    first=("0", "4097", "1048544"),
    base=("10000", "1000000"),
    dist=("normal", "heavy", "special"),
    layout=("contiguous", "heads"),
)
def rope_partial(p: Params) -> Parts:
    """All dimensions turned, or the last ones; frequencies of the whole head; positions in 16 bits,
    which beyond 2^8 or 2^11 are no whole numbers; position 0 that is not the identity."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    positions = tensor("positions", "i64", x.shape[-2:-1], "range", start=int(p.first))
    turned = x.shape[-1] // {"quarter": 4, "half": 2}[p.turned]
    return one(
        "rope_partial",
        x,
        positions,
        result=x.shape,
        base=float(p.base),
        interleaved=p.pairs == "interleaved",
        turned=turned,
    )
