"""What meets at an index, and what kernels that reduce it get wrong."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parity.case.dtype import DTYPES, decode, encode
from parity.selftest.arithmetic import LEGITIMATE, Arithmetic, nearest, total
from parity.selftest.indexing import Array, counts_of, like, places_of
from parity.selftest.kernel import LOW_SUMS, Kernel, Moves
from parity.selftest.problem import Outputs, Problem, store

__all__ = ["KERNELS", "bincount", "extremes", "same_extremes", "scatter_reduce"]

_WAYS = {how.name: how for how in LEGITIMATE if how.order != "exact16"}


def _met(p: Problem, bug: str) -> tuple[Array, Array, Array]:
    """Return (flat x, flat place of each term, terms), exact; floats as float64."""
    _, places = places_of(p, bug)
    src = p.x(2).numpy()
    terms = src[tuple(slice(n) for n in places.shape)].reshape(-1)
    places = places.reshape(-1)
    if bug == "values_of_next":
        terms = np.roll(terms, 1)
    if bug == "src_read_as_dense":
        terms = np.resize(src.reshape(-1), places.size)
    if bug == "last_not_written":
        places, terms = places[:-1], terms[:-1]
    return p.x(0).numpy().reshape(-1), places, terms


def _own(p: Problem, bug: str) -> bool:
    return bool(p.attrs["include_self"]) != (bug == "own_the_other_way")


def _table(size: int, places: Array, terms: Array, fill: float) -> tuple[Tensor, Tensor]:
    """Return the terms of each element side by side, [size, most], and how many there are."""
    order = np.argsort(places, kind="stable")
    counts = np.bincount(places, minlength=size)
    most = int(counts.max(initial=0))
    table = np.full((size, most), fill)
    first = np.cumsum(counts) - counts
    rank = np.arange(places.size) - first[places[order]]
    table[places[order], rank] = terms[order]
    return torch.from_numpy(table), torch.from_numpy(counts)


def scatter_reduce(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """The sum, mean or product of the terms of each element, its own value first."""
    x, places, terms = _met(p, bug)
    reduce, own = str(p.attrs["reduce"]), _own(p, bug)
    neutral = 1.0 if reduce == "prod" else 0.0
    met, counts = _table(x.size, places, terms, neutral)
    there = counts > 0
    kept = torch.from_numpy(x)
    first = kept if own else torch.where(there, neutral, kept)
    if bug == "starts_at_0":
        first = torch.where(there, 0.0 if reduce == "prod" else 1.0, kept)
    if bug == "update_lost":
        met = met[:, :1]
    if bug == "overwritten":
        y = kept.clone()
        y[torch.from_numpy(places)] = torch.from_numpy(terms)
        return how.number(y).reshape(p.raw(0).shape)
    both = how.number(torch.cat((first[:, None], met), 1))
    y = _product(both, how) if reduce == "prod" else _each_rounded(p, both, how, bug)
    if reduce == "mean":
        number = counts + (1 if bool(p.attrs["include_self"]) != (bug == "counted_the_other_way") else ~there)
        if bug == "not_divided":
            number = torch.ones_like(number)
        if bug == "divided_by_most":
            number = torch.where(there, number.max(), number)
        y = how.divide(y, how.number(number.clamp(min=1)))
    return y.reshape(p.raw(0).shape)


def _each_rounded(p: Problem, both: Tensor, how: Arithmetic, bug: str) -> Tensor:
    if bug != "each_rounded" or p.out.bits != 16:
        return total(both, how)
    partial = both[:, 0]
    for column in both.unbind(1)[1:]:
        partial = nearest(partial + column, p.out.name)
    return partial


def _product(factors: Tensor, how: Arithmetic) -> Tensor:
    """Factors multiplied in an order of this arithmetic, each product rounded."""
    if how.order == "reversed":
        factors = factors.flip(-1)
    if how.order in ("pairwise", "lanes8"):
        while factors.shape[-1] > 1:
            filled = torch.nn.functional.pad(factors, (0, factors.shape[-1] % 2), value=1.0)
            half = filled.shape[-1] // 2
            factors = filled[..., :half] * filled[..., half:]
        return factors[..., 0]
    y = factors[..., 0]
    for column in factors.unbind(-1)[1:]:
        y = how.mid(y * column)
        y = nearest(y, how.keep) if how.keep in ("bf16", "f16") else y
    return y


def extremes(p: Problem, bug: str) -> Outputs:
    """amin and amax, and every reduction of integers, which wrap."""
    x, places, terms = _met(p, bug)
    reduce, own = str(p.attrs["reduce"]), _own(p, bug)
    y, seen = x.copy(), np.zeros(x.size, np.bool_)
    if bug == "starts_at_0":
        y[np.unique(places)], seen[np.unique(places)] = 0, True
    for place, term in zip(places.tolist(), terms, strict=True):
        if not seen[place] and not own:
            y[place] = term
        elif bug != "update_lost" or not seen[place]:
            y[place] = _joined(reduce, y[place], term, bug)
        seen[place] = True
    if not p.dtype.is_float:
        return like(p, y.astype(p.raw(0).dtype).reshape(p.raw(0).shape))
    code = encode(y, p.dtype)
    bits = np.where(seen, code, p.raw(0).reshape(-1).view(code.dtype))
    if bug == "other_zero":  # right as well
        sign = np.array(1 << (p.dtype.bits - 1), code.dtype)
        bits = np.where(seen & (y == 0), bits ^ sign, bits)
    return like(p, bits.view(p.raw(0).dtype).reshape(p.raw(0).shape))


def same_extremes(p: Problem, outputs: Outputs) -> bool:
    """Whether outputs are right but for the sign of a zero and the payload of a NaN that was made."""
    right, got = (np.ascontiguousarray(t.array()) for t in (extremes(p, "")[0], outputs[0]))
    code = f"u{right.dtype.itemsize}"
    if not p.dtype.is_float:
        return np.array_equal(right, got)
    made = np.zeros(right.size, np.bool_)
    made[_met(p, "")[1]] = True
    a, b = (decode(t.reshape(-1).view(code), p.dtype) for t in (right, got))
    loose = made & ((a == b) | (np.isnan(a) & np.isnan(b)))
    return bool((loose | (right.view(code) == got.view(code)).reshape(-1)).all())


def _joined(reduce: str, a: np.generic, b: np.generic, bug: str) -> np.generic:
    if bug == "overwritten":
        return b
    if bug == "nan_loses" and (np.isnan(a) or np.isnan(b)):
        return b if np.isnan(a) else a
    if bug == "other_extreme":
        reduce = "amin" if reduce == "amax" else "amax"
    if bug == "by_magnitude":
        larger = bool(np.abs(a) >= np.abs(b))
        return a if larger == (reduce == "amax") else b
    found: np.generic = _JOINS[reduce](a, b)
    return found


_JOINS = {"sum": np.add, "prod": np.multiply, "amin": np.minimum, "amax": np.maximum}


def bincount(p: Problem, bug: str) -> Outputs:
    """Counts of numbers, or sums of their weights in any order."""
    x = p.raw(0).astype(np.int64)
    length = max(p.integer("minlength"), int(x.max(initial=-1)) + 1)
    match bug:
        case "cut_at_minlength":
            length = max(p.integer("minlength"), 1)
            x = x[x < length]
        case "minlength_ignored":
            length = int(x.max(initial=-1)) + 1
        case "index_off_by_one":
            x = (x + 1) % max(length, 1)
        case "exclusive":
            x = np.maximum(x - 1, 0)
    kept = slice(None, -1) if bug == "last_lost" else slice(None)
    if not p.has(1):
        found = np.array([np.sum(x[kept] == i) for i in range(length)], np.int64)
        return (counts_of(found % 256 if bug == "counts_at_8_bits" else found),)
    weights = p.x(1).numpy()
    if bug == "weights_of_next":
        weights = np.roll(weights, 1)
    if bug == "weights_ignored":
        weights = np.ones_like(weights)
    how = LOW_SUMS.get(bug) or _WAYS.get(bug, _WAYS["plain"])
    table, counts = _table(length, x[kept], weights[kept], 0.0)
    if bug == "update_lost":
        table = table[:, :1]
    sums = total(how.number(table), how) if table.shape[1] else torch.zeros(length)
    y = torch.where(counts > 0, sums, 0.0)
    return (store(y, DTYPES["f32"]),)


_INDEXED = ("index_off_by_one", "values_of_next", "src_read_as_dense", "last_not_written")
_REDUCED = (*_INDEXED, "own_the_other_way", "starts_at_0", "update_lost", "overwritten")
_COUNTED = ("cut_at_minlength", "minlength_ignored", "index_off_by_one", "exclusive", "last_lost")

KERNELS: dict[str, Kernel | Moves] = {
    "scatter_reduce": Moves(
        compute=extremes,
        bugs=(*_REDUCED, "nan_loses", "other_extreme", "by_magnitude"),
        ways=("", "other_zero"),
        legal=same_extremes,
    ),
    "scatter_reduce+": Kernel(
        compute=scatter_reduce,
        bugs=(*_REDUCED, "counted_the_other_way", "not_divided", "divided_by_most", "each_rounded"),
        legitimate=tuple(_WAYS.values()),
        arithmetics=LOW_SUMS,
    ),
    "bincount": Moves(compute=bincount, bugs=(*_COUNTED, "counts_at_8_bits")),
    "bincount+": Moves(
        compute=bincount,
        bugs=(*_COUNTED, "weights_of_next", "weights_ignored", "update_lost", *LOW_SUMS),
        ways=tuple(_WAYS),
    ),
}
