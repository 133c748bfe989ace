"""What a decoder's step reads besides activations and weights: pages of keys, their slots, angles.

A plan names the requests of a step as `context+length`: `16+1.0+33` is one token behind 16 cached
ones, beside a prompt of 33. Which slot holds which token follows from the plan and the number of
slots alone, so that the tensors of a case agree without knowing each other. Does not know what an
attention is.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from parity.case.dist_float import FLOAT_DISTRIBUTIONS, SCALED
from parity.case.draw import Distribution, Draw, Floats, Ints, words
from parity.case.dtype import Kind
from parity.errors import UsageError, near_miss

__all__ = ["PAGE_DISTRIBUTIONS", "slots_of", "spans"]

_VALUES = ("heavy", "normal")


def spans(plan: str) -> list[tuple[int, int]]:
    """Return (context, length) of each request of a plan. Raises UsageError for a text that is none."""
    try:
        found = [(int(context), int(length)) for context, length in (x.split("+") for x in plan.split("."))]
    except ValueError:
        found = []
    if not found or any(context < 0 or length < 0 for context, length in found):
        raise UsageError(
            f"'{plan}' is not a plan: expected context+length of each request, such as 16+1.0+33"
        )
    return found


def slots_of(plan: str, slots: int) -> list[Ints]:
    """Return the slots of each request's tokens, cached ones first: distinct, and in no order.

    Raises UsageError when the plan needs more than there are.
    """
    totals = [context + length for context, length in spans(plan)]
    if sum(totals) > slots:
        raise UsageError(f"plan '{plan}' needs {sum(totals)} slots, there are {slots}")
    order = np.argsort(words("pages", str(slots), slots), kind="stable").astype(np.int64)
    return np.split(order, list(accumulate(totals)))[: len(totals)]


def _slots(draw: Draw) -> Ints:
    """The slots of all requests' tokens one after the other, or only of those that the step adds."""
    plan, new = draw.option("plan", ""), draw.option("new", False)
    held = slots_of(plan, draw.option("slots", 0))
    parts = [s[context if new else 0 :] for s, (context, _) in zip(held, spans(plan), strict=True)]
    return _shaped(np.concatenate(parts), draw)


def _positions(draw: Draw) -> Ints:
    """The position of each token that the step adds, in its own request."""
    parts = [np.arange(context, context + length) for context, length in spans(draw.option("plan", ""))]
    return _shaped(np.concatenate(parts).astype(np.int64), draw)


def _segments(draw: Draw) -> Ints:
    """Start row, length and context of each request, [n, 3]."""
    plan = spans(draw.option("plan", ""))
    starts = accumulate([0, *(length for _, length in plan[:-1])])
    rows = [(start, length, context) for start, (context, length) in zip(starts, plan, strict=True)]
    return _shaped(np.array(rows, dtype=np.int64), draw)


def _pages(draw: Draw) -> Floats:
    """What earlier tokens left in a pool [slots, …]: NaN in every slot that holds no cached token.

    A step that reads a slot before it wrote it, or another's, shows it.
    """
    kind = draw.option("values", "normal")
    if kind not in _VALUES:
        raise UsageError(f"dist 'pages' has no values '{kind}'{near_miss(kind, _VALUES)}")
    plan = draw.option("plan", "")
    held = slots_of(plan, draw.shape[0] if draw.shape else 0)
    cached = [slots[:context] for slots, (context, _) in zip(held, spans(plan), strict=True)]
    made = np.full(draw.shape, np.nan)
    filled = np.concatenate(cached)
    made[filled] = np.asarray(FLOAT_DISTRIBUTIONS[kind].make(draw))[filled]
    return made


def _angles(draw: Draw) -> Floats:
    """The cosine (`part` is cos) or sine of p times the angle of column i, for p in rows from 0 on.

    Column i turns by 2 atan(1 / (i + 2)) a row. That is rational where a power of a base is not:
    cosine (n^2 - 1) / (n^2 + 1), sine 2 n / (n^2 + 1) for n = i + 2, then one rotation a row, as
    + - * / give the same bits everywhere. `magnitude` multiplies both, as yarn's does.
    """
    part, shape = draw.option("part", ""), draw.shape
    if part not in ("cos", "sin") or len(shape) != 2:
        raise UsageError(
            f"dist 'angles' makes part cos or sin of shape [positions, R], got '{part}', {shape}"
        )
    n = np.arange(shape[1]) + 2.0
    cosine, sine = (n * n - 1.0) / (n * n + 1.0), 2.0 * n / (n * n + 1.0)
    table = np.empty((2, *shape))
    x, y = np.ones(shape[1]), np.zeros(shape[1])
    for row in range(shape[0]):
        table[:, row] = x, y
        x, y = x * cosine - y * sine, x * sine + y * cosine
    chosen: Floats = table[0 if part == "cos" else 1]
    return chosen * draw.option("magnitude", 1.0)


def _shaped(made: Ints, draw: Draw) -> Ints:
    if made.shape != draw.shape:
        raise UsageError(f"plan '{draw.option('plan', '')}' makes {made.shape}, not {draw.shape}")
    return made


_FLOAT, _INT = frozenset({Kind.FLOAT}), frozenset({Kind.INT})
_TEXT, _WHOLE = (str,), (int,)

PAGE_DISTRIBUTIONS = {
    "pages": Distribution(
        make=_pages,
        kinds=_FLOAT,
        options={**SCALED, "plan": _TEXT, "values": _TEXT},
        required=("plan",),
    ),
    "slots": Distribution(
        make=_slots,
        kinds=_INT,
        options={"plan": _TEXT, "slots": _WHOLE, "new": (bool,)},
        required=("plan", "slots"),
    ),
    "positions": Distribution(make=_positions, kinds=_INT, options={"plan": _TEXT}, required=("plan",)),
    "segments": Distribution(make=_segments, kinds=_INT, options={"plan": _TEXT}, required=("plan",)),
    "angles": Distribution(
        make=_angles,
        kinds=_FLOAT,
        options={**SCALED, "part": _TEXT, "magnitude": (int, float)},
        required=("part",),
    ),
}
