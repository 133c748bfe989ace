"""Rows that hold every allowed pair of parameter values at least once, instead of the product.

Deterministic: same domains and constraint, same rows in the same order, in every Python. Does not
know what a parameter means.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Row", "each_value", "pairwise"]

_Ints = npt.NDArray[np.int64]
Row = dict[str, str]
_Domains = Mapping[str, Sequence[str]]
_Allowed = Callable[[Mapping[str, str]], bool]


def pairwise(domains: _Domains, allowed: _Allowed = lambda _: True) -> list[Row]:
    """Return allowed rows such that every pair of values that any allowed row holds is in one.

    Greedy: the next row is the first that holds the most pairs not yet held; then rows that have
    become superfluous go. One parameter gives one row a value, none gives one empty row.
    `allowed` must be a function of the values that it reads, and is called once for each of those.
    """
    codes = np.argwhere(_permitted(domains, allowed))
    chosen = list(range(len(codes)))
    if len(domains) > 1 and len(codes):
        pairs = _pairs(codes, [len(values) for values in domains.values()])
        chosen = _without_superfluous(pairs, _greedy(pairs))
    return [
        {name: values[i] for (name, values), i in zip(domains.items(), codes[row], strict=True)}
        for row in sorted(chosen)
    ]


def each_value(rows: Sequence[Row], weight: Callable[[Row], int]) -> list[Row]:
    """Return rows that together hold every value of `rows`, most new values first.

    Among equals the lightest, then the first. Any prefix holds as many values as greed allows.
    """
    missing = {item for row in rows for item in row.items()}
    left = sorted(rows, key=weight)
    chosen: list[Row] = []
    while left and (missing or not chosen):
        best = max(left, key=lambda row: len(missing & row.items()))
        left.remove(best)
        chosen.append(best)
        missing -= best.items()
    return chosen


class _Unread(Exception):
    """A value was read that is not decided yet."""


class _Reading(Mapping[str, str]):
    """A row of which some values are decided; reading another one says which it was."""

    def __init__(self, decided: Row, domains: _Domains) -> None:
        self.decided, self.domains = decided, domains

    def __getitem__(self, name: str) -> str:
        if name in self.decided:
            return self.decided[name]
        if name in self.domains:
            raise _Unread(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.domains)

    def __len__(self) -> int:
        return len(self.domains)


def _permitted(domains: _Domains, allowed: _Allowed) -> npt.NDArray[np.bool_]:
    """Return which rows of the product are allowed, one dimension a parameter.

    `allowed` is asked with nothing decided; each value that it reads is then decided in every way.
    So it runs as often as what it reads has combinations, not once a row of a product that may
    have tens of thousands.
    """
    permitted = np.ones([len(values) for values in domains.values()], dtype=np.bool_)
    undecided: list[Row] = [{}]
    while undecided:
        decided = undecided.pop()
        try:
            verdict = allowed(_Reading(decided, domains))
        except _Unread as unread:
            name = str(unread.args[0])
            undecided += [{**decided, name: value} for value in domains[name]]
            continue
        if not verdict:
            box = (domains[name].index(decided[name]) if name in decided else slice(None) for name in domains)
            permitted[tuple(box)] = False
    return permitted


def _pairs(codes: _Ints, sizes: Sequence[int]) -> npt.NDArray[np.uint16]:
    """Return, for each row, a number for each pair of its values."""
    columns, base = [], 0
    for i, j in itertools.combinations(range(len(sizes)), 2):
        columns.append(base + codes[:, i] * sizes[j] + codes[:, j])
        base += sizes[i] * sizes[j]
    if base > np.iinfo(np.uint16).max:
        raise ValueError(f"{base} pairs of values are more than a family should have")
    # 16 bits let the stable sort below be a radix sort.
    return np.stack(columns, axis=1).astype(np.uint16)


def _greedy(pairs: npt.NDArray[np.uint16]) -> list[int]:
    """Return row numbers in the order chosen; `score` counts the pairs of a row still missing."""
    rows_by_pair = np.argsort(pairs, axis=None, kind="stable") // pairs.shape[1]
    held_by = np.bincount(pairs.reshape(-1))
    ends = np.cumsum(held_by)
    missing = held_by > 0
    score = np.full(len(pairs), pairs.shape[1])
    chosen = []
    while missing.any():
        best = int(np.argmax(score))
        chosen.append(best)
        for pair in pairs[best][missing[pairs[best]]]:
            score[rows_by_pair[ends[pair] - held_by[pair] : ends[pair]]] -= 1
        missing[pairs[best]] = False
    return chosen


def _without_superfluous(pairs: npt.NDArray[np.uint16], chosen: Sequence[int]) -> list[int]:
    held = np.bincount(pairs[list(chosen)].reshape(-1))
    kept = []
    for row in chosen:
        if (held[pairs[row]] > 1).all():
            held[pairs[row]] -= 1
        else:
            kept.append(row)
    return kept
