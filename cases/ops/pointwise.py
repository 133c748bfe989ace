"""Functions of one element. Every 16-bit input is tried once: `codes` at shape 256x256."""

from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, tensor

SHAPES = ("scalar", "1", "17", "33x129", "2x3x65", "4x1025", "0x8", "256x256")
DISTS = ("normal", "heavy", "small", "special", "sweep", "bits", "codes")
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded")


def sensible(p: Params) -> bool:
    """The exhaustive shape is for exhaustive codes."""
    exhaustive = p.dist == "codes"
    return (
        fits(p.layout, dims(p.shape))
        and exhaustive == (p.shape == "256x256")
        and not (exhaustive and (p.dtype == "f32" or p.layout == "expanded"))
    )


def pointwise(op: str, p: Params) -> Parts:
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    return one(op, x, result=x.shape)


@family("ops/gelu_erf", dtype=FLOATS, shape=SHAPES, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def gelu_erf(p: Params) -> Parts:
    """The tanh approximation in its place, a negative tail that is cut to zero."""
    return pointwise("gelu_erf", p)


@family("ops/gelu_tanh", dtype=FLOATS, shape=SHAPES, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def gelu_tanh(p: Params) -> Parts:
    """The exact function in its place, x^3 that overflows float16, a fast tanh."""
    return pointwise("gelu_tanh", p)


@family("ops/silu", dtype=FLOATS, shape=SHAPES, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def silu(p: Params) -> Parts:
    """e^-x that overflows to NaN in the far negative tail, a fast reciprocal."""
    return pointwise("silu", p)


@family("ops/exp", dtype=FLOATS, shape=SHAPES, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def exp(p: Params) -> Parts:
    """exp2 of a product that was rounded, subnormal results that are flushed, overflow that saturates."""
    return pointwise("exp", p)


@family("ops/sigmoid", dtype=FLOATS, shape=SHAPES, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def sigmoid(p: Params) -> Parts:
    """A piecewise table, tails that reach 0 or 1 too early."""
    return pointwise("sigmoid", p)


@family("ops/tanh", dtype=FLOATS, shape=SHAPES, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def tanh(p: Params) -> Parts:
    """A table that is coarse near 0, where tanh x is x, or saturates too early."""
    return pointwise("tanh", p)


@family("ops/swiglu", dtype=FLOATS, shape=SHAPES, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def swiglu(p: Params) -> Parts:
    """Gate and up exchanged, silu rounded before the product."""
    gate = tensor("gate", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    up = tensor("up", p.dtype, gate.shape, layout=p.layout)
    return one("swiglu", gate, up, result=gate.shape)


@family(
    "ops/erf",
    dtype=FLOATS,
    shape=("scalar", "17", "33x129", "0x8", "256x256"),
    dist=("normal", "small", "special", "sweep", "bits", "codes"),
    layout=("contiguous", "transposed", "strided"),
    allowed=sensible,
    # In 16 bits `codes` tries every number; in float32 many are needed to find a bad one.
    also=[
        {"dtype": "f32", "shape": "33x129", "dist": dist, "layout": "contiguous"}
        for dist in ("normal", "small", "sweep")
    ],
)
def erf(p: Params) -> Parts:
    """A short polynomial, an odd function with an offset at 0, a tail that reaches 1 too early."""
    reach = {"reach": 4} if p.dist == "sweep" else {}
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout, **reach)
    return one("erf", x, result=x.shape)


@family(
    "ops/rsqrt",
    dtype=FLOATS,
    shape=("scalar", "17", "33x129", "0x8", "256x256"),
    dist=("positive", "special", "bits", "codes"),
    layout=("contiguous", "transposed", "strided"),
    allowed=sensible,
)
def rsqrt(p: Params) -> Parts:
    """An estimate without its Newton step, 1 / -0 that is not -inf, a subnormal that is taken for 0."""
    return pointwise("rsqrt", p)
