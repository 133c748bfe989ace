"""Count trials, with intervals, and print what the criteria are worth beside each other.

An interval is Wilson's at 95 %, or at most 3/n where nothing was seen. It takes trials as
independent; those of one case share their inputs, so it is somewhat too narrow.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from faults.criteria import BASELINES
from faults.suite import Kind, Trial

__all__ = ["CRITERIA", "UNLISTED", "Tally", "interval"]

CRITERIA = ("derived", *BASELINES)
# Classes of planted faults that NUMERICS.md does not list.
UNLISTED = (
    "stale_tile",
    "swapped_tiles",
    "lane_from_neighbour",
    "bias_twice",
    "k_tail_twice",
    "stored_through_f16",
    "stored_in_fp8",
    "first_batch_for_all",
    "value_blocks_swapped",
    "online_not_rescaled",
    "zero_sign_lost",
    "nan_payload_lost",
    "bit_flipped",
)


def interval(k: int, n: int) -> tuple[float, float]:
    """Return the ends of the interval of a rate of which k of n were seen, as shares of 1."""
    if not n:
        return 0.0, 1.0
    if k in {0, n}:
        return (0.0, min(1.0, 3 / n)) if not k else (max(0.0, 1 - 3 / n), 1.0)
    z, share = 1.96, k / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, middle + half


@dataclass(slots=True)
class Tally:
    """Counts by (family, dtype, fault, kind), and each derived false alarm and miss by name."""

    seen: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    accepted: Counter[tuple[str, str, str, str, str]] = field(default_factory=Counter)
    false_alarms: list[tuple[int, str, str]] = field(default_factory=list)
    misses: list[tuple[int, str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, trials: Iterable[Trial]) -> Tally:
        """Count trials."""
        tally = cls()
        for trial in trials:
            key = (trial.family, trial.dtype, trial.name, trial.kind.value)
            tally.seen[key] += 1
            for criterion, accepted in trial.accepted.items():
                tally.accepted[(*key, criterion)] += accepted
            where = (trial.seed, trial.case, trial.name)
            if trial.kind is Kind.LEGITIMATE and not trial.accepted["derived"]:
                tally.false_alarms.append(where)
            if trial.kind is Kind.REAL and trial.accepted["derived"]:
                tally.misses.append(where)
        return tally

    def add(self, other: Tally) -> None:
        """Add the counts of other trials."""
        self.seen += other.seen
        self.accepted += other.accepted
        self.false_alarms += other.false_alarms
        self.misses += other.misses

    def count(self, kind: Kind, criterion: str = "", **where: str) -> int:
        """Count trials of a kind, or those of them that a criterion accepts, by family, dtype or name."""
        place = {"family": 0, "dtype": 1, "name": 2}
        counter: Counter[Any] = self.accepted if criterion else self.seen
        return sum(
            n
            for key, n in counter.items()
            if key[3] == kind.value
            and (not criterion or key[4] == criterion)
            and all(key[place[field]] == value for field, value in where.items())
        )

    def lines(self) -> Iterator[str]:
        """Yield the whole report."""
        counts = ", ".join(f"{self.count(kind):,} {kind.value}" for kind in Kind)
        yield f"trials: {counts}"
        yield ""
        yield f"{'criterion':<15}{'false alarms %':>24}{'missed % of real':>24}{'missed % of hidden':>24}"
        yield from (self._criterion(name) for name in CRITERIA)
        yield ""
        yield from self._by("dtype", "derived, by dtype")
        yield from self._by("family", "derived, by family with misses", only_missed=True)
        yield from self._by("name", "derived, by fault with misses", only_missed=True)
        yield from self._unlisted()
        yield from self._false_alarms()

    def _criterion(self, name: str) -> str:
        legitimate = self.count(Kind.LEGITIMATE)
        alarms = legitimate - self.count(Kind.LEGITIMATE, name)
        cells = [_cell(alarms, legitimate)]
        cells += [_cell(self.count(kind, name), self.count(kind)) for kind in (Kind.REAL, Kind.HIDDEN)]
        return f"{name:<15}" + "".join(f"{cell:>24}" for cell in cells)

    def _by(self, field_name: str, title: str, *, only_missed: bool = False) -> Iterator[str]:
        place = {"family": 0, "dtype": 1, "name": 2}[field_name]
        real: Counter[str] = Counter()
        missed: Counter[str] = Counter()
        for key, n in self.seen.items():
            real[key[place]] += n if key[3] == Kind.REAL.value else 0
        for key, n in self.accepted.items():
            missed[key[place]] += n if key[3] == Kind.REAL.value and key[4] == "derived" else 0
        yield f"{title:<34}{'real':>9}{'missed':>9}{'%':>24}"
        for name in sorted(real, key=lambda name: (-missed[name], name)):
            if missed[name] or not only_missed:
                yield f"  {name:<32}{real[name]:>9,}{missed[name]:>9,}{_cell(missed[name], real[name]):>24}"
        yield ""

    def _unlisted(self) -> Iterator[str]:
        yield f"{'classes that NUMERICS.md lacks':<34}{'real':>9}{'missed':>9}{'%':>24}"
        for name in UNLISTED:
            real, missed = self.count(Kind.REAL, name=name), self.count(Kind.REAL, "derived", name=name)
            yield f"  {name:<32}{real:>9,}{missed:>9,}{_cell(missed, real):>24}"
        yield ""

    def _false_alarms(self) -> Iterator[str]:
        yield f"derived false alarms: {len(self.false_alarms)}"
        for seed, case, name in self.false_alarms[:20]:
            yield f"  seed {seed}  {name}  {case}"

    def to_json(self) -> dict[str, Any]:
        """Return every count as plain data."""
        names = ("family", "dtype", "name", "kind")
        rows = [
            dict(zip(names, key, strict=True))
            | {
                "n": n,
                "accepted": {c: self.accepted[(*key, c)] for c in CRITERIA if (*key, c) in self.accepted},
            }
            for key, n in sorted(self.seen.items())
        ]
        return {"rows": rows, "false_alarms": self.false_alarms, "misses": self.misses}


def _cell(k: int, n: int) -> str:
    if not n:
        return "none tried"
    low, high = interval(k, n)
    return f"{100 * k / n:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
