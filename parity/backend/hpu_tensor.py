"""Carry tensors to a Gaudi and back, bit for bit, and keep its two formats of E4M3 apart.

Gaudi2 reads the codes of torch.float8_e4m3fn as an IEEE format that ends at 240 (DEVICES.md 3.3,
H6). So e4m3_gaudi2 goes there under that name, and comes back as what it is; e4m3fn goes there with
its own codes, as a model's weights do, and what the chip makes of them is judged. Does not convert.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.weak import WeakIdKeyDictionary

from parity.backend.base import Node, Witness
from parity.backend.torch_tensor import dtype_of, torch_dtype
from parity.case.case import Step
from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor

__all__ = ["GaudiTensors", "codes_of_e4m3"]

_GAUDI2 = DTYPES["e4m3_gaudi2"]


class GaudiTensors:
    """Tensors of one device; `gaudi2` says whether its E4M3 ends at 240."""

    def __init__(self, device: torch.device, *, gaudi2: bool) -> None:
        self._device = device
        self._gaudi2 = gaudi2
        # Handles that hold e4m3_gaudi2, which torch cannot tell from e4m3fn.
        self._marked = WeakIdKeyDictionary()

    def put(self, tensor: HostTensor) -> torch.Tensor:
        """Copy the whole storage, then take the same view of it."""
        marked = self._gaudi2 and tensor.dtype is _GAUDI2
        kind = torch.float8_e4m3fn if marked else torch_dtype(tensor.dtype)
        base = torch.empty(tensor.storage.size, dtype=kind)
        # Given its type on the host: that a lazy device can look at a tensor as another type is not
        # documented, and a copy of contiguous memory keeps its bits in any type.
        base.view(torch.uint8).numpy()[:] = tensor.storage.view(np.uint8)
        handle = base.to(self._device).as_strided(tensor.shape, tensor.stride, tensor.offset)
        if marked:
            self._marked[handle] = True
        return handle

    def get(self, handle: torch.Tensor) -> HostTensor:
        """Copy the elements back, row-major."""
        kind = _GAUDI2 if handle in self._marked else dtype_of(handle.dtype)
        host = handle.detach().contiguous().cpu()
        # A dimension of one element may have any stride, and bytes are seen through a stride of one only.
        codes = np.array(host.as_strided((host.numel(),), (1,)).view(torch.uint8).numpy())
        return HostTensor.of(codes.view(kind.storage).reshape(tuple(handle.shape)), kind)

    def asked(self, step: Step) -> Step:
        """Return the step as torch can be asked for it."""
        if self._gaudi2 and step.attrs.get("to") == _GAUDI2.name:
            return dataclasses.replace(step, attrs={**step.attrs, "to": "e4m3fn"})
        return step

    def adopt(
        self, step: Step, inputs: Sequence[torch.Tensor | None], outputs: Sequence[torch.Tensor]
    ) -> None:
        """Mark the outputs of a step that are e4m3_gaudi2: asked for, or moved from such a tensor."""
        held = step.attrs.get("to", _GAUDI2.name if any(x in self._marked for x in inputs) else "")
        if held == _GAUDI2.name:
            self._marked.update({y: True for y in outputs if y.dtype is torch.float8_e4m3fn})

    def truth(self, step: Step, witness: Witness) -> Witness:
        """Say of a conversion to e4m3fn on Gaudi2 at which format it ran: 256 is infinity there.

        Infinity has the code that 256 has in e4m3fn, so the bits alone cannot convict it.
        """
        if not self._gaudi2 or step.attrs.get("to") not in ("e4m3fn", _GAUDI2.name):
            return witness
        return dataclasses.replace(witness, executed=tuple(map(_as_gaudi2, witness.executed)))


def _as_gaudi2(node: Node) -> Node:
    return dataclasses.replace(node, precision=_GAUDI2.name) if node.precision == "e4m3fn" else node


def codes_of_e4m3(device: torch.device) -> str:
    """Return which format the device reads the codes 0x77 and 0x78 of torch.float8_e4m3fn as."""
    codes = torch.tensor([0x77, 0x78], dtype=torch.uint8).view(torch.float8_e4m3fn)
    try:
        first, second = codes.to(device).to(torch.float32).cpu().tolist()
    except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
        return f"unsupported: {(str(error).splitlines() or [type(error).__name__])[0]}"
    if first == 240.0 and second == 256.0:
        return "e4m3fn"
    if first == 240.0 and math.isinf(second):
        return _GAUDI2.name
    return f"neither: 240, 256 became {first:g}, {second:g}"
