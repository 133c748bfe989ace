"""Elements arranged anew, views that are written through, and addresses beyond 32 bits."""

from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, operands, parts, step, tensor
from parity.case.written import integers

ANY = ("f32", "bf16", "i64", "u8")
LAYOUTS = ("contiguous", "transposed", "strided", "offset")


def written(numbers: str) -> str:
    """Integers as an attribute holds them; an id has no comma."""
    return numbers.replace("_", ",")


@family(
    "ops/roll",
    dtype=ANY,
    shape=("257", "17x33", "3x5x64", "5x0"),
    shift=("1", "-1", "7", "-1000"),
    dim=("none", "0", "-1"),
    layout=("contiguous", "transposed", "offset"),
    allowed=lambda p: fits(p.layout, dims(p.shape)),
)
def roll(p: Params) -> Parts:
    """The other direction, a shift beyond the length, a roll of all elements that goes row by row."""
    x = tensor("x", p.dtype, dims(p.shape), "bits", layout=p.layout)
    dim = None if p.dim == "none" else int(p.dim)
    return one("roll", x, result=x.shape, shift=int(p.shift), dim=dim)


@family(
    "ops/flip",
    dtype=ANY,
    shape=("1x1", "17x33", "2x3x4x17", "5x0"),
    dims=("0", "-1", "0_-1", "-2"),
    layout=("contiguous", "transposed", "offset"),
    allowed=lambda p: fits(p.layout, dims(p.shape)),
)
def flip(p: Params) -> Parts:
    """A negative stride where there is none, one of two dimensions, a tail that stays behind."""
    x = tensor("x", p.dtype, dims(p.shape), "bits", layout=p.layout)
    return one("flip", x, result=x.shape, dims=written(p.dims))


@family(
    "ops/stack",
    dtype=ANY,
    shape=("scalar", "17", "3x5x16", "5x0"),
    count=("1", "2", "5"),
    dim=("0", "-1", "-2"),
    layout=("contiguous", "transposed", "offset"),
    allowed=lambda p: fits(p.layout, dims(p.shape)) and (p.shape != "scalar" or p.dim != "-2"),
)
def stack(p: Params) -> Parts:
    """Joined along the dimension beside, one tensor that is read with another's strides."""
    shape = dims(p.shape)
    given = [
        tensor(f"x{i}", p.dtype, shape, "bits", layout=p.layout if i == 0 else "contiguous")
        for i in range(int(p.count))
    ]
    dim = int(p.dim) % (len(shape) + 1)
    return one("stack", *given, result=(*shape[:dim], len(given), *shape[dim:]), dim=int(p.dim))


@family(
    "ops/split",
    dtype=ANY,
    shape=("9", "17x9", "9x33", "3x9x9"),
    sizes=("3x3x3", "4x4x1", "1x7x1", "5x0x4"),
    dim=("0", "-1"),
    layout=("contiguous", "transposed", "offset"),
    allowed=lambda p: fits(p.layout, dims(p.shape)) and dims(p.shape)[int(p.dim)] == 9,
)
def split(p: Params) -> Parts:
    """Even parts where they are not, a last part that is read from the start, a part of nothing that
    shifts the next."""
    shape = list(dims(p.shape))
    x = tensor("x", p.dtype, tuple(shape), "bits", layout=p.layout)
    shape[int(p.dim)] = dims(p.sizes)[0]
    return one("split", x, result=tuple(shape), sizes=p.sizes, dim=int(p.dim))


FILLS = {"0": ANY, "-inf": FLOATS, "0.1": FLOATS, "1": ("bool",), "-1099511627777": ("i64",)}


def padded(shape: tuple[int, ...], widths: str, *, cut: bool = False) -> tuple[int, ...]:
    """The shape after padding, or after only what is cut: more than there is cannot be."""
    made, around = list(shape), integers(written(widths))
    for number, pair in enumerate(zip(around[::2], around[1::2], strict=True)):
        made[-1 - number] += sum(min(n, 0) if cut else n for n in pair)
    return tuple(made)


@family(
    "ops/pad",
    dtype=("f32", "bf16", "i64", "bool"),
    shape=("17x33", "2x3x4x17", "5x0"),
    widths=("1_2", "-1_3", "-2_-1", "-1_1_1_-1"),
    value=tuple(FILLS),
    layout=("contiguous", "transposed"),
    allowed=lambda p: (
        fits(p.layout, dims(p.shape))
        and p.dtype in FILLS[p.value]
        and min(padded(dims(p.shape), p.widths, cut=True)) >= 0
    ),
)
def pad(p: Params) -> Parts:
    """Widths of the first dimension for the last, 0 for another value, a negative width that is taken
    for 0, a value that went through float32."""
    x = tensor("x", p.dtype, dims(p.shape), "bits", layout=p.layout)
    return one("pad", x, result=padded(x.shape, p.widths), widths=written(p.widths), value=p.value)


@family(
    "ops/repeat",
    dtype=("f32", "bf16", "i64"),
    shape=("17", "2x3x16", "3x0"),
    repeats=("3", "1", "2x3", "3x1x2"),
    layout=("contiguous", "transposed", "offset"),
    allowed=lambda p: fits(p.layout, dims(p.shape)) and len(dims(p.repeats)) >= len(dims(p.shape)),
)
def repeat(p: Params) -> Parts:
    """Each element repeated instead of all of them in turn, tiles along the first dimension for the last."""
    shape, times = dims(p.shape), dims(p.repeats)
    x = tensor("x", p.dtype, shape, "bits", layout=p.layout)
    of = (*[1] * (len(times) - len(shape)), *shape)
    return one("repeat", x, result=tuple(n * k for n, k in zip(of, times, strict=True)), repeats=p.repeats)


@family(
    "ops/expand",
    dtype=("bf16", "i64"),
    shape=("1.5", "scalar.3x4", "17x1.17x33", "1x33.9x33", "3x1x16.3x7x16", "64.2x3x64", "1x0.5x0"),
    layout=("contiguous", "strided"),
    allowed=lambda p: fits(p.layout, operands(p.shape)[0]),
)
def expand(p: Params) -> Parts:
    """A stride of 0 that is taken for a dense one, a view of which one row is given back."""
    shape, of = operands(p.shape)
    x = tensor("x", p.dtype, shape, "bits", layout=p.layout)
    return one("expand", x, result=of, shape="x".join(map(str, of)))


# x, shape, stride, offset
STRIDES = {
    "windows": ("67", "17x8", "3x1", 5),
    "diagonal": ("16x17", "16", "18", 0),
    "by_columns": ("17x33", "33x17", "1x33", 0),
    "every_other": ("3x5x64", "3x5x32", "320x64x2", 1),
    "one_row": ("9x16", "7x16", "0x1", 32),
    "last": ("5x7", "1", "1", 34),
    "nothing": ("5x7", "0x3", "3x1", 2),
}


@family("ops/as_strided", dtype=("bf16", "i64"), view=tuple(STRIDES))
def as_strided(p: Params) -> Parts:
    """Windows that overlap read as dense ones, an offset that counts bytes or is lost, strides of the
    view that x was before."""
    shape, of, stride, offset = STRIDES[p.view]
    x = tensor("x", p.dtype, dims(shape), "bits")
    return one("as_strided", x, result=dims(of), shape=of, stride=stride, offset=offset)


# x[target] = x[source]
MOVES = {
    "rows_down": ("x[1:]", "x[:-1]"),
    "rows_up": ("x[:-1]", "x[1:]"),
    "right": ("x[:, 1:]", "x[:, :-1]"),
    "left": ("x[:, :-1]", "x[:, 1:]"),
    "diagonal": ("x[3:, 1:]", "x[:-3, :-1]"),
    "onto_itself": ("x[2:]", "x[2:]"),
    "apart": ("x[:2]", "x[-2:]"),
}


@family(
    "ops/slice_move",
    dtype=("f32", "bf16", "i64"),
    shape=("6x8", "40x130"),
    move=tuple(MOVES),
    cloned=("yes", "no"),
    layout=("contiguous", "transposed"),
    allowed=lambda p: (
        p.cloned == "yes"
        or (
            p.move in ("left", "apart", "right", "rows_down")
            and p.layout == "contiguous"
            and p.dtype == "f32"
        )
    ),
)
def slice_move(p: Params) -> Parts:
    """A cache that is shifted by a row: elements that were already overwritten are copied on; a clone that a
    compiler leaves out."""
    x = tensor("x", p.dtype, dims(p.shape), "bits", layout=p.layout)
    target, source = MOVES[p.move]
    return one("slice_move", x, target=target, source=source, cloned=p.cloned == "yes")


# What is taken as a view and negated, of shapes with two dimensions or more.
VIEWS = {
    "rows": "x[1:]",
    "odd": "x[..., 1::2]",
    "row": "x[2]",
    "last": "x[..., -1]",
    "corner": "x[1:3, ..., :3]",
}


@family(
    "ops/negate_view",
    dtype=("f32", "bf16", "i64"),
    shape=("5x8", "6x17x33", "3x16x64"),
    view=tuple(VIEWS),
    swapped=("no", "yes"),
    layout=("contiguous", "transposed", "offset"),
)
def negate_view(p: Params) -> Parts:
    """A compiler that turns a view into a copy: what is written to it never reaches what is read."""
    x = tensor("x", p.dtype, dims(p.shape), "bits", layout=p.layout)
    return one("negate_view", x, index=VIEWS[p.view], swapped=p.swapped == "yes")


FAR = 1 << 31


def far(p: Params, *, columns: int, border: int, above: int) -> Parts:
    """Rows from `above` elements beyond a border on, read back with the rows one border before."""
    x = tensor("x", p.dtype, (5, columns), "bits")
    return one("far_rows", x, first=(border + above) // columns, step=3, back=border // columns)


@family("ops/far_rows", dtype=ANY, border=("32768", "65536"), above=("64", "4096"))
def far_rows(p: Params) -> Parts:
    """Addresses of 16 bits: a row that lands one border before, or is read there."""
    return far(p, columns=64, border=int(p.border), above=int(p.above))


@family("ops/far_rows_2gib", dtype=("u8",), above=("256",), large=True)
def far_rows_2gib(p: Params) -> Parts:
    """More than 2^31 elements of a byte each: an offset of 32 bits, in elements or in bytes."""
    return far(p, columns=256, border=FAR, above=int(p.above))


SAME = {
    "add": {"count": 2},
    "mul": {"count": 2},
    "matmul": {"count": 2},
    "cat": {"count": 3, "dim": -1},
    "stack": {"count": 2, "dim": 0},
    "attention": {"count": 3, "causal": True, "window": None, "scale": None},
    "index_put": {"count": 1, "accumulate": False},
}


@family(
    "ops/aliased",
    dtype=("f32", "bf16"),
    op=tuple(SAME),
    dist=("normal", "special"),
    layout=("contiguous", "transposed"),
    allowed=lambda p: p.op != "attention" or p.dist != "special",
)
def aliased(p: Params) -> Parts:
    """One tensor as several arguments: a kernel that writes to one while it reads the other, a graph that
    binds each argument to memory of its own."""
    options = dict(SAME[p.op])
    count = options.pop("count")
    shape = (1, 3, 17, 17) if p.op == "attention" else (17, 17)
    x = tensor("x", p.dtype, shape, p.dist, layout=p.layout)
    if p.op == "index_put":
        index = tensor("index", "i64", (17,), "permutation")
        return parts((x, index), step("index_put", x, index, x, **options))
    return parts((x,), step(p.op, *[x] * count, **options))
