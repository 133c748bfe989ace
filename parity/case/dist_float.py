"""Distributions of floating-point values: what each is for stands in its docstring.

Only + - * / and sqrt of IEEE float64 in written order, so that every machine gives the same bits;
no log, no cos. Rounding to the dtype happens once, in `inputs`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from parity.case.draw import Distribution, Draw, Floats
from parity.case.dtype import DType, Kind

__all__ = ["FLOAT_DISTRIBUTIONS", "SCALED", "named_value"]

# The option of every distribution of real values: times 2^exponent, before rounding.
SCALED = {"exponent": (int,)}

# Around a true NaN or infinity in one row, others must stay untouched: the kinds of `special`
# alternate by row.
_SPECIAL_ROWS = ("all", "clean", "zeros", "inf", "nan", "minus_inf", "max")


def _normal(draw: Draw) -> Floats:
    """Zero-mean data, where errors of a sum do not pile up."""
    return draw.normal("value")


def _small(draw: Draw) -> Floats:
    """Normal times 2^-10: an epsilon that is too large, a scale that is lost, subnormal squares."""
    return draw.normal("value") * 2.0**-10


def _positive(draw: Draw) -> Floats:
    """|normal| + 2^-6: same-sign sums, where a low-precision accumulator loses its tail."""
    return np.abs(draw.normal("value")) + 2.0**-6


def _shifted(draw: Draw) -> Floats:
    """Normal + 64: a one-pass variance cancels, a mean in low precision is off."""
    return draw.normal("value") + 64.0


def _near_one(draw: Draw) -> Floats:
    """1 + normal times 2^-10: a logarithm that cancels, a reciprocal that is off by its last places."""
    return 1.0 + draw.normal("value") * 2.0**-10


def _heavy(draw: Draw) -> Floats:
    """Student-t-like with 3 degrees of freedom, and about 1 % outlier channels of 50 to 150 times.

    What trained models feed to their kernels. Clipped to 200 before the channels are scaled, so
    that float16 holds every value; a last dimension of 8 or more has at least one such channel.
    """
    z1, z2, z3 = (draw.normal(lane) for lane in ("z1", "z2", "z3"))
    spread = np.sqrt(((z1 * z1 + z2 * z2) + z3 * z3) / 3.0)
    value = np.clip(draw.normal("value") / np.maximum(spread, 2.0**-20), -200.0, 200.0)
    if draw.last < 8:
        return value
    count = max(1, (draw.last + 50) // 100)
    outliers = np.argsort(draw.words("channel", (draw.last,)), kind="stable")[:count]
    factor = np.ones(draw.last)
    factor[outliers] = 50.0 + 100.0 * draw.unit("factor", (draw.last,))[outliers]
    return value * factor


def _cancel(draw: Draw) -> Floats:
    """Pairs a, -a (1 + d 2^-8), |d| <= 1, along `axis`: a sum keeps only what rounding spared."""
    value = draw.normal("value")
    delta = 2.0 * draw.unit("delta") - 1.0
    pair = _pairs(value, draw)
    pair[1::2] = -(pair[0::2] * (1.0 + _pairs(delta, draw)[1::2] * 2.0**-8))
    return value


def _paired(draw: Draw) -> Floats:
    """Equal pairs along `axis`: the partner of `cancel` in a sum of products."""
    value = draw.normal("value")
    pair = _pairs(value, draw)
    pair[1::2] = pair[0::2]
    return value


def _pairs(value: Floats, draw: Draw) -> Floats:
    """Return a view with `axis` first and of even length; a last odd element stays as drawn."""
    if not value.ndim:
        return value.reshape(1)[:0]
    moved = np.moveaxis(value, draw.option("axis", -1), 0)
    return moved[: moved.shape[0] // 2 * 2]


def _special(draw: Draw) -> Floats:
    """Zeros of both signs, subnormals, infinities, NaN and the largest finite value, over normals.

    Rows of the last dimension take turns (_SPECIAL_ROWS), so that a NaN that leaks into the next
    row is seen. Within a row about 1 in 8 elements is special, and at least one.
    """
    value = draw.normal("value")
    chosen = draw.hits("where", 8)
    kind = draw.row() % len(_SPECIAL_ROWS)
    for number, name in enumerate(_SPECIAL_ROWS):
        candidates = _special_values(name, draw.dtype)
        turn = chosen & (kind == number)
        if candidates and turn.any():
            picked = np.array(candidates)[draw.below("pick", len(candidates))]
            value = np.where(turn, picked, value)
    return value


def _special_values(kind: str, dtype: DType) -> tuple[float, ...]:
    tiny, normal, most = dtype.min_subnormal, dtype.min_normal, dtype.max_finite
    match kind:
        case "zeros":
            return (0.0, -0.0, tiny, -tiny, normal - tiny, -normal)
        case "inf":
            return (np.inf,)
        case "minus_inf":
            return (-np.inf,)
        case "nan":
            return (np.nan,)
        case "max":
            return (most, -most)
        case "all":
            return (0.0, -0.0, tiny, -tiny, normal - tiny, -normal, np.inf, -np.inf, np.nan, most, -most)
        case _:
            return ()


def _masked(draw: Draw) -> Floats:
    """Scores after a mask: rows clean, with some -inf, with some -inf, all -inf, in turn."""
    turn = draw.row() % 4
    hidden = (draw.hits("where", 4) & (turn > 0)) | (turn == 3)
    return np.where(hidden, -np.inf, draw.normal("value"))


def _sweep(draw: Draw) -> Floats:
    """Evenly from -reach to reach in row-major order: the tails and every segment of a table."""
    step = np.arange(draw.numel, dtype=np.int64).reshape(draw.shape)
    return (2 * step - (draw.numel - 1)) * draw.option("reach", 100.0) / max(draw.numel - 1, 1)


def _ties_nan(draw: Draw) -> Floats:
    """Few distinct values with infinities; every second row holds NaN too."""
    distinct = draw.option("distinct", 5)
    value = (draw.below("value", distinct) - distinct // 2) * 0.5
    drawn = draw.words("inf") % np.uint64(32)
    value = np.where(drawn == 1, np.inf, np.where(drawn == 2, -np.inf, value))
    return np.where(draw.hits("nan", 16) & (draw.row() % 2 == 0), np.nan, value)


def named_value(value: float | str, dtype: DType) -> float:
    """Return a number, or what `min`, `max`, `inf`, `-inf` and `nan` mean in a float type."""
    match value:
        case "min":
            return -dtype.max_finite
        case "max":
            return dtype.max_finite
        case _:
            return float(value)


def _real(make: Callable[[Draw], Floats], **options: tuple[type, ...]) -> Distribution:
    return Distribution(make=make, kinds=frozenset({Kind.FLOAT}), options={**SCALED, **options})


FLOAT_DISTRIBUTIONS = {
    "normal": _real(_normal),
    "small": _real(_small),
    "positive": _real(_positive),
    "shifted": _real(_shifted),
    "near_one": _real(_near_one),
    "heavy": _real(_heavy),
    "cancel": _real(_cancel, axis=(int,)),
    "paired": _real(_paired, axis=(int,)),
    "special": _real(_special),
    "masked": _real(_masked),
    "sweep": _real(_sweep, reach=(int, float)),
    "ties_nan": _real(_ties_nan, distinct=(int,)),
}
