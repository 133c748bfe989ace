"""The ladder as a table of eighty columns: free run and replay side by side, layers folded.

What departs is shown step by step, what does not as one line a layer. Does not print.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from parity.judge.end_to_end_cache import Caches
from parity.judge.verdict import Verdict, worst
from parity.localize.ladder import Ladder, Rung
from parity.report.terminal import WIDTH

__all__ = ["lines"]

_NAME = 18  # columns of a step's name
_FOLD_FROM = 25  # steps: a ladder that fits a screen is shown whole
_MOST_NOTES = 12
_MOST_STORES = 4
# What a layer is called, with all that stands before it: `L03`, `model.layers.3`.
_LAYER = re.compile(r"(?:.*?[./])?(?:L\d+|\d+)(?=[./])")
_PLAN = re.compile(r"s\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class _Column:
    group: str
    title: str
    width: int
    value: Callable[[Rung], float | None]
    text: Callable[[float], str]


def lines(ladder: Ladder, *, next_command: str, whole: bool = False) -> list[str]:
    """Return the table, what is to be said of single steps, and the next command; `whole` folds nothing."""
    columns = _columns(ladder)
    fold = not whole and len(ladder.rungs) >= _FOLD_FROM
    table = [*_head(columns), *_rows(_tree(ladder.rungs), columns, depth=0, fold=fold)]
    caches = [*_caches(ladder.caches, whole=whole), ""] if ladder.caches else []
    return [*table, "", *caches, *_said(ladder, whole=whole), f"next    {next_command}"]


def _caches(caches: Caches, *, whole: bool) -> Iterator[str]:
    """Yield how far stored keys and values lie apart: each store, or the worst few, and its worst head."""
    apart = [each for each in caches.layers if any(each.largest) or each.mismatched]
    same = len(caches.layers) - len(apart)
    yield f"cache       {len(caches.layers)} stores, {same} equal to the bit"
    worst_first = sorted(apart, key=lambda each: -each.relative_l2[each.worst])
    shown = apart if whole else worst_first[:_MOST_STORES]
    for each in shown:
        heads = f"head {each.worst} of {len(each.relative_l2)}"
        text = f"  {each.step:<18} {heads:<16} rel_l2 {each.relative_l2[each.worst]:.1e}"
        text += f"   largest {each.largest[each.worst]:.1e}"
        yield text
        if each.mismatched:
            yield f"    {each.mismatched:,} elements are not finite on one side alone"
    if len(apart) > len(shown):
        yield f"  {len(apart) - len(shown)} more stores, less far apart: --all"
    for text in caches.unmatched:
        yield from _bullet(f"not compared: {text}")


def _columns(ladder: Ladder) -> tuple[_Column, ...]:
    inherited = _Column("inherited", "rel_l2", 9, lambda r: r.inherited, _distance)
    free = _Column("free run", "rel_l2", 9, lambda r: r.free, _distance)
    if not ladder.has_reference:
        return (_rms("alone"), _worst("alone"))
    if not ladder.has_replay:
        return (inherited, free, _rms("alone"), _worst("alone"))
    again = _Column(
        "replayed", "rel_l2", 9, lambda r: r.replayed.relative_l2 if r.replayed else None, _distance
    )
    worst_again = _Column(
        "replayed", "worst |e|/B", 12, lambda r: _exact(r.replayed.worst, r) if r.replayed else None, _share
    )
    return (inherited, free, _rms("free run"), again, worst_again)


def _rms(group: str) -> _Column:
    return _Column(
        group, "rms/sigma", 10, lambda r: _exact(r.introduced.rms, r) if r.introduced else None, _share
    )


def _worst(group: str) -> _Column:
    return _Column(
        group, "worst |e|/B", 12, lambda r: _exact(r.introduced.worst, r) if r.introduced else None, _share
    )


def _exact(value: float | None, rung: Rung) -> float | None:
    # A result that must be equal to the bit has no budget: within, its error is none.
    return 0.0 if value is None and rung.verdict is Verdict.WITHIN else value


def _distance(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}" if math.isfinite(value) else str(value)


def _share(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    return f"{value:,.1f}" if value < 1e6 else f"{value:.1e}"


def _head(columns: Sequence[_Column]) -> list[str]:
    groups: list[tuple[str, int]] = []
    for column in columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = column.group, groups[-1][1] + column.width
        else:
            groups.append((column.group, column.width))
    first = f"{'step':<{_NAME}}" + "".join(f"{name:>{width}}" for name, width in groups)
    return [first, " " * _NAME + "".join(f"{column.title:>{column.width}}" for column in columns)]


@dataclass(slots=True)
class _Node:
    """A part of the model: its children are parts or steps, in the order of the run."""

    label: str
    children: list[_Node | tuple[str, Rung]]

    def rungs(self) -> Iterator[Rung]:
        for child in self.children:
            if isinstance(child, _Node):
                yield from child.rungs()
            else:
                yield child[1]


def _path(name: str) -> tuple[str, ...]:
    """Split a step's name into plan, layer, modules and function; a name without a layer is whole."""
    head: list[str] = []
    plan = _PLAN.match(name)
    if plan:
        head, name = [plan.group()], name[plan.end() + 1 :]
    layer = _LAYER.match(name)
    if not layer:
        return (*head, name)
    return (*head, layer.group(), *re.split(r"[./]", name[layer.end() + 1 :]))


def _tree(rungs: Sequence[Rung]) -> _Node:
    root = _Node("", [])
    for rung in rungs:
        node, path = root, _path(rung.step)
        for part in path[:-1]:
            last = node.children[-1] if node.children else None
            # Only what follows directly: a module that is come back to is another line.
            if not (isinstance(last, _Node) and last.label == part):
                last = _Node(part, [])
                node.children.append(last)
            node = last
        node.children.append((path[-1], rung))
    return root


def _rows(node: _Node, columns: Sequence[_Column], *, depth: int, fold: bool) -> Iterator[str]:
    for child in node.children:
        if not isinstance(child, _Node):
            yield from _line(_mark(child[1]) * (not depth) + child[0], [child[1]], columns, depth=depth)
            continue
        rungs = list(child.rungs())
        if len(rungs) == 1:
            name = f"{child.label}.{rungs[0].step.rpartition(child.label)[2].lstrip('./')}"
            yield from _line(_mark(rungs[0]) * (not depth) + name, rungs, columns, depth=depth)
        elif fold and not any(_is_shown(rung) for rung in rungs):
            yield from _line(f"{child.label}   {len(rungs)} steps", rungs, columns, depth=depth)
        else:
            yield "  " * depth + child.label
            yield from _rows(child, columns, depth=depth + 1, fold=fold)


def _is_shown(rung: Rung) -> bool:
    return rung.verdict is not Verdict.WITHIN or rung.glue


def _mark(rung: Rung) -> str:
    return "> " if rung.verdict.departs else ""


def _line(label: str, rungs: Sequence[Rung], columns: Sequence[_Column], *, depth: int) -> Iterator[str]:
    cells = []
    for column in columns:
        values = [v for v in map(column.value, rungs) if v is not None]
        largest = max(values, key=lambda v: (math.isnan(v), v), default=None)
        cells.append(f"{'-' if largest is None else column.text(largest):>{column.width}}")
    indent = "  " * depth
    if depth and len(rungs) == 1 and rungs[0].verdict.departs:
        indent = "> " + "  " * (depth - 1)
    name = indent + label
    end = " <=" if len(rungs) > 1 else ""
    if len(name) + len(end) > _NAME:
        yield name[:WIDTH]
        name = ""
    yield f"{name:<{_NAME - len(end)}}{end}{''.join(cells)}  {_word(rungs)}".rstrip()


def _word(rungs: Sequence[Rung]) -> str:
    verdict = worst(rung.verdict for rung in rungs)
    if verdict is Verdict.WITHIN:
        glue = any(rung.glue for rung in rungs)
        return "glue" if glue else "same" if all(rung.same for rung in rungs) else "within"
    word: str = verdict.value.replace("_", " ")
    return word.upper() if verdict.departs else word


def _said(ladder: Ladder, *, whole: bool) -> Iterator[str]:
    notes = [
        (f"{rung.step}: ", note)
        for rung in ladder.rungs
        for note in rung.notes
        if whole or not note.startswith("not reached")
    ]
    notes = [("", note) for note in ladder.notes] + notes
    most = len(notes) if whole else _MOST_NOTES
    for prefix, note in notes[:most]:
        yield from _bullet(prefix + note)
    if len(notes) > most:
        yield from _bullet(f"{len(notes) - most} more notes: --all")
    yield from _bullet(_verdict(ladder))


def _verdict(ladder: Ladder) -> str:
    departing = ladder.departing()
    total = f"{len(ladder.rungs)} step{'' if len(ladder.rungs) == 1 else 's'}"
    if departing:
        first = departing[0]
        return f"{len(departing)} of {total} depart; the first is {first.step} ({first.op})"
    if ladder.verdict is Verdict.WITHIN:
        same = sum(rung.same for rung in ladder.rungs)
        equal = f", {same} equal to the bit" if ladder.has_reference else ""
        return f"all {total} are within{equal}"
    if ladder.verdict is Verdict.STALE:
        return f"nothing departs, though it is declared: all {total} are within"
    known = sum(rung.verdict is Verdict.KNOWN for rung in ladder.rungs)
    unjudged = [r for r in ladder.rungs if r.verdict not in (Verdict.WITHIN, Verdict.KNOWN)]
    if ladder.verdict is Verdict.KNOWN and not unjudged:
        return f"{known} of {total} depart, as declared; the others are within"
    what = f"{len(unjudged)} of {total} not judged" if unjudged else "the case as a whole is not judged"
    return f"nothing departs, but {what}"


def _bullet(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent="  = ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
