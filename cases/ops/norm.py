"""Normalization over the last dimension."""

from parity.case.case import Role
from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, rows, tensor

SHAPES = ("64", "1x1", "3x65", "17x127", "33x257", "2x5x129", "4x1024", "1x4096", "0x64")
EPS = ("1e-5", "1e-6", "1e-12")
DISTS = ("normal", "heavy", "shifted", "small", "special")
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded")


def sensible(p: Params) -> bool:
    shape = dims(p.shape)
    return fits(p.layout, shape) and (p.dist != "special" or rows(shape) > 1)


@family(
    "ops/rms_norm",
    dtype=FLOATS,
    shape=SHAPES,
    eps=EPS,
    gain=("no", "yes"),
    dist=DISTS,
    layout=LAYOUTS,
    allowed=sensible,
)
def rms_norm(p: Params) -> Parts:
    """Another epsilon, squares that overflow float16 or vanish, the mean taken over padding, a cast
    before the gain."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    g = tensor("g", p.dtype, x.shape[-1:], role=Role.WEIGHT) if p.gain == "yes" else None
    return one("rms_norm", x, g, result=x.shape, eps=float(p.eps))


@family(
    "ops/layer_norm",
    dtype=FLOATS,
    shape=SHAPES,
    eps=EPS,
    affine=("none", "gain", "gain_bias"),
    dist=DISTS,
    layout=LAYOUTS,
    allowed=sensible,
)
def layer_norm(p: Params) -> Parts:
    """A one-pass variance that cancels where the mean is large, n - 1 for n, another epsilon."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    g = tensor("g", p.dtype, x.shape[-1:], role=Role.WEIGHT) if p.affine != "none" else None
    b = tensor("b", p.dtype, x.shape[-1:], role=Role.WEIGHT) if p.affine == "gain_bias" else None
    return one("layer_norm", x, g, b, result=x.shape, eps=float(p.eps))
