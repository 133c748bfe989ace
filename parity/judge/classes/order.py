"""Order: no tolerance, but ties are free. The values are exact and each index must point at its value."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from parity.case.dtype import DTYPES, decode
from parity.case.tensor import HostTensor
from parity.judge.budget import Expected, Question, SetValued

__all__ = ["argmax", "sort", "topk"]

_Mask = npt.NDArray[np.bool_]
_T = TypeVar("_T", bound=np.generic)


def _order_key(tensor: HostTensor) -> npt.NDArray[np.generic]:
    """Return values that order as torch does: NaN above everything, −0 equal to 0.

    Integers stay what they are: beyond 2^53 they would collide in float64.
    """
    array = tensor.array()
    if not tensor.dtype.is_float:
        return array
    flat = np.asarray(array, order="C").reshape(-1)
    return decode(flat.view(f"u{tensor.dtype.itemsize}"), tensor.dtype).reshape(tensor.shape)


def _last(array: npt.NDArray[_T], dim: int) -> npt.NDArray[_T]:
    return np.moveaxis(array, dim, -1) if array.ndim else array.reshape(1)


def topk(q: Question) -> tuple[Expected, ...]:
    """The k largest, sorted, with indices: values equal the sorted input exactly, each index is used
    once a row and points at its value; which of equal elements is taken is free."""
    return _ranked(q, k=q.integer("k"), descending=bool(q.attrs["largest"]), stable=False)


def sort(q: Question) -> tuple[Expected, ...]:
    """All elements in order, with indices: as topk; equal elements keep their order when stable."""
    x = q.raw[0]
    assert x is not None
    dim = q.integer("dim")
    k = x.shape[dim] if x.shape else 1
    return _ranked(q, k=k, descending=bool(q.attrs["descending"]), stable=bool(q.attrs["stable"]))


def _ranked(q: Question, *, k: int, descending: bool, stable: bool) -> tuple[Expected, ...]:
    x, dim = q.raw[0], q.integer("dim")
    assert x is not None
    keys = _last(_order_key(x), dim)
    # NaN ranks as larger than infinity.
    ranks = np.where(np.isnan(keys), np.inf, keys) if x.dtype.is_float else keys
    nan_last = np.lexsort((np.isnan(keys), ranks), axis=-1)
    order = nan_last[..., ::-1] if descending else nan_last
    expected = np.take_along_axis(keys, order, -1)[..., :k]
    shape = list(x.shape)
    if shape:
        shape[dim] = k

    def wrong_values(outputs: tuple[HostTensor, ...]) -> _Mask:
        got = _last(_order_key(outputs[0]), dim)
        return _back(~_same(got, expected), dim, tuple(shape))

    def wrong_indices(outputs: tuple[HostTensor, ...]) -> _Mask:
        index = _last(outputs[1].array().astype(np.int64), dim)
        bad = (index < 0) | (index >= keys.shape[-1])
        inside = np.where(bad, 0, index)
        bad |= ~_same(np.take_along_axis(keys, inside, -1), expected)
        bad |= _repeated(index)
        if stable:
            tied = _same(expected[..., 1:], expected[..., :-1])
            bad[..., 1:] |= tied & (index[..., 1:] <= index[..., :-1])
        return _back(bad, dim, tuple(shape))

    rule = "values in exact order, every index used once and pointing at its value; ties are free"
    return (
        SetValued(dtype=x.dtype, shape=tuple(shape), wrong=wrong_values, rule=rule),
        SetValued(dtype=DTYPES["i64"], shape=tuple(shape), wrong=wrong_indices, rule=rule),
    )


def _same(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> _Mask:
    return (a == b) | (np.isnan(a) & np.isnan(b))  # type: ignore[no-any-return]  # numpy's ufunc stubs lose the type


def _repeated(index: npt.NDArray[np.int64]) -> _Mask:
    """Mark indices that stand more than once in their row."""
    order = np.argsort(index, axis=-1, kind="stable")
    ordered = np.take_along_axis(index, order, -1)
    twin = np.zeros(index.shape, np.bool_)
    equal = ordered[..., 1:] == ordered[..., :-1]
    twin[..., 1:] |= equal
    twin[..., :-1] |= equal
    result = np.zeros(index.shape, np.bool_)
    np.put_along_axis(result, order, twin, -1)
    return result


def _back(mask: _Mask, dim: int, shape: tuple[int, ...]) -> _Mask:
    return np.moveaxis(mask, -1, dim) if shape else mask.reshape(())


def argmax(q: Question) -> tuple[Expected, ...]:
    """Index of a largest element; any of several equal ones is right, and a NaN is the largest."""
    x, dim = q.raw[0], q.integer("dim")
    assert x is not None
    keys = _last(_order_key(x), dim)
    top = np.max(keys, axis=-1, keepdims=True)
    largest = _same(keys, np.broadcast_to(top, keys.shape))
    shape = list(x.shape)
    if shape:
        shape[dim : dim + 1 or None] = [1] if q.attrs["keepdim"] else []

    def wrong(outputs: tuple[HostTensor, ...]) -> _Mask:
        index = outputs[0].array().astype(np.int64).reshape(keys.shape[:-1])[..., None]
        bad = (index < 0) | (index >= keys.shape[-1])
        bad |= ~np.take_along_axis(largest, np.where(bad, 0, index), -1)
        return np.asarray(bad[..., 0]).reshape(shape)

    rule = "the index of any largest element"
    return (SetValued(dtype=DTYPES["i64"], shape=tuple(shape), wrong=wrong, rule=rule),)
