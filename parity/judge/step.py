"""Judge one recorded step alone, on exactly the inputs that it consumed.

The error a step *introduced* follows from one run on one device: no reference is needed and no
error can travel. Does not know cases: `judge` and `traced` do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from parity.backend.profile import Profile
from parity.case.case import Step
from parity.case.dtype import DType
from parity.case.op import OPS
from parity.case.op_entry import Op
from parity.case.tensor import HostTensor
from parity.errors import GoldenError
from parity.judge import refusal
from parity.judge.budget import Budget, Expected
from parity.judge.called import FORMULA, entry_of, expected_call, is_call
from parity.judge.compare import compare
from parity.judge.monte_carlo import Unjudgeable
from parity.judge.oracle import CLASSES, answers
from parity.judge.refusal import is_refusal
from parity.judge.sampled import Sampling, is_large, judge_sampled
from parity.judge.verdict import Evidence, OutputJudgement, StepJudgement, Verdict, worst
from parity.judge.witness import examine
from parity.store.recording import StepRecord, TensorRef

__all__ = ["judge_step", "without_evidence"]


def without_evidence(record: StepRecord, verdict: Verdict, note: str) -> StepJudgement:
    """Return what is said of a step whose numbers were not looked at."""
    return _verdict(record, verdict, note=note)


def judge_step(
    step: Step,
    record: StepRecord,
    known: Mapping[str, HostTensor],
    tensors: Mapping[str, HostTensor],
    profile: Profile,
    *,
    sampling: Sampling = Sampling.LARGE,
    explained: dict[str, str] | None = None,
) -> StepJudgement:
    """Hold what `record` gave against the formula of `step` on the inputs that are `known` by name.

    `explained` remembers by op the reading that explained the step before: it is tried first.
    """
    reason = _unjudgeable(step, record, known, tensors)
    if record.failure is not None:
        return without_evidence(record, Verdict(record.failure.kind.value), record.failure.text)
    if reason:
        return without_evidence(record, Verdict.UNJUDGED, reason)
    consumed = tuple(None if name is None else known[name] for name in step.inputs)
    runs = [tuple(tensors[ref.digest] for ref in run) for run in (record.outputs, *record.repeats)]
    explained = {} if explained is None else explained
    hold = partial(_judge_outputs, step, consumed, profile, sampling, explained.get(step.op, ""))
    outputs, reading, sampled, unstable = _judge_runs(runs, hold)
    numeric = worst(o.verdict for o in outputs)
    if numeric is Verdict.WITHIN:
        explained[step.op] = reading
    if unstable and numeric is Verdict.EXCEEDS:
        numeric = Verdict.UNSTABLE
    dtypes = [t.dtype for t in (*consumed, *runs[0]) if t is not None]
    return _conclude(record, outputs, numeric, dtypes, notes=[reading, sampled, unstable])


def _conclude(
    record: StepRecord,
    outputs: tuple[OutputJudgement, ...],
    numeric: Verdict,
    dtypes: list[DType],
    *,
    notes: list[str],
) -> StepJudgement:
    entry = _entry_of(record)
    witnessed, why = examine(record.witness, entry, dtypes)
    verdict = worst([numeric, witnessed])
    # First, since another precision or place explains what the numbers show.
    notes = [why, *(o.note for o in outputs if o.verdict is not Verdict.WITHIN), *notes]
    evidence = None
    if verdict is Verdict.WITHIN and record.witness is not None:
        digests = "\n".join(ref.digest for ref in record.inputs if ref is not None)
        evidence = Evidence(
            elements=sum(o.elements for o in outputs),
            inputs_digest=f"sha256:{hashlib.sha256(digests.encode()).hexdigest()}",
            witness=record.witness,
        )
    note = "; ".join(n for n in notes if n)
    return _verdict(record, verdict, outputs=outputs, evidence=evidence, note=note)


def _verdict(
    record: StepRecord,
    verdict: Verdict,
    *,
    note: str,
    outputs: tuple[OutputJudgement, ...] = (),
    evidence: Evidence | None = None,
) -> StepJudgement:
    return StepJudgement(
        name=record.name,
        op=record.op,
        verdict=verdict,
        outputs=outputs,
        evidence=evidence,
        formula=_formula(record.op),
        note=note,
        seconds=record.seconds,
        bytes=record.bytes,
        flops=record.flops,
    )


def _entry_of(record: StepRecord) -> Op:
    if is_refusal(record.op):
        return refusal.entry_of(record.op)
    if is_call(record.op):
        return entry_of(record.op, exact=not any(ref.dtype.is_float for ref in record.outputs))
    return OPS[record.op]


def _formula(op: str) -> str:
    if is_refusal(op):
        return refusal.FORMULA
    return FORMULA if is_call(op) else CLASSES[op].__name__ if op in CLASSES else ""


def _unjudgeable(
    step: Step, record: StepRecord, known: Mapping[str, HostTensor], tensors: Mapping[str, HostTensor]
) -> str:
    """Return why a recorded step says nothing about this case's step, or an empty string."""
    if not (is_call(record.op) or is_refusal(record.op)) and (
        record.op not in CLASSES or record.op not in OPS
    ):
        return f"op '{record.op}' is not known to this version"
    if (record.op, dict(record.attrs)) != (step.op, dict(step.attrs)):
        return "recorded with another op or attributes than the case has"
    if any(tuple(ref.name for ref in run) != step.outputs for run in (record.outputs, *record.repeats)):
        return "recorded other outputs than the case names"
    if len(record.inputs) != len(step.inputs):
        return f"recorded with {len(record.inputs)} inputs, the case has {len(step.inputs)}"
    for name, ref in zip(step.inputs, record.inputs, strict=True):
        if (name is None) != (ref is None):
            return f"input '{name or (ref and ref.name)}' is absent on one side"
        if name is not None and ref is not None and (reason := _differs(name, ref, known)):
            return reason
    if record.mutates:
        return f"changed its input '{record.mutates[0]}'"
    lost = [ref.name for run in (record.outputs, *record.repeats) for ref in run if ref.digest not in tensors]
    return f"output '{lost[0]}' is not in the recording" if lost else ""


def _differs(name: str, ref: TensorRef, known: Mapping[str, HostTensor]) -> str:
    if ref.name != name or name not in known:
        return f"input '{name}' is not the one that the case generates or the step before gave"
    digest = known[name].digest()
    if digest == ref.digest:
        return ""
    return f"{ref.role} '{name}' is another one here: {digest[7:19]}, not {ref.digest[7:19]}"


_Judged = tuple[tuple[OutputJudgement, ...], str, str]  # outputs, reading, which rows where sampled


def _judge_runs(
    runs: list[tuple[HostTensor, ...]], judged: Callable[[tuple[HostTensor, ...]], _Judged]
) -> tuple[tuple[OutputJudgement, ...], str, str, str]:
    """Judge every distinct run; return what is said of the worst one, and what differed."""
    if len(runs) == 1:
        return *judged(runs[0]), ""
    distinct = {tuple(t.digest() for t in run): run for run in runs}
    found = min(map(judged, distinct.values()), key=lambda j: worst(o.verdict for o in j[0]).rank)
    unstable = f"{len(distinct)} different results in {len(runs)} runs" if len(distinct) > 1 else ""
    return *found, unstable


def _judge_outputs(
    step: Step,
    consumed: Sequence[HostTensor | None],
    profile: Profile,
    sampling: Sampling,
    usual: str,
    outputs: tuple[HostTensor, ...],
) -> _Judged:
    """Hold outputs against the first declared reading of the inputs that explains them."""
    if is_call(step.op):
        return _judge_call(step, consumed, outputs, profile), "", ""
    if is_refusal(step.op):
        return compare(outputs, step.outputs, refusal.expected_refusal()), "", refusal.remark(step)
    if sampling is not Sampling.NEVER and (
        sampling is Sampling.ALWAYS or is_large(step.op, consumed, outputs)
    ):
        sampled = judge_sampled(
            step, consumed, outputs, profile, key=f"{step.name}/{outputs[0].digest()}", usual=usual
        )
        if sampled is not None:
            return sampled
    first: tuple[OutputJudgement, ...] = ()
    try:
        for answer in answers(step.op, consumed, step.attrs, profile, first=usual):
            if any(isinstance(e, Budget) and e.dtype.name == "f64" for e in answer.expected):
                note = "a float64 result cannot be judged by a float64 oracle"
                return _unjudged(step, outputs, note), "", ""
            judged = compare(outputs, step.outputs, answer.expected)
            if worst(o.verdict for o in judged) is Verdict.WITHIN:
                return judged, answer.reading, ""
            first = first or judged
    except GoldenError as error:  # inputs that do not fit together, such as an earlier step's wrong type
        return _unjudged(step, outputs, str(error)), "", ""
    return first, "", ""


def _judge_call(
    step: Step, consumed: Sequence[HostTensor | None], outputs: tuple[HostTensor, ...], profile: Profile
) -> tuple[OutputJudgement, ...]:
    first: tuple[OutputJudgement, ...] = ()
    latest: list[tuple[OutputJudgement, ...]] = []

    def within(expected: tuple[Expected, ...]) -> bool:
        latest[:] = [compare(outputs, step.outputs, expected)]
        return worst(o.verdict for o in latest[0]) is Verdict.WITHIN

    try:
        for expected in expected_call(step, consumed, profile, enough=within):
            if within(expected):
                return latest[0]
            first = first or latest[0]
    except Unjudgeable as reason:
        return _unjudged(step, outputs, str(reason))
    return first


def _unjudged(step: Step, outputs: tuple[HostTensor, ...], note: str) -> tuple[OutputJudgement, ...]:
    return tuple(
        OutputJudgement(
            name=name,
            dtype=t.dtype.name,
            shape=t.shape,
            verdict=Verdict.UNJUDGED,
            elements=0,
            note=note,
        )
        for name, t in zip(step.outputs, outputs, strict=True)
    )
