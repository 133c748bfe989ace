"""Softmax and its logarithm."""

from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, rows, tensor

SHAPES = ("scalar", "1", "8x1", "7x257", "33x128", "2x65x31", "4x1025", "1x4096", "0x8")
DIMS = ("-1", "0", "1")
DISTS = ("normal", "heavy", "shifted", "small", "masked", "special")
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded")


def sensible(p: Params) -> bool:
    """A dimension of length 0 has no distribution over it; dimension 1 is for what has a middle."""
    shape = dims(p.shape)
    return (
        fits(p.layout, shape)
        and (p.dim != "1" or len(shape) == 3)
        and (p.dist != "special" or rows(shape) > 1)
        and not (p.shape == "0x8" and p.dim == "0")
    )


@family("ops/softmax", dtype=FLOATS, shape=SHAPES, dim=DIMS, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def softmax(p: Params) -> Parts:
    """A maximum that is not subtracted, a denominator summed in low precision or with padding in
    it, a masked row that leaks."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    return one("softmax", x, result=x.shape, dim=int(p.dim))


@family("ops/log_softmax", dtype=FLOATS, shape=SHAPES, dim=DIMS, dist=DISTS, layout=LAYOUTS, allowed=sensible)
def log_softmax(p: Params) -> Parts:
    """log(softmax(x)) instead of x - logsumexp(x): -inf where a probability underflows."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    return one("log_softmax", x, result=x.shape, dim=int(p.dim))
