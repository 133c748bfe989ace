"""Ops that arrange elements, and what their kernels and compilers get wrong.

Views are torch's on raw integers, where the oracle computes positions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parity.case.dtype import Kind
from parity.case.family import dims
from parity.case.written import integers
from parity.selftest.indexing import like
from parity.selftest.kernel import Kernel, Moves
from parity.selftest.problem import Outputs, Problem

__all__ = [
    "KERNELS",
    "Array",
    "arranged",
    "as_strided",
    "back",
    "elements",
    "pad",
    "split",
]

Array = np.ndarray


def elements(p: Problem, number: int = 0) -> Tensor:
    """Return an input's elements as integers of their size, row-major."""
    array = p.raw(number)
    return torch.from_numpy(array.view(f"{'u' if array.dtype.itemsize == 1 else 'i'}{array.dtype.itemsize}"))


def back(p: Problem, y: Tensor) -> Outputs:
    """Return such integers as the output of an op that gives the type it is given."""
    array = np.array(y.numpy(), order="C")
    return like(p, array.view(p.dtype.storage).reshape(array.shape))


def arranged(p: Problem, bug: str) -> Outputs:
    """roll, flip, stack, repeat and expand."""
    x = elements(p)
    match bug:
        case "cut_to_32_bits" if x.dtype == torch.int64:
            x = x.to(torch.int32).to(torch.int64)
        case "storage_in_order":
            tensor = p.inputs[0]
            assert tensor is not None
            stored = np.resize(np.asarray(tensor.storage), tensor.shape)
            x = torch.from_numpy(stored.view(x.numpy().dtype))
        case "last_reversed" if x.ndim:
            x = x.flip(-1)
    return back(p, _ARRANGED[p.op](p, x, bug))


def _roll(p: Problem, x: Tensor, bug: str) -> Tensor:
    shift, dim = p.integer("shift"), p.attrs["dim"]
    if bug == "other_direction":
        shift = -shift
    if bug == "shift_not_wrapped":
        length = max(x.numel() if dim is None else x.shape[int(dim)], 1)
        shift = int(np.sign(shift)) * min(abs(shift), length)
    if dim is None:
        dim, flat = (-1, x) if bug == "by_rows" else (0, x.reshape(-1))
    else:
        flat = x
        dim = (int(dim) + (bug == "other_dimension")) % x.ndim
    return flat.roll(shift, dim).reshape(x.shape)


def _flip(p: Problem, x: Tensor, bug: str) -> Tensor:
    along = [d % x.ndim for d in integers(str(p.attrs["dims"]))]
    match bug:
        case "one_dimension":
            along = along[:1]
        case "other_dimension":
            along = [(d + 1) % x.ndim for d in along]
        case "one_later":
            return x.flip(along).roll(1, along[0])
        case "not_at_all":
            along = []
    return x.flip(along)


def _stack(p: Problem, x: Tensor, bug: str) -> Tensor:
    given = [x, *(elements(p, i) for i in range(1, len(p.inputs)))]
    dim = p.integer("dim") % (x.ndim + 1)
    match bug:
        case "order_reversed":
            given.reverse()
        case "first_for_all":
            given = [x] * len(given)
        case "as_cat":
            shape = torch.stack(given, dim).shape
            return torch.cat([t.reshape(-1) for t in given]).reshape(shape)
        case "last_row_lost":
            given[-1] = torch.zeros_like(x)
    return torch.stack(given, dim)


def _repeat(p: Problem, x: Tensor, bug: str) -> Tensor:
    times = dims(str(p.attrs["repeats"]))
    match bug:
        case "each_element":
            y = x.reshape(*[1] * (len(times) - x.ndim), *x.shape)
            for dim, count in enumerate(times):
                y = y.repeat_interleave(count, dim)
            return y
        case "along_first":
            shape = x.repeat(times).shape
            return x.repeat(int(np.prod(times)), *[1] * (x.ndim - 1)).reshape(shape)
        case "second_tile_zero":
            y = x.repeat(times)
            y[..., x.shape[-1] :] = 0
            return y
    return x.repeat(times)


def _expand(p: Problem, x: Tensor, bug: str) -> Tensor:
    shape = dims(str(p.attrs["shape"]))
    y = x.expand(shape)
    match bug:
        case "as_dense":
            return torch.from_numpy(np.resize(x.numpy(), shape))
        case "first_row_only":
            y = y.clone()
            y[1:] = 0
        case "next_element":
            return y.reshape(-1).roll(1).reshape(shape)
    return y


_ARRANGED = {"roll": _roll, "flip": _flip, "stack": _stack, "repeat": _repeat, "expand": _expand}


def split(p: Problem, bug: str) -> Outputs:
    """Three parts of x along dim."""
    x, dim = elements(p), p.integer("dim")
    sizes = dims(str(p.attrs["sizes"]))
    starts = [0, sizes[0], sizes[0] + sizes[1]]
    match bug:
        case "from_start":
            starts = [0, 0, 0]
        case "even":
            starts = [0, x.shape[dim] // 3, 2 * (x.shape[dim] // 3)]
        case "empty_shifts":
            starts = [0, max(sizes[0], 1), max(sizes[0], 1) + max(sizes[1], 1)]
        case "last_two_swapped":
            starts = [0, sizes[0] + sizes[2], sizes[0]]
    starts = [min(start, x.shape[dim] - n) for start, n in zip(starts, sizes, strict=True)]
    if bug == "other_dimension" and x.ndim > 1:
        x = torch.from_numpy(np.resize(x.movedim(dim, 0).contiguous().numpy(), tuple(x.shape)))
    return tuple(back(p, x.narrow(dim, start, n))[0] for start, n in zip(starts, sizes, strict=True))


def pad(p: Problem, bug: str) -> Outputs:
    """x with value around it: cut first, then written into what is filled with the value."""
    of, x, widths = p.dtype, p.raw(0), list(integers(str(p.attrs["widths"])))
    text = str(p.attrs["value"])
    match bug:
        case "zero":
            text = "0"
        case "cut_to_32_bits" if of.name == "i64":
            text = str((int(text) + 2**31) % 2**32 - 2**31)
        case "before_and_after_swapped":
            widths = [widths[i ^ 1] for i in range(len(widths))]
        case "negative_lost":
            # As wide as asked, but nothing was cut in front.
            lost = [min(w, 0) if i % 2 == 0 else 0 for i, w in enumerate(widths)]
            widths = [w - lost[i] if i % 2 == 0 else w + lost[i - 1] for i, w in enumerate(widths)]
    value = _value(p, text)
    pairs = [(0, 0)] * (x.ndim - len(widths) // 2) + list(zip(widths[::2], widths[1::2], strict=True))[::-1]
    kept = x[tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(x.shape, pairs, strict=True))]
    y = np.full([n + a + b for n, (a, b) in zip(x.shape, pairs, strict=True)], value, x.dtype)
    inner = tuple(slice(max(a, 0), max(a, 0) + n) for n, (a, _) in zip(kept.shape, pairs, strict=True))
    y[inner] = kept
    if bug == "last_row_not_filled":
        y[..., -1] = 0
    return like(p, y)


def _value(p: Problem, text: str) -> Array:
    if p.dtype.kind is not Kind.FLOAT:
        return np.array(int(text)).astype(p.dtype.storage)
    kind = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[p.dtype.name]
    bits = {4: torch.int32, 2: torch.int16}[p.dtype.itemsize]
    return torch.tensor(float(text), dtype=kind).view(bits).numpy().view(p.dtype.storage)


def as_strided(p: Problem, bug: str) -> Outputs:
    """Elements of x at offset + index times stride."""
    x = elements(p).reshape(-1)
    shape, stride = dims(str(p.attrs["shape"])), dims(str(p.attrs["stride"]))
    offset = p.integer("offset")
    match bug:
        case "offset_lost":
            offset = 0
        case "offset_in_bytes":
            offset = offset // p.dtype.itemsize
        case "dense":
            return back(p, torch.from_numpy(np.resize(x[offset:].numpy(), shape)))
        case "strides_reversed":
            stride = stride[::-1]
        case "one_later":
            x = x.roll(-1)
        case "stride_0_is_1":
            stride = tuple(s or 1 for s in stride)
    reach = 1 + offset + sum(max(n - 1, 0) * s for n, s in zip(shape, stride, strict=True))
    room = torch.from_numpy(np.resize(x.numpy(), max(reach, x.numel())))
    return back(p, room.as_strided(shape, stride, offset))


_SHARED = ("cut_to_32_bits", "storage_in_order", "last_reversed")


def _arranges(*bugs: str) -> Moves:
    return Moves(compute=arranged, bugs=(*bugs, *_SHARED))


KERNELS: dict[str, Kernel | Moves] = {
    "roll": _arranges("other_direction", "shift_not_wrapped", "by_rows", "other_dimension"),
    "flip": _arranges("one_dimension", "other_dimension", "one_later", "not_at_all"),
    "stack": _arranges("order_reversed", "first_for_all", "as_cat", "last_row_lost"),
    "repeat": _arranges("each_element", "along_first", "second_tile_zero"),
    "expand": _arranges("as_dense", "first_row_only", "next_element"),
    "split": Moves(
        compute=split, bugs=("from_start", "even", "empty_shifts", "last_two_swapped", "other_dimension")
    ),
    "pad": Moves(
        compute=pad,
        bugs=(
            *("zero", "cut_to_32_bits", "before_and_after_swapped", "negative_lost"),
            "last_row_not_filled",
        ),
    ),
    "as_strided": Moves(
        compute=as_strided,
        bugs=("offset_lost", "offset_in_bytes", "dense", "strides_reversed", "one_later", "stride_0_is_1"),
    ),
}
