"""Tensors made of numbers: ranges beyond the whole numbers of a type, one-hot rows, grids of indices."""

from parity.case.family import FLOATS, Params, Parts, dims, family, one, operands, tensor

# start, end and step, by what they cross.
RANGES = {
    "down": (700, -301, -2),
    "beyond_2to24": (2**24 - 300, 2**24 + 301, 1),
    "odd_beyond_2to24": (2**24 + 1, 2**24 + 1200, 3),
    "long": (0, 70001, 1),
    "tenths": (-5.0, 20.0, 0.1),
    "far_halves": (1048576.0, 1048776.0, 0.5),
    "wide": (2**53 - 5, 2**53 + 260, 1),
    "none": (3, 3, 1),
}
# f16 ends at 65504, and only integers have the numbers beyond 2^53.
HALF = ("down", "tenths", "none")
WHOLE = ("down", "beyond_2to24", "long", "wide", "none")


def held(p: Params) -> bool:
    return p.range in {"f16": HALF, "i64": WHOLE}.get(p.dtype, tuple(RANGES)) and (
        p.range != "wide" or p.dtype == "i64"
    )


@family("ops/arange", dtype=(*FLOATS, "i64"), range=tuple(RANGES), allowed=held)
def arange(p: Params) -> Parts:
    """A sum that grows by the step, which drifts and stops at 2^24; indices in 16 bits; int64 by way of
    floats."""
    start, end, step = RANGES[p.range]
    result = (0,) if p.range == "none" else (1,)
    return one("arange", result=result, result_dtype=p.dtype, start=start, end=end, step=step, out=p.dtype)


SPANS = {
    "unit": (0.0, 1.0),
    "negative": (-3.0, 5.0),
    "tenths": (0.1, 0.7),
    "down": (1003.0, 1000.0),
    "beyond_2to24": (2.0**24, 2.0**24 + 1000),
}


@family(
    "ops/linspace",
    dtype=FLOATS,
    span=tuple(SPANS),
    steps=("1", "2", "77", "1025"),
    allowed=lambda p: p.dtype != "f16" or p.span != "beyond_2to24",
)
def linspace(p: Params) -> Parts:
    """An end that is missed, a step that is rounded and then added up, one element too many between."""
    start, end = SPANS[p.span]
    return one(
        "linspace", result=(1,), result_dtype=p.dtype, start=start, end=end, steps=int(p.steps), out=p.dtype
    )


@family(
    "ops/one_hot",
    shape=("scalar", "17", "5x33", "0"),
    classes=("1", "40", "300"),
    layout=("contiguous", "strided"),
    allowed=lambda p: p.shape != "scalar" or p.layout == "contiguous",
)
def one_hot(p: Params) -> Parts:
    """The class beside it, a class beyond a tile that is lost, columns for rows."""
    classes = int(p.classes)
    ids = tensor("ids", "i64", dims(p.shape), "index", high=classes, layout=p.layout)
    return one("one_hot", ids, result=(*ids.shape, classes), classes=classes)


@family(
    "ops/tril_indices",
    rows=("1", "7", "33"),
    columns=("1", "5", "40"),
    offset=("-40", "-1", "0", "3"),
    allowed=lambda p: (p.offset == "-40") == (p.rows == "1"),
)
def tril_indices(p: Params) -> Parts:
    """The upper triangle, a diagonal too many, column by column."""
    rows, columns, offset = int(p.rows), int(p.columns), int(p.offset)
    result = (2, 0) if p.rows == "1" else (2, 1)
    return one("tril_indices", result=result, result_dtype="i64", rows=rows, columns=columns, offset=offset)


@family(
    "ops/meshgrid",
    dtype=("f32", "bf16", "i64"),
    shape=("7.33", "33.7", "16.16", "5.0"),
    indexing=("ij", "xy"),
    layout=("contiguous", "strided"),
)
def meshgrid(p: Params) -> Parts:
    """Rows for columns where the other convention is meant, a grid that is an expanded view read as dense."""
    (m,), (n,) = operands(p.shape)
    dist = "range" if p.dtype == "i64" else "special"
    a = tensor("a", p.dtype, (m,), dist, layout=p.layout)
    b = tensor("b", p.dtype, (n,), dist, layout=p.layout)
    result = (m, n) if p.indexing == "ij" else (n, m)
    return one("meshgrid", a, b, result=result, indexing=p.indexing)
