"""The protocol that every device and runtime implements, and the evidence it must give.

A third party adds a backend by an entry point in the group `parity.backends` whose value is a
callable `(BackendSpec, Setting) -> Backend`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from parity.backend.profile import Profile
from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Step
from parity.case.tensor import HostTensor

__all__ = [
    "SLOW_PATH",
    "UNKNOWN_PLACE",
    "Availability",
    "Backend",
    "Handle",
    "Node",
    "Unsupported",
    "Witness",
    "unplaced",
]

SLOW_PATH = "AI_CPU:"  # begins the kind of a node that the chip's own slow processor ran (Ascend)
UNKNOWN_PLACE = "?"  # the device of a node that may have run anywhere
Handle = Any  # a tensor in the backend's own type, opaque to every other stage


class Unsupported(Exception):
    """The backend cannot express a step; the text is the device's or runtime's own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Whether a backend can be used here, and the reason and remedy when not."""

    ok: bool
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One thing that the backend really executed: its own name for it, where, at what precision.

    `precision` is a dtype name as in `case.dtype.DTYPES`, or `?` where the runtime does not say.
    """

    kind: str
    device: str
    precision: str


def unplaced(node: Node) -> Node:
    """Return a node of which nobody can say that it ran on the target: its step is not judged."""
    return replace(node, device=UNKNOWN_PLACE, precision="?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What ran for one step, as the backend itself reports it.

    `executed` ran on the target and decides precision; `moved` ran there but only moves or
    converts data; `host` ran elsewhere (graph break, eager node, folded constant); `borrowed`
    counts kernels that a compiler takes from its host library, which is allowed and shown.
    """

    executed: tuple[Node, ...] = ()
    moved: tuple[Node, ...] = ()
    host: tuple[Node, ...] = ()
    borrowed: int = 0


class Backend(Protocol):
    """A device or runtime, in one mode and setting.

    The launcher calls `env` and `available` in its own process, everything else happens in a
    child after `open`. Raises Unsupported from `run` for what cannot be expressed; any other
    exception there is the backend's failure and becomes a `crashed` verdict.
    """

    spec: BackendSpec
    setting: Setting

    def env(self) -> Mapping[str, str]:
        """Variables that must be set before the child's Python starts."""

    def available(self) -> Availability:
        """Whether this backend can be used on this machine; cheap, and imports no SDK."""

    def open(self) -> None:
        """Import the SDK, pick the device and pin or leave the numeric switches."""

    def provenance(self) -> Mapping[str, str]:
        """Names, versions and every numeric switch as read back, after `open`."""

    def profile(self) -> Profile:
        """The arithmetic that is declared for this backend in this setting, after `open`."""

    def put(self, tensor: HostTensor) -> Handle:
        """Copy a host tensor to the device with its layout."""

    def get(self, handle: Handle) -> HostTensor:
        """Copy a result back, row-major, bit for bit."""

    def run(self, step: Step, inputs: Sequence[Handle | None]) -> tuple[Handle, ...]:
        """Run one step on device tensors in the op's argument order and return its outputs."""

    def synchronize(self) -> None:
        """Wait until everything submitted has finished, lazy queues included."""

    def witness(self) -> Witness:
        """What the latest `run` executed."""
