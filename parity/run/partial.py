"""The recording of a case whose process was lost: made here, since the process cannot.

So a folder that is carried to another host shows the crash too. Steps before the lost one ran,
but what they gave died with the process; they are left out, and so are judged by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

from parity.case.case import Case, Step
from parity.store.recording import Environment, Failure, Recording, StepRecord

__all__ = ["partial"]


def partial(
    case: Case, environment: Environment, *, step: str, failure: Failure, before: Mapping[str, Failure]
) -> Recording:
    """Return a recording of `case` from the step that ended its process on; `before` did so earlier."""
    names = [each.name for each in case.steps]
    # The steps of a subject are known by running it alone: those after the lost one have no names.
    lost, *rest = case.steps[names.index(step) :] if case.steps else (_unknown(step),)
    after = Failure(kind=failure.kind, text=f"not reached: '{step}' ended the process")
    return Recording(
        case=str(case.id),
        revision=case.revision,
        environment=environment,
        steps=(
            *(_record(_unknown(name), earlier) for name, earlier in before.items()),
            _record(lost, failure),
            *(_record(each, after) for each in rest),
        ),
    )


def _unknown(name: str) -> Step:
    return Step(name=name, op="?", inputs=(), outputs=())


def _record(step: Step, failure: Failure) -> StepRecord:
    return StepRecord(name=step.name, op=step.op, attrs=step.attrs, inputs=(), outputs=(), failure=failure)
