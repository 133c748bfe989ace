"""A part of a large step on which questions can be asked again and again in a few seconds.

Rows of most ops do not know of each other, so a window of rows, and for products of columns, is the
same step made smaller; the window is the one in which most fails. Does not weigh anything.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from parity.case.tensor import HostTensor
from parity.judge.budget import Exact, Expected, SetValued
from parity.localize.hypotheses_base import Asked

__all__ = ["Sample", "cut", "sampled"]

# Multiplications, or elements, that one question may take.
_WORK = 1 << 24
_ELEMENTS = 1 << 17
_LEAST_ROWS = 16

_POINTWISE = (
    "add", "copy", "div", "erf", "exp", "gelu_erf", "gelu_tanh", "mul", "rsqrt", "sigmoid", "silu",
    "softcap", "swiglu", "tanh",
)  # fmt: skip
# Inputs whose rows are those of the outputs.
_ROWS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(_POINTWISE, (0, 1)),
    **dict.fromkeys(("rms_norm", "weighted_rms_norm", "layer_norm", "gated", "route", "linear"), (0,)),
    **dict.fromkeys(("softmax", "log_softmax", "topk", "sort", "int8_weight_linear"), (0,)),
    **dict.fromkeys(("int4_weight_linear", "matmul"), (0,)),
    "int8_linear": (0, 2),
    "rotate": (0, 1, 2),
    "experts": (0, 1, 2),
    "embedding": (1,),
    "scaled_embedding": (1,),
}
# Inputs whose rows (for matmul, columns) are the columns of the output.
_COLUMNS: Mapping[str, tuple[int, ...]] = {
    "linear": (1, 2),
    "int8_weight_linear": (1, 2),
    "int4_weight_linear": (1, 2),
    "int8_linear": (1, 3),
    "matmul": (1,),
}
_PAGED = ("paged_attention", "latent_attention")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A step made smaller, the one that it is part of, and which part of each output it is.

    `origin` is where that one begins in a larger one, for what a report says.
    """

    small: Asked
    whole: Asked
    window: tuple[slice, ...] = ()
    origin: tuple[int, ...] = ()


def sampled(asked: Asked, failing: Tensor) -> Sample:
    """Return the step itself, or a window of it where it is large.

    `failing` marks the elements of the first output that fail.
    """
    if asked.op in _PAGED:
        asked = _compact(asked)
        return _of_segments(asked, failing)
    if asked.op not in _ROWS or failing.ndim < 1 or _by_rows(asked):
        return Sample(small=asked, whole=asked)
    axis = next((d for d, n in enumerate(failing.shape) if n > 1), 0)
    if axis == failing.ndim - 1 and asked.op not in {"embedding", "scaled_embedding", *_POINTWISE}:
        return Sample(small=asked, whole=asked)
    n = failing.shape[axis]
    work, limit = _work(asked, failing)
    rows = n if work <= limit else max(_LEAST_ROWS, int(n * limit / work))
    window = [slice(None)] * failing.ndim
    columns = slice(None)
    if rows < n:
        window[axis] = _densest(failing, axis, rows)
        left = work * min(rows, n) / n
        if left > limit and asked.op in _COLUMNS and failing.ndim == 2:
            count = max(64, int(failing.shape[-1] * limit / left))
            columns = window[-1] = _densest(failing[window[0]], 1, count)
    if all(w == slice(None) for w in window):
        return Sample(small=asked, whole=asked)
    return _windowed(asked, axis, tuple(window), columns)


def _by_rows(asked: Asked) -> bool:
    """Whether an attribute makes rows depend on each other after all."""
    dim = asked.attrs.get("dim")
    ndim = len(asked.got[0].shape)
    if isinstance(dim, int) and dim % max(ndim, 1) != ndim - 1:
        return True
    return asked.op == "matmul" and any(len(t.shape) != 2 for t in asked.inputs if t is not None)


def _work(asked: Asked, failing: Tensor) -> tuple[float, float]:
    first = asked.inputs[0]
    assert first is not None
    if asked.op in _COLUMNS:
        return float(failing.numel()) * first.shape[-1], _WORK
    if asked.op == "experts":
        chosen, up = asked.inputs[2], asked.inputs[3]
        assert chosen is not None and up is not None
        return chosen.numel * math.prod(up.shape[1:]) * 1.5, _WORK / 4
    if asked.op == "route":
        second = asked.inputs[1]
        assert second is not None
        return float(first.shape[0] * second.numel), _WORK / 4
    return float(max(failing.numel(), 1 if asked.op.endswith("embedding") else first.numel)), _ELEMENTS


def _densest(failing: Tensor, axis: int, size: int) -> slice:
    """Return the `size` indices in a row among which most fails."""
    n = failing.shape[axis]
    if size >= n:
        return slice(None)
    count = failing.movedim(axis, 0).reshape(n, -1).sum(1).cumsum(0)
    count = torch.cat((torch.zeros(1, dtype=count.dtype), count))
    start = int((count[size:] - count[:-size]).argmax())
    return slice(start, start + size)


def _windowed(asked: Asked, axis: int, window: tuple[slice, ...], columns: slice) -> Sample:
    inputs = list(asked.inputs)
    like = len(asked.got[0].shape)
    for i in _ROWS[asked.op]:
        tensor = inputs[i] if i < len(inputs) else None
        if tensor is None or axis >= len(tensor.shape) or tensor.shape[axis] == 1:
            continue
        if asked.op in _POINTWISE and len(tensor.shape) != like:
            continue
        inputs[i] = _take(tensor, (*(slice(None) for _ in range(axis)), window[axis]))
    if columns != slice(None):
        for i in _COLUMNS[asked.op]:
            tensor = inputs[i] if i < len(inputs) else None
            if tensor is not None:
                along = (slice(None), columns) if asked.op == "matmul" else (columns,)
                inputs[i] = _take(tensor, along)
    got = tuple(_take(t, window[: len(t.shape)]) for t in asked.got)
    small = dataclasses.replace(asked, inputs=tuple(inputs), got=got, earlier=_earlier(asked, window))
    return Sample(small=_answered(small, asked, window), whole=asked, window=window)


def _earlier(asked: Asked, window: tuple[slice, ...]) -> dict[str, HostTensor]:
    """Cut what has the shape of an output like the output, what has other rows in its columns alone."""
    shape = asked.got[0].shape

    def part(tensor: HostTensor) -> HostTensor:
        if tensor.shape == shape:
            return _take(tensor, window)
        alike = len(tensor.shape) == len(shape) > 0 and tensor.shape[1:] == shape[1:]
        return _take(tensor, (slice(None), *window[1:])) if alike else tensor

    return {name: part(tensor) for name, tensor in asked.earlier.items()}


def _answered(small: Asked, whole: Asked, window: tuple[slice, ...]) -> Asked:
    """Return the small step with its part of the whole's right answer, under the same reading of inputs."""
    again = small.ask() if any(isinstance(e, SetValued) for e in whole.right) else whole.right
    right = [
        e if isinstance(e, SetValued) else cut(w, window) for e, w in zip(again, whole.right, strict=True)
    ]
    return dataclasses.replace(small, right=tuple(e for e in right if e is not None))


def _take(tensor: HostTensor, window: tuple[slice, ...]) -> HostTensor:
    return HostTensor.of(np.ascontiguousarray(tensor.array()[window]), tensor.dtype)


def cut(expected: Expected | None, window: tuple[slice, ...]) -> Expected | None:
    """Return a guess about a whole output as one about a window of it."""
    if not window or expected is None or isinstance(expected, SetValued):
        return expected
    part = window[: len(expected.shape)]
    if isinstance(expected, Exact):
        return Exact(bits=_take(expected.bits, part), any_nan=expected.any_nan)
    shape = expected.value.shape

    def smaller(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.expand(shape)[part]

    return dataclasses.replace(
        expected,
        value=expected.value[part],
        hard=expected.hard.expand(shape)[part],
        sigma=expected.sigma.expand(shape)[part],
        free=smaller(expected.free),
        nan_ok=smaller(expected.nan_ok),
    )


def _compact(asked: Asked) -> Asked:
    """Leave out of the pools what no slot, nor a neighbour of one, names."""
    slots = asked.x(3).to(torch.int64)
    pools = (1, 2) if asked.op == "paged_attention" else (1,)
    size = asked.x(1).shape[0] if asked.inputs[1] is None else asked.inputs[1].shape[0]
    near = torch.cat((slots - 1, slots, slots + 1)).clamp(0, max(size - 1, 0))
    kept = torch.from_numpy(np.unique(near.numpy()))
    if not len(slots) or 2 * len(kept) > size:
        return asked
    place = torch.full((size,), -1, dtype=torch.int64)
    place[kept] = torch.arange(len(kept))
    rows = kept.numpy()

    def smaller(tensor: HostTensor) -> HostTensor:
        return HostTensor.of(np.ascontiguousarray(tensor.array()[rows]), tensor.dtype)

    inputs, shapes = list(asked.inputs), set()
    for i in pools:
        tensor = inputs[i]
        assert tensor is not None
        shapes.add(tensor.shape)
        inputs[i] = smaller(tensor)
    inputs[3] = asked.like(3, place[slots])
    earlier = {n: smaller(t) if t.shape in shapes else t for n, t in asked.earlier.items()}
    return dataclasses.replace(asked, inputs=tuple(inputs), earlier=earlier)


def _of_segments(asked: Asked, failing: Tensor) -> Sample:
    """Keep the segment in which most fails, and of its queries the last ones."""
    first = asked.inputs[0]
    assert first is not None
    table, slots, per_pair = asked.x(4).tolist(), asked.x(3), first.shape[1] * first.shape[2]
    work = sum(length * (length + context) for _, length, context in table) * per_pair
    if work <= _WORK / 4 or not table:
        return Sample(small=asked, whole=asked)
    counts = [int(failing[start : start + length].sum()) for start, length, _ in table]
    best = int(np.argmax(counts))
    start, length, context = table[best]
    before = sum(n + c for _, n, c in table[:best])
    total = length + context
    kept = min(length, max(8, int(_WORK / 4 / max(total * per_pair, 1))))
    rows = slice(start + length - kept, start + length)
    inputs = list(asked.inputs)
    inputs[0] = _take(first, (rows,))
    inputs[3] = asked.like(3, slots[before : before + total])
    inputs[4] = asked.like(4, torch.tensor([[0, kept, total - kept]]))
    got = (_take(asked.got[0], (rows,)),)
    small = _compact(
        dataclasses.replace(asked, inputs=tuple(inputs), got=got, earlier=_earlier(asked, (rows,)))
    )
    return Sample(small=_answered(small, asked, (rows,)), whole=asked, window=(rows,))
