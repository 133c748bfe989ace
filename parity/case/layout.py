"""Where the same values lie in memory: contiguous, or the ways in which model code gets a view.

Everything around a view is poison, NaN or an extreme integer, so that a kernel that reads past a
stride or an offset is noticed. Does not make values.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from parity.case.dtype import DType, Kind, encode
from parity.case.tensor import HostTensor, contiguous_stride

__all__ = ["LAYOUTS", "OFFSET", "fits", "place"]

# Not a multiple of any vector width, so that an aligned load is never an accident.
OFFSET = 7

_Array = npt.NDArray[np.generic]


def fits(layout: str, shape: tuple[int, ...]) -> bool:
    """Whether a layout says anything about a shape: no transposed vector, no expanded scalar."""
    match layout:
        case "transposed":
            return len(shape) >= 2
        case "heads":
            return len(shape) >= 3
        case "strided":
            return len(shape) >= 1
        case "expanded":
            return math.prod(shape) > 1
        case _:
            return True


def place(values: _Array, dtype: DType, layout: str) -> HostTensor:
    """Lay out an array of `dtype.storage`; the shape stays, storage, strides and offset change."""
    return LAYOUTS[layout](values, dtype)


def _contiguous(values: _Array, dtype: DType) -> HostTensor:
    flat = np.ascontiguousarray(values).reshape(-1)
    return _view(values, dtype, flat, contiguous_stride(values.shape))


def _transposed(values: _Array, dtype: DType) -> HostTensor:
    """Swap the last two dimensions in memory: what `x.transpose(-1, -2)` leaves behind."""
    swapped = np.ascontiguousarray(np.swapaxes(values, -1, -2))
    *outer, last, before = contiguous_stride(swapped.shape)
    return _view(values, dtype, swapped.reshape(-1), (*outer, before, last))


def _heads(values: _Array, dtype: DType) -> HostTensor:
    """Swap dimensions -3 and -2 in memory: heads after `x.view(B, T, H, D).transpose(1, 2)`."""
    swapped = np.ascontiguousarray(np.swapaxes(values, -3, -2))
    *outer, second, first, last = contiguous_stride(swapped.shape)
    return _view(values, dtype, swapped.reshape(-1), (*outer, first, second, last))


def _strided(values: _Array, dtype: DType) -> HostTensor:
    """Every second element of a twice as large storage, poison between: `x[..., ::2]`."""
    flat = np.ascontiguousarray(values).reshape(-1)
    storage = np.empty(2 * flat.size, dtype=flat.dtype)
    storage[::2] = flat
    storage[1::2] = _poison(flat, dtype)
    return _view(values, dtype, storage, tuple(2 * s for s in contiguous_stride(values.shape)))


def _offset(values: _Array, dtype: DType) -> HostTensor:
    """A view that starts and ends inside a larger storage: `x[1:-1]` of a packed buffer."""
    flat = np.ascontiguousarray(values).reshape(-1)
    ends = _poison(flat[[0, -1]] if flat.size else np.zeros(2, dtype.storage), dtype)
    storage = np.concatenate([np.repeat(ends[:1], OFFSET), flat, np.repeat(ends[-1:], OFFSET)])
    return _view(values, dtype, storage, contiguous_stride(values.shape), offset=OFFSET)


def _expanded(values: _Array, dtype: DType) -> HostTensor:
    """Stride 0 along the first dimension longer than 1, whose first entry all others repeat."""
    axis = next(i for i, n in enumerate(values.shape) if n > 1)
    kept = values.take([0], axis=axis)
    stride = tuple(0 if i == axis else s for i, s in enumerate(contiguous_stride(kept.shape)))
    return _view(values, dtype, np.ascontiguousarray(kept).reshape(-1), stride)


def _view(
    values: _Array, dtype: DType, storage: _Array, stride: tuple[int, ...], *, offset: int = 0
) -> HostTensor:
    return HostTensor(dtype=dtype, storage=storage, shape=values.shape, stride=stride, offset=offset)


def _poison(neighbours: _Array, dtype: DType) -> _Array:
    """Return what must never be read beside each neighbour, or one for all.

    A boolean has only its opposite.
    """
    match dtype.kind:
        case Kind.BOOL:
            return np.logical_not(neighbours)
        case Kind.INT:
            extreme = np.iinfo(dtype.storage).min if dtype.signed else np.iinfo(dtype.storage).max
            return np.full((1,), extreme, dtype=dtype.storage)
        case Kind.FLOAT:
            return encode(np.full((1,), np.nan), dtype).view(dtype.storage)


LAYOUTS: dict[str, Callable[[_Array, DType], HostTensor]] = {
    "contiguous": _contiguous,
    "transposed": _transposed,
    "heads": _heads,
    "strided": _strided,
    "offset": _offset,
    "expanded": _expanded,
}
