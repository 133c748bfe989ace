"""What is declared of a case on both sides, and which of its steps that excuses.

An entry excuses exactly the verdict that it expects, as `check` applies it to the case: a step that
departs otherwise, or in a replay alone, stays what it is. Does not read the entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parity.case.ids import CaseId
from parity.judge.deviations import Deviation, apply_to_run
from parity.judge.verdict import CaseJudgement, StepJudgement, Verdict
from parity.store.recording import Recording

__all__ = ["Declared", "declared_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """The verdict of a case on the target after declarations, and the entries that excuse either side.

    `stale` says so of an entry whose departure is gone.
    """

    verdict: Verdict
    here: Deviation | None = None
    there: Deviation | None = None
    stale: str = ""

    def reason(self, judged: StepJudgement | None) -> str:
        """Return why a step of the target departs as it does; empty where nothing is declared of that."""
        return _reason(self.here, judged)

    def reason_there(self, judged: StepJudgement) -> str:
        """Return the same of a step of the reference."""
        return _reason(self.there, judged)


def _reason(entry: Deviation | None, judged: StepJudgement | None) -> str:
    return entry.reason if entry and judged and judged.verdict is entry.expect else ""


def declared_of(
    case: CaseId,
    deviations: Mapping[str, Sequence[Deviation]],
    *,
    target: Recording,
    judgement: CaseJudgement,
    reference: Recording | None,
    theirs: CaseJudgement | None,
) -> Declared:
    """Return what the entries of each family say of both sides; stale is said of targets alone."""
    verdict, here = apply_to_run(deviations, case, judgement.verdict, target.environment)
    there = None
    if reference is not None and theirs is not None:
        known, entry = apply_to_run(deviations, case, theirs.verdict, reference.environment)
        there = entry if known is Verdict.KNOWN else None
    if verdict is Verdict.STALE and here is not None:
        stale = f"declared to be {here.expect.value}, and is not: {here.reason}"
        return Declared(verdict=verdict, there=there, stale=stale)
    return Declared(verdict=verdict, here=here, there=there)
