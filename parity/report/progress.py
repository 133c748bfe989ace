"""Progress on stderr: a live bar in a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from parity.judge.verdict import Outcome, Verdict

__all__ = ["progress"]

_LINE_EVERY_S = 15.0

_Advance = Callable[[Outcome | None], None]


@contextmanager
def progress(total: int) -> Iterator[_Advance]:
    """Yield a function to call with each finished case: counts, rate and time left are shown."""
    if sys.stderr.isatty():
        with _bar(total) as advance:
            yield advance
    else:
        yield _lines(total)


def _departures(seen: Counter[Verdict]) -> str:
    return ", ".join(
        f"{n} {v.value}"
        for v, n in sorted(seen.items(), key=lambda item: item[0].rank)
        if v is not Verdict.WITHIN
    )


@contextmanager
def _bar(total: int) -> Iterator[_Advance]:
    seen: Counter[Verdict] = Counter()
    started = time.monotonic()
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, TextColumn("{task.fields[seen]}"), console=Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task("cases", total=total, rate="", seen="")

        def advance(outcome: Outcome | None) -> None:
            if outcome is not None:
                seen[outcome.gate] += 1
            done = bar.tasks[0].completed + 1
            rate = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, advance=1, rate=f"{rate:.0f}/s", seen=_departures(seen))

        yield advance


def _lines(total: int) -> _Advance:
    seen: Counter[Verdict] = Counter()
    started = last = time.monotonic()
    done = 0

    def advance(outcome: Outcome | None) -> None:
        nonlocal done, last
        done += 1
        if outcome is not None:
            seen[outcome.gate] += 1
        now = time.monotonic()
        if now - last < _LINE_EVERY_S:
            return
        last = now
        rate = done / (now - started)
        text = f"{done:,} of {total:,} cases, {rate:.0f}/s, {(total - done) / rate:.0f} s left"
        print(", ".join(filter(None, [text, _departures(seen)])), file=sys.stderr)

    return advance
