"""Code that is no step of the op table, run as if it were one, so that it has a step's evidence.

A backend that is a torch device runs it like any step, with its faults, warnings and counters; one
that compiles steps cannot. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from parity.backend.base import Backend, Witness
from parity.case.case import Step

__all__ = ["Observed", "TorchBackend", "in_use", "observe"]


@runtime_checkable
class TorchBackend(Protocol):
    """A backend whose handles are torch tensors on `device`, an attribute or property after `open`."""

    @property
    def device(self) -> Any:
        """The torch device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed(Step):
    """A step that stands for a call of `function`; what that returned is put into `result`."""

    function: Callable[[], Any]
    result: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check nothing: what the function reads is its own affair."""

    def __call__(self) -> tuple[Any, ...]:
        """Run it, and return its results as those of a step."""
        self.result[:] = [self.function()]
        (made,) = self.result
        return tuple(made) if isinstance(made, (tuple, list)) else () if made is None else (made,)


def in_use(backend: Backend) -> AbstractContextManager[None]:
    """Let code compute on a backend's device while the block runs; most need no permission."""
    permit: Callable[[], AbstractContextManager[None]] = getattr(backend, "in_use", nullcontext)
    return permit()


def observe(backend: Backend, function: Callable[[], Any], op: str) -> tuple[Any, Witness]:
    """Return what `function` gives on a backend's torch device, and the evidence of it.

    `op` is the op that it stands for. Raises what `run` raises.
    """
    step = Observed(name=op, op=op, inputs=(), outputs=(), function=function)
    backend.run(step, ())
    return step.result[0], backend.witness()
