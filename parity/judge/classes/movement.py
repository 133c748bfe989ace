"""Ops that move or select elements: the result is exact to the bit, computed by numpy on raw bits.

Independent of torch on purpose, and blind to values: a NaN keeps its payload when it is moved.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from parity.backend.indexing import parse_index
from parity.case.dtype import DTYPES
from parity.case.family import dims
from parity.case.tensor import HostTensor
from parity.errors import GoldenError
from parity.judge.budget import Exact, Expected, Question, SetValued
from parity.judge.classes.sums import index_put as accumulated_index_put

__all__ = [
    "cat",
    "copy",
    "embedding",
    "gather",
    "index",
    "index_put",
    "reshape",
    "slice_",
    "slice_assign",
    "tril",
    "triu",
    "triu_indices",
    "where",
]

_Array = npt.NDArray[np.generic]


def _arrays(q: Question) -> list[_Array]:
    return [t.array() for t in q.raw if t is not None]


def _integers(q: Question, position: int) -> npt.NDArray[np.int64]:
    tensor = q.raw[position]
    assert tensor is not None
    return tensor.array().astype(np.int64)


def _exact(q: Question, result: _Array, *, source: int = 0) -> tuple[Expected, ...]:
    like = q.raw[source]
    assert like is not None
    return (Exact(bits=HostTensor.of(result, like.dtype)),)


def copy(q: Question) -> tuple[Expected, ...]:
    """y = x, bit for bit, whatever its layout was."""
    return _exact(q, _arrays(q)[0])


def reshape(q: Question) -> tuple[Expected, ...]:
    """y = the elements of x in row-major order, bit for bit."""
    return _exact(q, np.reshape(_arrays(q)[0], dims(str(q.attrs["shape"]))))


def embedding(q: Question) -> tuple[Expected, ...]:
    """y = table[ids], bit for bit."""
    table, ids = _arrays(q)
    return _exact(q, table[ids])


def gather(q: Question) -> tuple[Expected, ...]:
    """y[i, j] = x[index[i, j], j] (for dim 0), bit for bit; index may be smaller than x."""
    x, index = _arrays(q)[0], _integers(q, 1)
    dim = q.integer("dim") % max(x.ndim, 1)
    x = x[tuple(slice(None) if i == dim else slice(n) for i, n in enumerate(index.shape))]
    return _exact(q, np.take_along_axis(x, index, axis=dim))


def index(q: Question) -> tuple[Expected, ...]:
    """y = x[index] along the first dimension, bit for bit; -1 is the last row."""
    return _exact(q, _arrays(q)[0][_integers(q, 1)])


def where(q: Question) -> tuple[Expected, ...]:
    """y = a where condition else b, bit for bit."""
    condition, a, b = _arrays(q)
    return _exact(q, np.where(condition, a, b), source=1)


def cat(q: Question) -> tuple[Expected, ...]:
    """y = the tensors joined along dim, bit for bit.

    Raises GoldenError where they are of several types, which an earlier step of the target gave.
    """
    types = {t.dtype.name for t in q.raw if t is not None}
    if len(types) > 1:
        raise GoldenError(f"{q.op}: joins {', '.join(sorted(types))}, which are no one type")
    return _exact(q, np.concatenate(_arrays(q), axis=q.integer("dim")))


def tril(q: Question) -> tuple[Expected, ...]:
    """y = x on and below the diagonal, +0 above, bit for bit."""
    return _exact(q, _triangle(q, lower=True))


def triu(q: Question) -> tuple[Expected, ...]:
    """y = x on and above the diagonal, +0 below, bit for bit."""
    return _exact(q, _triangle(q, lower=False))


def _triangle(q: Question, *, lower: bool) -> _Array:
    x = _arrays(q)[0]
    row, column = np.arange(x.shape[-2])[:, None], np.arange(x.shape[-1])[None, :]
    offset = column - row
    keep = offset <= q.integer("diagonal") if lower else offset >= q.integer("diagonal")
    return np.where(keep, x, np.zeros((), x.dtype))


def triu_indices(q: Question) -> tuple[Expected, ...]:
    """Rows and columns of the elements with column - row >= offset, row by row, int64."""
    row = np.arange(q.integer("rows"))[:, None]
    column = np.arange(q.integer("columns"))[None, :]
    indices = np.stack(np.nonzero(column - row >= q.integer("offset"))).astype(np.int64)
    return (Exact(bits=HostTensor.of(indices, DTYPES["i64"])),)


def slice_(q: Question) -> tuple[Expected, ...]:
    """y = x[index], bit for bit, with numpy's reading of the same Python index."""
    return _exact(q, _arrays(q)[0][parse_index(str(q.attrs["index"]))])


def slice_assign(q: Question) -> tuple[Expected, ...]:
    """y = a copy of x with x[index] = values, bit for bit."""
    x, values = _arrays(q)
    result = np.array(x)
    result[parse_index(str(q.attrs["index"]))] = values
    return _exact(q, result)


def index_put(q: Question) -> tuple[Expected, ...]:
    """y = x with rows at index replaced: bit for bit, any of the values where an index repeats.

    The accumulating form is a sum and is judged as one.
    """
    if q.attrs["accumulate"]:
        return accumulated_index_put(q)
    x, _, values = _arrays(q)
    index = _integers(q, 1)
    rows = np.broadcast_to(values, (*index.shape, *x.shape[1:])).reshape(-1, *x.shape[1:])
    index = np.where(index < 0, index + x.shape[0], index).reshape(-1)
    result = np.array(x)
    result[index] = rows
    if np.unique(index).size == index.size:
        return _exact(q, result)
    like = q.raw[0]
    assert like is not None

    def wrong(outputs: tuple[HostTensor, ...]) -> npt.NDArray[np.bool_]:
        got = _bits(np.asarray(outputs[0].array(), order="C"))
        bad: npt.NDArray[np.bool_] = got != _bits(result)
        for row in np.unique(index):
            written = _bits(np.asarray(rows[index == row], order="C"))
            bad[row] = ~(written == got[row]).any(0)
        return bad

    rule = "each repeated index keeps one of the values written to it"
    return (SetValued(dtype=like.dtype, shape=like.shape, wrong=wrong, rule=rule),)


def _bits(array: _Array) -> _Array:
    return array.view(f"u{array.dtype.itemsize}")
