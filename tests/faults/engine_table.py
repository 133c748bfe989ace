"""Count what became of planted faults, by type and by kind, with intervals, beside the goals."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.engine_causes import is_right
from faults.engine_hunt import Found, Subject, faults_of, hunt, quiet
from faults.engine_kernels import VARIANTS
from faults.engine_nets import TRAINED

from parity.selftest.table import interval

__all__ = ["Hunted", "hunted"]

_COLUMNS = ("real", "detected", "exact", "alone", "named")


@dataclass(slots=True)
class Hunted:
    """Counts by (dtype, kind of fault). `named` counts first causes that are right, of the detected."""

    seen: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    quiet_runs: int = 0
    quiet_steps: int = 0
    alarms: list[str] = field(default_factory=list)

    def count(self, found: Found) -> None:
        """Add one fault."""
        counts = self.seen[found.dtype, found.fault.kind]
        if not found.changed:
            counts["no fault"] += 1
            return
        if found.hidden:
            counts["hidden"] += 1
            counts["hidden detected"] += found.detected
            return
        counts["real"] += 1
        counts["detected"] += found.detected
        counts["exact"] += found.exact
        counts["alone"] += found.exact and len({name.split(".", 1)[1] for name in found.flagged}) == 1
        where = f"{found.net} {found.dtype} seed {found.seed} {found.variant}"
        where += f" {found.fault.site} {found.fault.kind}"
        if not found.exact:
            self.lost.append(f"{where}: flagged {', '.join(found.flagged[:3]) or 'nothing'}")
            return
        answer = found.causes[0].kind if found.causes else "unknown"
        counts["named"] += is_right(found.fault.kind, answer)
        self.answers[found.fault.kind, answer] += 1

    def quiet(self, where: str, steps: int, alarms: Iterable[str]) -> None:
        """Add one run without a fault."""
        self.quiet_runs += 1
        self.quiet_steps += steps
        self.alarms += [f"{where}: {alarm}" for alarm in alarms]

    def add(self, other: Hunted) -> None:
        """Add the counts of another."""
        for key, counts in other.seen.items():
            self.seen[key] += counts
        self.answers += other.answers
        self.lost += other.lost
        self.quiet_runs += other.quiet_runs
        self.quiet_steps += other.quiet_steps
        self.alarms += other.alarms

    def total(self, dtype: str | None = None) -> Counter[str]:
        """Return the counts of a type, or of all."""
        total: Counter[str] = Counter()
        for (of, _), counts in self.seen.items():
            total += counts if dtype in (None, of) else Counter()
        return total

    def lines(self) -> Iterator[str]:
        """Yield the whole report."""
        yield (
            f"without a fault: {len(self.alarms)} of {self.quiet_steps:,} steps flagged in "
            f"{self.quiet_runs:,} runs   goal 0"
        )
        yield from (f"  {alarm}" for alarm in self.alarms[:20])
        for dtype in sorted({of for of, _ in self.seen}):
            yield from self._of(dtype)
        yield ""
        yield f"{'kind':<38}" + "".join(f"{name:>10}" for name in (*_COLUMNS, "hidden", "none"))
        for kind in sorted({kind for _, kind in self.seen}):
            counts = sum((c for (_, of), c in self.seen.items() if of == kind), Counter[str]())
            cells = [counts[name] for name in (*_COLUMNS, "hidden", "no fault")]
            taken = Counter(
                {a: n for (of, a), n in self.answers.items() if of == kind and not is_right(of, a)}
            )
            wrong = ", ".join(f"{a} {n}" for a, n in taken.most_common(3))
            yield (
                f"{kind:<38}"
                + "".join(f"{n:>10}" for n in cells)
                + (f"   taken for {wrong}" if wrong else "")
            )
        yield ""
        yield from (f"lost: {line}" for line in self.lost[:60])

    def _of(self, dtype: str) -> Iterator[str]:
        total = self.total(dtype)
        goal = "every one" if dtype == "f32" else "at least 95 %"
        none = total["no fault"]
        yield f"{dtype}: {total['real']:,} real, {total['hidden']:,} hidden, {none:,} changed nothing"
        yield f"  detected                {_rate(total['detected'], total['real'])}   goal {goal}"
        yield f"  first at the right step {_rate(total['exact'], total['real'])}   goal {goal}"
        yield f"  nothing else flagged    {_rate(total['alone'], total['real'])}"
        yield f"  first cause right       {_rate(total['named'], total['exact'])}   goal at least 90 %"

    def to_json(self) -> dict[str, Any]:
        """Return every count."""
        return {
            "kinds": [{"dtype": d, "kind": k, **counts} for (d, k), counts in sorted(self.seen.items())],
            "answers": [{"kind": k, "answer": a, "count": n} for (k, a), n in sorted(self.answers.items())],
            "lost": self.lost,
            "quiet": {"runs": self.quiet_runs, "steps": self.quiet_steps, "alarms": self.alarms},
        }


def _rate(k: int, n: int) -> str:
    low, high = interval(k, n)
    return f"{k:>5} of {n:<5} {100 * k / max(n, 1):6.2f} % [{100 * low:.2f}, {100 * high:.2f}]"


def hunted(net: str, dtype: str, seed: int, root: Path) -> Hunted:
    """Return the counts of a net on one seed: each right way without a fault, then every kind of fault."""
    tally, subject, draw = Hunted(), Subject(net, dtype, seed, root), random.Random(seed)
    for variant in VARIANTS:
        steps = len(subject.sites) * len(subject.batches)
        tally.quiet(f"{net} {dtype} seed {seed} {variant}", steps, quiet(subject, variant))
    for number, fault in enumerate(faults_of(subject, seed=seed)):
        if net == TRAINED and (number + seed) % 3:
            continue  # six layers and a large head: a third of the kinds on each seed
        tally.count(hunt(subject, fault, draw.choice(list(VARIANTS))))
    return tally
