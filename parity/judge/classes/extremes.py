"""The largest and smallest along a dimension, and argsort: values are exact, ties are free.

A NaN is the extreme of its row whichever is asked for, as torch, numpy and jax have it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from parity.case.dtype import DTYPES, decode
from parity.case.tensor import HostTensor
from parity.judge.budget import Expected, Question, SetValued
from parity.judge.classes.order import sort

__all__ = ["amax", "amin", "argsort", "max_", "min_"]

_Mask = npt.NDArray[np.bool_]
_Array = npt.NDArray[np.generic]


def amax(q: Question) -> tuple[Expected, ...]:
    """The largest element over dim: a NaN if there is one; of zeros either sign."""
    return _extremes(q, largest=True)[:1]


def amin(q: Question) -> tuple[Expected, ...]:
    """The smallest element over dim: a NaN if there is one; of zeros either sign."""
    return _extremes(q, largest=False)[:1]


def max_(q: Question) -> tuple[Expected, ...]:
    """The largest element over dim as amax, and the index of any element that is it."""
    return _extremes(q, largest=True)


def min_(q: Question) -> tuple[Expected, ...]:
    """The smallest element over dim as amin, and the index of any element that is it."""
    return _extremes(q, largest=False)


def argsort(q: Question) -> tuple[Expected, ...]:
    """Indices by the rule of sort: each once a row, pointing at its value; a stable sort keeps ties."""
    _, indices = sort(q)
    assert isinstance(indices, SetValued)
    wrong = indices.wrong
    rule = "every index used once, in the exact order of what it points at; ties are free unless stable"
    return (
        SetValued(
            dtype=DTYPES["i64"], shape=indices.shape, wrong=lambda out: wrong((out[0], out[0])), rule=rule
        ),
    )


def _extremes(q: Question, *, largest: bool) -> tuple[SetValued, SetValued]:
    x, dim = q.raw[0], q.integer("dim")
    assert x is not None
    keys = _last(_numbers(x), dim)
    top = (np.max if largest else np.min)(keys, axis=-1)
    is_top = _same(keys, top[..., None])
    shape = list(x.shape)
    if shape:
        shape[dim : dim + 1 or None] = [1] if q.attrs["keepdim"] else []

    def wrong_values(outputs: tuple[HostTensor, ...]) -> _Mask:
        return ~_same(_numbers(outputs[0]), top.reshape(shape))

    def wrong_indices(outputs: tuple[HostTensor, ...]) -> _Mask:
        index = outputs[1].array().astype(np.int64).reshape(top.shape)[..., None]
        bad = (index < 0) | (index >= keys.shape[-1])
        bad |= ~np.take_along_axis(is_top, np.where(bad, 0, index), -1)
        return np.asarray(bad[..., 0]).reshape(shape)

    kind = "largest" if largest else "smallest"
    rules = (f"the {kind} element, to the bit but for the sign of zero", f"the index of any {kind} element")
    return (
        SetValued(dtype=x.dtype, shape=tuple(shape), wrong=wrong_values, rule=rules[0]),
        SetValued(dtype=DTYPES["i64"], shape=tuple(shape), wrong=wrong_indices, rule=rules[1]),
    )


def _numbers(tensor: HostTensor) -> _Array:
    """Return floats in float64, and integers as they are: beyond 2^53 they would collide."""
    array = np.asarray(tensor.array(), order="C")
    if not tensor.dtype.is_float:
        return array
    return decode(array.reshape(-1).view(f"u{tensor.dtype.itemsize}"), tensor.dtype).reshape(tensor.shape)


def _last(array: _Array, dim: int) -> _Array:
    return np.moveaxis(array, dim, -1) if array.ndim else array.reshape(1)


def _same(a: _Array, b: _Array) -> _Mask:
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)))
