"""The judge's report card: a run of the fault suite on one seed, in parallel and within a time box.

Does not print; `report.selftest` does.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

import torch

import parity
from parity.errors import BackendError
from parity.selftest.problem import cases
from parity.selftest.suite import Kind, trials
from parity.selftest.table import Tally

__all__ = [
    "MISSED",
    "MISSED_OF_A_FAMILY",
    "VERSION",
    "Card",
    "run",
    "size",
]

# The shares of real faults that the judge promises to miss at most: of all, and of each family's.
MISSED = 0.008
MISSED_OF_A_FAMILY = 0.03
VERSION = 1


@dataclass(slots=True, kw_only=True)
class Card:
    """What was counted on one seed: `judged` of the suite's `cases`, in `seconds`."""

    seed: int
    cases: int
    judged: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    tally: Tally = field(default_factory=Tally)

    def broken(self) -> list[str]:
        """Return each promise that is broken, of a rate where chance does not explain it."""
        alarms = len(self.tally.false_alarms)
        found = [f"{alarms:,} honest results were flagged"] if alarms else []
        if self.tally.is_above(MISSED):
            found.append(f"all families: more than {100 * MISSED:g} % of real faults were missed")
        return found + [
            f"{name}: more than {100 * MISSED_OF_A_FAMILY:g} % of real faults were missed"
            for name in self.tally.families()
            if self.tally.is_above(MISSED_OF_A_FAMILY, family=name)
        ]

    @property
    def exit_code(self) -> int:
        """0 when every promise is kept, 1 when one is broken, 3 when nothing was tried."""
        if not self.tally.count(Kind.LEGITIMATE) or not self.tally.count(Kind.REAL):
            return 3
        return 1 if self.broken() else 0

    def to_json(self) -> dict[str, Any]:
        """Return the card as plain data."""
        return {
            "version": VERSION,
            "parity": parity.__version__,
            "exit_code": self.exit_code,
            "seed": self.seed,
            "cases": self.cases,
            "judged": self.judged,
            "seconds": self.seconds,
            "interrupted": self.interrupted,
            "promise": {"false_alarms": 0, "missed": MISSED, "missed_of_a_family": MISSED_OF_A_FAMILY},
            "broken": self.broken(),
            **self.tally.to_json(),
        }


def size(*, production: bool = False) -> int:
    """Return the number of cases of the suite."""
    return len(cases(production=production))


def run(
    *,
    seed: int,
    time_box_s: float | None = None,
    jobs: int = 1,
    every: int = 1,
    production: bool = False,
    on_case: Callable[[], None] = lambda: None,
) -> Card:
    """Run every `every`th case of the suite and return the card of what was done in time.

    Cases come in an order of the seed in which every family is early. `on_case` is called after
    each. Ctrl-C ends the run with what was done so far. Raises BackendError when a child
    of it dies.
    """
    order = _order(seed, production=production)[::every]
    card, started, waiting = Card(seed=seed, cases=len(order)), time.monotonic(), iter(order)
    pool = ProcessPoolExecutor(
        max_workers=jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
    )
    running: set[Future[Tally]] = set()
    try:
        while time_box_s is None or time.monotonic() - started < time_box_s:
            # A few ahead, so that no child waits.
            for number in itertools.islice(waiting, 2 * jobs - len(running)):
                running.add(pool.submit(_judged, number, seed, production=production))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                card.tally.add(each.result())
                card.judged += 1
                on_case()
    except KeyboardInterrupt:
        card.interrupted = True
    except BrokenProcessPool as error:
        raise BackendError(f"a process of the self-test died: {error}") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            # The pool's own thread ends them too, and may have let go of one in between.
            with contextlib.suppress(AttributeError, OSError, RuntimeError, ValueError):
                child.terminate()
    card.seconds = time.monotonic() - started
    return card


def _order(seed: int, *, production: bool) -> list[int]:
    """Return the numbers of the cases, drawn by seed: one of each family, then a second, …"""
    families: dict[str, list[int]] = {}
    for number, case in enumerate(cases(production=production)):
        families.setdefault(case.id.path, []).append(number)
    draw = random.Random(seed)  # noqa: S311 - an order, not a secret
    for numbers in families.values():
        draw.shuffle(numbers)
    rounds = itertools.zip_longest(*families.values())
    return [number for each in rounds for number in each if number is not None]


def _begin() -> None:
    # An interrupt is the parent's to hear: it stops giving out cases.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _judged(number: int, seed: int, *, production: bool) -> Tally:
    """Run one case, in a child."""
    return Tally.of(trials(cases(production=production)[number], seed=seed))
