"""Ask the target again, each step alone on what the reference consumed, so that no error can travel.

Says of every step that was not asked why. Does not start children: `run.replayer` does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from parity.judge.step import without_evidence
from parity.judge.traced import judge_steps
from parity.judge.verdict import StepJudgement, Verdict
from parity.localize.sources import Sources, self_contained
from parity.run.replayer import Replayer
from parity.store.recording import FailureKind, Recording, StepRecord

__all__ = ["Replay", "obstacle", "replay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What the target made of the reference's inputs, and the judgement of each step by its name.

    `skipped` has the reason for each step that was not asked.
    """

    recording: Recording
    judged: Mapping[str, StepJudgement]
    skipped: Mapping[str, str]


def replay(sources: Sources, replayer: Replayer) -> Replay:
    """Replay every step of the recording in `sources` that can be. Raises BackendError as `Replayer`."""
    reasons = {step.name: obstacle(step, sources) for step in sources.recording.steps}
    chosen = [step for step in sources.recording.steps if not reasons[step.name]]
    skipped = {name: reason for name, reason in reasons.items() if reason}
    if chosen:
        again = replayer.replay(self_contained(sources, chosen))
        # What a runtime cannot express alone is no departure: the step in its own run has its verdict.
        refused = {step.name: step.failure.text for step in again.steps if step.failure and _is_refused(step)}
        skipped |= refused
        again = dataclasses.replace(
            again, steps=tuple(step for step in again.steps if step.name not in refused)
        )
    else:
        again = dataclasses.replace(sources.recording, steps=(), tensors={}, results=(), unobserved=())
    return Replay(recording=again, judged=_judged(again, sources), skipped=skipped)


def _is_refused(step: StepRecord) -> bool:
    return step.failure is not None and step.failure.kind is FailureKind.UNSUPPORTED


def _judged(again: Recording, sources: Sources) -> dict[str, StepJudgement]:
    gave = tuple(step for step in again.steps if step.failure is None)
    judged = {s.name: s for s in judge_steps(dataclasses.replace(again, steps=gave), weights=sources.find)}
    for step in again.steps:
        if step.failure is not None:
            judged[step.name] = without_evidence(step, Verdict(step.failure.kind.value), step.failure.text)
    return judged


def obstacle(step: StepRecord, sources: Sources) -> str:
    """Return why a recorded step cannot be run alone, or an empty string."""
    if step.failure is not None:
        return f"it has no result on the reference: {step.failure.kind.value}"
    if not step.replayable:
        return "it cannot be replayed: it keeps a state of its own, or draws random numbers"
    if step.op.startswith("composite:"):
        return "it is a region of code that nobody saw into"
    consumed = sources.consumed(step)
    return consumed if isinstance(consumed, str) else ""
