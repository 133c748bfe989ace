"""Faults of any kernel: in how a result is rounded and stored, and where its elements end up.

Each takes the problem, the result before its last rounding (None for an op that is exact) and the
right outputs, and returns outputs, or None where it has nothing to change.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from parity.case.dtype import DTYPES, DType, Overflow, decode, encode
from parity.case.tensor import HostTensor
from parity.selftest.arithmetic import TILE, nearest
from parity.selftest.problem import Outputs, Problem, store

__all__ = [
    "FAULTS",
    "Array",
    "Fault",
    "bit_flipped",
    "lane_from_neighbour",
    "last_row_not_written",
    "nan_payload_lost",
    "one_element_zero",
    "one_wrong_element",
    "read_by_columns",
    "rows_rolled",
    "stale_row",
    "stale_tile",
    "swapped_tiles",
    "tail_not_written",
    "transposed",
    "zero_sign_lost",
]

_Unrounded = Tensor | tuple[Tensor, ...] | None
Fault = Callable[[Problem, _Unrounded, Outputs, Outputs], Outputs | None]
Array = np.ndarray


def _each(change: Callable[[Array, Array], Array | None]) -> Fault:
    """A fault of where elements end up: the same in every output."""

    def apply(_p: Problem, _y: _Unrounded, right: Outputs, stale: Outputs) -> Outputs | None:
        changed = []
        for tensor, before in zip(right, stale, strict=True):
            if not tensor.numel:  # one of several parts, of nothing
                changed.append(tensor)
                continue
            array = np.array(tensor.array(), order="C")
            old = np.array(before.array(), order="C")
            new = change(array, old if old.shape == array.shape else array)
            if new is None:
                return None
            changed.append(HostTensor.of(np.asarray(new), tensor.dtype))
        return tuple(changed)

    return apply


def _as_rows(array: Array) -> Array:
    """View as [rows, columns]."""
    return array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)


def one_wrong_element(array: Array, _: Array) -> Array | None:
    """One element holds another's value."""
    flat = array.reshape(-1)
    flat[flat.size // 3] = flat[-1]
    return array if flat.size > 1 else None


def one_element_zero(array: Array, _: Array) -> Array:
    """One element was never written."""
    flat = array.reshape(-1)
    flat[flat.size // 3] = 0
    return array


def stale_row(array: Array, _: Array) -> Array | None:
    """A row holds the row before it."""
    rows = _as_rows(array)
    if len(rows) < 2:
        return None
    rows[len(rows) // 2] = rows[len(rows) // 2 - 1]
    return rows.reshape(array.shape)


def stale_tile(array: Array, old: Array) -> Array:
    """A tile holds what the launch before left in the buffer."""
    rows, before = _as_rows(array), _as_rows(old)
    r, c = (max(0, n // TILE - 1) * TILE for n in rows.shape)
    rows[r : r + TILE, c : c + TILE] = before[r : r + TILE, c : c + TILE]
    return rows.reshape(array.shape)


def swapped_tiles(array: Array, _: Array) -> Array | None:
    """Two neighbouring tiles are written to each other's place."""
    rows = _as_rows(array)
    size = min(TILE, rows.shape[1] // 2)
    if not size:
        return None
    a, b = rows[:TILE, :size].copy(), rows[:TILE, size : 2 * size].copy()
    rows[:TILE, :size], rows[:TILE, size : 2 * size] = b, a
    return rows.reshape(array.shape)


def lane_from_neighbour(array: Array, _: Array) -> Array | None:
    """Every 16th lane holds its neighbour's result."""
    flat = array.reshape(-1)
    if flat.size < 2:
        return None
    lanes = np.arange(0, flat.size - 1, TILE)
    flat[lanes] = flat[lanes + 1]
    return array


def tail_not_written(array: Array, old: Array) -> Array:
    """What is beyond the last whole tile keeps what was there."""
    rows, before = _as_rows(array), _as_rows(old)
    tail = rows.shape[1] % TILE or 1
    rows[:, rows.shape[1] - tail :] = before[:, rows.shape[1] - tail :]
    return rows.reshape(array.shape)


def last_row_not_written(array: Array, old: Array) -> Array:
    """The last row keeps what was there."""
    rows = _as_rows(array)
    rows[-1] = _as_rows(old)[-1]
    return rows.reshape(array.shape)


def transposed(array: Array, _: Array) -> Array | None:
    """A square result is stored by columns."""
    if array.ndim < 2 or array.shape[-1] != array.shape[-2]:
        return None
    return np.swapaxes(array, -1, -2)


def read_by_columns(array: Array, _: Array) -> Array | None:
    """A result in column-major memory is read by rows."""
    if array.ndim < 2:
        return None
    return np.swapaxes(array, -1, -2).reshape(array.shape)


def rows_rolled(array: Array, _: Array) -> Array | None:
    """Rows come back one later."""
    return np.roll(array, 1, axis=0) if array.ndim > 1 else None


def bit_flipped(p: Problem, y: _Unrounded, right: Outputs, stale: Outputs) -> Outputs | None:
    """One bit in the middle of a largest finite element: in a zero it would mean nothing."""
    del p, y, stale
    flipped = []
    for tensor in right:
        if not tensor.numel:
            flipped.append(tensor)
            continue
        array = np.array(tensor.array(), order="C")
        code = array.reshape(-1).view(f"u{array.dtype.itemsize}")
        magnitude = code & np.array(2 ** (8 * code.itemsize - 1) - 1, code.dtype)
        if tensor.dtype.is_float:
            magnitude = np.where(magnitude <= tensor.dtype.max_code, magnitude, 0)
            if not magnitude.any():
                return None
        code[int(magnitude.argmax())] ^= 1 << (4 * code.itemsize - 1) if tensor.dtype.name != "bool" else 1
        flipped.append(HostTensor.of(array, tensor.dtype))
    return tuple(flipped)


def _stored(change: Callable[[Tensor, DType], HostTensor | None]) -> Fault:
    """A fault of how a rounded result is stored."""

    def apply(_p: Problem, y: _Unrounded, right: Outputs, _stale: Outputs) -> Outputs | None:
        if y is None:
            return None
        parts = y if isinstance(y, tuple) else (y,)
        made = [change(part, of.dtype) for part, of in zip(parts, right, strict=True)]
        found = tuple(t for t in made if t is not None)
        return found if len(found) == len(made) else None

    return apply


def _cut(y: Tensor, to: DType) -> HostTensor:
    """Rounded to zero."""
    values = y.to(torch.float64).numpy()
    code = encode(values, to, overflow=Overflow.SATURATE)
    larger = np.abs(decode(code, to)) > np.abs(values)
    code = np.where(larger & np.isfinite(values), code - 1, code).astype(code.dtype)
    infinite = encode(values, to)
    return _tensor(np.where(np.isinf(values), infinite, code).astype(code.dtype), to)


def _tensor(code: Array, to: DType) -> HostTensor:
    return HostTensor.of(code.reshape(-1).view(to.storage).reshape(code.shape), to)


def _away(y: Tensor, to: DType) -> HostTensor | None:
    """Rounded away from zero, in a conversion to 16 bits."""
    if to.bits != 16:
        return None
    values = y.to(torch.float64).numpy()
    code = encode(values, to, overflow=Overflow.SATURATE)
    smaller = np.isfinite(values) & (np.abs(decode(code, to)) < np.abs(values))
    return _tensor(np.where(smaller, code + 1, code).astype(code.dtype), to)


def _saturated(y: Tensor, to: DType) -> HostTensor:
    return store(
        y.nan_to_num(nan=torch.nan, posinf=to.max_finite, neginf=-to.max_finite).clamp(
            -to.max_finite, to.max_finite
        ),
        to,
    )


def _nan_swallowed(y: Tensor, to: DType) -> HostTensor:
    return store(torch.where(y.isnan(), 0.0, y), to)


def _subnormals_flushed(y: Tensor, to: DType) -> HostTensor:
    flushed = torch.where(y.abs() < to.min_normal, torch.zeros_like(y), y)
    return store(flushed, to)


def _through(name: str) -> Callable[[Tensor, DType], HostTensor | None]:
    def change(y: Tensor, to: DType) -> HostTensor | None:
        return None if to.name == name else store(nearest(y, name), to)

    return change


def _scaled(factor: float) -> Callable[[Tensor, DType], HostTensor]:
    return lambda y, to: store(y * factor, to)


def _stored_in_wider(y: Tensor, to: DType) -> HostTensor | None:
    """A 16-bit result that keeps only the bits of e4m3, scaled by its own maximum."""
    if to.bits != 16 or not y.numel():
        return None
    top = y.abs().nan_to_num(nan=0.0, posinf=0.0).max().clamp(min=1e-30)
    fp8 = DTYPES["e4m3fn"]
    scaled = (y / top * 256).to(torch.float64).numpy()
    code = encode(scaled, fp8, overflow=Overflow.SATURATE)
    back = torch.from_numpy(decode(code, fp8)).to(torch.float64) / 256 * top
    return store(torch.where(y.isfinite(), back.to(y.dtype), y), to)


def zero_sign_lost(_p: Problem, y: _Unrounded, right: Outputs, _stale: Outputs) -> Outputs | None:
    """Minus zero comes back as zero: of ops that move data, whose bits must not change."""
    if y is not None:
        return None
    return _changed_codes(right, lambda code, dtype: np.where(code == 1 << (dtype.bits - 1), 0, code))


def nan_payload_lost(_p: Problem, y: _Unrounded, right: Outputs, _stale: Outputs) -> Outputs | None:
    """Every NaN comes back as the canonical one: of ops that move data."""
    if y is not None:
        return None

    def change(code: Array, dtype: DType) -> Array:
        return np.where(np.isnan(decode(code, dtype)), encode(np.array(np.nan), dtype), code)

    return _changed_codes(right, change)


def _changed_codes(right: Outputs, change: Callable[[Array, DType], Array]) -> Outputs | None:
    if not right[0].dtype.is_float:
        return None
    array = np.array(right[0].array(), order="C")
    code = array.reshape(-1).view(f"u{array.dtype.itemsize}").reshape(array.shape)
    return (_tensor(change(code, right[0].dtype).astype(code.dtype), right[0].dtype), *right[1:])


FAULTS: dict[str, Fault] = {
    "one_wrong_element": _each(one_wrong_element),
    "one_element_zero": _each(one_element_zero),
    "stale_row": _each(stale_row),
    "stale_tile": _each(stale_tile),
    "swapped_tiles": _each(swapped_tiles),
    "lane_from_neighbour": _each(lane_from_neighbour),
    "tail_not_written": _each(tail_not_written),
    "last_row_not_written": _each(last_row_not_written),
    "transposed": _each(transposed),
    "read_by_columns": _each(read_by_columns),
    "rows_rolled": _each(rows_rolled),
    "bit_flipped": bit_flipped,
    "stored_to_zero": _stored(_cut),
    "stored_away": _stored(_away),
    "stored_saturated": _stored(_saturated),
    "stored_through_f16": _stored(_through("f16")),
    "stored_through_bf16": _stored(_through("bf16")),
    "stored_in_fp8": _stored(_stored_in_wider),
    "nan_swallowed": _stored(_nan_swallowed),
    "subnormals_flushed": _stored(_subnormals_flushed),
    "scaled_0.999": _stored(_scaled(0.999)),
    "scaled_1.01": _stored(_scaled(1.01)),
    "zero_sign_lost": zero_sign_lost,
    "nan_payload_lost": nan_payload_lost,
}
