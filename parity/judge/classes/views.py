"""Ops that arrange elements, and what is written through a view: numpy on raw bits, exact.

A view has no bits of its own, so nothing here is one: positions are computed and elements taken.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import numpy.typing as npt

from parity.backend.indexing import parse_index
from parity.case.dtype import Kind
from parity.case.family import dims
from parity.case.tensor import HostTensor
from parity.case.written import integers
from parity.judge.budget import Exact, Expected, Question
from parity.judge.classes.indexing import filled, raw, up_to_nan

__all__ = [
    "as_strided",
    "expand",
    "far_rows",
    "flip",
    "negate_view",
    "pad",
    "repeat",
    "roll",
    "slice_move",
    "split",
    "stack",
]

_Array = npt.NDArray[np.generic]
_Ints = npt.NDArray[np.int64]


def _exact(q: Question, *results: _Array) -> tuple[Expected, ...]:
    return tuple(Exact(bits=HostTensor.of(y, q.dtype)) for y in results)


def _positions(x: _Array) -> _Ints:
    """Return the row-major number of each element of x, in its shape."""
    return np.arange(x.size, dtype=np.int64).reshape(x.shape)


def roll(q: Question) -> tuple[Expected, ...]:
    """y[(i + shift) mod n] = x[i] along dim, or over all elements in row-major order, bit for bit."""
    dim = q.attrs["dim"]
    assert dim is None or isinstance(dim, int)
    return _exact(q, np.roll(raw(q, 0), q.integer("shift"), axis=dim))


def flip(q: Question) -> tuple[Expected, ...]:
    """y[n - 1 - i] = x[i] along each of dims, bit for bit."""
    return _exact(q, np.flip(raw(q, 0), axis=integers(str(q.attrs["dims"]))))


def stack(q: Question) -> tuple[Expected, ...]:
    """y[i] = the i-th tensor along a new dimension dim, bit for bit."""
    return _exact(q, np.stack([t.array() for t in q.raw if t is not None], axis=q.integer("dim")))


def split(q: Question) -> tuple[Expected, ...]:
    """Consecutive parts of x along dim, of these sizes, bit for bit."""
    ends = list(accumulate(dims(str(q.attrs["sizes"]))))
    return _exact(q, *np.split(raw(q, 0), ends[:-1], axis=q.integer("dim")))


def pad(q: Question) -> tuple[Expected, ...]:
    """x with value before and after each dimension, the last first, bit for bit; a negative width cuts."""
    y, widths = raw(q, 0), integers(str(q.attrs["widths"]))
    value = filled(str(q.attrs["value"]), q.dtype)
    for number, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        dim = y.ndim - 1 - number
        # Element i of the result is element i - before of x, where there is one.
        at = np.arange(y.shape[dim] + before + after) - before
        inside = (at >= 0) & (at < y.shape[dim])
        if not y.shape[dim]:
            y = np.broadcast_to(value, (*y.shape[:dim], at.size, *y.shape[dim + 1 :]))
            continue
        taken = np.take(y, np.where(inside, at, 0), axis=dim)
        y = np.where(inside.reshape(-1, *[1] * (y.ndim - 1 - dim)), taken, value)
    return _exact(q, np.ascontiguousarray(y))


def repeat(q: Question) -> tuple[Expected, ...]:
    """y[i] = x[i mod n] along each dimension, of which there may be more than x has, bit for bit."""
    return _exact(q, np.tile(raw(q, 0), dims(str(q.attrs["repeats"]))))


def expand(q: Question) -> tuple[Expected, ...]:
    """y[i, j] = x[0, j] where x has one element along a dimension, or lacks it, bit for bit."""
    return _exact(q, np.broadcast_to(raw(q, 0), dims(str(q.attrs["shape"]))))


def as_strided(q: Question) -> tuple[Expected, ...]:
    """y[i, j] = the element of x with row-major number offset + i s_0 + j s_1, bit for bit."""
    shape, stride = dims(str(q.attrs["shape"])), dims(str(q.attrs["stride"]))
    at = np.full(shape, q.integer("offset"), np.int64)
    for i, step in zip(np.indices(shape), stride, strict=True):
        at += i * step
    return _exact(q, np.ascontiguousarray(raw(q, 0)).reshape(-1)[at])


def slice_move(q: Question) -> tuple[Expected, ...]:
    """y = x, then y[target] = x[source]: all of it as x was before, whatever overlaps, bit for bit."""
    x, source, target = raw(q, 0), str(q.attrs["source"]), str(q.attrs["target"])
    at = _positions(x)
    result = np.array(x, order="C")
    result.reshape(-1)[at[parse_index(target)].reshape(-1)] = x[parse_index(source)].reshape(-1)
    return _exact(q, result)


def negate_view(q: Question) -> tuple[Expected, ...]:
    """y = x but for the elements of x[index], of x with its last dimensions swapped where `swapped`.

    Those are negated: the sign bit of a float, two's complement of an integer, not of a boolean. A NaN
    may have any sign and payload (IEEE 754 lets only the operations on bits keep it).
    """
    x, of = raw(q, 0), q.dtype
    at = _positions(x)
    at = (at.swapaxes(-1, -2) if q.attrs["swapped"] else at)[parse_index(str(q.attrs["index"]))]
    flat = np.array(x, order="C").reshape(-1)
    if of.kind is not Kind.FLOAT:
        flat[at] = np.logical_not(flat[at]) if of.kind is Kind.BOOL else np.negative(flat[at])
        return _exact(q, flat.reshape(x.shape))
    code = flat.view(f"u{of.itemsize}")
    code[at] ^= np.array(1 << (of.bits - 1), code.dtype)
    negated = np.zeros(x.size, np.bool_)
    negated[at] = True
    return (up_to_nan(HostTensor.of(flat.reshape(x.shape), of), negated.reshape(x.shape)),)


def far_rows(q: Question) -> tuple[Expected, ...]:
    """The rows of x, then the rows `back` before where each was written: one of x, or zeros. Bit for bit.

    An address that is cut to fewer bits in the same way when it is written and when it is read gives
    the rows of x all the same; the rows before them, near ones, then hold what was to be far.
    """
    x, step, back = raw(q, 0), q.integer("step"), q.integer("back")
    before = np.zeros_like(x)
    for row in range(len(x)):
        other, rest = divmod(row * step - back, step)
        if not rest and 0 <= other < len(x):
            before[row] = x[other]
    return _exact(q, np.concatenate((x, before)))
