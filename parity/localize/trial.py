"""One step on inputs of our choice: asked of a backend, judged, and cut to smaller inputs.

Does not choose inputs; `shrink` and `synthetic` do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parity.case.op import Attr
from parity.case.tensor import HostTensor, contiguous_stride
from parity.judge.step import without_evidence
from parity.judge.traced import judge_steps
from parity.judge.verdict import StepJudgement, Verdict
from parity.run.replayer import Replayer
from parity.store.recording import Environment, Recording, StepRecord, TensorRef

__all__ = ["Ran", "Trial", "Trials"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A step and what it is to consume; `record.inputs` name the same tensors and say how they lie."""

    record: StepRecord
    consumed: tuple[HostTensor | None, ...]

    @classmethod
    def of(cls, record: StepRecord, consumed: Sequence[HostTensor | None]) -> Trial:
        """Return a recorded step as it ran."""
        return cls(record=record, consumed=tuple(consumed))

    def on(self, changed: Mapping[int, HostTensor], *, attrs: Mapping[str, Attr] | None = None) -> Trial:
        """Return the same step with other tensors at some of its inputs.

        Strides of an input that was not row-major are kept, and zero where it shared elements.
        """
        inputs, consumed = list(self.record.inputs), list(self.consumed)
        for position, tensor in changed.items():
            ref = inputs[position]
            assert ref is not None
            inputs[position], consumed[position] = _renewed(ref, tensor), tensor
        record = dataclasses.replace(
            self.record, inputs=tuple(inputs), attrs=self.record.attrs if attrs is None else attrs
        )
        return Trial(record=record, consumed=tuple(consumed))

    def shapes(self) -> str:
        """Return the inputs as a report writes them."""
        return "  ".join(f"{r.name} {r.dtype}{list(r.shape)}" for r in self.record.inputs if r is not None)

    @property
    def numel(self) -> int:
        """Elements of all inputs."""
        return sum(t.numel for t in self.consumed if t is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a backend made of a trial: its record, its outputs, none where it failed, and the judgement."""

    trial: Trial
    record: StepRecord
    outputs: tuple[HostTensor, ...]
    judgement: StepJudgement
    environment: Environment


def _renewed(ref: TensorRef, tensor: HostTensor) -> TensorRef:
    is_plain = ref.stride == contiguous_stride(ref.shape) and not ref.offset
    keeps = len(ref.stride) == len(tensor.shape) and not is_plain
    return dataclasses.replace(
        ref,
        dtype=tensor.dtype,
        shape=tensor.shape,
        stride=ref.stride if keeps else contiguous_stride(tensor.shape),
        offset=ref.offset if keeps else 0,
        digest=tensor.digest(),
    )


class Trials:
    """Asks one backend; `case` and `revision` are only what the recordings are called."""

    def __init__(self, replayer: Replayer, source: Recording) -> None:
        self._replayer = replayer
        self._source = source

    def run(self, trials: Sequence[Trial]) -> list[Ran]:
        """Return what the backend makes of each, in order."""
        named = [dataclasses.replace(t.record, name=f"{t.record.name}~{i}") for i, t in enumerate(trials)]
        tensors = {
            ref.digest: held
            for trial in trials
            for ref, held in zip(trial.record.inputs, trial.consumed, strict=True)
            if ref is not None and held is not None
        }
        given = dataclasses.replace(
            self._source, steps=tuple(named), tensors=tensors, results=(), unobserved=()
        )
        again = self._replayer.replay(given)
        found = []
        for trial, record in zip(trials, again.steps, strict=True):
            alone = dataclasses.replace(again, steps=(record,))
            if record.failure is not None:
                judged = without_evidence(record, Verdict(record.failure.kind.value), record.failure.text)
            else:
                (judged,) = judge_steps(alone, weights=lambda ref: tensors.get(ref.digest))
            outputs = () if record.failure else tuple(again.tensors[r.digest] for r in record.outputs)
            found.append(
                Ran(
                    trial=trial,
                    record=dataclasses.replace(record, name=trial.record.name),
                    outputs=outputs,
                    judgement=judged,
                    environment=again.environment,
                )
            )
        return found
