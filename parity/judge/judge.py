"""Judge one side of a case: each of its steps alone, and that its steps are those of the case.

Does not compare two devices, nor load or run anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch

from parity.case.case import Case
from parity.case.inputs import generate
from parity.case.tensor import HostTensor
from parity.errors import GoldenError
from parity.judge.oracle import CLASSES
from parity.judge.step import judge_step
from parity.judge.traced import Weights, judge_steps
from parity.judge.verdict import CaseJudgement, StepJudgement, Verdict, worst
from parity.store.recording import Recording

__all__ = ["formula", "judge", "use_one_thread"]


def use_one_thread() -> None:
    """Keep oracles from spinning on the cores that recording needs: 7 times faster on two of them.

    A call, not an environment variable: children under `--production` must see the user's.
    """
    torch.set_num_threads(1)


def judge(
    case: Case,
    recording: Recording,
    *,
    inputs: Mapping[str, HostTensor] | None = None,
    weights: Weights = lambda _: None,
    steps: Collection[str] | None = None,
) -> CaseJudgement:
    """Return the judgement of one side; `inputs` are `generate(case)`, where they are at hand.

    `weights` finds what the steps of a subject read besides activations, and `steps` names those that
    its recording must have, where they are known. Raises GoldenError when the recording is of another case.
    """
    if recording.case != str(case.id) or recording.revision != case.revision:
        raise GoldenError(
            f"recording of {recording.case} (revision {recording.revision[7:19]}) is not of {case.id} "
            f"(revision {case.revision[7:19]}); record it again from this revision of the case"
        )
    known = dict(generate(case) if inputs is None else inputs)
    judged = judge_steps(recording, weights=weights) if case.subject else _listed(case, recording, known)
    return _concluded(tuple(judged), recording, missing=_missing(recording, steps or ()))


def _missing(recording: Recording, steps: Collection[str]) -> str:
    """Return the first step that a recording should have and has not, unless a failure ended it."""
    there = {record.name for record in recording.steps}
    if any(record.failure is not None for record in recording.steps):
        return ""
    return next((name for name in steps if name not in there), "")


def _listed(case: Case, recording: Recording, known: dict[str, HostTensor]) -> Iterator[StepJudgement]:
    """Judge the steps that the case lists, each on what it generates or what the step before gave."""
    profile = recording.environment.profile
    for step in case.steps:
        record = recording.step(step.name)
        if record is None:
            yield StepJudgement(name=step.name, op=step.op, verdict=Verdict.UNJUDGED, note="not recorded")
            continue
        yield judge_step(step, record, known, recording.tensors, profile)
        for ref in record.outputs:
            if ref.digest in recording.tensors:
                known[ref.name] = recording.tensors[ref.digest]


def _concluded(steps: tuple[StepJudgement, ...], recording: Recording, *, missing: str) -> CaseJudgement:
    verdict = worst(step.verdict for step in steps)
    note = ""
    if missing:
        verdict, note = worst([verdict, Verdict.UNJUDGED]), f"step '{missing}' was not recorded"
    if verdict is Verdict.WITHIN and not any(s.evidence and s.evidence.elements for s in steps):
        verdict, note = Verdict.UNJUDGED, "every output is empty: nothing was compared"
    seen, alone = ([ref.digest for ref in refs] for refs in (recording.results, recording.unobserved))
    if alone and seen != alone:
        changed = "changed by being observed: the same run without hooks gave other results"
        note = f"{note}; {changed}" if note else changed
        verdict = worst([verdict, Verdict.UNJUDGED])
    return CaseJudgement(verdict=verdict, steps=steps, note=note)


def formula(op: str) -> str:
    """Return the documentation of the class function that judges an op, with the formula's source."""
    return (CLASSES[op].__doc__ or "").strip() if op in CLASSES else "no budget is known for this op"
