"""Run a case on an open backend, in this process, and write down what came out of what went in.

Whatever a backend does wrong becomes a Failure of the step it happened in; an exception that
leaves this file is a mistake of ours or of a case file. Does not survive the death of the
process; `worker` and `pool` do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from parity.backend.base import Backend
from parity.case.case import Case
from parity.case.inputs import generate
from parity.case.tensor import HostTensor
from parity.run.environment import environment as environment_of
from parity.run.journal import Journal
from parity.run.passes import Given, Pass
from parity.run.repeats import repeated
from parity.run.subject import record_subject
from parity.store.recording import Environment, Failure, FailureKind, Recording, StepRecord
from parity.store.schema import references

__all__ = ["record"]


def record(
    case: Case,
    backend: Backend,
    *,
    repeat: int = 1,
    journal: Journal,
    environment: Environment | None = None,
    lost: Mapping[str, Failure] = MappingProxyType({}),
) -> Recording:
    """Run a case `repeat` times, each on fresh copies of its inputs, and return the first run.

    The others leave the digests of what they made of the same inputs, and bytes where those differ.
    A step whose inputs an earlier step failed to make is not run. `environment` saves reading it
    back for every case. `lost` are steps of a subject that ended a process before, see `are_apart`.
    """
    if repeat < 1:
        raise ValueError(f"repeat must be >= 1, got {repeat}")
    environment = environment or environment_of(backend)
    if case.subject is not None:
        return record_subject(
            case, backend, repeat=repeat, journal=journal, environment=environment, lost=lost
        )
    generated = generate(case)
    inputs = {
        spec.name: Given.of(generated[spec.name], spec.name, role=spec.role.value) for spec in case.inputs
    }
    tensors: dict[str, HostTensor] = {}
    records = Pass(case, backend, inputs, tensors, journal).run()
    for number in range(2, repeat + 1):
        if any(r.failure and r.failure.kind is FailureKind.CRASHED for r in records):
            break
        again = Pass(case, backend, inputs, tensors, journal).run()
        records = repeated(records, again, run=f"run {number} of {repeat}")
    return Recording(
        case=str(case.id),
        revision=case.revision,
        environment=environment,
        steps=tuple(records),
        tensors=_named(tensors, records),
    )


def _named(tensors: Mapping[str, HostTensor], records: Iterable[StepRecord]) -> dict[str, HostTensor]:
    # What was fetched for a step that then failed belongs to nothing, and the store refuses it.
    named = {ref.digest for record in records for ref in references(record)}
    return {digest: tensors[digest] for digest in tensors.keys() & named}
