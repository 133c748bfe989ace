"""The one model that every report prints: both sides, the outcomes, the counts, the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from parity.backend.base import Witness
from parity.judge.verdict import Outcome, Verdict

__all__ = ["Run", "SideView", "WitnessSummary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessSummary:
    """What the witnesses of a whole side add up to; `precisions` counts executed nodes by type."""

    steps: int = 0
    executed: int = 0
    host: int = 0
    borrowed: int = 0
    precisions: Mapping[str, int] = field(default_factory=dict)

    def plus(self, witness: Witness) -> WitnessSummary:
        """Return this summary with one more step's witness."""
        precisions = Counter(self.precisions)
        precisions.update(node.precision for node in witness.executed)
        return WitnessSummary(
            steps=self.steps + 1,
            executed=self.executed + len(witness.executed),
            host=self.host + len(witness.host),
            borrowed=self.borrowed + witness.borrowed,
            precisions=dict(sorted(precisions.items())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SideView:
    """One side: what the user named, and what it turned out to be.

    `origin` says in words where results came from: a golden set, a folder, a live run, the oracle.
    """

    spec: str
    origin: str
    setting: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    profile: Mapping[str, object] = field(default_factory=dict)
    witness: WitnessSummary = field(default_factory=WitnessSummary)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished or interrupted check. `left_out` counts selected cases that a time box cut."""

    version: str
    reference: SideView
    target: SideView
    outcomes: tuple[Outcome, ...]
    deviations: int = 0
    left_out: int = 0
    interrupted: bool = False
    seconds: float = 0.0
    framework_s: float = 0.0

    def counts(self) -> dict[Verdict, int]:
        """Return how many cases have each verdict that occurs, worst first."""
        found = Counter(o.verdict for o in self.outcomes)
        return {v: found[v] for v in Verdict if found[v]}

    def reference_counts(self) -> dict[Verdict, int]:
        """Return the verdicts of the reference's own judgements that are not `within`, worst first."""
        found = Counter(o.reference.verdict for o in self.outcomes if o.reference)
        return {v: found[v] for v in Verdict if found[v] and v is not Verdict.WITHIN}

    @property
    def exit_code(self) -> int:
        """1 if any case is worse than `unjudged`; else 3 if any is unjudged or none was judged; else 0."""
        gates = [o.gate for o in self.outcomes]
        if any(g.departs for g in gates):
            return 1
        if not gates or self.interrupted or Verdict.UNJUDGED in gates:
            return 3
        return 0
