"""The report card of the judge, in eighty columns. Does not print."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

import parity
from parity.report.terminal import WIDTH
from parity.selftest.card import MISSED, MISSED_OF_A_FAMILY, Card
from parity.selftest.suite import Kind
from parity.selftest.table import CRITERIA, Tally, interval

__all__ = ["lines", "table"]

_ALARMS = 20  # that are shown


def lines(card: Card, *, again: str) -> Iterator[str]:
    """Yield the card: what was tried, the table, what was promised; `again` repeats the run."""
    tally = card.tally
    yield f"parity {parity.__version__}    self-test of the judge, seed {card.seed}"
    counts = ", ".join(f"{tally.count(kind):,} {kind.value}" for kind in Kind)
    yield f"tried       {counts}"
    what = "interrupted: " if card.interrupted else ""
    yield f"            {what}{card.judged:,} of {card.cases:,} cases, {card.seconds:.0f} s"
    yield ""
    yield from table(tally)
    yield f"promise     no honest result flagged; missed at most {100 * MISSED:g} % of real faults,"
    yield f"            {100 * MISSED_OF_A_FAMILY:g} % of any family's"
    broken = card.broken()
    if card.exit_code == 3:
        yield "outcome     nothing was tried: give it more time"
    elif not broken:
        yield "outcome     kept on this seed"
    for text in broken:
        yield from textwrap.wrap(
            text, WIDTH, initial_indent="outcome     broken: ", subsequent_indent=" " * 12
        )
    yield f"next        {again}"


def table(tally: Tally) -> Iterator[str]:
    """Yield what each criterion is worth, then where the judge missed something."""
    yield f"{'%':<20}{'false alarms':>20}{'real missed':>20}{'hidden missed':>20}"
    yield from (_criterion(tally, name) for name in CRITERIA)
    yield ""
    yield from _by(tally, "dtype", tally.dtypes())
    yield from _by(tally, "family", [n for n in tally.families() if _missed(tally, family=n)])
    yield from _by(tally, "fault", [n for n in tally.names() if _missed(tally, name=n)])
    if tally.false_alarms:
        yield "honest results that the judge flagged"
    for seed, case, name in tally.false_alarms[:_ALARMS]:
        yield f"  {name}, {case}, seed {seed}"
    if len(tally.false_alarms) > _ALARMS:
        yield f"  and {len(tally.false_alarms) - _ALARMS:,} more: --json"


def _missed(tally: Tally, **where: str) -> int:
    return tally.count(Kind.REAL, "derived", **where)


def _criterion(tally: Tally, name: str) -> str:
    legitimate = tally.count(Kind.LEGITIMATE)
    alarms = legitimate - tally.count(Kind.LEGITIMATE, name)
    cells = [_cell(alarms, legitimate)]
    cells += [_cell(tally.count(kind, name), tally.count(kind)) for kind in (Kind.REAL, Kind.HIDDEN)]
    shown = "parity" if name == "derived" else name
    return f"{shown:<20}" + "".join(f"{cell:>20}" for cell in cells)


def _by(tally: Tally, what: str, names: Iterable[str]) -> Iterator[str]:
    """Yield a line for each name, most missed first, and an empty one; nothing for no names."""
    place = {"dtype": "dtype", "family": "family"}.get(what, "name")
    rows = [(_missed(tally, **{place: n}), tally.count(Kind.REAL, **{place: n}), n) for n in names]
    if not rows:
        return
    yield f"{'by ' + what:<36}{'real':>10}{'missed':>10}{'%':>24}"
    for missed, real, name in sorted(rows, key=lambda row: (-row[0], row[2])):
        yield f"  {name:<34}{real:>10,}{missed:>10,}{_cell(missed, real):>24}"
    yield ""


def _cell(k: int, n: int) -> str:
    if not n:
        return "none tried"
    low, high = interval(k, n)
    return f"{_percent(k / n)} [{_percent(low)}, {_percent(high)}]"


def _percent(share: float) -> str:
    # Three digits: 0.64, 53.9, 100.
    return f"{100 * share:.2f}" if share < 0.1 else f"{100 * share:.1f}" if share < 1 else "100"
