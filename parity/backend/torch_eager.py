"""Run steps eagerly in torch on one device, with evidence; shared by every backend built on torch.

Does not pin switches: the vendor's file does.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from parity.backend.base import Unsupported, Witness
from parity.backend.observed import Observed
from parity.backend.torch_call import decode_call
from parity.backend.torch_ops import TORCH_OPS
from parity.backend.torch_tensor import to_host, to_torch
from parity.backend.torch_witness import Trace
from parity.case.case import Step
from parity.case.tensor import HostTensor

__all__ = ["TorchEager", "as_tuple", "inability", "supported", "torch_function"]

# How torch words "this cannot be expressed"; any other exception is a failure.
_INABILITY = re.compile(
    r"not implemented for|not supported|not support |unsupported|could not run|no kernel"
    r"|could not infer output dtype|expect(ed)? .*(scalar type|float tensor|same dtype)"
    r"|must have the same dtype|step must be greater than zero",
    re.IGNORECASE,
)


def inability(error: Exception) -> str | None:
    """Return torch's own words when an exception says that it cannot do this, else None."""
    text = str(error).strip()
    known = isinstance(error, NotImplementedError) or (
        isinstance(error, (RuntimeError, ValueError)) and _INABILITY.search(text)
    )
    return (text.splitlines() or [type(error).__name__])[0] if known else None


class TorchEager:
    """Steps on one torch device; the backend that owns it has pinned the switches."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._witness = Witness()

    def put(self, tensor: HostTensor) -> torch.Tensor:
        """Copy a host tensor to the device with its layout."""
        return to_torch(tensor, self.device)

    def get(self, handle: torch.Tensor) -> HostTensor:
        """Copy a result back, row-major, bit for bit."""
        return to_host(handle)

    def run(
        self, step: Step, inputs: Sequence[torch.Tensor | None], *, reduced: str | None
    ) -> tuple[torch.Tensor, ...]:
        """Run one step and keep its witness; `reduced` as in `Trace`."""
        self._witness = Witness()
        function = torch_function(step, self.device)
        with supported(), torch.no_grad(), Trace(self.device, reduced=reduced) as trace:
            outputs = as_tuple(function(*inputs))
        self._witness = trace.witness(outputs)
        return outputs

    def witness(self) -> Witness:
        """What the latest `run` executed."""
        return self._witness


def torch_function(step: Step, device: torch.device) -> Callable[..., Any]:
    """Return what runs a step in torch, its attributes bound. Raises Unsupported for an unknown op.

    What an op makes from nothing, such as indices, it makes on `device`.
    """
    if isinstance(step, Observed):
        return step
    if step.op.startswith("torch:"):
        return functools.partial(_called, str(step.attrs["call"]), device)
    if step.op not in TORCH_OPS:
        raise Unsupported(f"op '{step.op}' has no torch implementation")
    bound = functools.partial(TORCH_OPS[step.op], **step.attrs)
    if device.type == "cpu":
        return bound

    def placed(*inputs: torch.Tensor | None) -> Any:
        with device:
            return bound(*inputs)

    return placed


def _called(text: str, device: torch.device, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return decode_call(text).run(inputs, device=device)


@contextmanager
def supported() -> Iterator[None]:
    """Turn torch's exceptions that say "this cannot be expressed" into Unsupported."""
    try:
        yield
    except Exception as error:
        words = inability(error)
        if words is None:
            raise
        raise Unsupported(words) from error


def as_tuple(result: Any) -> tuple[torch.Tensor, ...]:
    """Return the results of a step, one or several."""
    return result if isinstance(result, tuple) else (result,)
