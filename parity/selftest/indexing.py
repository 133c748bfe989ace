"""Ops that take and write at indices or by a mask, and what their kernels get wrong.

Gone through element by element or by torch's own indexing, so as not to share the oracle's way.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from parity.case.dtype import DTYPES, encode
from parity.case.tensor import HostTensor
from parity.case.written import number
from parity.selftest.kernel import Kernel, Moves
from parity.selftest.problem import Outputs, Problem

__all__ = [
    "KERNELS",
    "Array",
    "counts_of",
    "like",
    "masked_fill",
    "one_of_the_scattered",
    "places_of",
    "scatter",
    "taken",
]

Array = np.ndarray


def like(p: Problem, array: Array) -> Outputs:
    """Return raw elements as the one output of an op that gives the type it is given."""
    return (HostTensor.of(np.ascontiguousarray(array), p.dtype),)


def counts_of(array: Array) -> HostTensor:
    """Return integers as int64."""
    return HostTensor.of(np.ascontiguousarray(array).astype(np.int64), DTYPES["i64"])


def places_of(p: Problem, bug: str) -> tuple[Array, Array]:
    """Return x and, for each element of index, the flat place in x that it means."""
    x, index, dim = p.raw(0), p.raw(1).astype(np.int64), p.integer("dim") % p.raw(0).ndim
    size = x.shape[dim]
    match bug:
        case "negative_clamped":
            index = np.maximum(index, 0)
        case "index_off_by_one":
            index = (index + 1) % size
        case "last_out_of_reach":
            index = np.minimum(index, max(size - 2, 0))
        case "index_at_8_bits":
            index = index % 256 % size
        case "index_read_as_pairs" if index.size > 1:
            # 32-bit indices taken two at a time for one of 64 bits, of which the low half is kept.
            index = np.resize(index.reshape(-1)[::2], index.shape)
    index = np.where(index < 0, index + size, index)
    places = np.moveaxis(np.arange(x.size).reshape(x.shape), dim, 0)
    if p.op == "index_select":
        return x, np.moveaxis(places[index], 0, dim)
    of = np.moveaxis(index, dim, 0)
    if p.op == "take_along_dim":
        shape = np.broadcast_shapes(places.shape[1:], of.shape[1:])
        places, of = (np.broadcast_to(a, (len(a), *shape)) for a in (places, of))
    places = places[(slice(None), *(slice(n) for n in of.shape[1:]))]
    found = torch.from_numpy(np.array(places)).gather(0, torch.from_numpy(np.array(of)))
    return x, np.moveaxis(found.numpy(), 0, dim)


def taken(p: Problem, bug: str) -> Outputs:
    """take_along_dim and index_select."""
    x, places = places_of(p, bug)
    match bug:
        case "cut_to_32_bits" if x.dtype.itemsize == 8:
            x = x.astype(np.int32).astype(x.dtype)
        case "storage_in_order":
            tensor = p.inputs[0]
            assert tensor is not None
            x = np.resize(np.asarray(tensor.storage), x.shape)
        case "other_dimension" if x.ndim > 1:
            return like(p, x.swapaxes(-1, -2).reshape(-1)[places])
    return like(p, x.reshape(-1)[places])


def _written(p: Problem, bug: str) -> Iterator[tuple[int, Array]]:
    """Yield the flat places that scatter writes to, and the values there, in row-major order."""
    _, places = places_of(p, bug)
    src, of = p.raw(2), places.shape
    if bug == "src_read_as_dense":
        values = np.resize(src.reshape(-1), places.size)
    else:
        values = src[tuple(slice(n) for n in of)].reshape(-1)
    if bug == "values_of_next":
        values = np.roll(values, 1)
    pairs = list(zip(places.reshape(-1).tolist(), values, strict=True))
    yield from pairs[:-1] if bug == "last_not_written" else pairs


def scatter(p: Problem, bug: str) -> Outputs:
    """x with src written at index; `first` and `evens_last` are further orders of writing."""
    x = p.raw(0)
    pairs = list(_written(p, bug))
    if bug == "first":
        pairs.reverse()
    if bug == "evens_last":
        pairs = pairs[1::2] + pairs[::2]
    flat = x.reshape(-1)
    if bug == "bits_joined":
        code = flat.view(f"u{flat.dtype.itemsize}")
        for place, value in pairs:
            code[place] |= value.view(code.dtype)
        return like(p, flat.reshape(x.shape))
    for place, value in pairs:
        flat[place] = value
    return like(p, flat.reshape(x.shape))


def one_of_the_scattered(p: Problem, outputs: Outputs) -> bool:
    """Whether every element holds one of those written to it, or x's own where none was."""
    code = f"u{p.raw(0).dtype.itemsize}"
    may: dict[int, set[int]] = {}
    for place, value in _written(p, ""):
        may.setdefault(place, set()).add(int(value.view(code)))
    own, got = (np.ascontiguousarray(a).reshape(-1).view(code) for a in (p.raw(0), outputs[0].array()))
    return all(int(g) in may.get(i, {int(own[i])}) for i, g in enumerate(got))


def masked_fill(p: Problem, bug: str) -> Outputs:
    """value where mask, else x."""
    x, mask, of = p.raw(0), p.raw(1), p.dtype
    value = number(str(p.attrs["value"]), of)
    match bug:
        case "inverted":
            mask = ~mask
        case "mask_of_first_row" if mask.ndim > 1:
            mask = mask[:1]
        case "last_not_filled":
            mask = mask.copy()
            mask[..., -1:] = False
        case "through_bf16" if of.is_float:
            value = float(torch.tensor(value, dtype=torch.bfloat16))
        case "cut_to_32_bits" if of.name == "i64":
            value = (int(value) + 2**31) % 2**32 - 2**31
        case "finite" if of.is_float:
            value = float(np.clip(value, -of.max_finite / 2, of.max_finite / 2))
        case "by_arithmetic" if of.is_float:
            keep = np.broadcast_to(~mask, x.shape)
            made = p.x(0).numpy() * keep + float(value) * ~keep
            return like(p, encode(made, of).view(of.storage))
    if of.is_float:
        element = encode(np.array(float(value)), of).view(of.storage)
        return like(p, np.where(mask, element, x))
    return like(p, np.where(mask, np.array(value).astype(of.storage), x))


_INDEX = ("index_off_by_one", "last_out_of_reach", "cut_to_32_bits", "storage_in_order", "other_dimension")

KERNELS: dict[str, Kernel | Moves] = {
    "take_along_dim": Moves(compute=taken, bugs=("negative_clamped", "index_read_as_pairs", *_INDEX)),
    "index_select": Moves(compute=taken, bugs=("index_at_8_bits", "index_read_as_pairs", *_INDEX)),
    "scatter": Moves(
        compute=scatter,
        bugs=("index_off_by_one", "src_read_as_dense", "values_of_next", "last_not_written", "bits_joined"),
        ways=("", "first", "evens_last"),
        legal=one_of_the_scattered,
    ),
    "masked_fill": Moves(
        compute=masked_fill,
        bugs=(
            *("inverted", "mask_of_first_row", "last_not_filled", "through_bf16", "cut_to_32_bits"),
            *("finite", "by_arithmetic"),
        ),
    ),
}
