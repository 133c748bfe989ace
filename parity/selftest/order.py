"""Order: which of equal elements comes first is free, and what selection kernels get wrong."""

from __future__ import annotations

import numpy as np

from parity.case.dtype import DTYPES, decode
from parity.case.tensor import HostTensor
from parity.selftest.kernel import Kernel, Moves
from parity.selftest.problem import Outputs, Problem

__all__ = [
    "KERNELS",
    "Array",
    "argmax",
    "as_right",
    "is_a_largest",
    "ranked",
]

Array = np.ndarray


def _keys(p: Problem, bug: str) -> tuple[Array, int]:
    """Return keys that order as torch does, NaN above infinity, the ordered dimension last."""
    raw, dim = p.raw(0), p.integer("dim")
    if not p.dtype.is_float:
        return _integer_keys(np.moveaxis(raw, dim, -1) if raw.ndim else raw.reshape(1), bug), dim
    keys: Array = decode(raw.reshape(-1).view(f"u{raw.dtype.itemsize}"), p.dtype).reshape(raw.shape)
    keys = np.moveaxis(keys, dim, -1) if keys.ndim else keys.reshape(1)
    match bug:
        case "by_magnitude":
            keys = np.abs(keys)
        case "nan_as_smallest":
            keys = np.where(np.isnan(keys), -np.inf, keys)
        case "bf16_keys":
            rounded = keys.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
            keys = np.where(np.isnan(keys), keys, rounded.view(np.float32).astype(np.float64))
        case "tail_left_out":
            tail = keys.shape[-1] % 16 or 1
            keys = keys.copy()
            keys[..., keys.shape[-1] - tail :] = -np.inf
        case "beyond_power_of_two_lost":
            most = 1 << (keys.shape[-1].bit_length() - 1)
            keys = keys.copy()
            keys[..., most:] = -np.inf
    return keys, dim


def _integer_keys(keys: Array, bug: str) -> Array:
    """The same of integers, which no float type of 64 bits holds."""
    lowest = np.iinfo(keys.dtype).min
    n = keys.shape[-1]
    match bug:
        case "by_magnitude":
            size: Array = np.abs(keys)
            return size
        case "low_32_bits":
            return keys.astype(np.int32).astype(keys.dtype)
        case "as_float64":
            return keys.astype(np.float64)
        case "as_float32" | "bf16_keys":
            return keys.astype(np.float32).astype(np.float64)
        case "tail_left_out":
            return np.where(np.arange(n) >= n - (n % 16 or 1), lowest, keys)
        case "beyond_power_of_two_lost":
            return np.where(np.arange(n) >= 1 << (n.bit_length() - 1), lowest, keys)
        case _:
            return keys


def _order(keys: Array, *, descending: bool, last_first: bool) -> Array:
    """Indices in order; equal elements by position, or by position reversed."""
    n = keys.shape[-1]
    position = np.broadcast_to(np.arange(n)[::-1] if last_first else np.arange(n), keys.shape)
    nan = np.isnan(keys)
    if keys.dtype.kind != "f":
        # The complement reverses integers, of which the lowest has no negative.
        return np.lexsort((position, ~keys if descending else keys), axis=-1)
    sign = -1 if descending else 1
    return np.lexsort((position, sign * nan.astype(np.int64), sign * np.where(nan, np.inf, keys)), axis=-1)


def ranked(p: Problem, bug: str) -> Outputs:
    """topk, sort and argsort."""
    keys, dim = _keys(p, bug)
    descending = bool(p.attrs["largest" if p.op == "topk" else "descending"]) != (bug == "other_direction")
    last_first = (bug == "last" and not p.attrs.get("stable")) or bug == "not_stable"
    order = _order(keys, descending=descending, last_first=last_first)
    n = keys.shape[-1]
    k = p.integer("k") if p.op == "topk" else n
    index = order[..., :k].copy()
    x = np.moveaxis(p.raw(0), dim, -1) if p.raw(0).ndim else p.raw(0).reshape(1)
    values = np.take_along_axis(x, index, -1)
    match bug:
        case "index_plus_1":
            index = (index + 1) % n
        case "index_of_another_row" if index.ndim > 1:
            index = np.roll(index, 1, axis=0)
        case "duplicate" if k > 1:
            index[..., 1] = index[..., 0]
            values[..., 1] = values[..., 0]
        case "two_not_in_order" if k > 1:
            values[..., [-2, -1]], index[..., [-2, -1]] = values[..., [-1, -2]], index[..., [-1, -2]]
        case "kth_off_by_one" if k < n and k:
            index[..., -1] = order[..., k]
            values[..., -1:] = np.take_along_axis(x, index[..., -1:], -1)
        case "index_in_tile":
            index = index % 64
        case "values_of_key" if p.dtype.is_float:
            values = np.take_along_axis(x, np.sort(index, -1), -1)
    return _outputs(p, values, index, dim)


def _outputs(p: Problem, values: Array, index: Array, dim: int) -> Outputs:
    if p.raw(0).ndim:
        values, index = np.moveaxis(values, -1, dim), np.moveaxis(index, -1, dim)
    else:
        values, index = values.reshape(()), index.reshape(())
    return (
        HostTensor.of(values, p.dtype),
        HostTensor.of(index.astype(np.int64), DTYPES["i64"]),
    )


def as_right(p: Problem, outputs: Outputs) -> bool:
    """Whether outputs are one of the right answers: rows are gone through one element at a time."""
    keys, dim = _keys(p, "")
    descending = bool(p.attrs["largest" if p.op == "topk" else "descending"])
    index = np.moveaxis(outputs[1].array(), dim, -1) if outputs[1].shape else outputs[1].array().reshape(1)
    moved = [np.moveaxis(a, dim, -1) if a.ndim else a.reshape(1) for a in (p.raw(0), outputs[0].array())]
    code = f"u{moved[0].dtype.itemsize}"
    x, got = (np.ascontiguousarray(a).reshape(-1, a.shape[-1]).view(code) for a in moved)
    best = np.take_along_axis(keys, _order(keys, descending=descending, last_first=False), -1)
    rows = zip(
        keys.reshape(-1, keys.shape[-1]),
        best.reshape(-1, keys.shape[-1]),
        x,
        got,
        index.reshape(-1, index.shape[-1]),
        strict=True,
    )
    return all(_row_is_right(*row, stable=bool(p.attrs.get("stable"))) for row in rows)


def _row_is_right(keys: Array, best: Array, x: Array, got: Array, index: Array, *, stable: bool) -> bool:
    if len(set(index.tolist())) != len(index) or any(not 0 <= i < len(keys) for i in index):
        return False
    for place, i in enumerate(index):
        same = keys[i] == best[place] or (np.isnan(keys[i]) and np.isnan(best[place]))
        zero = keys[i] == 0 and (got[place] << np.uint8(1)) == 0
        if not same or (got[place] != x[i] and not np.isnan(keys[i]) and not zero):
            return False
        tied = place and (
            best[place] == best[place - 1] or (np.isnan(best[place]) and np.isnan(best[place - 1]))
        )
        if stable and tied and index[place - 1] > i:
            return False
    return True


def argmax(p: Problem, bug: str) -> Outputs:
    """Index of a largest element."""
    keys, dim = _keys(p, bug)
    if bug == "padding_wins":
        filled = np.concatenate((keys, np.zeros((*keys.shape[:-1], -keys.shape[-1] % 16))), -1)
        index = _order(filled, descending=True, last_first=False)[..., 0]
        index = np.minimum(index, keys.shape[-1] - 1)
    else:
        order = _order(keys, descending=bug != "other_direction", last_first=bug == "last")
        index = order[..., 0]
    match bug:
        case "index_plus_1":
            index = (index + 1) % keys.shape[-1]
        case "index_in_tile":
            index = index % 64
        case "index_of_another_row" if index.ndim:
            index = np.roll(index, 1, axis=0)
    if p.raw(0).ndim:
        index = np.expand_dims(index, dim % keys.ndim) if p.attrs["keepdim"] else index
    else:
        index = index.reshape(())
    return (HostTensor.of(index.astype(np.int64), DTYPES["i64"]),)


def is_a_largest(p: Problem, outputs: Outputs) -> bool:
    """Whether every index points at an element that nothing in its row exceeds."""
    keys, _ = _keys(p, "")
    rows = keys.reshape(-1, keys.shape[-1])
    for row, i in zip(rows, outputs[0].array().reshape(-1).tolist(), strict=True):
        if not 0 <= i < len(row) or (np.isnan(row).any() and not np.isnan(row[i])):
            return False
        if not np.isnan(row).any() and (row > row[i]).any():
            return False
    return True


_SHARED = (
    "by_magnitude",
    "low_32_bits",
    "as_float64",
    "as_float32",
    "nan_as_smallest",
    "bf16_keys",
    "tail_left_out",
    "other_direction",
    "index_plus_1",
    "index_in_tile",
    "index_of_another_row",
)
_RANKED = (*_SHARED, "beyond_power_of_two_lost", "duplicate", "two_not_in_order", "values_of_key")

KERNELS: dict[str, Kernel | Moves] = {
    "topk": Moves(compute=ranked, bugs=(*_RANKED, "kth_off_by_one"), ways=("", "last"), legal=as_right),
    "sort": Moves(compute=ranked, bugs=(*_RANKED, "not_stable"), ways=("", "last"), legal=as_right),
    "argmax": Moves(compute=argmax, bugs=(*_SHARED, "padding_wins"), ways=("", "last"), legal=is_a_largest),
}
