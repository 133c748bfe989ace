"""Products of groups of rows and of rows that are routed, written T x K x N."""

from parity.case.case import Role
from parity.case.family import FLOATS, Params, Parts, dims, family, one, tensor

DISTS = ("normal", "heavy", "positive", "special")


def empty_group(p: Params) -> int:
    """The number of a group that has no row, -1 for none that is meant to."""
    return {"any": -1, "first": 0, "middle": int(p.groups) // 2, "last": int(p.groups) - 1}[p.empty]


@family(
    "ops/grouped_mm",
    dtype=FLOATS,
    shape=("17x64x32", "33x128x16", "5x33x7", "64x32x48", "0x16x8"),
    groups=("1", "3", "8", "16"),
    empty=("any", "first", "middle", "last"),
    past=("0", "3"),
    dist=DISTS,
    allowed=lambda p: (
        (p.groups != "1" or p.empty == "any") and (not p.shape.startswith("0") or p.past == "0")
    ),
)
def grouped_mm(p: Params) -> Parts:
    """The end of a group off by one row, the neighbour's weights, an empty group that moves all the
    groups after it, rows beyond the last end that hold what stood in memory."""
    t, k, n = dims(p.shape)
    x = tensor("x", p.dtype, (t, k), p.dist)
    w = tensor("w", p.dtype, (int(p.groups), k, n), exponent=-2, role=Role.WEIGHT)
    options = {"rows": t, "past": int(p.past), "empty": empty_group(p)}
    ends = tensor("ends", "i32", (int(p.groups),), "group_ends", **options)
    return one("grouped_mm", x, w, ends, result=(t, n))


@family(
    "ops/routed_mm",
    dtype=FLOATS,
    shape=("1x16x8", "17x64x24", "33x33x16", "9x128x48", "0x16x8"),
    experts=("4.2", "8.3", "3.1", "16.8"),
    dist=DISTS,
    allowed=lambda p: p.dist != "special" or dims(p.shape)[0] > 1,
)
def routed_mm(p: Params) -> Parts:
    """A row that goes to the neighbour of its expert, to that of the row before, or to its experts in
    another order; every row by the first one's choice."""
    (t, k, n), (count, top) = dims(p.shape), (int(x) for x in p.experts.split("."))
    x = tensor("x", p.dtype, (t, k), p.dist)
    chosen = tensor("chosen", "i64", (t, top), "permutation", high=count)
    w = tensor("w", p.dtype, (count, n, k), exponent=-2, role=Role.WEIGHT)
    return one("routed_mm", x, chosen, w, result=(t, top, n))
