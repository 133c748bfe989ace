"""The ops of indexing, counting and sampling in ONNX. Slices stand in `onnx_views`. Imports no SDK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from parity.backend.runtimes.onnx_graph import Argument, Graph, Value
from parity.backend.runtimes.onnx_shared import wide, zeros
from parity.case.dtype import DTYPES
from parity.case.family import dims as written_shape
from parity.case.written import integers, number

__all__ = ["INDEXING_OPS", "as_large_as"]

_I64 = DTYPES["i64"]
_REDUCTIONS = {"sum": ("add", 0.0), "prod": ("mul", 1.0), "amax": ("max", -np.inf), "amin": ("min", np.inf)}


def as_large_as(g: Graph, src: Argument, index: Argument) -> Value:
    """Cut what is written to the size of its index: in the op table it may be larger, in ONNX not."""
    if src.shape == index.shape:
        return src
    return g("Slice", src, g.ints(*(0 for _ in src.shape)), g.ints(*index.shape))


def _expanded(g: Graph, x: Argument, shape: tuple[int, ...]) -> Value:
    return x if x.shape == shape else g("Expand", x, g.ints(*shape))


def _take_along_dim(g: Graph, x: Argument, index: Argument, *, dim: int) -> str:
    axis = dim % len(x.shape)
    pairs = zip(x.shape, index.shape, strict=True)
    around = [
        1 if at == axis else int(np.broadcast_shapes(a, b)[0]) for at, (a, b) in enumerate(map(_each, pairs))
    ]

    def spread(t: Argument) -> Value:
        return _expanded(g, t, tuple(t.shape[at] if at == axis else n for at, n in enumerate(around)))

    return g("GatherElements", spread(x), spread(index), axis=axis)


def _each(pair: tuple[int, int]) -> tuple[tuple[int], tuple[int]]:
    return (pair[0],), (pair[1],)


def _scatter(g: Graph, x: Argument, index: Argument, src: Argument, *, dim: int) -> str:
    return g("ScatterElements", x, index, as_large_as(g, src, index), axis=dim)


def _scatter_reduce(
    g: Graph, x: Argument, index: Argument, src: Argument, *, dim: int, reduce: str, include_self: bool
) -> str:
    name, neutral = _REDUCTIONS["sum" if reduce == "mean" else reduce]
    base: Value = x
    if not include_self:
        empty = g.constant(np.full(index.shape, neutral), x.dtype)
        base = g("ScatterElements", x, index, empty, axis=dim)
    y = g("ScatterElements", base, index, as_large_as(g, src, index), axis=dim, reduction=name)
    if reduce != "mean":
        return y
    own = g.constant(np.full(x.shape, int(include_self)), _I64)
    counts = _counted(g, own, index, dim)
    return g("Div", y, g("Cast", g("Max", counts, g.constant(np.int64(1), _I64)), to=x.dtype))


def _counted(g: Graph, own: str, index: Argument, dim: int) -> str:
    """`own` with 1 added for each time that `index` names an element along `dim`."""
    ones = g.constant(np.ones(index.shape), _I64)
    return g("ScatterElements", own, index, ones, axis=dim, reduction="add")


def _masked_fill(g: Graph, x: Argument, mask: Argument, *, value: str) -> str:
    return g("Where", mask, g.constant(number(value, x.dtype), x.dtype), x)


def _masked_select(g: Graph, x: Argument, mask: Argument) -> str:
    shape = tuple(np.broadcast_shapes(x.shape, mask.shape))
    return g("Compress", _expanded(g, x, shape), g.reshape(_expanded(g, mask, shape), -1))


def _unique(g: Graph, x: Argument) -> tuple[str, ...]:
    values, _, inverse, counts = g.several("Unique", x, count=4, sorted=1)
    return values, g.reshape(inverse, *x.shape), counts


def _bincount(g: Graph, x: Argument, weights: Argument | None = None, *, minlength: int) -> str:
    numbers, length = g.cast(x, _I64), g.ints(minlength)
    if x.shape[0]:  # of nothing there is no largest
        largest = g("ReduceMax", numbers, g.ints(0), keepdims=1)
        length = g("Max", length, g("Add", largest, g.ints(1)))
    terms: Value = g.constant(np.ones(x.shape), _I64) if weights is None else weights
    start = zeros(g, length, _I64 if weights is None else weights.dtype)
    return g("ScatterElements", start, numbers, terms, axis=0, reduction="add")


def _searchsorted(g: Graph, sequence: Argument, values: Argument, *, right: bool) -> str:
    """How many elements stand before each value, NaN after every number: n comparisons each."""
    each = g("Unsqueeze", sequence, g.ints(-2))
    value = g("Unsqueeze", values, g.ints(-1))
    before = g("LessOrEqual" if right else "Less", each, value)
    if values.dtype.is_float:
        nan = g("IsNaN", value)
        last = nan if right else g("And", nan, g("Not", g("IsNaN", each)))
        before = g("Or", before, last)
    return g("ReduceSum", g("Cast", before, to=_I64), g.ints(-1), keepdims=0)


def _roll(g: Graph, x: Argument, *, shift: int, dim: int | None) -> str:
    if dim is None:
        count = int(np.prod(x.shape))
        flat = Argument(g.reshape(x, count), x.dtype, (count,))
        return g.reshape(_roll(g, flat, shift=shift, dim=0), *x.shape)
    axis, size = dim % len(x.shape), x.shape[dim]
    if not size or not shift % size:
        return g("Identity", x)
    first = size - shift % size
    return g("Concat", g.cut(x, axis, first, size), g.cut(x, axis, 0, first), axis=axis)


def _flip(g: Graph, x: Argument, *, dims: str) -> str:
    axes = integers(dims)
    ends = g.ints(*(np.iinfo(np.int64).min for _ in axes))
    return g("Slice", x, g.ints(*(-1 for _ in axes)), ends, g.ints(*axes), g.ints(*(-1 for _ in axes)))


def _stack(g: Graph, *tensors: Argument, dim: int) -> str:
    return g("Concat", *(g("Unsqueeze", t, g.ints(dim)) for t in tensors), axis=dim)


def _split(g: Graph, x: Argument, *, sizes: str, dim: int) -> tuple[str, ...]:
    parts = written_shape(sizes)
    return g.several("Split", x, g.ints(*parts), count=len(parts), axis=dim)


def _pad(g: Graph, x: Argument, *, widths: str, value: str) -> str:
    pairs = integers(widths)
    axes = [len(x.shape) - 1 - n for n in range(len(pairs) // 2)]
    given = g.ints(*pairs[::2], *pairs[1::2])
    return g("Pad", x, given, g.constant(number(value, x.dtype), x.dtype), g.ints(*axes))


def _repeat(g: Graph, x: Argument, *, repeats: str) -> str:
    times = written_shape(repeats)
    more = len(times) - len(x.shape)
    whole = g.reshape(x, *(1 for _ in range(more)), *x.shape) if more else x
    return g("Tile", whole, g.ints(*times))


def _as_strided(g: Graph, x: Argument, *, shape: str, stride: str, offset: int) -> str:
    sizes, steps = written_shape(shape), written_shape(stride)
    at = offset + sum(
        (np.indices(sizes)[n] * step for n, step in enumerate(steps)), np.zeros(sizes, np.int64)
    )
    return g("Gather", g.reshape(x, -1), g.constant(at, _I64))


def _top_p_mask(g: Graph, p: Argument, *, threshold: float) -> str:
    high, axis, size = wide(p.dtype), len(p.shape) - 1, p.shape[-1]
    total = g("CumSum", g.cast(p, high), g.constant(np.int64(axis), _I64))
    beyond = g("Greater", total, g.constant(threshold, high))
    first = g.constant(np.zeros((*p.shape[:-1], 1), bool), DTYPES["bool"])
    return g("Not", g("Concat", first, g.cut(beyond, axis, 0, size - 1), axis=axis))


def _penalties(
    g: Graph, logits: Argument, tokens: Argument, *, repetition: float, frequency: float, presence: float
) -> Value:
    """A token beyond the vocabulary is padding: it is counted in a column that is cut off."""
    high, (rows, vocabulary) = wide(logits.dtype), logits.shape
    none, factor = g.constant(0.0, high), g.constant(repetition, high)
    counts = _counted(g, zeros(g, g.ints(rows, vocabulary + 1), _I64), tokens, 1)
    counts = g.cut(counts, 1, 0, vocabulary)
    seen = g("Greater", counts, g.constant(np.int64(0), _I64))
    x = g.cast(logits, high)
    scaled = g("Where", g("Greater", x, none), g("Div", x, factor), g("Mul", x, factor))
    y: Value = g("Where", seen, scaled, x)
    for each, by in ((counts, frequency), (seen, presence)):
        y = g("Sub", y, g("Mul", g("Cast", each, to=high), g.constant(by, high)))
    return y if high == logits.dtype else g.cast(y, logits.dtype)


INDEXING_OPS: dict[str, Callable[..., Any]] = {
    "as_strided": _as_strided,
    "bincount": _bincount,
    "expand": lambda g, x, *, shape: g("Expand", x, g.ints(*written_shape(shape))),
    "flip": _flip,
    "index_select": lambda g, x, index, *, dim: g("Gather", x, index, axis=dim),
    "masked_fill": _masked_fill,
    "masked_select": _masked_select,
    "nonzero": lambda g, x: g("Transpose", g("NonZero", x), perm=(1, 0)),
    "pad": _pad,
    "penalties": _penalties,
    "repeat": _repeat,
    "roll": _roll,
    "scatter": _scatter,
    "scatter_reduce": _scatter_reduce,
    "searchsorted": _searchsorted,
    "split": _split,
    "stack": _stack,
    "take_along_dim": _take_along_dim,
    "top_p_mask": _top_p_mask,
    "unique": _unique,
}
