"""Views and writes as model code indexes them, and triangles."""

import numpy as np

from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, tensor

ANY = ("f32", "bf16", "f16", "i64", "u8", "bool")
LAYOUTS = ("contiguous", "heads", "transposed", "strided", "offset", "expanded")

INDEX = {
    "whole": "x[:]",
    "last_row": "x[-1]",
    "last_token": "x[:, -1]",
    "last_token_kept": "x[:, -1:]",
    "drop_last": "x[:, :-1]",
    "even": "x[..., ::2]",
    "odd": "x[..., 1::2]",
    "second_half": "x[..., 4:]",
    "from_end": "x[..., -3:]",
    "beyond_end": "x[:, 2:1000]",
    "every_third": "x[1:-1:3, :, ::3]",
    "new_last_axis": "x[..., None]",
    "ellipsis_middle": "x[0, ..., -1]",
    "element": "x[-1, -2, -3]",
    "rows": "x[[2, 0, -1]]",
    "columns": "x[:, :, [3, 1]]",
    "empty": "x[:, 2:2]",
}
# An assigned list of indices must not repeat one, and an empty slice writes nothing.
ASSIGNED = tuple(name for name in INDEX if name not in ("whole", "empty", "new_last_axis"))


def taken(index: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that numpy, which reads an index as Python does, gives it."""
    return np.broadcast_to(np.False_, shape)[eval(f"np.s_[{INDEX[index][2:-1]}]", {"np": np})].shape  # noqa: S307


@family(
    "ops/slice",
    dtype=ANY,
    shape=("4x5x8", "6x17x33", "3x16x64"),
    index=tuple(INDEX),
    layout=LAYOUTS,
    allowed=lambda p: fits(p.layout, dims(p.shape)),
)
def slice_(p: Params) -> Parts:
    """A view that is copied from the start of its storage, a negative index or step that is clipped
    wrongly, a last token that is the first."""
    x = tensor("x", p.dtype, dims(p.shape), "bits", layout=p.layout)
    return one("slice", x, result=taken(p.index, x.shape), index=INDEX[p.index])


@family(
    "ops/slice_assign",
    dtype=ANY,
    shape=("4x5x8", "6x17x33", "3x16x64"),
    index=ASSIGNED,
    values=("same", "last_dim", "scalar"),
    layout=LAYOUTS,
    allowed=lambda p: fits(p.layout, dims(p.shape)),
)
def slice_assign(p: Params) -> Parts:
    """A write that lands in a copy, beside the slice, or in every row of it."""
    x = tensor("x", p.dtype, dims(p.shape), "bits", layout=p.layout)
    whole = taken(p.index, x.shape)
    values = tensor(
        "values", p.dtype, {"same": whole, "last_dim": whole[-1:], "scalar": ()}[p.values], "bits"
    )
    return one("slice_assign", x, values, index=INDEX[p.index])


TRIANGLES = ("1x1", "17x17", "33x65", "65x33", "2x3x31x31", "5x0")
DIAGONALS = ("0", "1", "-1", "7", "-100", "100")


@family(
    "ops/tril",
    dtype=ANY,
    shape=TRIANGLES,
    diagonal=DIAGONALS,
    dist=("bits", "special"),
    layout=("contiguous", "transposed", "strided", "offset"),
    allowed=lambda p: p.dist == "bits" or p.dtype in FLOATS,
)
def tril(p: Params) -> Parts:
    """A diagonal that is off by one, x * 0 for 0 above it, which keeps a NaN."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    return one("tril", x, result=x.shape, diagonal=int(p.diagonal))


@family(
    "ops/triu",
    dtype=ANY,
    shape=TRIANGLES,
    diagonal=DIAGONALS,
    dist=("bits", "special"),
    layout=("contiguous", "transposed", "strided", "offset"),
    allowed=lambda p: p.dist == "bits" or p.dtype in FLOATS,
)
def triu(p: Params) -> Parts:
    """A diagonal that is off by one, -0 for 0 below it."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    return one("triu", x, result=x.shape, diagonal=int(p.diagonal))


@family(
    "ops/triu_indices",
    rows=("1", "17", "64"),
    columns=("1", "17", "65"),
    offset=("0", "1", "-3", "100"),
)
def triu_indices(p: Params) -> Parts:
    """Indices made on the host in its place, 32-bit for 64-bit, no indices at all that is an error."""
    rows, columns, offset = int(p.rows), int(p.columns), int(p.offset)
    count = sum(max(columns - max(row + offset, 0), 0) for row in range(rows))
    return one(
        "triu_indices", result=(2, count), result_dtype="i64", rows=rows, columns=columns, offset=offset
    )
