"""Where the tensors come from that recorded steps consumed: recordings, generated inputs, weights.

Whoever has a tensor is believed by its digest. Does not load checkpoints; `run.subject` does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from parity.case.tensor import HostTensor
from parity.judge.traced import Weights
from parity.store.recording import Recording, StepRecord, TensorRef

__all__ = ["Sources", "self_contained"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """`recording` holds activations, `inputs` are what the case generates, `weights` find the rest."""

    recording: Recording
    inputs: Mapping[str, HostTensor] = field(default_factory=dict)
    weights: Weights = lambda _: None

    def find(self, ref: TensorRef) -> HostTensor | None:
        """Return the tensor of a reference, None where nobody has one with its digest."""
        held = self.recording.tensors.get(ref.digest)
        if held is not None:
            return held
        for other in (self.inputs.get(ref.name), self.weights(ref)):
            if other is not None and other.digest() == ref.digest:
                return other
        return None

    def consumed(self, step: StepRecord) -> tuple[HostTensor | None, ...] | str:
        """Return what a step consumed, in the op's argument order, or the words for what is missing."""
        found: list[HostTensor | None] = []
        for ref in step.inputs:
            held = None if ref is None else self.find(ref)
            if ref is not None and held is None:
                return f"{ref.role} '{ref.name}' is neither in the recording nor here"
            found.append(held)
        return tuple(found)

    def produced(self, step: StepRecord) -> tuple[HostTensor, ...] | str:
        """Return what a step gave, or the words for what is missing."""
        if step.failure is not None:
            return f"{step.failure.kind.value}: {step.failure.text}"
        lost = [ref.name for ref in step.outputs if ref.digest not in self.recording.tensors]
        if lost:
            return f"output '{lost[0]}' is not in the recording"
        return tuple(self.recording.tensors[ref.digest] for ref in step.outputs)


def self_contained(sources: Sources, steps: Sequence[StepRecord]) -> Recording:
    """Return a recording of some steps that holds everything that they consumed.

    Every step's inputs must be at hand: `Sources.consumed` says whether they are.
    """
    tensors: dict[str, HostTensor] = {}
    for step in steps:
        consumed = sources.consumed(step)
        assert not isinstance(consumed, str), consumed
        for ref, held in zip(step.inputs, consumed, strict=True):
            if ref is not None and held is not None:
                tensors[ref.digest] = held
    return dataclasses.replace(
        sources.recording, steps=tuple(steps), tensors=tensors, results=(), unobserved=()
    )
