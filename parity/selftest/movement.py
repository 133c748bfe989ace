"""Ops that move or select elements, and what their kernels get wrong. Computed by numpy on raw elements."""

from __future__ import annotations

import numpy as np
import torch

from parity.backend.indexing import parse_index
from parity.case.dtype import DTYPES
from parity.case.family import dims
from parity.case.tensor import HostTensor
from parity.selftest.kernel import Kernel, Moves
from parity.selftest.problem import Outputs, Problem, store

__all__ = [
    "KERNELS",
    "Array",
    "cat",
    "copy",
    "embedding",
    "gather",
    "index",
    "reshape",
    "slice_",
    "slice_assign",
    "triangle",
    "triu_indices",
    "where",
]

Array = np.ndarray


def _as(p: Problem, array: Array, *, like: int = 0) -> Outputs:
    tensor = p.inputs[like]
    assert tensor is not None
    return (HostTensor.of(array, tensor.dtype),)


def copy(p: Problem, bug: str) -> Outputs:
    """x in memory of its own."""
    tensor = p.inputs[0]
    assert tensor is not None
    x = tensor.array()
    match bug:
        case "storage_in_order":
            x = np.resize(np.asarray(tensor.storage).view(x.dtype), x.shape)
        case "through_f32" if x.dtype.kind == "i":
            x = x.astype(np.float32).astype(x.dtype)
        case "last_dimension_reversed" if x.ndim:
            x = x[..., ::-1]
    return _as(p, np.array(x, order="C"))


def reshape(p: Problem, bug: str) -> Outputs:
    """The elements of x in row-major order, in another shape."""
    tensor = p.inputs[0]
    assert tensor is not None
    x, shape = tensor.array(), dims(str(p.attrs["shape"]))
    match bug:
        case "storage_in_order":
            x = np.resize(np.asarray(tensor.storage).view(x.dtype), x.shape)
        case "columns_first":
            return _as(p, np.array(x).reshape(shape, order="F"))
        case "last_two_swapped" if x.ndim > 1:
            x = x.swapaxes(-1, -2)
    return _as(p, np.array(x, order="C").reshape(shape))


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


def index(p: Problem, bug: str) -> Outputs:
    """x[index] on the first dimension, negative ones from the end."""
    x, index = p.raw(0), p.raw(1)
    match bug:
        case "negative_clamped":
            index = np.maximum(index, 0)
        case "negative_one_off":
            index = np.where(index < 0, (index - 1) % len(x), index)
        case "index_off_by_one":
            index = (index + 1) % len(x)
        case "index_at_8_bits":
            index = index % 256 % len(x)
        case "cut_to_32_bits" if x.dtype.itemsize == 8:
            x = x.view(np.int64).astype(np.int32).astype(np.int64).view(x.dtype)
        case "kept_as_f32" if x.dtype == np.float64:
            x = x.astype(np.float32).astype(np.float64)
    return _as(p, x[index])


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
    chosen = p.inputs[1]
    assert chosen is not None
    match bug:
        case "inverted":
            condition = ~condition
        case "by_arithmetic" if chosen.dtype.is_float:
            c = torch.from_numpy(condition).to(torch.float64)
            y = p.x(1) * c + p.x(2) * (1 - c)
            return (store(y, chosen.dtype),)
        case "scalar_from_first_row" if condition.ndim > 1:
            condition = np.broadcast_to(condition[:1], condition.shape)
    return _as(p, np.where(condition, a, b), like=1)


def cat(p: Problem, bug: str) -> Outputs:
    """Tensors joined along dim."""
    parts, dim = [p.raw(i) for i in range(len(p.inputs))], p.integer("dim")
    match bug:
        case "order_reversed":
            parts.reverse()
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
            assert tensor is not None
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


KERNELS: dict[str, Kernel | Moves] = {
    "copy": Moves(compute=copy, bugs=("storage_in_order", "through_f32", "last_dimension_reversed")),
    "reshape": Moves(compute=reshape, bugs=("storage_in_order", "columns_first", "last_two_swapped")),
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
    "index": Moves(
        compute=index,
        bugs=(
            "negative_clamped",
            "negative_one_off",
            "index_off_by_one",
            "index_at_8_bits",
            "cut_to_32_bits",
            "kept_as_f32",
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
}
