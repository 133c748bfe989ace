"""What several runs of one case amount to: the first run's steps, and where another gave other bits.

Does not run anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from parity.store.recording import Failure, StepRecord

__all__ = ["repeated"]


def repeated(first: Sequence[StepRecord], again: Sequence[StepRecord], *, run: str) -> list[StepRecord]:
    """Return the first run's steps with what another run of the same steps made of the same inputs.

    A run that ended early says nothing of the steps that it did not reach.
    """
    joined = [_repeated(*pair, run=run) for pair in zip(first, again)]  # noqa: B905 - see above
    return [*joined, *first[len(joined) :]]


def _repeated(first: StepRecord, again: StepRecord, *, run: str) -> StepRecord:
    if first.failure is not None:
        return first
    if again.failure is not None:
        failure = Failure(kind=again.failure.kind, text=f"{run}: {again.failure.text}")
        return dataclasses.replace(first, failure=failure, mutates=again.mutates)
    # Fed by a step that differed, it was run on other inputs and so not a second time.
    if [ref and ref.digest for ref in again.inputs] != [ref and ref.digest for ref in first.inputs]:
        return first
    return dataclasses.replace(first, repeats=(*first.repeats, again.outputs))
