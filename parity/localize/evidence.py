"""All that shows a departing step, put together: what is allowed, what was given, where it comes from.

Does not run the step on the target nor write files; `reproduce` and `repro` do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from parity.backend.base import Unsupported
from parity.backend.profile import Profile
from parity.backend.torch_eager import TorchEager
from parity.case.case import Step
from parity.case.tensor import HostTensor
from parity.judge.compare import compare
from parity.judge.monte_carlo import Unjudgeable
from parity.judge.oracle import answers
from parity.judge.verdict import Cause, Verdict, worst
from parity.localize.expectation import Expectation, expectations
from parity.localize.look import Looked
from parity.localize.repro import Reproduction
from parity.localize.repro_where import where_of
from parity.localize.trial import Ran
from parity.run.replay import output_names
from parity.store.recording import Environment

__all__ = ["reproduction"]


def reproduction(
    looked: Looked, ran: Ran, causes: tuple[Cause, ...], said: Sequence[str], *, timeout_s: float
) -> Reproduction:
    """Return what is to be written of a step as it ran; `said` are sentences for a reader of the file."""
    judged, environment = ran.judgement, ran.environment
    expected = _expected(ran, environment.profile)
    return Reproduction(
        case=looked.case.id,
        revision=looked.case.revision,
        record=ran.trial.record,
        consumed=ran.trial.consumed,
        expected=expected,
        environment=environment,
        where=where_of(environment.backend, environment.setting),
        verdict=judged.verdict,
        recorded=ran.outputs,
        reference=_reference(looked, ran),
        right=_right(ran) if any(e.kind == "set" for e in expected) else (),
        causes=causes,
        story=(
            f"Found by parity in {looked.case.id} on {environment.backend} ({environment.setting}).",
            f"Verdict: {judged.verdict.value}{f', {judged.note}' if judged.note else ''}.",
            *said,
            _provenance(environment),
        ),
        timeout_s=timeout_s,
    )


def _expected(ran: Ran, profile: Profile) -> tuple[Expectation, ...]:
    step = _step(ran)
    try:
        return expectations(step, ran.trial.consumed, profile)
    except Unjudgeable:  # such as of a step that crashed: running it is the test
        return ()


def _step(ran: Ran) -> Step:
    record = ran.trial.record
    return Step(
        name=record.name,
        op=record.op,
        inputs=tuple(None if ref is None else f"input{i}" for i, ref in enumerate(record.inputs)),
        outputs=output_names(record),
        attrs=record.attrs,
    )


def _reference(looked: Looked, ran: Ran) -> tuple[HostTensor, ...]:
    """Return what the reference gave, where it was given these very inputs."""
    theirs = looked.reference.step(ran.trial.record.name) if looked.reference else None
    if theirs is None or looked.reference is None:
        return ()
    if [r and r.digest for r in theirs.inputs] != [r and r.digest for r in ran.trial.record.inputs]:
        return ()
    held = [looked.reference.tensors.get(ref.digest) for ref in theirs.outputs]
    return tuple(t for t in held if t is not None) if None not in held else ()


def _right(ran: Ran) -> tuple[HostTensor, ...]:
    """Return a right answer where several are: what torch gives on the CPU, if the judge takes it."""
    step, eager = _step(ran), TorchEager(torch.device("cpu"))
    try:
        given = [None if t is None else eager.put(t) for t in ran.trial.consumed]
        outputs = tuple(map(eager.get, eager.run(step, given, reduced=None)))
    except Unsupported:
        return ()
    expected = next(iter(answers(step.op, ran.trial.consumed, step.attrs, ran.environment.profile))).expected
    judged = compare(outputs, step.outputs, expected)
    return outputs if worst(o.verdict for o in judged) is Verdict.WITHIN else ()


def _provenance(environment: Environment) -> str:
    names = [n for n in ("flavour", "torch", "driver", "sdk") if n in environment.provenance]
    return ", ".join(f"{name} {environment.provenance[name]}" for name in names) or "No versions are known."
