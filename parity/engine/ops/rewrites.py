"""Portable rewrites of what ports to other chips had to replace, each equal to the original.

Every result has a shape that follows from shapes and plain numbers alone, never from values, so no
graph is compiled again and nothing waits for the host. They use `cumsum`, `searchsorted`, `where`
and `index_select`, which are native where `gather` of int64, `index_add`, `nonzero` and strided
views are not (DEVICES.md 3.3). Not for speed: where the original is native, it is faster.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import EllipsisType

import torch
from torch import Tensor

__all__ = [
    "Key",
    "arange",
    "assigned",
    "gather",
    "nonzero",
    "placed",
    "selected",
    "sliced",
    "tril_indices",
    "triu_indices",
]

Key = int | slice | EllipsisType | None
_Device = torch.device | str


def arange(start: int, end: int, step: int = 1, *, device: _Device = "cpu") -> Tensor:
    """`torch.arange` of whole numbers, int64."""
    count = len(range(start, end, step))
    ones = torch.ones(count, dtype=torch.int64, device=device)
    return (ones.cumsum(0) - 1) * step + start


def triu_indices(rows: int, columns: int, offset: int = 0, *, device: _Device = "cpu") -> Tensor:
    """`torch.triu_indices`, int64 [2, N]: row and column of each element on or above a diagonal."""
    return _triangle([(min(max(row + offset, 0), columns), columns) for row in range(rows)], device)


def tril_indices(rows: int, columns: int, offset: int = 0, *, device: _Device = "cpu") -> Tensor:
    """`torch.tril_indices`, int64 [2, N]: row and column of each element on or below a diagonal."""
    return _triangle([(0, min(max(row + offset + 1, 0), columns)) for row in range(rows)], device)


def _triangle(spans: list[tuple[int, int]], device: _Device) -> Tensor:
    """Return row and column of all elements, where row r has the columns of span r."""
    if not spans:
        return torch.zeros(2, 0, dtype=torch.int64, device=device)
    ends = list(itertools.accumulate(end - first for first, end in spans))
    place = arange(0, ends[-1], device=device)
    row = torch.searchsorted(_whole(ends, device), place, right=True)
    # What is added to an element's number to give its column: constant along a row.
    shift = _whole([end - total for (_, end), total in zip(spans, ends, strict=True)], device)
    return torch.stack((row, place + shift.index_select(0, row)))


def sliced(x: Tensor, *key: Key) -> Tensor:
    """`x[key]` as a copy, for integers, slices, None and an ellipsis.

    Steps may be negative, as in Python and numpy; torch itself refuses those.
    """
    shape: list[int] = []
    axis = 0
    for part in _full(key, x.ndim):
        if part is None:
            shape.append(1)
            continue
        chosen = _chosen(part, x.shape[axis])
        if chosen != range(x.shape[axis]):
            x = x.index_select(axis, _whole(chosen, x.device))
        if isinstance(part, slice):
            shape.append(len(chosen))
        axis += 1
    return x.reshape(shape)


def assigned(x: Tensor, *key: Key, value: Tensor) -> Tensor:
    """Return x as it is after `x[key] = value`; `value` may be of a shape that broadcasts."""
    parts = _full(key, x.ndim)
    ranges = [_chosen(part, size) for part, size in zip(_without_none(parts), x.shape, strict=True)]
    if not all([len(r) for r in ranges]):  # noqa: C419 - a graph of one piece has no generators
        return x.clone()
    asked = [1 if part is None else len(r) for part, r in _beside(parts, ranges) if not isinstance(part, int)]
    spread = value.to(x.dtype).expand(asked).reshape([len(r) for r in ranges])
    inside = torch.ones([1] * x.ndim, dtype=torch.bool, device=x.device)
    for axis, (chosen, size) in enumerate(zip(ranges, x.shape, strict=True)):
        # For each place of x, which of the values comes there; 0 stands for none too, and is masked.
        held = [place in chosen for place in range(size)]
        source = [chosen.index(place) if there else 0 for place, there in enumerate(held)]
        spread = spread.index_select(axis, _whole(source, x.device))
        along = [size if number == axis else 1 for number in range(x.ndim)]
        inside = inside & torch.tensor(held, dtype=torch.bool, device=x.device).view(along)
    return torch.where(inside, spread, x)


def nonzero(x: Tensor, size: int, *, fill: int = 0) -> tuple[Tensor, Tensor]:
    """`torch.nonzero` in the first rows of [size, ndim], the others `fill`; and how many there are.

    Of more than `size`, the first are returned; the count, a tensor, tells.
    """
    flat, real, count = _ordinals(x != 0, size)
    indices = []
    for length in reversed(x.shape):
        indices.append(flat % max(length, 1))
        flat = flat // max(length, 1)
    found = torch.stack(indices[::-1], dim=-1) if indices else flat.new_zeros((size, 0))
    return torch.where(real[:, None], found, fill), count


def selected(x: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """`x[mask]` in the first rows of [size, …], the others 0; and how many there are.

    `mask` covers the first dimensions of x.
    """
    flat, real, count = _ordinals(mask, size)
    rest = x.shape[mask.ndim :]
    rows = x.reshape(mask.numel(), *rest)
    if not mask.numel():
        return x.new_zeros((size, *rest)), count
    found = rows.index_select(0, flat)
    return torch.where(real.view(size, *[1] * len(rest)), found, torch.zeros_like(found)), count


def placed(x: Tensor, mask: Tensor, values: Tensor) -> Tensor:
    """Return x as it is after `x[mask] = values`, for as many values, or more, as the mask has true."""
    if not mask.numel() or not len(values):
        return x.clone()
    number = mask.reshape(-1).to(torch.int64).cumsum(0) - 1
    source = values.index_select(0, number.clamp(0, len(values) - 1)).view(x.shape)
    return torch.where(mask.view(*mask.shape, *[1] * (x.ndim - mask.ndim)), source.to(x.dtype), x)


def gather(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """`torch.gather` by 32-bit indices, int64 values as pairs of 32-bit lanes, exact in all 64 bits."""
    if x.numel() >= 2**31:
        raise ValueError(f"gather: {x.numel():,} elements have no 32-bit index; gather parts of x")
    dim %= max(x.ndim, 1)
    if not index.numel():
        return x.new_empty(index.shape)
    if not x.ndim:
        return x.expand(index.shape).clone()
    flat = torch.zeros_like(index, dtype=torch.int32)
    stride = 1
    for axis in reversed(range(x.ndim)):
        along = [index.shape[axis] if number == axis else 1 for number in range(x.ndim)]
        own = arange(0, index.shape[axis], device=x.device).to(torch.int32).view(along)
        flat = flat + (index.to(torch.int32) if axis == dim else own) * stride
        stride *= x.shape[axis]
    rows = x.contiguous().view(-1, 1)
    lanes = rows.view(torch.int32) if x.dtype == torch.int64 else rows
    return lanes.index_select(0, flat.view(-1)).view(x.dtype).view(index.shape)


def _ordinals(mask: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return where the first true elements of the flattened mask are, which are real, and the count."""
    counted = mask.reshape(-1).to(torch.int64).cumsum(0)
    count = counted[-1] if mask.numel() else counted.sum()
    ordinal = arange(1, size + 1, device=mask.device)
    where = torch.searchsorted(counted, ordinal)
    return where.clamp(max=max(mask.numel() - 1, 0)), ordinal <= count, count


def _whole(numbers: range | list[int], device: _Device) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.int64, device=device)


def _chosen(part: int | slice, size: int) -> range:
    if isinstance(part, slice):
        return range(*part.indices(size))
    if not -size <= part < size:
        raise IndexError(f"index {part} is outside a dimension of {size}")
    return range(part % size, part % size + 1)


def _full(key: tuple[Key, ...], ndim: int) -> list[int | slice | None]:
    """Return the key with its ellipsis, or what is left unsaid, written out."""
    if sum(part is Ellipsis for part in key) > 1:
        raise IndexError("an index can have one ellipsis")
    missing = ndim - sum(isinstance(part, int | slice) for part in key)
    if missing < 0:
        raise IndexError(f"{ndim - missing} indices for {ndim} dimensions")
    parts = key if Ellipsis in key else (*key, Ellipsis)
    full: list[int | slice | None] = []
    for part in parts:
        full += [slice(None)] * missing if isinstance(part, EllipsisType) else [part]
    return full


def _without_none(parts: list[int | slice | None]) -> list[int | slice]:
    return [part for part in parts if part is not None]


def _beside(
    parts: list[int | slice | None], ranges: list[range]
) -> Iterator[tuple[int | slice | None, range]]:
    """Yield each part with the range of its dimension, an empty one for None."""
    left = iter(ranges)
    for part in parts:
        yield part, range(0) if part is None else next(left)
