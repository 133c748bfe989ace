"""The likely cause of a step that departs, with how many of its failing elements that explains.

Every hypothesis of the table says what the step would have given if it were true; the one under which
the given bits are most probable comes first, after paying for what was fitted. That nothing fits is
an answer: a kind `unknown`. Does not judge: a step is diagnosed because the judge refused it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from parity.backend.profile import Profile
from parity.backend.torch_call import decode_call
from parity.backend.torch_tensor import to_torch
from parity.case.case import Step
from parity.case.op import OPS
from parity.case.tensor import HostTensor
from parity.judge.budget import Expected
from parity.judge.called import expected_call, is_call
from parity.judge.monte_carlo import Unjudgeable
from parity.judge.monte_carlo_twins import run
from parity.judge.oracle import CLASSES, answers
from parity.judge.verdict import Cause
from parity.localize import (
    hypotheses_activations,
    hypotheses_attention,
    hypotheses_casts,
    hypotheses_formats,
    hypotheses_formula,
    hypotheses_fused,
    hypotheses_layout,
    hypotheses_linear,
    hypotheses_norms,
    hypotheses_paged,
    hypotheses_precision,
    hypotheses_quantised,
    hypotheses_rope,
    hypotheses_routing,
    hypotheses_select,
    hypotheses_softmax,
    hypotheses_stale,
    hypotheses_values,
)
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import PLAIN, Asked, resolved
from parity.localize.hypotheses_reach import Reached, reached
from parity.localize.hypotheses_sample import Sample, sampled
from parity.localize.hypotheses_weigh import NO_ANSWER, Base, Scored, guesses, held, scored
from parity.store.recording import StepRecord

__all__ = ["diagnose"]

# Files whose functions stand in the table once they are loaded.
_TABLES = (
    hypotheses_activations,
    hypotheses_attention,
    hypotheses_casts,
    hypotheses_formats,
    hypotheses_formula,
    hypotheses_fused,
    hypotheses_layout,
    hypotheses_linear,
    hypotheses_norms,
    hypotheses_paged,
    hypotheses_precision,
    hypotheses_quantised,
    hypotheses_rope,
    hypotheses_routing,
    hypotheses_select,
    hypotheses_softmax,
    hypotheses_stale,
    hypotheses_values,
)
_MOST = 3
# The part of its gain that a fitted guess may owe to errors that an honest device makes too.
_FITTED = 0.03


def diagnose(
    record: StepRecord,
    consumed: Sequence[HostTensor | None],
    got: Sequence[HostTensor],
    profile: Profile,
    *,
    earlier: Mapping[str, HostTensor] | None = None,
) -> tuple[Cause, ...]:
    """Return at most three likely causes of a departing step, likeliest first.

    `consumed` are the inputs in the op's order, `got` its outputs; `earlier` holds tensors of other
    steps or of previous calls by the name that a report prints, for what is stale. One cause of
    kind `unknown` when no pattern explains half of what fails, or no formula is known for the op.
    """
    if record.op not in CLASSES and not is_call(record.op):
        return (_unknown(record, failing=0, text=f"no known pattern: no formula for op '{record.op}'"),)
    if record.op in CLASSES and len(got) != len(OPS[record.op].outputs):
        text = f"gave {len(got)} outputs where {len(OPS[record.op].outputs)} are expected"
        return (_cause(record, CauseKind.FORM, text, explained=0, failing=0),)
    # The oracle meets infinities and NaN by design.
    with np.errstate(all="ignore"), torch.no_grad():
        step = _step(record, consumed, got)
        seen = reached(step, consumed, got, profile)
        if seen is None:
            return (_unknown(record, failing=0, text="no known pattern: the step is too large to ask about"),)
        try:
            return _diagnosed(record, step, seen, profile, earlier or {})
        except Unjudgeable as reason:
            return (_unknown(record, failing=0, text=f"no known pattern: {reason}"),)


def _diagnosed(
    record: StepRecord,
    step: Step,
    seen: Reached,
    profile: Profile,
    earlier: Mapping[str, HostTensor],
) -> tuple[Cause, ...]:
    rights, again = _rights(step, seen.consumed, profile)
    form = _form(record, seen.got, rights[0])
    if form is not None:
        return (form,)
    asked = [
        Asked(
            op=record.op,
            attrs=record.attrs,
            inputs=seen.consumed,
            got=seen.got,
            profile=profile,
            right=resolved(right, seen.got),
            earlier=earlier,
            again=again,
        )
        for right in rights
    ]
    base, question = min(((held(a), a) for a in asked), key=lambda pair: pair[0].failing)
    total = base.failing
    if not total:
        return (_unknown(record, failing=0),)
    sample = dataclasses.replace(sampled(question, ~base.fits[0].allowed), origin=seen.origin)
    if sample.window:
        base = held(sample.small)
    if not base.failing:
        return (_unknown(record, failing=total),)
    causes = _causes(record, sample, base, total)
    return tuple(dataclasses.replace(c, text=c.text + seen.note) for c in causes) or (
        _unknown(record, failing=total, text=f"no known pattern{seen.note}"),
    )


def _step(record: StepRecord, consumed: Sequence[HostTensor | None], got: Sequence[HostTensor]) -> Step:
    return Step(
        name=record.name,
        op=record.op,
        inputs=tuple(None if t is None else f"input {i}" for i, t in enumerate(consumed)),
        outputs=tuple(f"output {i}" for i in range(len(got))),
        attrs=record.attrs,
    )


_Again = Callable[[tuple["HostTensor | None", ...]], tuple[Tensor, ...]]


def _rights(
    step: Step, consumed: Sequence[HostTensor | None], profile: Profile
) -> tuple[list[tuple[Expected, ...]], _Again | None]:
    """Return what is right under each reading of the inputs, and how a call of torch is asked again."""
    if not is_call(step.op):
        return [a.expected for a in answers(step.op, consumed, step.attrs, profile)], None
    call = decode_call(str(step.attrs.get("call", "")))

    def again(inputs: tuple[HostTensor | None, ...]) -> tuple[Tensor, ...]:
        given = [to_torch(t, torch.device("cpu")) for t in inputs if t is not None]
        made = run(lambda *tensors: call.run(tensors), given)
        return tuple(result.values for result in made.results)

    return list(expected_call(step, consumed, profile)), again


def _form(record: StepRecord, got: Sequence[HostTensor], right: tuple[Expected, ...]) -> Cause | None:
    for tensor, wanted in zip(got, right, strict=True):
        if (tensor.dtype, tensor.shape) != (wanted.dtype, tuple(wanted.shape)):
            text = (
                f"gave {tensor.dtype}{list(tensor.shape)} where "
                f"{wanted.dtype}{list(wanted.shape)} is expected"
            )
            return _cause(record, CauseKind.FORM, text, explained=tensor.numel, failing=tensor.numel)
    return None


def _cause(record: StepRecord, kind: CauseKind, text: str, *, explained: int, failing: int) -> Cause:
    return Cause(step=record.name, kind=kind.value, text=text, explained=explained, failing=failing)


def _unknown(record: StepRecord, *, failing: int, text: str = "no known pattern") -> Cause:
    return _cause(record, CauseKind.UNKNOWN, text, explained=0, failing=failing)


def _causes(record: StepRecord, sample: Sample, base: Base, total: int) -> tuple[Cause, ...]:
    best: dict[CauseKind, Scored] = {}
    for guess in guesses(sample):
        try:
            found = scored(sample, base, guess)
        except NO_ANSWER:  # an answer out of a set is worked out only when it is held against the outputs
            continue
        if found is not None and (guess.kind not in best or found.gain > best[guess.kind].gain):
            best[guess.kind] = found
    ranked = sorted(best.values(), key=_rank)
    return tuple(_sentence(record, s, base.failing, total) for s in ranked[:_MOST])


def _rank(found: Scored) -> float:
    """Likeliest first; what was fitted to the result also fits its legitimate errors, which rows share."""
    return -found.gain * (1 - _FITTED * (found.guess.cost > PLAIN))


def _sentence(record: StepRecord, found: Scored, failing: int, total: int) -> Cause:
    # The sample stands for the whole: shares are what it can say.
    explained = found.explained if failing == total else math.floor(found.explained / failing * total)
    where = f", in {found.where}" if found.where else ""
    text = f"{found.guess.text}{where}: explains {explained:,} of {total:,} failing elements"
    return _cause(record, found.guess.kind, text, explained=explained, failing=total)
