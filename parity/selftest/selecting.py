"""Ops that choose, count and search by value, and what their kernels get wrong.

Gone through element by element, so as not to share the oracle's way.
"""

from __future__ import annotations

import numpy as np
import torch

from parity.case.tensor import HostTensor
from parity.selftest.indexing import counts_of, like
from parity.selftest.kernel import Kernel, Moves
from parity.selftest.problem import Outputs, Problem

__all__ = ["KERNELS", "Array", "masked_select", "nonzero", "same_values", "searchsorted", "unique"]

Array = np.ndarray


def masked_select(p: Problem, bug: str) -> Outputs:
    """The elements of x where mask."""
    x, mask = np.broadcast_arrays(p.raw(0), p.raw(1))
    match bug:
        case "by_columns":
            return like(p, x.T[mask.T])
        case "inverted":
            mask = ~mask
        case "bucket_given_back":
            found = x[mask]
            return like(p, np.concatenate((found, np.zeros(-found.size % 16 or 16, x.dtype))))
        case "one_later":
            mask = np.roll(mask, 1, axis=-1)
        case "last_lost":
            return like(p, x[mask][:-1])
    return like(p, np.array([x[i] for i in np.ndindex(x.shape) if mask[i]], x.dtype))


def nonzero(p: Problem, bug: str) -> Outputs:
    """Positions of what is not zero."""
    x = p.x(0).numpy()
    at = [i for i in np.ndindex(x.shape) if x[i] != 0]
    match bug:
        case "minus_zero_counts":
            raw = p.raw(0)
            at = [i for i in np.ndindex(x.shape) if raw[i].tobytes().strip(b"\0")]
        case "nan_does_not":
            at = [i for i in at if x[i] == x[i]]
        case "subnormals_do_not" if p.dtype.is_float:
            at = [i for i in at if not abs(x[i]) < p.dtype.min_normal]
        case "negatives_do_not":
            at = [i for i in at if not x[i] < 0]
        case "by_columns":
            at.sort(key=lambda i: i[::-1])
        case "columns_first":
            return (counts_of(np.array(at, np.int64).reshape(-1, x.ndim).T.reshape(-1, x.ndim)),)
        case "bucket_given_back":
            at += [(0,) * x.ndim] * (-len(at) % 16 or 16)
        case "last_lost":
            at = at[:-1]
    return (counts_of(np.array(at, np.int64).reshape(-1, x.ndim)),)


def unique(p: Problem, bug: str) -> Outputs:
    """Distinct values in order, where each element went, and how many did."""
    x, keys = p.raw(0).reshape(-1), p.x(0).numpy().reshape(-1)
    if bug == "as_float32" and keys.dtype.kind == "i":
        keys = keys.astype(np.float32)
    if bug == "low_32_bits" and keys.dtype.kind == "i":
        keys = keys.astype(np.int32)
    seen: dict[object, list[int]] = {}
    for i, key in enumerate(keys.tolist()):
        nan = isinstance(key, float) and np.isnan(key)
        seen.setdefault(("nan", i if bug != "nan_once" else 0) if nan else key, []).append(i)
    groups = list(seen.items())
    last = -1 if bug == "nan_first" else 1
    if bug != "as_they_came":
        groups.sort(key=lambda g: (last, 0) if isinstance(g[0], tuple) else (0, g[0]))
    if bug == "nan_reversed":  # right as well
        nans = [g for g in groups if isinstance(g[0], tuple)]
        groups = groups[: len(groups) - len(nans)] + nans[::-1]
    if bug == "descending":
        groups.reverse()
    inverse, counts = np.zeros(keys.size, np.int64), np.array([len(g) for _, g in groups], np.int64)
    for place, (_, members) in enumerate(groups):
        inverse[members] = place
    match bug:
        case "inverse_off_by_one":
            inverse = (inverse + 1) % max(len(groups), 1)
        case "counts_cumulated":
            counts = np.cumsum(counts)
        case "first_of_each":
            inverse = np.array([groups[i][1][0] for i in inverse.tolist()], np.int64)
        case "counts_at_8_bits":
            counts = counts % 256
    firsts = [members[-1 if bug == "last_of_each" else 0] for _, members in groups]
    return (
        HostTensor.of(x[np.array(firsts, np.int64)], p.dtype),
        counts_of(inverse.reshape(p.raw(0).shape)),
        counts_of(counts),
    )


def same_values(p: Problem, outputs: Outputs) -> bool:
    """Whether outputs of unique are right, NaN in any order, each with any payload, and zero of any sign."""
    values, inverse, counts = (t.array() for t in outputs)
    right, _, amounts = (t.array() for t in unique(p, ""))
    flat = inverse.reshape(-1)
    if values.shape != right.shape or not np.array_equal(counts, amounts) or inverse.shape != p.raw(0).shape:
        return False
    if flat.size and not (flat.min() >= 0 and flat.max() < values.size):
        return False
    meant, given = (Problem.x(_holding(p, a), 0).numpy() for a in (right, values))
    x = p.x(0).numpy().reshape(-1)
    nan = np.isnan(x)
    pointed = np.array_equal(given[flat], x, equal_nan=True) and np.unique(flat[nan]).size == nan.sum()
    return bool(pointed and np.array_equal(meant, given, equal_nan=True))


def _holding(p: Problem, array: Array) -> Problem:
    return Problem(
        case="", family="", dist="", op=p.op, attrs={}, inputs=(HostTensor.of(np.array(array), p.dtype),)
    )


def searchsorted(p: Problem, bug: str) -> Outputs:
    """How many elements of the sequence are below each value, or not above it."""
    sequence, values = p.x(0).numpy(), p.x(1).numpy()
    match bug:
        case "as_float32" if sequence.dtype.kind == "i":
            sequence, values = sequence.astype(np.float32), values.astype(np.float32)
        case "low_32_bits" if sequence.dtype.kind == "i":
            sequence, values = sequence.astype(np.int32), values.astype(np.int32)
        case "sequence_of_first_row" if sequence.ndim > 1:
            sequence = sequence.reshape(-1, sequence.shape[-1])[0]
        case "bf16_keys" if sequence.dtype.kind == "f":
            sequence, values = (torch.from_numpy(a).bfloat16().double().numpy() for a in (sequence, values))
    right = bool(p.attrs["right"]) != (bug == "other_side")
    element, value = sequence[..., None, :], values[..., None]
    below = (element <= value) if right else (element < value)
    count = np.sum(below | np.isnan(value), axis=-1)
    match bug:
        case "clamped_inside":
            count = np.minimum(count, sequence.shape[-1] - 1)
        case "nan_first":
            count = np.where(np.isnan(values), 0, count)
        case "last_step_left_out":
            count = count // 2 * 2
        case "one_less":
            count = np.maximum(count - 1, 0)
    return (counts_of(count),)


KERNELS: dict[str, Kernel | Moves] = {
    "masked_select": Moves(
        compute=masked_select,
        bugs=("by_columns", "inverted", "bucket_given_back", "one_later", "last_lost"),
    ),
    "nonzero": Moves(
        compute=nonzero,
        bugs=(
            *("minus_zero_counts", "nan_does_not", "subnormals_do_not", "negatives_do_not", "by_columns"),
            *("columns_first", "bucket_given_back", "last_lost"),
        ),
    ),
    "unique": Moves(
        compute=unique,
        bugs=(
            *("as_float32", "low_32_bits", "nan_once", "nan_first", "as_they_came", "descending"),
            *("inverse_off_by_one", "counts_cumulated", "first_of_each", "counts_at_8_bits"),
        ),
        ways=("", "nan_reversed", "last_of_each"),
        legal=same_values,
    ),
    "searchsorted": Moves(
        compute=searchsorted,
        bugs=(
            *("as_float32", "low_32_bits", "sequence_of_first_row", "bf16_keys", "other_side"),
            *("clamped_inside", "nan_first", "last_step_left_out", "one_less"),
        ),
    ),
}
