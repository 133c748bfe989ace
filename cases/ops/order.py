"""Order, with ties and NaN: which of equal elements is taken is free, everything else is not."""

from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, tensor

SHAPES = ("1", "257", "7x33", "65x17", "3x16x64", "4x1025")
DISTS = ("normal", "ties", "ties_nan", "special")
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded")
DTYPES = (*FLOATS, "i64")


def sensible(p: Params) -> bool:
    return fits(p.layout, dims(p.shape)) and (p.dtype != "i64" or p.dist == "ties")


@family(
    "ops/topk",
    dtype=DTYPES,
    shape=SHAPES,
    k=("0", "1", "5", "64"),
    dim=("-1", "0"),
    largest=("yes", "no"),
    dist=DISTS,
    layout=LAYOUTS,
    allowed=lambda p: sensible(p) and int(p.k) <= dims(p.shape)[int(p.dim)],
)
def topk(p: Params) -> Parts:
    """An index twice, an order that is not sorted, a NaN that is lost, the tail of a tile left out."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    out = list(x.shape)
    out[int(p.dim)] = int(p.k)
    return one("topk", x, result=tuple(out), k=int(p.k), dim=int(p.dim), largest=p.largest == "yes")


@family(
    "ops/argmax",
    dtype=DTYPES,
    shape=("scalar", *SHAPES, "0x8"),
    dim=("-1", "0"),
    keepdim=("no", "yes"),
    dist=DISTS,
    layout=LAYOUTS,
    allowed=lambda p: sensible(p) and not (p.shape == "0x8" and p.dim == "0"),
)
def argmax(p: Params) -> Parts:
    """An index into the wrong row, padding that wins over negative scores, a NaN that is skipped."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    out = {"0x8": (0, 1) if p.keepdim == "yes" else (0,)}.get(p.shape, (1,))
    return one("argmax", x, result=out, result_dtype="i64", dim=int(p.dim), keepdim=p.keepdim == "yes")


@family(
    "ops/sort",
    dtype=DTYPES,
    shape=("scalar", *SHAPES, "0x8"),
    dim=("-1", "0"),
    descending=("no", "yes"),
    stable=("no", "yes"),
    dist=DISTS,
    layout=LAYOUTS,
    allowed=sensible,
)
def sort(p: Params) -> Parts:
    """Equal elements out of order where stable was asked, NaN in the middle, a bitonic network that
    loses what is beyond a power of two."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    return one(
        "sort", x, result=x.shape, dim=int(p.dim), descending=p.descending == "yes", stable=p.stable == "yes"
    )
