"""Ops that move, select or add at indices, and what their kernels get wrong. Computed by numpy on raw elements."""

from __future__ import annotations

import numpy as np
import torch
from faults.arithmetic import EXACT, LEGITIMATE, Arithmetic, nearest, total
from faults.kernel import Kernel, Moves
from faults.problem import Outputs, Problem, store
from torch import Tensor

from parity.backend.indexing import parse_index
from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor
from parity.judge.oracle import to_float64

__all__ = ["KERNELS", "index_put_adds"]

Array = np.ndarray


def _as(p: Problem, array: Array, *, like: int = 0) -> Outputs:
    tensor = p.inputs[like]
    assert tensor is not None
    return (HostTensor.of(array, tensor.dtype),)


def embedding(p: Problem, bug: str) -> Outputs:
    """table[ids]."""
    table, ids = p.raw(0), p.raw(1).astype(np.int64)
    last = len(table) - 1
    match bug:
        case "index_off_by_one":
            ids = (ids + 1) % len(table)
        case "last_row_out_of_reach":
            ids = np.minimum(ids, max(last - 1, 0))
        case "padding_row_zeroed":
            return _as(p, np.where((ids == 0)[..., None], np.zeros((), table.dtype), table[ids]))
        case "index_at_8_bits":
            ids = ids % 256 % len(table)
    return _as(p, table[ids])


def gather(p: Problem, bug: str) -> Outputs:
    """x taken at index along dim."""
    x, index = p.raw(0), p.raw(1)
    dim = p.integer("dim") % max(x.ndim, 1)
    kept = tuple(slice(None) if i == dim else slice(n) for i, n in enumerate(index.shape))
    match bug:
        case "index_off_by_one":
            index = (index + 1) % x.shape[dim]
        case "last_row_out_of_reach":
            index = np.minimum(index, max(x.shape[dim] - 2, 0))
        case "other_dimension" if x.ndim > 1:
            other = (dim - 1) % x.ndim
            rolled = np.moveaxis(x, dim, other).reshape(-1)
            x = np.resize(rolled, x.shape)
        case "read_as_dense":
            flat = (
                np.arange(index.size) // index.shape[dim] * x.shape[dim]
                if index.ndim
                else np.zeros(1, np.int64)
            )
            at = (flat + index.reshape(-1)) % x.size
            return _as(p, x.reshape(-1)[at].reshape(index.shape))
        case "cut_to_32_bits" if x.dtype.itemsize == 8:
            x = x.astype(np.int32).astype(x.dtype)
    return _as(p, np.take_along_axis(x[kept], index, axis=dim))


def where(p: Problem, bug: str) -> Outputs:
    """a where condition else b."""
    condition, a, b = p.raw(0), p.raw(1), p.raw(2)
    match bug:
        case "inverted":
            condition = ~condition
        case "by_arithmetic" if p.inputs[1].dtype.is_float:
            c = torch.from_numpy(condition).to(torch.float64)
            y = p.x(1) * c + p.x(2) * (1 - c)
            return (store(y, p.inputs[1].dtype),)
        case "scalar_from_first_row" if condition.ndim > 1:
            condition = np.broadcast_to(condition[:1], condition.shape)
    return _as(p, np.where(condition, a, b), like=1)


def cat(p: Problem, bug: str) -> Outputs:
    """Tensors joined along dim."""
    parts, dim = [p.raw(i) for i in range(len(p.inputs))], p.integer("dim")
    match bug:
        case "order_reversed":
            parts = parts[::-1]
        case "first_for_all":
            parts = [parts[0] if q.shape == parts[0].shape else q for q in parts]
        case "offset_at_tile":
            joined = np.concatenate(parts, axis=dim)
            return _as(p, np.roll(joined, 1, axis=dim))
        case "tail_not_copied":
            joined = np.concatenate(parts, axis=dim)
            np.moveaxis(joined, dim, -1)[..., -1:] = 0
            return _as(p, joined)
    return _as(p, np.concatenate(parts, axis=dim))


def triangle(p: Problem, bug: str) -> Outputs:
    """x on one side of a diagonal, 0 on the other."""
    x, diagonal = p.raw(0), p.integer("diagonal")
    diagonal += {"diagonal_one_more": 1, "diagonal_one_less": -1}.get(bug, 0)
    offset = np.arange(x.shape[-1])[None, :] - np.arange(x.shape[-2])[:, None]
    lower = (p.op == "tril") != (bug == "other_side")
    keep = offset <= diagonal if lower else offset >= diagonal
    if bug == "strict":
        keep &= offset != diagonal
    if bug == "by_arithmetic" and p.dtype.is_float:
        return (store(p.x(0) * torch.from_numpy(keep).to(torch.float64), p.dtype),)
    zero = np.zeros((), x.dtype)
    if bug == "minus_zero" and p.dtype.is_float:
        zero = np.array(1 << (p.dtype.bits - 1), f"u{x.dtype.itemsize}").view(x.dtype)
    return _as(p, np.where(keep, x, zero))


def triu_indices(p: Problem, bug: str) -> Outputs:
    """Rows and columns above a diagonal."""
    row, column = np.arange(p.integer("rows"))[:, None], np.arange(p.integer("columns"))[None, :]
    offset = p.integer("offset") + (bug == "diagonal_one_more")
    found = np.nonzero(column - row >= offset)
    if bug == "columns_first":
        found = found[::-1]
    if bug == "by_columns":
        found = np.nonzero((column - row >= offset).T)[::-1]
    return (HostTensor.of(np.stack(found).astype(np.int64), DTYPES["i64"]),)


def slice_(p: Problem, bug: str) -> Outputs:
    """x[index]."""
    x, index = p.raw(0), parse_index(str(p.attrs["index"]))
    y = x[index]
    match bug:
        case "from_start_of_storage":
            return _as(p, x.reshape(-1)[: y.size].reshape(y.shape))
        case "one_later":
            return _as(p, np.roll(x, -1, axis=-1)[index])
        case "stride_ignored":
            tensor = p.inputs[0]
            flat = np.array(tensor.storage)
            return _as(p, np.resize(flat, x.shape)[index])
    return _as(p, y)


def slice_assign(p: Problem, bug: str) -> Outputs:
    """A copy of x with x[index] = values."""
    x, values, index = p.raw(0), p.raw(1), parse_index(str(p.attrs["index"]))
    match bug:
        case "written_to_copy":
            return _as(p, x)
        case "one_later":
            moved = np.roll(x, -1, axis=-1)
            moved[index] = values
            return _as(p, np.roll(moved, 1, axis=-1))
        case "first_value_for_all" if values.size:
            values = np.broadcast_to(values.reshape(-1)[:1].reshape((1,) * values.ndim), values.shape)
        case "written_everywhere":
            x[...] = np.resize(values, x.shape)
    x[index] = values
    return _as(p, x)


def _slots(p: Problem, bug: str) -> tuple[Array, Array]:
    """Return the rows that are written and their values, [n] and [n, ...]."""
    x, index, values = p.raw(0), p.raw(1).reshape(-1), p.raw(2)
    rows = np.broadcast_to(values, (index.size, *x.shape[1:]))
    match bug:
        case "negative_clamped":
            index = np.maximum(index, 0)
        case "index_off_by_one":
            index = index + 1
        case "last_not_written":
            index, rows = index[:-1], rows[:-1]
        case "values_of_next":
            rows = np.roll(rows, 1, axis=0)
    return np.where(index < 0, index + len(x), index) % len(x), rows


def index_put(p: Problem, bug: str) -> Outputs:
    """A copy of x with rows at index replaced; `first` and `last` are the two orders of writing."""
    x = p.raw(0)
    index, rows = _slots(p, bug)
    for i in range(len(index)) if bug != "first" else reversed(range(len(index))):
        x[index[i]] = rows[i]
    if bug == "added":
        return (store(index_put_adds(p, EXACT, ""), p.dtype),)
    return _as(p, x)


def one_of_the_written(p: Problem, outputs: Outputs) -> bool:
    """Whether every element is one of those written to it, or x's own where none was."""
    x, got = p.raw(0), np.array(outputs[0].array())
    index, rows = _slots(p, "")
    code = f"u{x.dtype.itemsize}"
    for row in range(len(x)):
        may = [rows[i] for i in range(len(index)) if index[i] == row] or [x[row]]
        if not np.any([np.ascontiguousarray(m).view(code) == got[row].view(code) for m in may], axis=0).all():
            return False
    return True


def _meeting(p: Problem, bug: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x, flat slot of each term, terms) of an op that adds at indices."""
    x = p.x(0)
    if p.op == "index_put":
        index, rows = _slots(p, bug)
        rest = x[0].numel() if len(x) else 0
        slots = torch.from_numpy(index)[:, None] * rest + torch.arange(rest)
        return (
            x,
            slots.reshape(-1),
            to_float64(HostTensor.of(np.ascontiguousarray(rows), p.dtype)).reshape(-1),
        )
    dim, index, src = p.integer("dim"), p.x(1), p.x(2)
    if bug == "index_off_by_one":
        index = (index + 1) % x.shape[dim]
    elif bug == "values_of_next":
        src = src.roll(1, dim)
    places = torch.arange(x.numel()).reshape(x.shape)
    places = places[tuple(slice(n) if i != dim % x.ndim else slice(None) for i, n in enumerate(index.shape))]
    slots = places.gather(dim, index).reshape(-1)
    terms = src[tuple(slice(n) for n in index.shape)].reshape(-1)
    return (x, slots[:-1], terms[:-1]) if bug == "last_not_written" else (x, slots, terms)


def index_put_adds(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """x with terms added at their slots: index_put that accumulates, and scatter_add."""
    x, slots, terms = _meeting(p, bug)
    order = torch.argsort(slots, stable=True)
    slots, terms = slots[order], terms[order]
    _, counts = torch.unique_consecutive(slots, return_counts=True)
    first = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)[:-1])) if len(counts) else counts
    rank = torch.arange(len(slots)) - first.repeat_interleave(counts)
    # Each slot's own value, then its terms, in a row; what is not there adds 0.
    most = int(counts.max()) if len(counts) else 0
    meeting = torch.zeros(x.numel(), most + 1, dtype=torch.float64)
    meeting[:, 0] = x.reshape(-1)
    meeting[slots, rank + 1] = terms
    if bug == "overwritten":
        y = x.reshape(-1).clone()
        y[slots] = terms
        return how.number(y).reshape(x.shape)
    if bug == "update_lost":
        meeting = meeting[:, :2]
    if bug == "added_twice":
        meeting[slots[:1], 0] += terms[:1]
    if bug == "each_sum_rounded" and p.out.bits == 16:
        partial = how.number(meeting[:, 0])
        for column in meeting[:, 1:].unbind(1):
            partial = nearest(partial + how.number(column), p.out.name)
        return partial.reshape(x.shape)
    return total(how.number(meeting), how).reshape(x.shape)


_ADDS = (
    "overwritten",
    "update_lost",
    "added_twice",
    "each_sum_rounded",
    "index_off_by_one",
    "values_of_next",
    "last_not_written",
)
_WAYS = tuple(how for how in LEGITIMATE if how.order != "exact16")

KERNELS = {
    "embedding": Moves(
        compute=embedding,
        bugs=("index_off_by_one", "last_row_out_of_reach", "padding_row_zeroed", "index_at_8_bits"),
    ),
    "gather": Moves(
        compute=gather,
        bugs=(
            "index_off_by_one",
            "last_row_out_of_reach",
            "other_dimension",
            "read_as_dense",
            "cut_to_32_bits",
        ),
    ),
    "where": Moves(compute=where, bugs=("inverted", "by_arithmetic", "scalar_from_first_row")),
    "cat": Moves(compute=cat, bugs=("order_reversed", "first_for_all", "offset_at_tile", "tail_not_copied")),
    "tril": Moves(
        compute=triangle,
        bugs=(
            "diagonal_one_more",
            "diagonal_one_less",
            "other_side",
            "strict",
            "by_arithmetic",
            "minus_zero",
        ),
    ),
    "triu": Moves(
        compute=triangle,
        bugs=(
            "diagonal_one_more",
            "diagonal_one_less",
            "other_side",
            "strict",
            "by_arithmetic",
            "minus_zero",
        ),
    ),
    "triu_indices": Moves(compute=triu_indices, bugs=("diagonal_one_more", "columns_first", "by_columns")),
    "slice": Moves(compute=slice_, bugs=("from_start_of_storage", "one_later", "stride_ignored")),
    "slice_assign": Moves(
        compute=slice_assign,
        bugs=("written_to_copy", "one_later", "first_value_for_all", "written_everywhere"),
    ),
    "index_put": Moves(
        compute=index_put,
        bugs=("negative_clamped", "index_off_by_one", "last_not_written", "values_of_next", "added"),
        ways=("", "first"),
        legal=one_of_the_written,
    ),
    "index_put+": Kernel(compute=index_put_adds, bugs=(*_ADDS, "negative_clamped"), legitimate=_WAYS),
    "scatter_add": Kernel(compute=index_put_adds, bugs=_ADDS, legitimate=_WAYS),
}
