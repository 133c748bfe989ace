"""What every backend shares that is a torch device: steps in three modes, evidence, provenance.

A vendor's own file says which module the device lives in, which switches change its arithmetic
and how it falls back to the host. Nothing here names a vendor. Importing this imports no torch.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from parity.backend.base import Availability, Handle, Node, Unsupported, Witness
from parity.backend.profile import Profile
from parity.backend.spec import BackendSpec, Setting, check_flavour, check_mode
from parity.case.case import Step
from parity.case.tensor import HostTensor
from parity.errors import BackendError

if TYPE_CHECKING:
    from parity.backend.torch_eager import TorchEager

__all__ = ["Memory", "TorchDevice"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of the device's memory; None where the vendor does not say."""

    total: int | None = None
    free: int | None = None
    peak: int | None = None


class TorchDevice:
    """The protocol `Backend` on a torch device. A subclass states the class attributes and overrides hooks.

    `device_type` is torch's name of the device; `numeric_env` are the variables whose values go
    to the provenance; `collective` is the name that torch.distributed gives its communication.
    """

    family = ""
    device_type = ""
    modes: Sequence[str] = ("eager",)
    is_accelerator = True
    numeric_env: Sequence[str] = ()
    collective: str | None = None

    def __init__(self, spec: BackendSpec, setting: Setting) -> None:
        check_mode(spec, modes=self.modes)
        self.spec = spec
        self.setting = setting
        self.flavour = ""
        self.on_phase: Callable[[str], None] | None = None
        self._eager: TorchEager | None = None
        self._witness = Witness()

    # What a vendor states.

    def env(self) -> Mapping[str, str]:
        """Variables that must be set before the child's Python starts."""
        return {}

    def available(self) -> Availability:
        """Whether this device can be used on this machine; imports no SDK and no torch."""
        raise NotImplementedError

    def load(self) -> None:
        """Import what registers the device with torch, in the child. Raises BackendError with the reason."""

    def pin(self) -> None:
        """Set every switch that changes arithmetic to its most exact value."""

    def name(self) -> str:
        """Return the flavour: the chip's short name in lower case, such as `h200`."""
        raise NotImplementedError

    def identity(self) -> Mapping[str, str]:
        """Return device name, architecture, driver, SDK and plugin versions; `unknown` where not said."""
        return {}

    def switches(self) -> Mapping[str, str]:
        """Return every numeric switch as read back, `unknown` where this version has no reader."""
        return {}

    def profile(self) -> Profile:
        """The arithmetic that is declared for this device in this setting."""
        raise NotImplementedError

    def reduced(self) -> str | None:
        """Return what float32 products may be rounded to (`tf32`, `hf32`, a dtype), None when nothing."""
        return None

    def synchronize(self) -> None:
        """Wait until everything submitted has finished, lazy queues included."""
        raise NotImplementedError

    def memory(self) -> Memory:
        """Return what the device says of its memory."""
        return Memory()

    def recompiles(self) -> int | None:
        """Return how many graphs were compiled in this process, None where nobody counts."""
        return None

    @contextmanager
    def watch(self) -> Iterator[list[Node]]:
        """Collect, while a step runs, what fell back to the host or to a slow path of the chip.

        The list is read after the block: whatever is asynchronous must be waited for inside.
        """
        yield []

    def compiler(self) -> str | Callable[..., Any]:
        """Return what torch.compile is given as backend, a name or a callable."""
        return "inductor"

    def capture(self, function: Callable[..., Any], inputs: Sequence[Any]) -> Callable[[], Any]:
        """Return what replays `function(*inputs)` from a device graph and returns its static outputs."""
        del function, inputs
        raise Unsupported(f"{self.family} has no device graph in this version")

    # What they share.

    def open(self) -> None:
        """Load the plugin, pick the device, pin the switches under strict and learn the flavour."""
        self.load()
        import torch

        from parity.backend.torch_eager import TorchEager

        if self.setting is Setting.STRICT:
            self.pin()
        self.device = torch.device(self.device_type, self.spec.index[0] if self.spec.index else 0)
        try:
            torch.empty(1, device=self.device)
        except Exception as error:
            raise BackendError(f"'{self.spec}' cannot be used: {error}") from error
        self.flavour = self.name()
        check_flavour(self.spec, here=self.flavour)
        self._eager = TorchEager(self.device)

    def provenance(self) -> Mapping[str, str]:
        """Flavour, host, identity, memory, dtypes by value, and every numeric switch as read back."""
        from parity.backend import torch_switches
        from parity.backend.torch_dtypes import dtypes

        memory = self.memory()
        return {
            "flavour": self.flavour,
            **torch_switches.identity(),
            **self.identity(),
            "memory": str(memory.total) if memory.total is not None else "unknown",
            "collective": self.collective or "unknown",
            **{f"dtype.{name}": kept for name, kept in dtypes(self.device).items()},
            **torch_switches.read_back(),
            **self.switches(),
            **{f"env.{name}": os.environ[name] for name in self.numeric_env if name in os.environ},
        }

    def put(self, tensor: HostTensor) -> Handle:
        """Copy a host tensor to the device with its layout."""
        return self._open.put(tensor)

    def get(self, handle: Handle) -> HostTensor:
        """Copy a result back, row-major, bit for bit."""
        return self._open.get(handle)

    def run(self, step: Step, inputs: Sequence[Handle | None]) -> tuple[Handle, ...]:
        """Run one step eagerly, compiled or from a captured graph, as the mode says."""
        self._witness = Witness()
        with self.watch() as fallen:
            outputs, witness = self._run(step, inputs)
        self._witness = dataclasses.replace(witness, host=(*witness.host, *fallen))
        return outputs

    def _run(self, step: Step, inputs: Sequence[Handle | None]) -> tuple[tuple[Handle, ...], Witness]:
        if self.spec.mode not in ("compile", "graph"):
            outputs = self._open.run(step, inputs, reduced=self.reduced())
            return outputs, self._open.witness()
        from parity.backend import torch_graph

        if self.spec.mode == "compile":
            return torch_graph.run_compiled(
                step, inputs, device=self.device, compiler=self.compiler(), phase=self._phase
            )
        return torch_graph.run_captured(
            step,
            inputs,
            device=self.device,
            reduced=self.reduced(),
            capture=self.capture,
            phase=self._phase,
        )

    def witness(self) -> Witness:
        """What the latest `run` executed."""
        return self._witness

    def _phase(self, name: str) -> None:
        if self.on_phase is not None:
            self.on_phase(name)

    @property
    def _open(self) -> TorchEager:
        assert self._eager is not None, "open() comes first"
        return self._eager
