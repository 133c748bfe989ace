"""The ops of indexing, of views and of choosing a token as models write them in torch.

What is chosen in 16 bits is chosen in float32, as samplers do. Does not choose kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from parity.backend.indexing import parse_index
from parity.backend.torch_attention import wide
from parity.backend.torch_tensor import dtype_of
from parity.case.family import dims
from parity.case.written import integers, number

__all__ = ["INDEXING_OPS", "written_index"]

# An index is text, which torch.compile cannot read while it traces.
written_index: Callable[[str], Any] = torch.compiler.assume_constant_result(parse_index)  # type: ignore[no-untyped-call]  # torch's own


def _scatter_reduce(
    x: Tensor, index: Tensor, src: Tensor, *, dim: int, reduce: str, include_self: bool
) -> Tensor:
    return x.scatter_reduce(dim, index, src, reduce, include_self=include_self)


def _masked_fill(x: Tensor, mask: Tensor, *, value: str) -> Tensor:
    return x.masked_fill(mask, number(value, dtype_of(x.dtype)))


def _unique(x: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.unique(x, sorted=True, return_inverse=True, return_counts=True))


def _bincount(x: Tensor, weights: Tensor | None = None, *, minlength: int) -> Tensor:
    return torch.bincount(x, weights, minlength=minlength)


def _searchsorted(sequence: Tensor, values: Tensor, *, right: bool) -> Tensor:
    return torch.searchsorted(sequence, values, right=right)


def _roll(x: Tensor, *, shift: int, dim: int | None) -> Tensor:
    return torch.roll(x, shift) if dim is None else torch.roll(x, shift, dim)


def _stack(*tensors: Tensor, dim: int) -> Tensor:
    return torch.stack(tensors, dim=dim)


def _split(x: Tensor, *, sizes: str, dim: int) -> tuple[Tensor, ...]:
    return tuple(torch.split(x, list(dims(sizes)), dim=dim))


def _pad(x: Tensor, *, widths: str, value: str) -> Tensor:
    return F.pad(x, integers(widths), value=number(value, dtype_of(x.dtype)))


def _as_strided(x: Tensor, *, shape: str, stride: str, offset: int) -> Tensor:
    # Of memory of its own: a stride counts in the storage, whatever view of it x is.
    return x.clone(memory_format=torch.contiguous_format).as_strided(dims(shape), dims(stride), offset)


def _slice_move(x: Tensor, *, target: str, source: str, cloned: bool) -> Tensor:
    y = x.clone()
    moved = y[written_index(source)]
    y[written_index(target)] = moved.clone() if cloned else moved
    return y


def _negate_view(x: Tensor, *, index: str, swapped: bool) -> Tensor:
    y = x.clone()
    view = (y.mT if swapped else y)[written_index(index)]
    if view.dtype is torch.bool:
        view.logical_not_()
    else:
        view.neg_()
    return y


def _far_rows(x: Tensor, *, first: int, step: int, back: int) -> Tensor:
    """Written through a view, read by index and through another view."""
    rows, columns = x.shape
    buffer = torch.zeros((first + rows * step) * columns, dtype=x.dtype, device=x.device)
    strided = (rows, columns), (step * columns, 1)
    buffer.as_strided(*strided, first * columns).copy_(x)
    at = first + step * torch.arange(rows, device=x.device)
    found = buffer.view(-1, columns).index_select(0, at)
    return torch.cat((found, buffer.as_strided(*strided, (first - back) * columns)))


def _top_p_mask(p: Tensor, *, threshold: float) -> Tensor:
    """Keep up to and with the first token whose running sum exceeds the threshold."""
    beyond = wide(p).cumsum(-1) > threshold
    beyond[..., 1:] = beyond[..., :-1].clone()
    beyond[..., 0] = False
    return ~beyond


def _penalties(
    logits: Tensor, tokens: Tensor, *, repetition: float, frequency: float, presence: float
) -> Tensor:
    """Scores of tokens that were there lowered: by a factor, by how often, and for being there."""
    high = wide(logits)
    counts = torch.zeros(len(high), high.shape[-1] + 1, dtype=torch.int64, device=high.device)
    counts = counts.scatter_add(1, tokens, torch.ones_like(tokens))[:, :-1]
    seen = counts > 0
    scaled = torch.where(high > 0, high / repetition, high * repetition)
    high = torch.where(seen, scaled, high)
    return (high - frequency * counts - presence * seen).to(logits.dtype)


INDEXING_OPS: dict[str, Callable[..., Any]] = {
    "as_strided": _as_strided,
    "bincount": _bincount,
    "expand": lambda x, *, shape: x.expand(dims(shape)),
    "far_rows": _far_rows,
    "flip": lambda x, *, dims: torch.flip(x, integers(dims)),
    "index_select": lambda x, index, *, dim: torch.index_select(x, dim, index),
    "masked_fill": _masked_fill,
    "masked_select": torch.masked_select,
    "negate_view": _negate_view,
    "nonzero": torch.nonzero,
    "pad": _pad,
    "penalties": _penalties,
    "repeat": lambda x, *, repeats: x.repeat(dims(repeats)),
    "roll": _roll,
    "scatter": lambda x, index, src, *, dim: torch.scatter(x, dim, index, src),
    "scatter_reduce": _scatter_reduce,
    "searchsorted": _searchsorted,
    "slice_move": _slice_move,
    "split": _split,
    "stack": _stack,
    "take_along_dim": lambda x, index, *, dim: torch.take_along_dim(x, index, dim=dim),
    "top_p_mask": _top_p_mask,
    "unique": _unique,
}
