"""The weights of a network that is there in parts: read when they are needed, of experts only some.

A recording names experts' matrices with their numbers, `L03.experts.down.w[2,5]`: those that a step
read. Nothing that was read is kept here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from parity.backend.torch_tensor import lent, to_torch, torch_dtype
from parity.case.case import Case
from parity.case.tensor import HostTensor
from parity.engine.model.names import Weight
from parity.engine.model.weights import read_experts, read_weight
from parity.run.engine_model import Model, model_of
from parity.run.stream import Read
from parity.run.subject import FindWeight
from parity.store.recording import StepRecord, TensorRef

__all__ = ["named_experts", "reader", "weights_of"]

_CPU = torch.device("cpu")
_SOME = re.compile(r"(?P<name>.+)\.w\[(?P<experts>[0-9,]+)\]")


def weights_of(case: Case) -> FindWeight:
    """Return what finds the weights of a part by name, `[2,5]` behind it for some experts' matrices.

    One at a time: nothing is kept. Raises GoldenError where they are not here.
    """
    model = model_of(case)
    known = model.weights()

    def find(ref: TensorRef) -> HostTensor | None:
        some = _SOME.fullmatch(ref.name)
        name = some["name"] if some else ref.name
        name = name if name.endswith(".bias") else name.removesuffix(".w")
        weight = known.get("embed" if name == "head" and model.arch.tied else name)
        numbers = [int(n) for n in some["experts"].split(",")] if some else None
        return None if weight is None else lent(reader(model)(weight, numbers))

    return find


def reader(model: Model) -> Read:
    """Read weights of a model on the host."""
    kind, files = torch_dtype(model.dtype), model.files

    def read(weight: Weight, experts: Sequence[int] | None) -> Tensor:
        if files is None:
            made = to_torch(model.make(weight), _CPU)
            return made if experts is None else made[list(experts)]
        if experts is None:
            return read_weight(files, weight, dtype=kind, device=_CPU)
        return read_experts(files, weight, experts, dtype=kind, device=_CPU)

    return read


def named_experts(steps: Sequence[StepRecord], chosen: Sequence[Sequence[int]]) -> Iterator[StepRecord]:
    """Name the experts whose matrices a step read."""
    turns = iter(chosen)
    for step in steps:
        if step.op != "experts" or step.failure is not None:
            yield step
            continue
        numbers = ",".join(map(str, next(turns)))
        named = tuple(
            dataclasses.replace(ref, name=f"{ref.name}[{numbers}]") if ref and ref.role == "weight" else ref
            for ref in step.inputs
        )
        yield dataclasses.replace(step, inputs=named)
