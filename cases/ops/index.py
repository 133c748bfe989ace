"""Lookup and movement: exact, or a sum where rows collide."""

from parity.case.case import Role
from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, operands, rows, tensor

ANY = ("f32", "bf16", "f16", "i64", "i32", "u8", "bool")
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded")


@family(
    "ops/embedding",
    dtype=FLOATS,
    shape=("1x1.1", "17x33.7", "257x65.2x31", "1000x64.128", "65x8.scalar", "33x129.0"),
    ids=("i64", "i32"),
    order=("index", "range", "constant"),
    dist=("normal", "special", "bits"),
    layout=("contiguous", "transposed", "strided", "offset"),
)
def embedding(p: Params) -> Parts:
    """The last row out of reach, a padding id that is zeroed, a NaN payload that is not kept."""
    rows, where = operands(p.shape)
    table = tensor("table", p.dtype, rows, p.dist, layout=p.layout, role=Role.WEIGHT)
    options = {"index": {"high": rows[0]}, "range": {}, "constant": {"value": rows[0] - 1}}[p.order]
    ids = tensor("ids", p.ids, where, p.order, layout="strided" if where else "contiguous", **options)
    return one("embedding", table, ids, result=(*where, rows[1]))


@family(
    "ops/gather",
    dtype=(*FLOATS, "i64"),
    shape=("1", "257", "7x33", "33x65", "3x17x31", "5x0"),
    dim=("-1", "0", "1"),
    taken=("1", "5", "64"),
    dist=("bits", "special"),
    layout=LAYOUTS,
    allowed=lambda p: (
        fits(p.layout, dims(p.shape))
        and (p.dim != "1" or len(dims(p.shape)) == 3)
        and (p.dist == "bits" or p.dtype != "i64")
        and dims(p.shape)[int(p.dim)] > 0
    ),
)
def gather(p: Params) -> Parts:
    """The wrong dimension, an index smaller than x that is read as dense, int64 cut to 32 bits."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    dim = int(p.dim)
    picked = list(x.shape)
    picked[dim] = int(p.taken)
    index = tensor("index", "i64", tuple(picked), "index", high=x.shape[dim])
    return one("gather", x, index, result=index.shape, dim=dim)


@family(
    "ops/index",
    dtype=("f32", "bf16", "f64", "i64", "u8"),
    shape=("5.scalar", "257.33", "17x33.7", "9x5x31.2x3", "7x16.0"),
    index=("spread", "repeated", "negative", "mixed"),
    layout=LAYOUTS,
    allowed=lambda p: fits(p.layout, operands(p.shape)[0]),
)
def index(p: Params) -> Parts:
    """A negative index that is clamped to 0 or reads before the tensor, 64-bit elements of which the
    low half arrives."""
    of, where = operands(p.shape)
    x = tensor("x", p.dtype, of, "bits", layout=p.layout)
    options = {
        "spread": {"high": of[0]},
        "repeated": {"high": 2},
        "negative": {"low": -of[0], "high": 0},
        "mixed": {"low": -of[0], "high": of[0]},
    }[p.index]
    index = tensor("index", "i64", where, "index", **options)
    return one("index", x, index, result=(*where, *of[1:]))


@family(
    "ops/index_put",
    dtype=FLOATS,
    shape=("5x1.3", "17x33.7", "65x64.65", "257x8.128", "9x5x31.4", "7x16.0"),
    index=("distinct", "repeated", "negative"),
    accumulate=("no", "yes"),
    dist=("normal", "heavy", "special"),
    layout=LAYOUTS,
)
def index_put(p: Params) -> Parts:
    """A cache slot that is not written, or written beside it; repeated rows that lose a term."""
    rows, (count,) = operands(p.shape)
    x = tensor("x", p.dtype, rows, layout=p.layout)
    options = {
        "distinct": {"high": rows[0]},
        "repeated": {"high": min(3, rows[0])},
        "negative": {"low": -rows[0], "high": 0},
    }[p.index]
    index = tensor("index", "i64", (count,), "permutation" if p.index == "distinct" else "index", **options)
    values = tensor("values", p.dtype, (count, *rows[1:]), p.dist)
    return one("index_put", x, index, values, accumulate=p.accumulate == "yes")


@family(
    "ops/scatter_add",
    dtype=FLOATS,
    shape=("1", "257", "7x33", "33x65", "3x17x31", "0x8"),
    dim=("-1", "0", "1"),
    index=("spread", "collide"),
    dist=("normal", "heavy", "positive", "special"),
    layout=LAYOUTS,
    allowed=lambda p: (
        fits(p.layout, dims(p.shape))
        and (p.dim != "1" or len(dims(p.shape)) == 3)
        and (p.dist != "special" or rows(dims(p.shape)) > 1)
        and not (p.shape == "0x8" and p.dim == "0")
    ),
)
def scatter_add(p: Params) -> Parts:
    """Two terms for one element of which one is lost, a sum rounded at each term."""
    x = tensor("x", p.dtype, dims(p.shape), layout=p.layout)
    size = x.shape[int(p.dim)]
    index = tensor("index", "i64", x.shape, "index", high=min(size, 2) if p.index == "collide" else size)
    src = tensor("src", p.dtype, x.shape, p.dist)
    return one("scatter_add", x, index, src, result=x.shape, dim=int(p.dim))


@family(
    "ops/where",
    dtype=ANY,
    shape=(
        "scalar.scalar.scalar",
        "33x129.33x129.33x129",
        "1x65.33x65.33x1",
        "7x1x1.1x5x1.31",
        "17.scalar.17",
        "0x8.0x8.8",
    ),
    probability=("0", "0.5", "1"),
    dist=("bits", "special"),
    layout=("contiguous", "strided", "offset"),
    allowed=lambda p: fits(p.layout, operands(p.shape)[1]) and (p.dist == "bits" or p.dtype in FLOATS),
)
def where(p: Params) -> Parts:
    """a * c + b * (1 - c) in its place, which lets a NaN through; a scalar that is not broadcast."""
    of, a_of, b_of = operands(p.shape)
    condition = tensor("condition", "bool", of, "bool", probability=float(p.probability))
    a = tensor("a", p.dtype, a_of, p.dist, layout=p.layout)
    b = tensor("b", p.dtype, b_of, p.dist)
    return one("where", condition, a, b, result=(0, 8) if 0 in of else (1,), result_dtype=p.dtype)


@family(
    "ops/cat",
    dtype=ANY,
    shape=("1.1", "257.3", "7x33.7x1.7x5", "17x64.17x64", "2x3x31.2x3x33", "5x8.5x0", "3x0.3x0"),
    dim=("last", "first"),
    dist=("bits", "special"),
    layout=LAYOUTS,
    allowed=lambda p: (
        fits(p.layout, operands(p.shape)[0])
        and (p.dist == "bits" or p.dtype in FLOATS)
        and (p.dim == "last" or len({shape[1:] for shape in operands(p.shape)}) == 1)
    ),
)
def cat(p: Params) -> Parts:
    """An offset that is rounded up to a tile, an empty tensor that is not skipped."""
    shapes = operands(p.shape)
    given = [
        tensor(f"x{i}", p.dtype, shape, p.dist, layout=p.layout if i == 0 else "contiguous")
        for i, shape in enumerate(shapes)
    ]
    dim = -1 if p.dim == "last" else 0
    joined = list(shapes[0])
    joined[dim] = sum(shape[dim] for shape in shapes)
    return one("cat", *given, result=tuple(joined), dim=dim)
