"""Variance, norms, running products, extremes and order along one dimension."""

from parity.case.case import Role
from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, rows, tensor

SHAPES = ("257", "33x129", "3x65x31", "5x0")
LAYOUTS = ("contiguous", "strided")
KEEP = ("no", "yes")


def sensible(p: Params) -> bool:
    shape = dims(p.shape)
    return fits(p.layout, shape) and (p.dist != "special" or rows(shape) > 1)


def reduced(p: Params) -> tuple[int, ...]:
    """The shape of the result."""
    shape = list(dims(p.shape))
    shape[int(p.dim)] = 1
    if p.keepdim == "no":
        del shape[int(p.dim)]
    return tuple(shape)


@family(
    "ops/var",
    dtype=FLOATS,
    # Torch warns of rows without degrees of freedom.
    shape=("257", "33x129", "3x65x31", "9x2"),
    dim=("-1", "0"),
    keepdim=KEEP,
    correction=("0", "1"),
    dist=("normal", "heavy", "shifted", "small", "special"),
    layout=LAYOUTS,
    allowed=sensible,
    also=[
        {
            "dtype": "f32",
            "shape": "33x129",
            "dim": "-1",
            "keepdim": "no",
            "correction": "0",
            "dist": "shifted",
            "layout": "contiguous",
        },
    ],
)
def var(p: Params) -> Parts:
    """E[x^2] less the square of the mean, which cancels where the mean is large; n for n - 1."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    attrs = {"dim": int(p.dim), "keepdim": p.keepdim == "yes", "correction": int(p.correction)}
    return one("var", x, result=reduced(p), **attrs)


@family(
    "ops/norm",
    dtype=FLOATS,
    shape=SHAPES,
    dim=("-1", "0"),
    keepdim=KEEP,
    dist=("normal", "heavy", "large", "tiny", "special"),
    layout=LAYOUTS,
    allowed=sensible,
)
def norm(p: Params) -> Parts:
    """Squares that overflow float16 or vanish in it, a sum in low precision, the root left out."""
    power = {"large": 6, "tiny": -13}.get(p.dist, 0)
    dist = "normal" if p.dist in ("large", "tiny") else p.dist
    x = tensor("x", p.dtype, dims(p.shape), dist, layout=p.layout, exponent=power)
    return one("norm", x, result=reduced(p), dim=int(p.dim), keepdim=p.keepdim == "yes")


@family(
    "ops/group_norm",
    dtype=FLOATS,
    shape=("1x4x9", "3x8x17", "2x12x5x7", "2x6x1"),
    groups=("1", "2", "each"),
    affine=("none", "gain_bias"),
    eps=("1e-5", "1e-6"),
    dist=("normal", "heavy", "shifted", "special"),
    layout=("contiguous", "transposed"),
    allowed=sensible,
)
def group_norm(p: Params) -> Parts:
    """Channels dealt to groups in turn, one mean for all groups, a one-pass variance that cancels, a
    gain of the group's place and not the channel's."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    channels = x.shape[1]
    affine = p.affine == "gain_bias"
    g = tensor("g", p.dtype, (channels,), role=Role.WEIGHT) if affine else None
    b = tensor("b", p.dtype, (channels,), role=Role.WEIGHT) if affine else None
    groups = channels if p.groups == "each" else int(p.groups)
    return one("group_norm", x, g, b, result=x.shape, groups=groups, eps=float(p.eps))


@family(
    "ops/cumprod",
    dtype=FLOATS,
    shape=("17", "33x48", "9x12x5", "0x8"),
    dim=("-1", "0"),
    dist=("normal", "near_one", "special"),
    layout=LAYOUTS,
    allowed=sensible,
)
def cumprod(p: Params) -> Parts:
    """A product rounded at each element, the sign lost to logarithms, a block whose carry is lost."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    return one("cumprod", x, result=x.shape, dim=int(p.dim))


DTYPES = (*FLOATS, "i64")
ORDERED = ("257", "7x33", "3x16x64")
DISTS = ("ties", "ties_nan", "special", "bits")


def orderly(p: Params) -> bool:
    return sensible(p) and (p.dtype != "i64" or p.dist in ("ties", "bits"))


def extreme(op: str, p: Params) -> Parts:
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    return one(op, x, result=reduced(p), result_dtype=p.dtype, dim=int(p.dim), keepdim=p.keepdim == "yes")


_OVER = {"dtype": DTYPES, "shape": ORDERED, "dim": ("-1", "0"), "keepdim": KEEP, "dist": DISTS}


@family("ops/amax", **_OVER, layout=LAYOUTS, allowed=orderly)
def amax(p: Params) -> Parts:
    """Padding with 0 that wins over negative numbers, a NaN that is skipped, int64 as 32 bits."""
    return extreme("amax", p)


@family("ops/amin", **_OVER, layout=LAYOUTS, allowed=orderly)
def amin(p: Params) -> Parts:
    """The magnitude in place of the value, padding that wins, a NaN that is skipped."""
    return extreme("amin", p)


@family("ops/max", **_OVER, layout=LAYOUTS, allowed=orderly)
def max_(p: Params) -> Parts:
    """An index into a tile or into another row, a value and an index of two elements."""
    return extreme("max", p)


@family("ops/min", **_OVER, layout=LAYOUTS, allowed=orderly)
def min_(p: Params) -> Parts:
    """A NaN that counts as the largest, as it does in a sort; an index that does not fit its value."""
    return extreme("min", p)


@family(
    "ops/argsort",
    dtype=DTYPES,
    shape=(*ORDERED, "0x8"),
    dim=("-1", "0"),
    descending=KEEP,
    stable=KEEP,
    dist=DISTS,
    layout=LAYOUTS,
    allowed=orderly,
)
def argsort(p: Params) -> Parts:
    """Equal elements out of order where stable was asked, the inverse permutation, keys of 16 bits."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    attrs = {"dim": int(p.dim), "descending": p.descending == "yes", "stable": p.stable == "yes"}
    return one("argsort", x, result=x.shape, result_dtype="i64", **attrs)
