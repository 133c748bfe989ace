"""Look into one case on two sides: run or load both, judge the target, replay it, build the ladder.

Does not print; `report.ladder` does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from parity.case.case import Case
from parity.case.inputs import generate
from parity.errors import BackendError, GoldenError
from parity.judge.deviations import Deviation
from parity.judge.judge import judge
from parity.judge.verdict import CaseJudgement
from parity.localize.ladder import Ladder, ladder
from parity.localize.replay import Replay, replay
from parity.localize.sources import Sources
from parity.run.replayer import replaying
from parity.run.side import Live, Result, Side, paired
from parity.run.subject import weights_of
from parity.store.recording import Recording

__all__ = ["Looked", "look", "replayed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """Both sides of one case. `sources` finds what the target's steps consumed, with bytes.

    `reference` is None for the oracle.
    """

    case: Case
    target: Recording
    judgement: CaseJudgement
    sources: Sources
    reference: Recording | None = None
    replayed: Replay | None = None
    notes: tuple[str, ...] = ()

    def ladder(self, *, deviations: Mapping[str, Sequence[Deviation]] = MappingProxyType({})) -> Ladder:
        """Return the steps of both sides beside each other; `deviations` are declared of each family."""
        return ladder(
            self.case.id,
            reference=self.reference,
            target=self.target,
            judgement=self.judgement,
            replayed=self.replayed,
            theirs=self._of_reference(),
            notes=self.notes,
            deviations=deviations,
        )

    def _of_reference(self) -> CaseJudgement | None:
        if self.reference is None:
            return None
        sources = self.sources
        return judge(self.case, self.reference, inputs=sources.inputs, weights=sources.weights)


def look(case: Case, *, reference: Side | None, target: Side) -> Looked:
    """Return what both sides did with a case; `reference` is None for the oracle.

    Raises GoldenError when a side has no recording of it or this host lacks what it reads, BackendError
    when a side cannot be used.
    """
    ((theirs, ours),) = paired([case], reference, target)
    recording = _recording(ours, target.name)
    inputs = generate(case)
    weights = weights_of(case)
    judgement = judge(case, recording, inputs=inputs, weights=weights)
    sources = Sources(recording=recording, inputs=inputs, weights=weights)
    if theirs is None or reference is None:
        return Looked(case=case, target=recording, judgement=judgement, sources=sources)
    other = _recording(theirs, reference.name)
    _same_case(case, other)
    return Looked(case=case, target=recording, judgement=judgement, sources=sources, reference=other)


def replayed(looked: Looked, *, live: Live | None, folder: Path) -> Looked:
    """Return the same with the reference's steps replayed on the target; `live` is how it runs here.

    Without a reference, or with a target that is only a folder, nothing is replayed. A target that cannot
    be asked again is said so: the free run is shown without it.
    """
    if live is None or looked.reference is None:
        return looked
    sources = dataclasses.replace(looked.sources, recording=looked.reference)
    try:
        with replaying(live.spec, live.setting, folder=folder, timeout_s=live.timeout_s) as replayer:
            return dataclasses.replace(
                looked, replayed=replay(sources, replayer), notes=_said_of(looked.case)
            )
    except BackendError as error:
        return dataclasses.replace(looked, notes=(f"not replayed: {error}",))


def _said_of(case: Case) -> tuple[str, ...]:
    if case.subject is None:
        return ()
    return ("replayed by the code of the op table; what ran inside the model stands under free run",)


def _recording(result: Result, name: str) -> Recording:
    if result.recording is None:
        raise GoldenError(f"'{name}' has no recording of {result.case.id}: {result.reason}")
    return result.recording


def _same_case(case: Case, recording: Recording) -> None:
    if recording.revision != case.revision:
        raise GoldenError(
            f"the reference recorded {case.id} of revision {recording.revision[7:19]}, which is "
            f"{case.revision[7:19]} here; record it again from this revision of the case"
        )
