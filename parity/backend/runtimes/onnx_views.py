"""Slices, and what torch does through views of one memory, in ONNX: as exporters write it.

ONNX has no memory that two tensors share. What is written through a view is a new tensor, in which
`ScatterElements` or `ScatterND` put other elements where the view stood. Imports no SDK.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from parity.backend.base import Unsupported
from parity.backend.indexing import Index, parse_index
from parity.backend.runtimes.onnx_graph import Argument, Graph, Value
from parity.backend.runtimes.onnx_shared import zeros
from parity.case.dtype import DTYPES

__all__ = ["VIEW_OPS"]


def _slice(g: Graph, x: Argument, *, index: str) -> str:
    """Slices of all dimensions at once, then lists, single elements and new axes."""
    items = _spelled_out(parse_index(index), len(x.shape))
    y: Value = x
    per_dim = list(zip([i for i in items if i is not None], x.shape, strict=True))
    ranges = [_range(i, size) for i, size in per_dim]
    cuts = [
        (axis, r)
        for axis, (r, (_, size)) in enumerate(zip(ranges, per_dim, strict=True))
        if r != (0, size, 1)
    ]
    if cuts:
        axes = [axis for axis, _ in cuts]
        bounds = [g.ints(*(r[part] for _, r in cuts)) for part in range(3)]
        y = g("Slice", y, bounds[0], bounds[1], g.ints(*axes), bounds[2])
    lists = [(axis, i) for axis, (i, _) in enumerate(per_dim) if isinstance(i, list)]
    if len(lists) > 1:
        raise Unsupported(f"index '{index}' has several lists, which Gather does not join")
    for axis, taken in lists:
        y = g("Gather", y, g.ints(*taken), axis=axis)
    single = [axis for axis, (i, _) in enumerate(per_dim) if isinstance(i, int)]
    if single:
        y = g("Squeeze", y, g.ints(*single))
    kept = [i for i in items if not isinstance(i, int)]
    new = [axis for axis, i in enumerate(kept) if i is None]
    if new:
        y = g("Unsqueeze", y, g.ints(*new))
    return g("Identity", y) if isinstance(y, Argument) else y


def _spelled_out(index: tuple[Index, ...], dims: int) -> list[int | slice | list[int] | None]:
    """Return an index without `...`, one item for each dimension beside the new ones."""
    given = sum(1 for i in index if i is not None and i is not ...)
    rest: list[int | slice | list[int] | None] = [slice(None)] * (dims - given)
    if ... not in index:
        index = (*index, ...)
    items: list[int | slice | list[int] | None] = []
    for item in index:
        if item is ...:
            items += rest
        else:
            assert not isinstance(item, type(...))
            items.append(item)
    return items


def _range(item: int | slice | list[int] | None, size: int) -> tuple[int, int, int]:
    if isinstance(item, slice):
        return item.indices(size)
    if isinstance(item, int):
        at = item % size
        return at, at + 1, 1
    return 0, size, 1


def _slice_assign(g: Graph, x: Argument, values: Argument, *, index: str) -> str:
    """`ScatterElements` over the flat tensor, as exporters write it."""
    places = _places(x)[parse_index(index)]
    spread: Value = values
    if values.shape != places.shape:
        spread = g("Expand", values, g.ints(*places.shape))
    return _put(g, x, places, spread)


def _places(x: Argument) -> npt.NDArray[np.int64]:
    """The row-major number of each element of x."""
    return np.arange(int(np.prod(x.shape))).reshape(x.shape)


def _put(g: Graph, x: Argument, places: npt.NDArray[np.int64], values: Value) -> str:
    """Return x with `values` at the elements of these numbers."""
    flat = g.reshape(x, int(np.prod(x.shape)))
    y = g("ScatterElements", flat, g.ints(*places.ravel().tolist()), g.reshape(values, places.size), axis=0)
    return g.reshape(y, *x.shape)


def _slice_move(g: Graph, x: Argument, *, target: str, source: str, cloned: bool) -> str:
    """What is moved is a tensor of its own in either case."""
    del cloned
    moved = g.reshape(_slice(g, x, index=source), -1)
    return _put(g, x, _places(x)[parse_index(target)], moved)


def _negate_view(g: Graph, x: Argument, *, index: str, swapped: bool) -> str:
    places = _places(x)
    places = (places.swapaxes(-1, -2) if swapped else places)[parse_index(index)]
    seen = g("Gather", g.reshape(x, -1), g.ints(*places.ravel().tolist()))
    return _put(g, x, places, g("Not" if x.dtype.name == "bool" else "Neg", seen))


def _far_rows(g: Graph, x: Argument, *, first: int, step: int, back: int) -> str:
    rows, columns = x.shape
    at = first + step * np.arange(rows)
    buffer = zeros(g, g.ints(first + rows * step, columns), x.dtype)
    written = g("ScatterND", buffer, g.constant(at[:, None], DTYPES["i64"]), x)
    return g("Concat", *(g("Gather", written, g.ints(*each.tolist())) for each in (at, at - back)), axis=0)


VIEW_OPS: dict[str, Callable[..., Any]] = {
    "far_rows": _far_rows,
    "negate_view": _negate_view,
    "slice": _slice,
    "slice_assign": _slice_assign,
    "slice_move": _slice_move,
}
