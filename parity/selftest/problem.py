"""One step of a case of the suite on inputs of another seed, and what a kernel made of it.

The seed enters the key of each generated tensor, so a run on seeds that nothing has seen is one
option away. Does not compute.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from parity.case.case import Case, Step
from parity.case.catalog import Catalog, builtin_cases
from parity.case.draw import key_text
from parity.case.dtype import DType, dtype, encode
from parity.case.ids import Selector
from parity.case.inputs import values
from parity.case.layout import place
from parity.case.op import Attr
from parity.case.tensor import HostTensor
from parity.judge.oracle import to_float64

__all__ = [
    "Outputs",
    "Problem",
    "Runner",
    "cases",
    "inputs_of",
    "problems",
    "store",
]

Outputs = tuple[HostTensor, ...]
# Bytes of the cases of production size whose sums can be formed in every order.
_FORMED = 16 << 20
Runner = Callable[["Problem"], Outputs]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """A step and the tensors that it reads; `stale` is the same step on another seed's tensors."""

    case: str
    family: str
    dist: str
    op: str
    attrs: Mapping[str, Attr]
    inputs: tuple[HostTensor | None, ...]
    stale: Problem | None = field(default=None, repr=False)

    def x(self, number: int) -> Tensor:
        """Return an input's exact values: float64, integer or bool."""
        tensor = self.inputs[number]
        assert tensor is not None
        return to_float64(tensor)

    def raw(self, number: int) -> np.ndarray:
        """Return an input's elements in their own storage type, copied and row-major."""
        tensor = self.inputs[number]
        assert tensor is not None
        return np.array(tensor.array(), order="C")

    def has(self, number: int) -> bool:
        """Whether an optional input is there."""
        return number < len(self.inputs) and self.inputs[number] is not None

    @property
    def dtype(self) -> DType:
        """Type of the first input."""
        assert self.inputs[0] is not None
        return self.inputs[0].dtype

    @property
    def out(self) -> DType:
        """Type of a computed result."""
        name = self.attrs.get("out") or self.attrs.get("to")
        return dtype(str(name)) if name else self.dtype

    def integer(self, name: str) -> int:
        """Return an integer attribute."""
        value = self.attrs[name]
        assert isinstance(value, int)
        return value

    def number(self, name: str) -> float:
        """Return a number attribute."""
        value = self.attrs[name]
        assert isinstance(value, (int, float))
        return float(value)


def store(y: Tensor, to: DType) -> HostTensor:
    """Round a float32 or float64 result once to its dtype, to nearest even."""
    return HostTensor.of(encode(y.to(torch.float64).numpy(), to).view(to.storage), to)


@functools.cache
def cases(*, production: bool = False) -> tuple[Case, ...]:
    """Return the built-in op cases, or those of production size that are not too large for it."""
    catalog = Catalog.load([builtin_cases()])
    if production:
        found = catalog.select([Selector("production")], suite="large")
        return tuple(case for case in found if case.nbytes <= _FORMED)
    return tuple(catalog.select([], suite="ops"))


def inputs_of(case: Case, *, seed: int) -> dict[str, HostTensor]:
    """Return a case's inputs under another key."""
    return {
        spec.name: place(
            values(spec, key=f"{key_text(case.id, spec.name)}@seed={seed}"), spec.dtype, spec.layout
        )
        for spec in case.inputs
    }


def problems(case: Case, run: Runner, *, seed: int) -> Iterator[Problem]:
    """Yield each step of a case as a problem; `run` makes what a later step reads of an earlier one."""
    known, stale = inputs_of(case, seed=seed), inputs_of(case, seed=seed + 1_000_000)
    for step in case.steps:
        before = _problem(case, step, stale)
        problem = dataclasses.replace(_problem(case, step, known), stale=before)
        yield problem
        known.update(zip(step.outputs, run(problem), strict=True))
        stale.update(zip(step.outputs, run(before), strict=True))


def _problem(case: Case, step: Step, known: Mapping[str, HostTensor]) -> Problem:
    params = dict(case.id.params)
    return Problem(
        case=str(case.id),
        family=case.id.path,
        dist=params.get("dist", ""),
        op=step.op,
        attrs=step.attrs,
        inputs=tuple(None if name is None else known[name] for name in step.inputs),
    )
