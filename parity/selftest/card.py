"""The judge's report card: a run of the fault suite on one seed, in parallel and within a time box.

Does not print; `report.selftest` does.
"""

from __future__ import annotations

import functools
import itertools
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

import parity
from parity.run.judges import Judges
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
    each. Ctrl-C ends the run with what was done so far.
    """
    order = _order(seed, production=production)[::every]
    card, started = Card(seed=seed, cases=len(order)), time.monotonic()

    def take(answers: Iterable[tuple[int, Tally]]) -> None:
        for _, tally in answers:
            card.tally.add(tally)
            card.judged += 1
            on_case()

    judge = functools.partial(_judged, seed=seed, production=production)
    try:
        with Judges[int, Tally](judge, processes=jobs - 1) as judges:
            for left, number in zip(range(len(order), 0, -1), order, strict=True):
                if time_box_s is not None and time.monotonic() - started >= time_box_s:
                    break
                take(judges.give(number, left=left))
            take(judges.rest())
    except KeyboardInterrupt:
        card.interrupted = True
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


def _judged(number: int, *, seed: int, production: bool) -> Tally:
    torch.set_num_threads(1)
    return Tally.of(trials(cases(production=production)[number], seed=seed))
