"""Attention masks as engines build them: boolean, or added to the scores as 0 and a huge minus.

The last two dimensions are queries T and keys S; query i stands at position S - T + i. A boolean
mask keeps where it is True, as torch's SDPA reads it; `invert` gives the other polarity, True
where a key is dropped. A float mask is 0 where kept and `drop` elsewhere.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from parity.case.dist_float import named_value
from parity.case.draw import Distribution, Draw, Floats, Ints
from parity.case.dtype import Kind
from parity.errors import UsageError, near_miss

__all__ = ["MASK_DISTRIBUTIONS", "PATTERNS"]

# causal         keys up to the query's own position
# padding        the last keys are padding, 3 more for each further sequence of the batch
# left_padding   causal, and the first keys are padding: queries there have no key at all
# random         one half of the keys, and always the first
# empty_rows     random, and every third query has no key at all
PATTERNS = ("causal", "padding", "left_padding", "random", "empty_rows")


def _mask(draw: Draw) -> Floats | Ints:
    """A pattern of kept and dropped keys."""
    kept = _kept(draw)
    if draw.dtype.kind is Kind.BOOL:
        return (kept ^ draw.option("invert", False)).astype(np.int64)
    added: Floats = np.where(kept, 0.0, _drop(draw))
    return added


def _alibi(draw: Draw) -> Floats:
    """ALiBi-like: causal, and head h adds -distance * 2^-(h + 1); heads are dimension -3."""
    query, key, position = _grid(draw)
    head = query // draw.shape[-2] % (draw.shape[-3] if len(draw.shape) > 2 else 1)
    bias = np.ldexp((key - position).astype(np.float64), -(head % 8 + 1))
    return np.where(key <= position, bias, _drop(draw))


def _drop(draw: Draw) -> float:
    return named_value(draw.option("drop", "-inf"), draw.dtype)


def _grid(draw: Draw) -> tuple[Ints, Ints, Ints]:
    """Return, for each element, its row over all leading dimensions, key, and query position."""
    queries, keys = draw.shape[-2], draw.shape[-1]
    return draw.row(), draw.column(), draw.row() % queries + (keys - queries)


def _kept(draw: Draw) -> npt.NDArray[np.bool_]:
    if len(draw.shape) < 2:
        raise UsageError(f"dist 'mask' needs queries and keys as last two dimensions, got {draw.shape}")
    row, key, position = _grid(draw)
    sequences = draw.shape[0] if len(draw.shape) > 2 else 1
    sequence = row * sequences // max(math.prod(draw.shape[:-1]), 1)
    padding = 3 * (sequence + 1)
    random = (draw.words("value") >> np.uint64(63) == 1) | (key == 0)
    pattern = draw.option("pattern", "causal")
    kept: npt.NDArray[np.bool_]
    match pattern:
        case "causal":
            kept = key <= position
        case "padding":
            kept = (key < draw.last - padding) | (key == 0)
        case "left_padding":
            kept = (key <= position) & (key >= padding)
        case "random":
            kept = random
        case "empty_rows":
            kept = random & (row % 3 != 1)
        case _:
            raise UsageError(f"unknown mask pattern '{pattern}'{near_miss(pattern, PATTERNS)}")
    return kept


MASK_DISTRIBUTIONS = {
    "mask": Distribution(
        make=_mask,
        kinds=frozenset({Kind.FLOAT, Kind.BOOL}),
        options={"pattern": (str,), "invert": (bool,), "drop": (str, int, float)},
    ),
    "alibi": Distribution(make=_alibi, kinds=frozenset({Kind.FLOAT}), options={"drop": (str, int, float)}),
}
