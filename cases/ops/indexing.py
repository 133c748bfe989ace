"""Taking and writing at indices, by masks, counting and searching."""

import math

from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, operands, rows, tensor

ANY = ("f32", "bf16", "i64", "bool")
LAYOUTS = ("contiguous", "transposed", "strided", "offset")

# x, index, the dimension along which it is taken
TAKEN = {
    "one": ((1,), (3,), 0),
    "rows": ((17, 33), (5, 33), 0),
    "last": ((33, 65), (33, 7), -1),
    "index_broadcast": ((7, 33, 5), (1, 9, 5), 1),
    "x_broadcast": ((1, 31), (6, 40), -1),
    "nothing": ((5, 8), (5, 0), -1),
}


@family(
    "ops/take_along_dim",
    dtype=("f32", "bf16", "i64"),
    where=tuple(TAKEN),
    index=("spread", "negative", "constant"),
    layout=("contiguous", "transposed", "offset"),
    allowed=lambda p: fits(p.layout, TAKEN[p.where][0]),
)
def take_along_dim(p: Params) -> Parts:
    """An index that is not broadcast, or only where it is dense; a negative one that reads before the row."""
    shape, of, dim = TAKEN[p.where]
    size = shape[dim]
    x = tensor("x", p.dtype, shape, "bits", layout=p.layout)
    if p.index == "constant":
        index = tensor("index", "i64", of, "constant", value=size - 1)
    else:
        index = tensor("index", "i64", of, "index", low=-size if p.index == "negative" else 0, high=size)
    return one("take_along_dim", x, index, result=of, dim=dim)


@family(
    "ops/index_select",
    dtype=("f32", "bf16", "i64"),
    shape=("17x33.7", "33x65.300", "3x17x31.4", "6x5.0"),
    dim=("0", "-1"),
    index=("i64", "i32"),
    layout=("contiguous", "transposed", "offset"),
    allowed=lambda p: fits(p.layout, operands(p.shape)[0]),
)
def index_select(p: Params) -> Parts:
    """Indices of 32 bits read as 64, slices of another dimension, more slices than there were."""
    shape, (count,) = operands(p.shape)
    x = tensor("x", p.dtype, shape, "bits", layout=p.layout)
    index = tensor("index", p.index, (count,), "index", high=shape[int(p.dim)])
    taken = list(shape)
    taken[int(p.dim)] = count
    return one("index_select", x, index, result=tuple(taken), dim=int(p.dim))


# x, index, src, the dimension along which it is written
WRITTEN = {
    "vector": ((257,), (64,), (64,), 0),
    "rows": ((17, 33), (5, 33), (5, 33), 0),
    "last": ((33, 65), (33, 7), (33, 9), -1),
    "smaller": ((9, 31), (4, 20), (6, 31), 0),
    "middle": ((3, 17, 31), (3, 6, 31), (3, 6, 31), 1),
    "nothing": ((5, 8), (5, 0), (5, 3), -1),
}


@family(
    "ops/scatter",
    dtype=("f32", "bf16", "i64"),
    where=tuple(WRITTEN),
    index=("distinct", "spread", "collide"),
    layout=("contiguous", "transposed", "offset"),
    allowed=lambda p: fits(p.layout, WRITTEN[p.where][0]) and (p.index != "distinct" or _lies_last(p.where)),
)
def scatter(p: Params) -> Parts:
    """Values of another place where src is larger than index, a sum or a mixture where two meet."""
    shape, of, given, dim = WRITTEN[p.where]
    x = tensor("x", p.dtype, shape, "bits", layout=p.layout)
    size = shape[dim]
    if p.index == "distinct":
        index = tensor("index", "i64", of, "permutation", high=size)
    else:
        index = tensor("index", "i64", of, "index", high=size if p.index == "spread" else min(3, size))
    return one("scatter", x, index, tensor("src", p.dtype, given, "bits"), result=shape, dim=dim)


def _lies_last(where: str) -> bool:
    """Whether indices that differ along the last dimension write to different elements."""
    shape, _, _, dim = WRITTEN[where]
    return dim % len(shape) == len(shape) - 1


@family(
    "ops/scatter_reduce",
    dtype=(*FLOATS, "i64"),
    where=("rows", "last", "smaller", "nothing"),
    reduce=("sum", "prod", "mean", "amin", "amax"),
    own=("yes", "no"),
    index=("spread", "collide"),
    dist=("normal", "positive", "heavy", "special"),
    layout=("contiguous", "transposed"),
    allowed=lambda p: (
        fits(p.layout, WRITTEN[p.where][0])
        and (p.dtype != "i64" or (p.reduce != "mean" and p.dist == "normal"))
        and (p.dist != "special" or rows(WRITTEN[p.where][2]) > 1)
        and (p.where != "nothing" or p.dist == "normal")
    ),
)
def scatter_reduce(p: Params) -> Parts:
    """An element's own value counted where it is to be forgotten, or once more in a mean; a term lost
    where two meet; a NaN that does not win, 0 that wins where nothing was written."""
    shape, of, given, dim = WRITTEN[p.where]
    whole = {"distinct": 9} if p.dtype == "i64" else {}
    dists = ("ties", "ties") if whole else ("normal", p.dist)
    x = tensor("x", p.dtype, shape, dists[0], layout=p.layout, **whole)
    index = tensor(
        "index", "i64", of, "index", high=shape[dim] if p.index == "spread" else min(3, shape[dim])
    )
    src = tensor("src", p.dtype, given, dists[1], **whole)
    return one(
        "scatter_reduce", x, index, src, result=shape, dim=dim, reduce=p.reduce, include_self=p.own == "yes"
    )


# Values, and the types that are filled with them.
FILLS = {
    "0": ("f32", "bool"),
    "-inf": FLOATS,
    "min": FLOATS,
    "0.1": ("f32", "bf16"),
    "1": ("i64", "bool"),
    "-1099511627777": ("i64",),
}


@family(
    "ops/masked_fill",
    dtype=(*FLOATS, "i64", "bool"),
    shape=("33x65.33x65", "3x5x31.5x1", "4x0.4x0"),
    value=tuple(FILLS),
    layout=("contiguous", "transposed"),
    allowed=lambda p: fits(p.layout, operands(p.shape)[0]) and p.dtype in FILLS[p.value],
)
def masked_fill(p: Params) -> Parts:
    """x + mask * value in its place, which makes NaN of an infinity; a value that went through another
    type; a mask that is broadcast along the wrong dimension."""
    shape, of = operands(p.shape)
    x = tensor("x", p.dtype, shape, "bits", layout=p.layout)
    return one("masked_fill", x, tensor("mask", "bool", of, "bool"), result=shape, value=p.value)


@family(
    "ops/masked_select",
    dtype=ANY,
    shape=("1.1", "33x65.33x65", "7x129.1x129", "3x5x31.5x1"),
    probability=("0", "0.5", "1"),
    layout=("contiguous", "transposed", "offset"),
    allowed=lambda p: fits(p.layout, operands(p.shape)[0]) and (p.shape != "1.1" or p.probability != "0.5"),
)
def masked_select(p: Params) -> Parts:
    """Padding up to a bucket's size that is given back, the order of memory instead of rows."""
    shape, of = operands(p.shape)
    x = tensor("x", p.dtype, shape, "bits", layout=p.layout)
    mask = tensor("mask", "bool", of, "bool", probability=float(p.probability))
    return one("masked_select", x, mask, result=(0,) if p.probability == "0" else (1,))


@family(
    "ops/nonzero",
    dtype=(*FLOATS, "i64", "bool"),
    shape=("257", "33x65", "3x17x31"),
    dist=("some", "special", "none"),
    layout=("contiguous", "transposed", "strided"),
    allowed=lambda p: (
        fits(p.layout, dims(p.shape))
        and (p.dist != "special" or (p.dtype in FLOATS and rows(dims(p.shape)) > 1))
    ),
)
def nonzero(p: Params) -> Parts:
    """-0 that counts, a subnormal or NaN that does not, positions of 32 bits, the order of memory."""
    shape = dims(p.shape)
    dist, options = {
        "special": ("special", {}),
        "none": ("constant", {"value": 0}),
        "some": ("bool", {}) if p.dtype == "bool" else ("ties", {}),
    }[p.dist]
    x = tensor("x", p.dtype, shape, dist, layout=p.layout, **options)
    return one("nonzero", x, result=(0 if p.dist == "none" else 1, len(shape)), result_dtype="i64")


@family(
    "ops/unique",
    dtype=(*FLOATS, "i64", "bool"),
    shape=("1", "257", "7x33", "0"),
    dist=("ties", "ties_nan", "bits", "beyond_f64"),
    layout=("contiguous", "strided"),
    allowed=lambda p: (
        fits(p.layout, dims(p.shape))
        and {"ties": p.dtype != "bool", "bits": p.dtype not in FLOATS}.get(
            p.dist, p.dtype in (FLOATS if p.dist == "ties_nan" else ("i64",))
        )
    ),
)
def unique(p: Params) -> Parts:
    """Places of the values as they came instead of in order, NaN that all become one, neighbours that are
    equal as floats, counts of 32 bits."""
    shape = dims(p.shape)
    dist, options = (p.dist, {}) if p.dist != "beyond_f64" else ("range", {"start": 2**53 - 7})
    x = tensor("x", p.dtype, shape, dist, layout=p.layout, **options)
    return one("unique", x, result=shape)


@family(
    "ops/bincount",
    dtype=("i64", "i32", "u8"),
    shape=("257", "1000", "0"),
    numbers=("1", "5", "129"),
    minlength=("0", "7", "300"),
    weights=("none", "normal", "positive", "heavy", "special"),
    layout=("contiguous", "strided"),
    allowed=lambda p: (
        (p.shape != "0" or p.weights == "none" or (p.weights, p.minlength) == ("normal", "7"))
        and (p.weights != "special" or (p.shape == "1000" and p.numbers == "129"))
    ),
)
def bincount(p: Params) -> Parts:
    """Counts cut off at minlength, two threads that lose one of two increments, sums kept in 16 bits."""
    shape = dims(p.shape)
    x = tensor("x", p.dtype, shape, "index", layout=p.layout, high=int(p.numbers))
    weights = None if p.weights == "none" else tensor("weights", "f32", shape, p.weights)
    length = max(int(p.minlength), int(p.numbers) if math.prod(shape) else 0)
    return one(
        "bincount",
        x,
        weights,
        result=(length,),
        result_dtype="i64" if weights is None else "f32",
        minlength=int(p.minlength),
    )


# The sequence, and what is looked for in it: halves between its elements too, and beyond both ends.
SEQUENCES = {
    "range": {"dist": "range"},
    "ties": {"dist": "ascending", "distinct": 7},
    "constant": {"dist": "constant", "value": 1},
    "wide": {"dist": "range", "start": 2**53 - 3},
}


@family(
    "ops/searchsorted",
    dtype=(*FLOATS, "i64"),
    shape=("1.5", "129.7x31", "3x2x16.3x2x40"),
    sequence=tuple(SEQUENCES),
    right=("no", "yes"),
    values=("ties", "ties_nan", "beside"),
    layout=("contiguous", "offset"),
    allowed=lambda p: (
        (p.sequence == "wide") == (p.values == "beside")
        and (p.sequence != "wide" or p.dtype == "i64")
        and (p.values != "ties_nan" or p.dtype in FLOATS)
    ),
)
def searchsorted(p: Params) -> Parts:
    """Left for right where values are equal, a value beyond the end that is clamped into the sequence, NaN
    that stands first, 64-bit values compared as floats."""
    length, of = operands(p.shape)
    sequence = tensor("sequence", p.dtype, length, **SEQUENCES[p.sequence])
    if p.values == "beside":
        values = tensor("values", p.dtype, of, "range", layout=p.layout, start=2**53 - 5)
    else:
        values = tensor("values", p.dtype, of, p.values, layout=p.layout, distinct=4 * length[-1] + 5)
    return one("searchsorted", sequence, values, result=of, right=p.right == "yes")
