"""A case as plain data: its inputs, and the steps that run on them or the subject that is run.

A case file says what runs; a backend says how. Does not load files (`catalog`) nor generate
values (`inputs`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from parity.case.dtype import DType
from parity.case.ids import CaseId
from parity.case.op import OPS, Attr
from parity.errors import UsageError

__all__ = ["GENERATOR_VERSION", "Case", "Role", "Step", "Subject", "SubjectKind", "TensorSpec"]

# Raised when the same specification would give other input bits, so that goldens made from the
# old bits are refused by name instead of being blamed on a chip.
GENERATOR_VERSION = 1


class Role(Enum):
    """What a tensor is to the case."""

    INPUT = "input"
    WEIGHT = "weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A generated tensor: `shape` in elements, `dist` from `inputs.DISTRIBUTIONS` with `options`.

    `layout` (from `inputs.LAYOUTS`) places the same values differently in memory.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    dist: str = "normal"
    layout: str = "contiguous"
    role: Role = Role.INPUT
    options: Mapping[str, Attr] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without gaps of the layout."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation of the table in `op.py` on named tensors.

    `inputs` follow the op's argument order, None where an optional one is absent; they name case
    inputs or outputs of earlier steps.
    """

    name: str
    op: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Attr] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if self.op in OPS:
            OPS[self.op].check(self.inputs, self.outputs, self.attrs, where=f"step '{self.name}'")

    def tensors(self) -> Iterator[str]:
        """Yield the names of the inputs that are present."""
        return (name for name in self.inputs if name is not None)


class SubjectKind(Enum):
    """What a subject is: the engine on a checkpoint, any torch module, or torch's samples of an op."""

    ENGINE = "engine"
    MODULE = "module"
    OPINFO = "opinfo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Code that is run whole and observed: its steps are what its recording holds.

    `options` say which model, in which type, on which plan; `run.subject` documents them.
    """

    kind: SubjectKind
    options: Mapping[str, Attr]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What runs under one id; `source` is `file:line` of its definition.

    Either `steps` or a `subject`. Raises UsageError when two tensors share a name, a step reads one
    that does not exist yet, or there is nothing to run.
    """

    id: CaseId
    inputs: tuple[TensorSpec, ...]
    steps: tuple[Step, ...] = ()
    subject: Subject | None = None
    source: str = ""

    def __post_init__(self) -> None:
        known: set[str] = set()
        for name in (spec.name for spec in self.inputs):
            self._define(name, known)
        for step in self.steps:
            missing = [name for name in step.tensors() if name not in known]
            if missing:
                raise UsageError(f"{self.where}: step '{step.name}' reads '{missing[0]}', not made before it")
            for name in step.outputs:
                self._define(name, known)
        if len({step.name for step in self.steps}) != len(self.steps) or bool(self.steps) == bool(
            self.subject
        ):
            raise UsageError(
                f"{self.where}: needs at least one step, each with a name of its own, or else a subject"
            )

    def _define(self, name: str, known: set[str]) -> None:
        if name in known:
            raise UsageError(f"{self.where}: two tensors named '{name}'")
        known.add(name)

    @property
    def where(self) -> str:
        """The id and where it is defined, for messages."""
        return f"{self.source}: {self.id}" if self.source else str(self.id)

    @property
    def nbytes(self) -> int:
        """Bytes of all inputs."""
        return sum(spec.nbytes for spec in self.inputs)

    @property
    def revision(self) -> str:
        """Return `sha256:…` over everything that decides what is computed on which bits.

        Comments and the order of definitions in the case file do not count; layouts do.
        """
        content: dict[str, object] = {
            "generator": GENERATOR_VERSION,
            "id": str(self.id),
            "inputs": [
                [s.name, s.dtype.tag, s.shape, s.dist, s.layout, s.role.value, dict(s.options)]
                for s in self.inputs
            ],
            "steps": [[s.name, s.op, s.inputs, s.outputs, dict(s.attrs)] for s in self.steps],
        }
        if self.subject is not None:
            content["subject"] = [self.subject.kind.value, dict(self.subject.options)]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
