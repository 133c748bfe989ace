"""Extremes along a dimension with and without their index, and argsort; what their kernels get wrong."""

from __future__ import annotations

import math

import numpy as np

from parity.case.dtype import DTYPES, decode
from parity.case.tensor import HostTensor
from parity.selftest import order
from parity.selftest.kernel import Kernel, Moves
from parity.selftest.problem import Outputs, Problem

__all__ = ["KERNELS", "Array", "argsort", "extreme", "is_extreme", "is_ordered"]

Array = np.ndarray


def extreme(p: Problem, bug: str) -> Outputs:
    """amax, amin, max and min over dim; a NaN is the extreme of its row."""
    dim, largest = p.integer("dim"), p.op in ("max", "amax")
    x = np.moveaxis(p.raw(0), dim, -1)
    keys = np.moveaxis(p.x(0).numpy(), dim, -1)
    if bug == "other_end":
        largest = not largest
    keys = _keys(keys, bug, largest=largest)
    nan = np.isnan(keys)
    position = np.arange(keys.shape[-1])
    index = (np.argmax if largest else np.argmin)(keys, axis=-1)
    if bug == "last":
        best = np.take_along_axis(keys, index[..., None], -1)
        index = np.where((keys == best) | (nan & np.isnan(best)), position, -1).max(-1)
    index = index[..., None]
    values = np.take_along_axis(x, index, -1)
    match bug:
        case "padding_wins" if keys.shape[-1] % 16:
            zero = np.zeros((), x.dtype)
            beyond = (keys.max(-1) < 0) if largest else (keys.min(-1) > 0)
            values = np.where(beyond[..., None], zero, values)
        case "index_plus_1":
            index = (index + 1) % keys.shape[-1]
        case "index_in_tile":
            index = index % 16
        case "value_of_index_0":
            values = x[..., :1]
        case "nan_as_quiet_0" if p.dtype.is_float:
            values = np.where(np.take_along_axis(nan, index, -1), np.zeros((), x.dtype), values)
    if not p.attrs["keepdim"]:
        values, index = values[..., 0], index[..., 0]
    else:
        values, index = np.moveaxis(values, -1, dim), np.moveaxis(index, -1, dim)
    made = (HostTensor.of(np.array(values), p.dtype), HostTensor.of(np.array(index, np.int64), DTYPES["i64"]))
    return made if p.op in ("max", "min") else made[:1]


def _keys(keys: Array, bug: str, *, largest: bool) -> Array:
    """Return what a kernel with a bug compares."""
    is_float, n = keys.dtype.kind == "f", keys.shape[-1]
    low, high = (-np.inf, np.inf) if is_float else (np.iinfo(np.int64).min, np.iinfo(np.int64).max)
    worst = low if largest else high
    match bug:
        case "by_magnitude":
            return np.asarray(np.abs(keys))
        case "nan_skipped" if is_float:
            return np.where(np.isnan(keys), worst, keys)
        case "tail_left_out":
            return np.where(np.arange(n) >= n - (n % 16 or 1), worst, keys)
        case "low_32_bits" if not is_float:
            return keys.astype(np.int32).astype(keys.dtype)
        case "as_float32" if not is_float:
            return keys.astype(np.float32).astype(np.float64)
        case "bf16_keys" if is_float:
            cut = keys.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
            return np.where(np.isnan(keys), keys, cut.view(np.float32))
        case _:
            return keys


def is_extreme(p: Problem, outputs: Outputs) -> bool:
    """Whether every value is the extreme of its row and every index points at one, row by row."""
    dim, largest = p.integer("dim"), p.op in ("max", "amax")
    keys = np.moveaxis(p.x(0).numpy(), dim, -1)
    rows = keys.reshape(-1, keys.shape[-1])
    plain = np.moveaxis(p.raw(0), dim, -1).reshape(rows.shape)
    given = [t.array() for t in outputs]
    given = [np.moveaxis(t, dim, -1) if p.attrs["keepdim"] else t for t in given]
    values, indices = given[0].reshape(-1), given[-1].reshape(-1)
    for number, (row, bits) in enumerate(zip(rows, plain, strict=True)):
        best = math.nan if np.isnan(row).any() else (max if largest else min)(row.tolist())
        right = np.isnan(row) if math.isnan(best) else row == best
        if not (right & (bits == values[number])).any() and not (
            np.isnan(row).any() and _is_nan(p, values[number])
        ):
            return False
        if len(outputs) > 1 and not (0 <= indices[number] < len(row) and right[indices[number]]):
            return False
    return True


def _is_nan(p: Problem, element: Array) -> bool:
    code = np.asarray(element).reshape(1).view(f"u{p.dtype.itemsize}")
    return p.dtype.is_float and bool(np.isnan(decode(code, p.dtype)[0]))


def argsort(p: Problem, bug: str) -> Outputs:
    """Indices of a sort; its inverse permutation is a bug of its own."""
    _, index = order.ranked(p, "" if bug == "inverse" else bug)
    if bug == "inverse":
        dim = p.integer("dim")
        index = HostTensor.of(np.argsort(index.array(), axis=dim).astype(np.int64), DTYPES["i64"])
    return (index,)


def is_ordered(p: Problem, outputs: Outputs) -> bool:
    """Whether indices point at the elements in one of the right orders."""
    dim, index = p.integer("dim"), outputs[0].array().astype(np.int64)
    n = p.raw(0).shape[dim]
    if index.size and (index.min() < 0 or index.max() >= n):
        return False
    values = np.take_along_axis(p.raw(0), index, dim)
    return order.as_right(p, (HostTensor.of(values, p.dtype), outputs[0]))


_EXTREME = (
    *("other_end", "by_magnitude", "nan_skipped", "tail_left_out", "low_32_bits", "as_float32"),
    *("bf16_keys", "padding_wins", "index_plus_1", "index_in_tile", "value_of_index_0", "nan_as_quiet_0"),
)
KERNELS: dict[str, Kernel | Moves] = {
    **{
        name: Moves(compute=extreme, bugs=_EXTREME, ways=("", "last"), legal=is_extreme)
        for name in ("amax", "amin", "max", "min")
    },
    "argsort": Moves(
        compute=argsort,
        bugs=(*order.KERNELS["sort"].bugs, "inverse"),
        ways=("", "last"),
        legal=is_ordered,
    ),
}
