"""What one backend did with one case: the ordered steps, their tensors, and the environment.

Plain types only; `arrow` writes and reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from parity.backend.base import Witness
from parity.backend.profile import Profile
from parity.case.dtype import DType
from parity.case.op import Attr
from parity.case.tensor import HostTensor

__all__ = ["Environment", "Failure", "FailureKind", "Recording", "StepRecord", "TensorRef"]


class FailureKind(Enum):
    """Why a step has no result, or one of no worth; the values are verdict spellings.

    `exceeds` is a step that read something else than what was written for it.
    """

    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    EXCEEDS = "exceeds"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A step that gave nothing: the kind, and the device's own words or the signal's name."""

    kind: FailureKind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRef:
    """A tensor that a step read or wrote. `digest` is HostTensor.digest() of its elements.

    `role` is `input` or `weight` for generated tensors, whose bytes are never stored, else
    `activation`. The layout is the one that the step saw.
    """

    name: str
    role: str
    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step as it ran. `seconds` is None in goldens, where volatile facts do not belong.

    `repeats` holds, for each further run of `--repeat`, the digests of its outputs; their bytes
    are stored only where they differ from the first run's. `rank` is the process that ran it, and
    `shard` says which part of a divided tensor its outputs are, such as `0:2/8`; empty for the whole.
    """

    name: str
    op: str
    attrs: Mapping[str, Attr]
    inputs: tuple[TensorRef | None, ...]
    outputs: tuple[TensorRef, ...]
    mutates: tuple[str, ...] = ()
    replayable: bool = True
    witness: Witness | None = None
    failure: Failure | None = None
    repeats: tuple[tuple[TensorRef, ...], ...] = ()
    seconds: float | None = None
    bytes: int = 0
    flops: int = 0
    rank: int = 0
    shard: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where a recording was made: spec, setting, declared profile, versions and switches."""

    backend: str
    setting: str
    profile: Profile
    provenance: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """`revision` is Case.revision; `tensors` maps digests to the stored activations.

    A subject's recording also names its end-to-end `results`, and as `unobserved` those of a run of the
    same inputs that nobody observed: where the two differ, observing changed the run.
    """

    case: str
    revision: str
    environment: Environment
    steps: tuple[StepRecord, ...]
    tensors: Mapping[str, HostTensor] = field(default_factory=dict)
    results: tuple[TensorRef, ...] = ()
    unobserved: tuple[TensorRef, ...] = ()

    def step(self, name: str) -> StepRecord | None:
        """Return the step of that name, if it was reached."""
        return next((step for step in self.steps if step.name == name), None)

    def describe(self) -> dict[str, Any]:
        """Return the facts that a report prints about a side."""
        return {
            "backend": self.environment.backend,
            "setting": self.environment.setting,
            "provenance": dict(self.environment.provenance),
        }
