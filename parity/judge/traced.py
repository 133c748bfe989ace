"""Judge a recording whose steps the case does not list: an engine's sites, the calls of a module.

The recording holds what each step consumed, so each is judged alone on exactly that. Weights are
not in a recording; whoever has them hands them over, and they are believed by digest. Does not
judge end to end; `end_to_end` does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from parity.backend.profile import Profile
from parity.case.case import Step
from parity.case.tensor import HostTensor
from parity.errors import UsageError
from parity.judge.sampled import Sampling
from parity.judge.step import judge_step, without_evidence
from parity.judge.verdict import StepJudgement, Verdict
from parity.store.recording import Recording, StepRecord, TensorRef

__all__ = ["MODULE", "Weights", "judge_steps"]

MODULE = "module"  # op id of a module's own step
# Returns the bytes of a weight that a step names, or None where this host has none of that name.
Weights = Callable[[TensorRef], "HostTensor | None"]


def judge_steps(
    recording: Recording, *, weights: Weights, sampling: Sampling = Sampling.LARGE
) -> Iterator[StepJudgement]:
    """Yield the judgement of every step in the order of the recording, one step's weights at a time.

    What a torch module took and gave is a step too, after the calls inside it: they are what is judged,
    unless the recording has none.
    """
    has_calls = any(record.op != MODULE for record in recording.steps)
    explained: dict[str, str] = {}
    for record in recording.steps:
        if record.op == MODULE and has_calls and record.replayable and record.failure is None:
            continue
        yield _judge(record, recording.tensors, recording.environment.profile, weights, sampling, explained)


def _judge(
    record: StepRecord,
    tensors: Mapping[str, HostTensor],
    profile: Profile,
    weights: Weights,
    sampling: Sampling,
    explained: dict[str, str],
) -> StepJudgement:
    if record.failure is not None:  # it may have no outputs, which the op table would object to
        return without_evidence(record, Verdict(record.failure.kind.value), record.failure.text)
    if not record.replayable or record.op == MODULE:
        reason = record.attrs.get("reason", "a module is judged by its calls: record it at depth op")
        return without_evidence(record, Verdict.UNJUDGED, str(reason))
    known: dict[str, HostTensor] = {}
    for ref in record.inputs:
        if ref is None:
            continue
        held = tensors.get(ref.digest)
        held = weights(ref) if held is None else held
        if held is None:
            return without_evidence(
                record, Verdict.UNJUDGED, f"{ref.role} '{ref.name}' is not in the recording"
            )
        known[ref.name] = held
    try:
        step = Step(
            name=record.name,
            op=record.op,
            inputs=tuple(None if ref is None else ref.name for ref in record.inputs),
            outputs=tuple(ref.name for ref in record.outputs),
            attrs=record.attrs,
        )
    except UsageError as error:  # the recording is older or newer than the op table
        return without_evidence(record, Verdict.UNJUDGED, str(error))
    # A call of a module may write into what it reads, such as `x[0] = y`: its output is what that leaves.
    record = dataclasses.replace(record, mutates=())
    return judge_step(step, record, known, tensors, profile, sampling=sampling, explained=explained)
