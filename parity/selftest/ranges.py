"""Tensors made of numbers, and partial rotary positions; what their kernels get wrong."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from parity.case.dtype import DTYPES, dtype, encode, nearest
from parity.case.tensor import HostTensor
from parity.selftest import attention
from parity.selftest.arithmetic import Arithmetic
from parity.selftest.kernel import Kernel, Moves
from parity.selftest.problem import Outputs, Problem

__all__ = ["KERNELS", "Array", "arange", "linspace", "meshgrid", "one_hot", "rope_partial", "tril_indices"]

Array = np.ndarray


def rope_partial(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """Rotary positions of the first dimensions, the rest kept."""
    x, turned = p.raw(0), p.integer("turned")
    D = x.shape[-1]
    match bug:
        case "all_turned":
            turned = D
        case "last_turned":
            return torch.cat(
                (how.number(p.x(0))[..., : D - turned], _turned(p, x[..., D - turned :], how, "")), -1
            )
    made = _turned(p, x[..., :turned], how, bug)
    if bug == "frequencies_of_head":
        made = _turned(p, x, how, "")[..., :turned] if not p.attrs["interleaved"] else made
    rest = how.number(p.x(0))[..., turned:]
    return torch.cat((made, torch.zeros_like(rest) if bug == "rest_zero" else rest), -1)


def _turned(p: Problem, x: Array, how: Arithmetic, bug: str) -> Tensor:
    attrs = {name: p.attrs[name] for name in ("base", "interleaved")}
    inner = dataclasses.replace(p, attrs=attrs, inputs=(HostTensor.of(np.array(x), p.dtype), p.inputs[1]))
    return attention.rope(inner, how, bug)


def _made(p: Problem, values: Array) -> Outputs:
    to = dtype(str(p.attrs["out"]))
    if not to.is_float:
        return (HostTensor.of(values.astype(np.int64).astype(to.storage), to),)
    code = encode(values.astype(np.float64), to)
    return (HostTensor.of(code.reshape(-1).view(to.storage).reshape(code.shape), to),)


def arange(p: Problem, bug: str) -> Outputs:
    """start + i step."""
    start, step, end = p.attrs["start"], p.attrs["step"], p.number("end")
    assert isinstance(start, (int, float)) and isinstance(step, (int, float))
    i = np.arange(max(math.ceil((end - start) / step), 0))
    wide = str(p.attrs["out"]) == "i64"
    match bug:
        case "float64":
            return _made(p, start + i * step)
        case "fused":
            y = np.asarray(float(np.float32(start)) + i * float(np.float32(step)))
            return _made(p, start + i * step if wide else y.astype(np.float32))
        case "grown":
            first = np.concatenate(([start], np.full(len(i), step)))
            return _made(p, np.add.accumulate(first.astype(np.float32))[: len(i)])
        case "grown_in_type":
            return _made(p, _grown(p, start, step, len(i)))
        case "index_bf16":
            return _made(p, start + nearest(i.astype(np.float64), DTYPES["bf16"]) * step)
        case "step_bf16":
            return _made(p, start + i * nearest(np.array([float(step)]), DTYPES["bf16"]))
        case "start_bf16":
            return _made(p, nearest(np.array([float(start)]), DTYPES["bf16"]) + i * step)
        case "as_float32":
            return _made(p, (np.float32(start) + i.astype(np.float32) * np.float32(step)).astype(np.float64))
        case "as_32_bits" if wide:
            return _made(p, (start + i * step).astype(np.int64).astype(np.int32))
        case "from_1":
            i = i + 1
        case "down":
            step = -step
    if wide:
        return _made(p, int(start) + i * int(step))
    return _made(p, np.float32(start) + i.astype(np.float32) * np.float32(step))


def _grown(p: Problem, start: float, step: float, count: int) -> Array:
    to, made, partial = dtype(str(p.attrs["out"])), [], np.array([float(start)])
    for _ in range(min(count, 2000)):
        made.append(float(partial[0]))
        partial = nearest(partial + step, to) if to.is_float else partial + step
    return np.array(made + made[-1:] * (count - len(made)))


def linspace(p: Problem, bug: str) -> Outputs:
    """start + i (end - start) / (steps - 1), ending at end."""
    start, end, count = p.number("start"), p.number("end"), p.integer("steps")
    i, f = np.arange(count), np.float32
    step = f(f(end) - f(start)) / f(max(count - 1, 1))
    match bug:
        case "float64":
            return _made(p, np.linspace(start, end, count))
        case "both_ends":
            low, high = f(start) + i.astype(f) * step, f(end) - (count - 1 - i).astype(f) * step
            return _made(p, np.where(i < count / 2, low, high))
        case "grown":
            return _made(p, np.add.accumulate(np.concatenate(([f(start)], np.full(count - 1, step, f)))))
        case "end_left_out":
            return _made(p, start + i * ((end - start) / count))
        case "end_missed":
            y = f(start) + i.astype(f) * (step * f(1 + 2**-20))
            return _made(p, y)
        case "step_bf16":
            return _made(p, start + i * nearest(np.array([float(step)]), DTYPES["bf16"]))
        case "index_bf16":
            return _made(p, start + nearest(i.astype(np.float64), DTYPES["bf16"]) * float(step))
        case "swapped":
            return _made(p, np.linspace(end, start, count))
        case "from_1":
            i = i + 1
    y = f(start) + i.astype(f) * step
    if not bug:
        y = np.where((i == count - 1) & (count > 1), f(end), y)
    return _made(p, y)


def one_hot(p: Problem, bug: str) -> Outputs:
    """1 at the id, else 0."""
    ids, classes = p.raw(0), p.integer("classes")
    match bug:
        case "next_class":
            ids = (ids + 1) % classes
        case "beyond_tile_lost":
            ids = np.where(ids >= 256, -1, ids)
        case "id_in_8_bits":
            ids = ids.astype(np.uint8).astype(np.int64)
        case "cold":
            return (HostTensor.of((ids[..., None] != np.arange(classes)).astype(np.int64), DTYPES["i64"]),)
        case "up_to_class":
            return (HostTensor.of((ids[..., None] >= np.arange(classes)).astype(np.int64), DTYPES["i64"]),)
        case "id_for_1":
            hot = (ids[..., None] == np.arange(classes)) * ids[..., None]
            return (HostTensor.of(hot.astype(np.int64), DTYPES["i64"]),)
    return (HostTensor.of((ids[..., None] == np.arange(classes)).astype(np.int64), DTYPES["i64"]),)


def tril_indices(p: Problem, bug: str) -> Outputs:
    """Rows and columns of the lower triangle, row by row."""
    offset = p.integer("offset") + (bug == "diagonal_one_more") - (bug == "diagonal_one_less")
    row, column = np.arange(p.integer("rows"))[:, None], np.arange(p.integer("columns"))[None, :]
    inside = column - row > offset if bug == "upper" else column - row <= offset
    if bug == "by_columns":
        found = np.stack(np.nonzero(inside.T)[::-1])
    else:
        found = np.stack(np.nonzero(inside))
    if bug == "columns_first":
        found = found[::-1]
    return (HostTensor.of(np.array(found, np.int64), DTYPES["i64"]),)


def meshgrid(p: Problem, bug: str) -> Outputs:
    """Each of two vectors along a dimension of its own."""
    a, b = p.raw(0), p.raw(1)
    if bug == "reversed":
        a = a[::-1]
    grids = [np.repeat(a[:, None], len(b), 1), np.repeat(b[None, :], len(a), 0)]
    if p.attrs["indexing"] == "xy":
        grids = [g.T for g in grids]
    match bug:
        case "other_indexing":
            grids = [np.array(g.T).reshape(g.shape) for g in grids]
        case "expanded_read_as_dense":
            grids = [np.resize(t, g.shape) for t, g in zip((b, a), grids, strict=True)]
        case "grids_swapped":
            grids = grids[::-1]
        case "first_row_only":
            grids = [np.broadcast_to(g[:1], g.shape) for g in grids]
    return tuple(HostTensor.of(np.array(g), p.dtype) for g in grids)


_ROPE = ("all_turned", "last_turned", "frequencies_of_head", "rest_zero")

KERNELS: dict[str, Kernel | Moves] = {
    "rope_partial": dataclasses.replace(
        attention.KERNELS["rope"], compute=rope_partial, bugs=(*attention.ROPE, *_ROPE)
    ),
    "arange": Moves(
        compute=arange,
        bugs=(
            *("grown", "grown_in_type", "index_bf16", "step_bf16", "start_bf16", "as_float32"),
            *("as_32_bits", "from_1", "down"),
        ),
        ways=("", "float64", "fused"),
    ),
    "linspace": Moves(
        compute=linspace,
        bugs=("grown", "end_left_out", "end_missed", "step_bf16", "index_bf16", "swapped", "from_1"),
        ways=("", "float64", "both_ends"),
    ),
    "one_hot": Moves(
        compute=one_hot,
        bugs=("next_class", "beyond_tile_lost", "id_in_8_bits", "cold", "up_to_class", "id_for_1"),
    ),
    "tril_indices": Moves(
        compute=tril_indices,
        bugs=("diagonal_one_more", "diagonal_one_less", "upper", "by_columns", "columns_first"),
    ),
    "meshgrid": Moves(
        compute=meshgrid,
        bugs=("other_indexing", "expanded_read_as_dense", "grids_swapped", "first_row_only", "reversed"),
    ),
}
