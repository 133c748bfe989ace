"""Walk down a departing case: which steps made the error, worst first, and why.

Does not decide what departs (`judge`) nor what a cause is (`diagnose`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from parity.case.case import Case
from parity.case.tensor import HostTensor
from parity.judge.traced import MODULE, Weights
from parity.judge.verdict import CaseJudgement, Cause, StepJudgement, Verdict
from parity.localize.cause import CauseKind
from parity.localize.diagnose import diagnose
from parity.localize.sources import Sources
from parity.store.recording import Recording, StepRecord

__all__ = ["MAX_STEPS", "earlier_than", "localize", "walk_down"]

MAX_STEPS = 5  # that are diagnosed: on a broken chip every step departs, and the first ones say why


def walk_down(judgement: CaseJudgement) -> tuple[StepJudgement, ...]:
    """Return the departing steps, worst first: by verdict, then by how far they are beyond their bound.

    Of steps that are equally bad the earlier one stands first. What was not reached made no error.
    """
    departing = [
        step for step in judgement.steps if step.verdict.departs and not step.note.startswith("not reached")
    ]
    return tuple(sorted(departing, key=lambda step: (step.verdict.rank, -_share(step))))


def _share(step: StepJudgement) -> float:
    worst = [output.worst for output in step.outputs if output.worst is not None]
    # What must be equal to the bit, or is NaN where it should not be, is beyond every bound.
    if any(math.isnan(value) for value in worst) or len(worst) < len(step.outputs):
        return math.inf
    return max(worst, default=0.0)


def localize(
    case: Case,
    judgement: CaseJudgement,
    recording: Recording,
    *,
    inputs: Mapping[str, HostTensor],
    weights: Weights = lambda _: None,
) -> tuple[Cause, ...]:
    """Return the likely causes of the first departing steps of a case, in the order of the run.

    At most `MAX_STEPS` of them are diagnosed; a diagnosis that fails is a cause of kind `unknown` that
    says so, since it must not cost the verdict. `inputs` are what the case generates.
    """
    sources = Sources(recording=recording, inputs=inputs, weights=weights)
    made = {step.name for step in walk_down(judgement) if step.verdict in _NUMERIC}
    causes: list[Cause] = []
    for step in [step for step in judgement.steps if step.name in made][:MAX_STEPS]:
        record = recording.step(step.name)
        if record is not None:
            causes += _of(case, record, sources)
    return tuple(causes)


# Of what crashed or ran elsewhere the verdict's own note is the cause.
_NUMERIC = (Verdict.EXCEEDS, Verdict.UNSTABLE, Verdict.SUBSTITUTED)


def _of(case: Case, record: StepRecord, sources: Sources) -> tuple[Cause, ...]:
    consumed, produced = sources.consumed(record), sources.produced(record)
    if isinstance(consumed, str) or isinstance(produced, str):
        return ()
    like = [*produced, *(tensor for tensor in consumed if tensor is not None)]
    earlier = earlier_than(record, sources.recording, like=like)
    try:
        return diagnose(record, consumed, produced, sources.recording.environment.profile, earlier=earlier)
    except Exception as error:  # noqa: BLE001  # a guess that fails must not cost the verdict it explains
        text = f"no diagnosis: {type(error).__name__}: {error} ({case.id})"
        return (Cause(step=record.name, kind=CauseKind.UNKNOWN.value, text=text, explained=0, failing=0),)


def earlier_than(
    record: StepRecord, recording: Recording, *, like: Sequence[HostTensor]
) -> dict[str, HostTensor]:
    """Return what steps before `record` gave in the forms of `like`, by step and output, its own site first.

    What a stale result may hold, all of it or some of its rows: a call of another length has the same
    form but for their number. A step that read the same and so gave the same is no sign of that, and a
    module's own step repeats what the calls inside it gave.
    """
    forms = {(tensor.dtype.name, len(tensor.shape), tensor.shape[1:]) for tensor in like}
    read = [ref and ref.digest for ref in record.inputs]
    before = itertools.takewhile(lambda step: step.name != record.name, recording.steps)
    others = [s for s in before if s.op != MODULE and [r and r.digest for r in s.inputs] != read]
    site = record.name.rpartition(".")[2]
    others.sort(key=lambda step: step.name.rpartition(".")[2] != site)
    return {
        f"{step.name} {ref.name}": recording.tensors[ref.digest]
        for step in others
        for ref in step.outputs
        # A result that is one of the step's own inputs was not computed, which is another cause.
        if ref.digest in recording.tensors
        and ref.digest not in read
        and (ref.dtype.name, len(ref.shape), ref.shape[1:]) in forms
    }
