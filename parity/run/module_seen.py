# ruff: noqa: SLF001 - torch keeps to itself how functorch wraps its tensors
"""What a recorder knows of a run so far: its steps, where it is, and what memory holds.

A tensor that no call made came out of code that nobody sees: it is the output of a `composite:` step, that
of the latest region that ran as one piece, else one of its own. Does not run anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from parity.backend.torch_call import flat_tensors
from parity.run.module_memory import Capture, Memory
from parity.run.module_names import ROOT, Frame, Sites
from parity.run.module_step import Draft
from parity.run.module_storage import is_plain
from parity.run.module_tree import tensors_at

__all__ = ["Invocation", "Seen", "among"]


@dataclass(slots=True)
class Invocation:
    """A module that runs: the name of its step, whether that is wanted, and what it was given."""

    name: str
    is_kept: bool
    inputs: dict[str, Capture] = field(default_factory=dict)

    def output(self, path: str) -> str:
        """Return what the output at a path is called."""
        outermost = self.name == ROOT or self.name.startswith(f"{ROOT}@")
        label = f"output{self.name.removeprefix(ROOT)}" if outermost else self.name
        return f"{label}.{path}" if path else label


@dataclass(slots=True, eq=False)
class _Region:
    """Calls that are one step; `touched` are the tensors that they were given."""

    draft: Draft
    frame: Frame
    touched: list[Tensor] = field(default_factory=list)
    is_closed: bool = False


class Seen:
    """A run of `model` so far. With `complete` every write is seen, and so is what nobody wrote."""

    def __init__(self, model: nn.Module, *, complete: bool) -> None:
        self.memory, self.sites = Memory(), Sites(model)
        self.drafts: list[Draft] = []
        self._complete = complete
        self._region: _Region | None = None
        _adopt_model(model, self.memory)

    def in_region(self, kind: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Note a call inside a region that is one step."""
        frame = self.sites.frame
        if self._region is None or self._region.is_closed or self._region.frame is not frame:
            draft = Draft(name=self.sites.count(kind), op=f"composite:{kind}", reason="runs as one piece")
            self.drafts.append(draft)
            self._region = _Region(draft, frame)
        self._region.touched += flat_tensors((args, kwargs))

    def close_region(self) -> None:
        """Note that the region has ended, if there was one: what it read is known now."""
        region = self._region
        if region is None or region.is_closed:
            return
        region.is_closed = True
        for tensor in map(_unwrapped, region.touched):
            if is_plain(tensor) and self.memory.is_known(tensor):
                capture = self.memory.read(tensor)
                if not any(held is not None and held[1] is capture for held in region.draft.inputs):
                    region.draft.inputs.append((capture.name, capture))
        region.touched.clear()

    def read(self, tensor: Tensor) -> Capture:
        """Return what a tensor holds now. Raises Unsupported for a dtype that recordings do not have."""
        if not self._complete:
            return self.memory.read(tensor, anew=tensor.is_inference())
        if not self.memory.is_known(tensor):
            if self.sites.is_outside:
                self.memory.adopt(tensor, "outside")
            else:
                self._unseen(tensor)
        return self.memory.read(tensor)

    def _unseen(self, tensor: Tensor) -> None:
        """Note a tensor that no call made: the output of the latest region, or of code of its own."""
        if self._region is None:
            why = "made by code that calls no torch function"
            draft = Draft(name=self.sites.count("unseen"), op="composite:unseen", reason=why)
            self.drafts.append(draft)
        else:
            draft = self._region.draft
        name = draft.name if not draft.outputs else f"{draft.name}.{len(draft.outputs)}"
        self.memory.wrote(tensor, name)
        draft.outputs.append((name, self.memory.read(tensor)))


def _unwrapped(tensor: Tensor) -> Tensor:
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def among(tensor: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether a tensor is one of the others, the same object."""
    return any(tensor is other for other in others)


def _adopt_model(model: nn.Module, memory: Memory) -> None:
    """Say of every tensor that a model holds which one it is."""
    for path, module in model.named_modules(remove_duplicate=False):
        held = {k: v for k, v in vars(module).items() if k not in ("_parameters", "_buffers", "_modules")}
        for name, tensor in tensors_at(held, path or ROOT, depth=3):
            if is_plain(tensor):
                memory.adopt(tensor, f"attribute.{name}")
    weights = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    for name, tensor in weights:
        if is_plain(tensor):
            memory.adopt_weight(tensor, name)
