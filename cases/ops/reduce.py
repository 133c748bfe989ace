"""Sums over one dimension."""

from parity.case.case import TensorSpec
from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, rows, tensor

SHAPES = ("scalar", "1", "257", "15x256", "33x129", "3x65x31", "4x4096", "5x0", "0x8")
DIMS = ("-1", "0", "1")
DISTS = ("normal", "heavy", "cancel", "positive", "small", "special")
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded")


def sensible(p: Params) -> bool:
    """Dimension 1 is the last of a matrix: it is for what has a middle."""
    shape = dims(p.shape)
    return (
        fits(p.layout, shape)
        and (p.dim != "1" or len(shape) == 3)
        and (p.dist != "special" or rows(shape) > 1)
    )


def operand(p: Params) -> TensorSpec:
    """The one operand; pairs cancel along the dimension that is summed."""
    options = {"axis": int(p.dim)} if p.dist == "cancel" else {}
    return tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout, **options)


def reduced(p: Params) -> tuple[int, ...]:
    """The shape of the result."""
    shape = list(dims(p.shape))
    if shape:
        shape[int(p.dim)] = 1
        if p.keepdim == "no":
            del shape[int(p.dim)]
    return tuple(shape)


def reduction(op: str, p: Params) -> Parts:
    return one(op, operand(p), result=reduced(p), dim=int(p.dim), keepdim=p.keepdim == "yes")


@family(
    "ops/sum",
    dtype=FLOATS,
    shape=SHAPES,
    dim=DIMS,
    keepdim=("no", "yes"),
    dist=DISTS,
    layout=LAYOUTS,
    allowed=sensible,
)
def sum_(p: Params) -> Parts:
    """A low-precision accumulator, a dropped tail, the wrong dimension, a sum of nothing that is not 0."""
    return reduction("sum", p)


@family(
    "ops/mean",
    dtype=FLOATS,
    shape=SHAPES,
    dim=DIMS,
    keepdim=("no", "yes"),
    dist=DISTS,
    layout=LAYOUTS,
    allowed=sensible,
)
def mean(p: Params) -> Parts:
    """Padding counted into n, a sum that overflows float16 before the division, a mean of nothing
    that is not NaN."""
    return reduction("mean", p)


@family("ops/cumsum", dtype=FLOATS, shape=SHAPES, dim=DIMS, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def cumsum(p: Params) -> Parts:
    """A running sum that is rounded at each element, a block whose carry is lost."""
    return one("cumsum", operand(p), result=dims(p.shape), dim=int(p.dim))


@family(
    "ops/logsumexp",
    dtype=FLOATS,
    shape=SHAPES,
    dim=DIMS,
    keepdim=("no", "yes"),
    dist=("normal", "heavy", "shifted", "small", "masked", "special"),
    layout=LAYOUTS,
    allowed=sensible,
)
def logsumexp(p: Params) -> Parts:
    """A maximum that is not subtracted, a row of -inf that becomes NaN."""
    return reduction("logsumexp", p)
