"""Ops that take or write at indices, count, and search: numpy on raw bits, exact but where a rule says.

Values are compared as their types order them: -0 equals 0, and NaN stands above everything. Sums of
what meets at an index are in `reduced`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from parity.case.dtype import DTYPES, DType, decode, encode
from parity.case.tensor import HostTensor, contiguous_stride
from parity.case.written import number
from parity.judge.budget import Exact, Expected, Question, SetValued

__all__ = [
    "filled",
    "index_select",
    "masked_fill",
    "masked_select",
    "nonzero",
    "raw",
    "scatter",
    "searchsorted",
    "slots",
    "take_along_dim",
    "unique",
    "up_to_nan",
]

_Array = npt.NDArray[np.generic]
_Ints = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]
_I64 = DTYPES["i64"]


def raw(q: Question, position: int) -> _Array:
    """Return an input's elements in their storage type."""
    tensor = q.raw[position]
    assert tensor is not None
    return tensor.array()


def _exact(array: _Array, dtype: DType) -> tuple[Expected, ...]:
    return (Exact(bits=HostTensor.of(np.asarray(array), dtype)),)


def filled(value: str, of: DType) -> _Array:
    """Return an attribute's value as one element of a type: a float is rounded once."""
    meant = number(value, of)
    if of.is_float:
        return encode(np.array(float(meant)), of).view(of.storage)
    return np.array(meant, of.storage)


def up_to_nan(bits: HostTensor, where: _Mask, *, signed_zero: bool = True) -> SetValued:
    """Return bits of floats; `where` an operation made them, a NaN may have any payload.

    Without `signed_zero` a zero there may have either sign.
    """
    right, wanted = _bits(bits.array()), decode(_bits(bits.array()), bits.dtype)
    loose = where.reshape(-1) & (np.isnan(wanted) | ((wanted == 0) & (not signed_zero)))

    def wrong(outputs: tuple[HostTensor, ...]) -> _Mask:
        code = _bits(outputs[0].array())
        got = decode(code, bits.dtype)
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        bad: _Mask = (code != right) & ~(loose & same)
        return bad.reshape(bits.shape)

    return SetValued(dtype=bits.dtype, shape=bits.shape, wrong=wrong, rule="must be equal to the bit")


def slots(index: _Ints, shape: tuple[int, ...], dim: int) -> _Ints:
    """Return the row-major position in a tensor of `shape` that each index along `dim` points at."""
    stride = contiguous_stride(shape)
    at = index * stride[dim]
    for axis, length in enumerate(index.shape):
        if axis != dim:
            at = at + stride[axis] * np.arange(length).reshape(-1, *[1] * (index.ndim - 1 - axis))
    return at


def take_along_dim(q: Question) -> tuple[Expected, ...]:
    """y[i, j] = x[index[i, j], j] (for dim 0), bit for bit; x and index broadcast along the others."""
    x, index, dim = raw(q, 0), raw(q, 1).astype(np.int64), q.integer("dim") % raw(q, 0).ndim
    shape = list(np.broadcast_shapes(_without(x.shape, dim), _without(index.shape, dim)))
    of = np.broadcast_to(x, (*shape[:dim], x.shape[dim], *shape[dim:]))
    at = np.broadcast_to(index, (*shape[:dim], index.shape[dim], *shape[dim:]))
    return _exact(np.take_along_axis(of, at, axis=dim), q.dtype)


def _without(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return (*shape[:dim], *shape[dim + 1 :])


def index_select(q: Question) -> tuple[Expected, ...]:
    """y[:, j] = x[:, index[j]] (for dim 1), bit for bit."""
    return _exact(np.take(raw(q, 0), raw(q, 1).astype(np.int64), axis=q.integer("dim")), q.dtype)


def scatter(q: Question) -> tuple[Expected, ...]:
    """y = x with src written at index along dim: bit for bit, any of the values where an index repeats."""
    x, index, src = raw(q, 0), raw(q, 1).astype(np.int64), raw(q, 2)
    at = slots(index, x.shape, q.integer("dim") % x.ndim).reshape(-1)
    values = np.ascontiguousarray(src[tuple(slice(n) for n in index.shape)]).reshape(-1)
    result = np.array(x, order="C")
    result.reshape(-1)[at] = values
    if np.unique(at).size == at.size:
        return _exact(result, q.dtype)
    untouched = np.ones(x.size, np.bool_)
    untouched[at] = False

    def wrong(outputs: tuple[HostTensor, ...]) -> _Mask:
        got = _bits(outputs[0].array())
        legal = untouched & (got == _bits(result))
        np.logical_or.at(legal, at, got[at] == _bits(values))
        bad: _Mask = ~legal.reshape(x.shape)
        return bad

    rule = "each element keeps one of the values written to it, or its own where none was"
    return (SetValued(dtype=q.dtype, shape=x.shape, wrong=wrong, rule=rule),)


def _bits(array: _Array) -> npt.NDArray[np.unsignedinteger]:
    return np.array(array, order="C").reshape(-1).view(f"u{array.dtype.itemsize}")


def masked_fill(q: Question) -> tuple[Expected, ...]:
    """y = value where mask, else x, bit for bit; value is rounded once to the type of x."""
    return _exact(np.where(raw(q, 1), filled(str(q.attrs["value"]), q.dtype), raw(q, 0)), q.dtype)


def masked_select(q: Question) -> tuple[Expected, ...]:
    """The elements of x where mask, in row-major order, bit for bit; both broadcast."""
    x, mask = np.broadcast_arrays(raw(q, 0), raw(q, 1))
    return _exact(x[mask], q.dtype)


def nonzero(q: Question) -> tuple[Expected, ...]:
    """Positions of all that is not zero, int64 and row-major; -0 is zero, NaN and subnormals are not."""
    return _exact(np.stack(np.nonzero(q.x.numpy() != 0), axis=-1).astype(np.int64), _I64)


def unique(q: Question) -> tuple[Expected, ...]:
    """Distinct values ascending, the position of each element's own, and their counts: exact.

    The sign of zero is free, and the payload of a NaN; each NaN is a value by itself, above all others.
    """
    keys, x = q.x.numpy().reshape(-1), raw(q, 0)
    nan = np.isnan(keys)
    flat = np.ascontiguousarray(x).reshape(-1)
    known, first, back, counts = np.unique(
        keys[~nan], return_index=True, return_inverse=True, return_counts=True
    )
    values = np.concatenate((flat[~nan][first], flat[nan]))
    inverse = np.zeros(keys.shape, np.int64)
    inverse[~nan] = back
    inverse[nan] = np.arange(known.size, values.size)
    amounts = np.concatenate((counts, np.ones(int(nan.sum())))).astype(np.int64)

    def wrong(outputs: tuple[HostTensor, ...]) -> _Mask:
        got = outputs[1].array().reshape(-1).astype(np.int64)
        bad: _Mask = (got != inverse) & ~nan
        # NaN in any order among their places.
        bad |= nan & ((got < known.size) | (got >= values.size) | (np.sum(got == got[:, None], axis=1) > 1))
        return bad.reshape(x.shape)

    rule = "each element points at its value, each NaN at one of its own"
    places = HostTensor.of(inverse.reshape(x.shape), _I64)
    return (
        _up_to_sign_of_zero(values, q.dtype),
        SetValued(dtype=_I64, shape=x.shape, wrong=wrong, rule=rule) if nan.any() else Exact(bits=places),
        Exact(bits=HostTensor.of(amounts, _I64)),
    )


def _up_to_sign_of_zero(array: _Array, dtype: DType) -> Exact:
    bits = HostTensor.of(array, dtype)
    if not dtype.is_float:
        return Exact(bits=bits)
    sign = np.array(1 << (dtype.bits - 1), f"u{dtype.itemsize}")
    code = _bits(array)
    flipped = np.where((code & ~sign) == 0, code ^ sign, code).astype(code.dtype)
    other = HostTensor.of(flipped.view(dtype.storage).reshape(array.shape), dtype)
    return Exact(bits=bits, alternatives=(other,), any_nan=True)


def searchsorted(q: Question) -> tuple[Expected, ...]:
    """int64 count of the elements of each sequence that are below the value, or with right not above it.

    The sequence holds no NaN; a value that is one stands above all of it.
    """
    sequence, values = (t.numpy() for t in q.inputs if t is not None)
    side: Literal["left", "right"] = "right" if q.attrs["right"] else "left"
    length = sequence.shape[-1]
    rows = np.broadcast_to(sequence, (*values.shape[:-1], length)).reshape(-1, length)
    asked = values.reshape(len(rows), -1)
    found = [np.searchsorted(row, each, side=side) for row, each in zip(rows, asked, strict=True)]
    return _exact(np.array(found, np.int64).reshape(values.shape), _I64)
