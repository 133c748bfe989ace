"""Distributions in order: ascending sequences to search in, ends of groups, ranked probabilities.

Along the last dimension, and the same bits everywhere: comparisons, exact integer sums and one
division. Does not draw what is not in order.
"""

from __future__ import annotations

import numpy as np

from parity.case.dist_float import SCALED
from parity.case.draw import Distribution, Draw, Floats, Ints
from parity.case.dtype import Kind
from parity.errors import UsageError

__all__ = ["RANKED_DISTRIBUTIONS"]


def _ascending(draw: Draw) -> Floats | Ints:
    """Few distinct values in ascending order: multiples of 1/2 around 0 for floats, of 1 for integers."""
    distinct = draw.option("distinct", 5)
    value = np.sort(draw.below("value", distinct), axis=-1) if draw.shape else draw.below("value", distinct)
    if draw.dtype.is_float:
        return (value - distinct // 2).astype(np.float64) * 0.5
    return value - distinct // 2 if draw.dtype.signed else value


def _group_ends(draw: Draw) -> Ints:
    """Ends of neighbouring groups of `rows` rows, ascending; the last `past` rows are in no group.

    Group `empty`, if one is named, has no row.
    """
    rows, past, empty = draw.option("rows", 0), draw.option("past", 0), draw.option("empty", -1)
    if not 0 <= past <= rows:
        raise UsageError(f"dist 'group_ends' cannot leave {past} of {rows} rows without a group")
    groups = draw.last - (empty >= 0)
    ends = np.sort(draw.below("end", rows - past + 1, (*draw.shape[:-1], groups)), axis=-1)
    ends[..., -1:] = rows - past
    if empty < 0:
        return ends
    return np.insert(ends, empty, ends[..., empty - 1] if empty else 0, axis=-1)


def _probabilities(draw: Draw) -> Floats:
    """Descending, and of sum 1 but for the rounding of each: a few large ones and a long tail.

    Weights are the eighth power of a uniform number as integers of 40 bits, the smallest 1; their
    sum is exact.
    """
    u = draw.unit("value")
    square = u * u
    fourth = square * square
    weight = np.floor(fourth * fourth * 2.0**40).astype(np.int64) + 1
    ranked = np.sort(weight.reshape(-1, draw.last), axis=-1)[..., ::-1]
    p: Floats = ranked.astype(np.float64) / ranked.sum(axis=-1, keepdims=True).astype(np.float64)
    return p.reshape(draw.shape)


RANKED_DISTRIBUTIONS = {
    "ascending": Distribution(
        make=_ascending,
        kinds=frozenset({Kind.FLOAT, Kind.INT}),
        options={**SCALED, "distinct": (int,)},
    ),
    "group_ends": Distribution(
        make=_group_ends,
        kinds=frozenset({Kind.INT}),
        options={"rows": (int,), "past": (int,), "empty": (int,)},
        required=("rows",),
    ),
    "probabilities": Distribution(make=_probabilities, kinds=frozenset({Kind.FLOAT})),
}
