"""Functions run as modules under observation, and what came of it as values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from parity.backend.torch_call import decode_call
from parity.backend.torch_ops import TORCH_OPS
from parity.backend.torch_tensor import to_torch
from parity.case.tensor import HostTensor
from parity.run.module_recorder import Recorder, observe
from parity.run.module_weights import weights_in
from parity.store.recording import StepRecord

CPU = torch.device("cpu")


class Calls(nn.Module):
    """A module that does what a function does."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Observed:
    """One run of a module: its steps by name, and the tensors of each."""

    def __init__(self, module: Any, *args: Any, depth: Any = "op", **kwargs: Any) -> None:
        self.model = module if isinstance(module, nn.Module) else Calls(module)
        with torch.no_grad(), observe(self.model, depth) as recorder:
            self.output = self.model(*args, **kwargs)
        self.recorder: Recorder = recorder
        self.records, self.tensors = recorder.steps()
        self.steps: dict[str, StepRecord] = {record.name: record for record in self.records}
        self.find = weights_in(self.model)

    @property
    def calls(self) -> list[StepRecord]:
        """The steps that are no modules."""
        return [record for record in self.records if record.op != "module"]

    @property
    def ops(self) -> dict[str, str]:
        return {record.name: record.op for record in self.calls}

    def value(self, name: str, output: int = 0) -> torch.Tensor:
        return self.tensor(self.steps[name].outputs[output])

    def consumed(self, name: str, number: int = 0) -> torch.Tensor:
        return self.tensor(self.steps[name].inputs[number])

    def tensor(self, ref: Any) -> torch.Tensor:
        host: HostTensor | None = self.find(ref) if ref.role == "weight" else self.tensors[ref.digest]
        assert host is not None and host.digest() == ref.digest
        held = to_torch(host, CPU)
        if 0 in ref.stride:
            return held
        # As the step saw it: the order of a sum may follow the layout.
        return torch.empty_strided(ref.shape, ref.stride, dtype=held.dtype).copy_(held)

    def run_again(self, record: StepRecord) -> tuple[torch.Tensor, ...]:
        """Run a step alone on what it consumed, as the op table or its own call says."""
        inputs = [None if ref is None else self.tensor(ref) for ref in record.inputs]
        if record.op.startswith("torch:"):
            return decode_call(str(record.attrs["call"])).run(inputs)
        given = TORCH_OPS[record.op](*inputs, **record.attrs)
        return given if isinstance(given, tuple) else (given,)


def same_bits(one: torch.Tensor, two: torch.Tensor) -> bool:
    if one.dtype != two.dtype or one.shape != two.shape:
        return False
    return (
        torch.equal(one.contiguous().view(torch.uint8), two.contiguous().view(torch.uint8))
        if one.ndim
        else (same_bits(one[None], two[None]))
    )
