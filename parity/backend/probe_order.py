"""Find in which order a matrix product adds its terms, after FPRev (arXiv 2411.00442).

A large M stands at one place, -M at another, small terms elsewhere. Those that are added to M
before -M meets it are lost, so what remains says how many leaves lie below the node where the
two meet, in whatever tree the device uses. Only trees that `Products` can describe are named. Does
not tell a fused multiply-add from a product that is rounded before it is added.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from parity.backend.arithmetic import Order, Reads
from parity.backend.probe_ask import Unsure, Values
from parity.backend.probe_tree import Indices, Tree, Trial, meeting
from parity.backend.profile import Accumulator, Rounding
from parity.case.dtype import DTYPES

__all__ = ["fitting", "order", "trial"]

_BLOCKS = range(1, 65)
_SPLITS = range(1, 17)
_UNORDERED_SPLITS = range(3, 9)  # two runs give one sum in either order
_COLUMNS = 8
_CALLS = 6
_DENSE = 68  # every place up to here is looked at: more than the largest block
_NEAR = 32  # a node that ends beyond twice as many places has its second place beyond this one
_STRIDE = 6  # then each sixth: all small terms together are fewer than 256, which bf16 counts exactly
# Rounded to zero, -M plus a small term leaves a residue of 2^-p M, once for each such term. M is so
# large that it exceeds all small terms together: what remains of them is then read below it.
_RESIDUE = 10  # log2 of it in small terms

_Product = Callable[[Values, Values], Values]


def order(
    multiply: _Product, *, of: str, accumulator: Accumulator, reads: Reads | None, length: int
) -> Iterator[tuple[str, str | Unsure]]:
    """Yield block, order, splits, and whether the runs meet in one order in every call.

    Raises Unsure when the evidence fits no tree.
    """
    # Residues of many terms and their number together need more bits than narrow results have.
    together = accumulator.rounding is Rounding.NEAREST or (of == "f32" and accumulator.dtype.bits >= 32)
    asked = trial(length, together=together)
    a, b, unit = _operands(asked, of=of, accumulator=accumulator)
    few = slice(None, None, max(1, len(a) // 32))
    calls = [multiply(a[few], b) for _ in range(_CALLS)]
    ordered = all(np.array_equal(calls[0], call, equal_nan=True) for call in calls)
    lost = _lost(multiply(a, b), asked, unit=unit)
    found = fitting(asked, lost, ordered=ordered)
    if {tree.block for tree in found} == {1, 2} and reads is Reads.IEEE:
        found = _one_or_two(found, multiply, of=of, accumulator=accumulator, length=length)
    if not ordered:
        yield "ordered", "no"
    if not found:
        raise Unsure(f"no order of blocks and runs explains what is lost: {_shown(asked, lost)}")
    for name in ("block", "order", "splits"):
        seen = sorted({getattr(tree, name) for tree in found}, key=str)
        texts = [each.value if isinstance(each, Order) else str(each) for each in seen]
        yield name, texts[0] if len(texts) == 1 else Unsure(f"may be {' or '.join(texts[:4])}")
    if ordered:
        yield "ordered", _is_ordered({tree.splits for tree in found})


def _is_ordered(splits: set[int]) -> str | Unsure:
    if 2 in splits:
        return Unsure("two runs give one sum in either order")
    return "yes"


def trial(length: int, *, together: bool) -> Trial:
    """Return the rows to ask: all small terms together, or one at a time, which needs more rows."""
    triples = list(_together(length) if together else _alone(length))
    first, second = (np.array([each[place] for each in triples], dtype=np.int64) for place in (0, 1))
    other = np.where(np.isin(first, _anchors(length)), second, first)
    column = other % _COLUMNS
    large = np.arange(length)[:, None] % _COLUMNS == np.arange(_COLUMNS)
    large[list(_anchors(length))] = True
    present = np.zeros((len(triples), length), dtype=bool)
    for row, (_, _, small) in zip(present, triples, strict=True):
        row[list(small)] = True
    present &= ~large.T[column]
    return Trial(first=first, second=second, column=column, present=present, large=large)


def _anchors(length: int) -> tuple[int, ...]:
    return (0, length // 2, length - 1)


def _together(length: int) -> Iterator[tuple[int, int, list[int]]]:
    # Where two runs would be cut, and where a last run of few terms would begin.
    middle, tail = range(length // 2 - 3, length // 2 + 4), range(length - 8, length)
    places = sorted({*range(_DENSE), *range(_DENSE, length, _STRIDE), *middle, *tail})
    for anchor, place in itertools.product(_anchors(length), places):
        if place not in _anchors(length):
            yield min(anchor, place), max(anchor, place), places


def _alone(length: int) -> Iterator[tuple[int, int, list[int]]]:
    for place in range(1, _DENSE):
        yield from ((0, place, [near]) for near in (place - 1, place + 1))
    # The next term is lost with one in a later run, unless it is in the run after that.
    yield from ((0, place, [place + 4]) for place in range(4, length - 5, 4) if place != length // 2)
    yield from ((length - 9, length - 1, [small]) for small in range(length // 2 + 1, length - 9, 16))
    middle = length // 2
    coarse = range(64, length, 64), range(33, length, 64)
    for anchor, (places, smalls) in (
        (0, (range(24, 200, 24), range(1, 200, 8))),
        (0, coarse),
        (length - 1, coarse),
        (middle, (range(middle - 4, middle + 5), range(middle - 9, middle + 10))),
    ):
        for place, small in itertools.product(places, smalls):
            if anchor not in (place, small):
                yield min(anchor, place), max(anchor, place), [small]


def _operands(asked: Trial, *, of: str, accumulator: Accumulator) -> tuple[Values, Values, float]:
    """Return both operands, and what one small term is worth."""
    narrow = "f16" in (of, accumulator.dtype.name)
    small = -5 if narrow else 0  # log2 of either factor: f16 holds M and small terms around 1
    power = 2 * small + accumulator.dtype.mantissa_bits + 1 + _RESIDUE
    left, right = 2.0 ** -(-power // 2), 2.0 ** (power // 2)
    a = np.where(asked.present, 2.0**small, 0.0)
    rows = np.arange(len(a))
    a[rows, asked.first], a[rows, asked.second] = left, -left
    return a, np.where(asked.large, right, 2.0**small), 4.0**small


def _lost(found: Values, asked: Trial, *, unit: float) -> Indices:
    """Return how many small terms of each row did not survive."""
    read = found[np.arange(len(found)), asked.column] / unit
    if not np.isfinite(read).all() or (read != np.rint(read)).any():
        raise Unsure("sums of a large number, its negative and small ones are not whole or not finite")
    kept = np.mod(read, 2.0**_RESIDUE).astype(np.int64)
    return np.asarray(asked.present.sum(axis=1) - kept)


def fitting(asked: Trial, lost: Indices, *, ordered: bool) -> list[Tree]:
    """Return every tree that loses exactly these terms."""
    splits = _SPLITS if ordered else _UNORDERED_SPLITS
    blocks = _blocks(asked, lost)
    found = [tree for tree in _trees(blocks, splits) if _explains(tree, asked, lost, ordered=ordered)]
    # Runs cut once more explain as much only if the halves happened to meet first, each time.
    fewest = min((tree.splits for tree in found), default=0)
    return found if ordered else [tree for tree in found if tree.splits == fewest]


def _blocks(asked: Trial, lost: Indices) -> list[int]:
    """Return the blocks that explain the first pairs, whose nodes end within the shortest run."""
    near = np.flatnonzero((asked.first == 0) & (asked.second <= _NEAR))
    start = asked.rows(near)
    trees = _trees(_BLOCKS, range(1, 2))
    return sorted({tree.block for tree in trees if _explains(tree, start, lost[near], ordered=True)})


def _trees(blocks: Iterable[int], splits: range) -> Iterator[Tree]:
    return (Tree(block=b, order=o, splits=s) for b, o, s in itertools.product(blocks, Order, splits))


def _explains(tree: Tree, asked: Trial, lost: Indices, *, ordered: bool) -> bool:
    length = asked.present.shape[1]
    expected = asked.count(*meeting(tree, asked.first, asked.second, length))
    if ordered:
        return bool(np.array_equal(expected, lost))
    size = tree.run(length)
    apart = asked.first // size != asked.second // size
    if not np.array_equal(expected[~apart], lost[~apart]):
        return False
    return _is_union_of_runs(tree, asked, lost, apart)


def _is_union_of_runs(tree: Tree, asked: Trial, lost: Indices, apart: Indices) -> bool:
    """Whether rows whose M and -M lie in two runs lost these two and any of the other runs."""
    length, size = asked.present.shape[1], tree.run(asked.present.shape[1])
    cuts = np.minimum(np.arange(tree.splits + 1) * size, length)
    whole = np.ones(len(lost), dtype=np.int64)
    runs = np.stack([asked.count(whole * x, whole * y) for x, y in itertools.pairwise(cuts)], axis=1)
    subsets = np.array(list(itertools.product((0, 1), repeat=tree.splits)))
    rows = np.arange(len(lost))
    needed = subsets[:, asked.first // size] & subsets[:, asked.second // size]
    reached = (subsets @ runs.T == lost) & (needed == 1)
    return bool(reached.any(axis=0)[apart].all()) and bool(rows.size)


def _one_or_two(
    found: list[Tree], multiply: _Product, *, of: str, accumulator: Accumulator, length: int
) -> list[Tree]:
    """Return the trees that also explain a product which alone is rounded and in a pair is not.

    Pairs of neighbours and blocks of two add exact products alike. Nothing is learned where the
    accumulator holds every product of the dtype. Operands must keep their last bit.
    """
    last, scale = 2.0 ** -DTYPES[of].mantissa_bits, 2.0**10 if of == "f16" else 1.0
    a, b = np.zeros((_COLUMNS, length)), np.ones((length, _COLUMNS))
    a[:, 0], a[:, 1], b[0] = scale * (1 + last), -scale * (1 + 2 * last), 1 + last
    residue = multiply(a, b) / scale
    if accumulator.dtype.mantissa_bits >= 2 * DTYPES[of].mantissa_bits:
        return found
    exact = residue == last**2
    if exact.all() or not residue.any():
        block = 2 if exact.all() else 1
        return [tree for tree in found if tree.block == block]
    return found


def _shown(asked: Trial, lost: Indices) -> str:
    """Return the tree that explains most rows, and the first row that it does not."""
    length = asked.present.shape[1]
    counts = {
        tree: asked.count(*meeting(tree, asked.first, asked.second, length))
        for tree in _trees(_BLOCKS, _SPLITS)
    }
    nearest = max(counts, key=lambda tree: int((counts[tree] == lost).sum()))
    row = int(np.argmax(counts[nearest] != lost))
    return (
        f"nearest is block {nearest.block}, {nearest.order.value}, {nearest.splits} splits, but M at "
        f"{asked.first[row]} and -M at {asked.second[row]} lose {lost[row]} terms, not {counts[nearest][row]}"
    )
