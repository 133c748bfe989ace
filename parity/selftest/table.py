"""Count trials, with intervals: what each criterion accepts of what is right and of what is not.

An interval is Wilson's at 95 %, or at most 3/n where nothing was seen. It takes trials as
independent; those of one case share their inputs, so it is somewhat too narrow.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from parity.selftest.criteria import BASELINES
from parity.selftest.suite import Kind, Trial

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
    """Counts by (family, dtype, fault, kind), and each derived false alarm and miss by name.

    `real` counts the real faults of each (family, seed, case), `missed` those that the judge accepted.
    """

    seen: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    accepted: Counter[tuple[str, str, str, str, str]] = field(default_factory=Counter)
    false_alarms: list[tuple[int, str, str]] = field(default_factory=list)
    misses: list[tuple[int, str, str]] = field(default_factory=list)
    real: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    missed: Counter[tuple[str, int, str]] = field(default_factory=Counter)

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
            if trial.kind is Kind.REAL:
                tally.real[trial.family, trial.seed, trial.case] += 1
            if trial.kind is Kind.REAL and trial.accepted["derived"]:
                tally.misses.append(where)
                tally.missed[trial.family, trial.seed, trial.case] += 1
        return tally

    def add(self, other: Tally) -> None:
        """Add the counts of other trials."""
        self.seen += other.seen
        self.accepted += other.accepted
        self.false_alarms += other.false_alarms
        self.misses += other.misses
        self.real += other.real
        self.missed += other.missed

    def is_above(self, promise: float, *, family: str = "") -> bool:
        """Whether the judge misses more than a share of real faults, of one family or of all.

        Faults of one case are missed together, so the case is what is drawn: the ratio of sums over
        cases, with the standard error of that estimator (Cochran, Sampling Techniques, 6.3), at 3.29 of
        them, one in 2,000. Of fewer than eight cases nothing is said.
        """
        cases = [key for key in self.real if family in ("", key[0])]
        real = sum(self.real[key] for key in cases)
        if len(cases) < 8:
            return False
        share = sum(self.missed[key] for key in cases) / real
        squares = sum((self.missed[key] - share * self.real[key]) ** 2 for key in cases)
        error = math.sqrt(squares * len(cases) / (len(cases) - 1)) / real
        return share - 3.29 * error > promise

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

    def families(self) -> list[str]:
        """Return the families of which anything was seen, sorted."""
        return sorted({family for family, *_ in self.seen})

    def dtypes(self) -> list[str]:
        """Return the dtypes of which anything was seen, sorted."""
        return sorted({dtype for _, dtype, *_ in self.seen})

    def names(self) -> list[str]:
        """Return the names of what was done to results, sorted."""
        return sorted({name for _, _, name, _ in self.seen})

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
