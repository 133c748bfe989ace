"""What every backend shares that is a torch device: steps in three modes, evidence, provenance.

A vendor's own file says which module the device lives in, which switches change its arithmetic
and how it falls back to the host. Nothing here names a vendor. Importing this imports no torch.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from parity.backend import switch
from parity.backend.base import Availability, Handle, Node, Unsupported, Witness
from parity.backend.host_fallback import FallbackWarning, HostFallbacks
from parity.backend.profile import Profile
from parity.backend.reduced import with_reductions
from parity.backend.spec import BackendSpec, Setting, check_flavour, check_mode
from parity.backend.vendor_api import ask
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
    to the provenance; `collective` is the name that torch.distributed gives its communication;
    `switch_table` is pinned and read back; `fallback_warning` is how it says that an operator ran on
    the host; `refuses_other_builds` that it does not load into a torch built for another accelerator.
    """

    family = ""
    device_type = ""
    modes: Sequence[str] = ("eager",)
    is_accelerator = True
    numeric_env: Sequence[str] = ()
    collective: str | None = None
    switch_table: Sequence[switch.Switch] = ()
    fallback_warning: FallbackWarning | None = None
    refuses_other_builds = False

    def __init__(self, spec: BackendSpec, setting: Setting) -> None:
        check_mode(spec, modes=self.modes)
        self.spec = spec
        self.setting = setting
        self.flavour = ""
        self.on_phase: Callable[[str], None] | None = None
        self._eager: TorchEager | None = None
        self._witness = Witness()
        self._unpinned: Mapping[str, str] = {}
        self._fallbacks: HostFallbacks | None = None
        self._compiled_before = 0

    # What a vendor states.

    def env(self) -> Mapping[str, str]:
        """Variables that must be set before the child's Python starts."""
        return {}

    def available(self) -> Availability:
        """Whether this device can be used on this machine; imports no SDK and no torch."""
        raise NotImplementedError

    def load(self) -> None:
        """Import what registers the device, after torch itself. Raises BackendError with the reason."""

    def select(self) -> None:
        """Make `self.device` the current one."""

    def pin(self) -> None:
        """Set every switch that changes arithmetic to its most exact value: here, those of the table."""
        self._unpinned = switch.pin(self._torch, self.switch_table)
        # Only a warning where a kernel has no deterministic form: the step is to run and be judged.
        self._torch.use_deterministic_algorithms(True, warn_only=True)

    def name(self) -> str:
        """Return the flavour: the chip's short name in lower case, such as `h200`."""
        raise NotImplementedError

    def identity(self) -> Mapping[str, str]:
        """Return device name, architecture, driver, SDK and plugin versions; `unknown` where not said."""
        return {}

    def switches(self) -> Mapping[str, str]:
        """Return every numeric switch as read back, `unknown` where this version has no reader."""
        found = switch.read_back(self._torch, self.switch_table)
        return found | {n: f"{found[n]} (not pinned: {words})" for n, words in self._unpinned.items()}

    def profile(self) -> Profile:
        """The arithmetic that is declared for this device in this setting."""
        raise NotImplementedError

    def reduced(self) -> str | None:
        """Return what float32 products may be rounded to (`tf32`, `hf32`, a dtype), None when nothing.

        `?` where this version does not say, which leaves them unjudged.
        """
        return None

    def reduced_convolution(self) -> str | None:
        """Return the same for convolutions, where they have a switch of their own."""
        return self.reduced()

    def synchronize(self) -> None:
        """Wait until everything submitted has finished, lazy queues included."""
        raise NotImplementedError

    def ordinal(self) -> int:
        """Return the device's number in this process: 0 where its environment shows it no other."""
        return self.spec.index[0] if self.spec.index else 0

    def memory(self) -> Memory:
        """Return what the device says of its memory."""
        return Memory()

    def recompiles(self) -> int | None:
        """Return how many graphs were compiled since `open`, None where nobody counts."""
        return _compiled() - self._compiled_before if self.spec.mode == "compile" else None

    @contextmanager
    def watch(self) -> Iterator[list[Node]]:
        """Collect, while a step runs, what fell back to the host.

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
        torch = self._import_torch()
        _refuse_two(torch, self.device_type, spec=str(self.spec), built=self.refuses_other_builds)
        self.load()
        from parity.backend.torch_eager import TorchEager

        if self.fallback_warning is not None:
            self._fallbacks = HostFallbacks(self.fallback_warning)
            # Also what torch's TORCH_WARN_ONCE would say only once per process.
            torch.set_warn_always(True)
        if self.setting is Setting.STRICT:
            self.pin()
        self.device = torch.device(self.device_type, self.ordinal())
        try:
            self.select()
            torch.empty(1, device=self.device)
        except Exception as error:
            raise BackendError(f"'{self.spec}' cannot be used: {error}") from error
        self.flavour = self.name()
        check_flavour(self.spec, here=self.flavour)
        self._eager = TorchEager(self.device)
        self._compiled_before = _compiled()

    def _import_torch(self) -> ModuleType:
        try:
            import torch
        except Exception as error:  # a broken plugin breaks `import torch` itself (DEVICES.md 3.0)
            raise BackendError(
                f"'{self.spec}' cannot be opened: torch cannot be imported: {error}. Repair or uninstall "
                "the package that it names, or set TORCH_DEVICE_BACKEND_AUTOLOAD=0"
            ) from error
        return torch

    def provenance(self) -> Mapping[str, str]:
        """Flavour, host, identity, memory, dtypes by value, and every numeric switch as read back."""
        from parity.backend import torch_switches
        from parity.backend.torch_dtypes import dtypes

        memory = self.memory()
        with self._heard():
            kept = dtypes(self.device, put=self.put, get=self.get)
        return {
            "flavour": self.flavour,
            **torch_switches.identity(),
            **self.identity(),
            "memory": str(memory.total) if memory.total is not None else "unknown",
            "collective": self.collective or "unknown",
            **{f"dtype.{name}": text for name, text in kept.items()},
            **torch_switches.read_back(),
            **self.switches(),
            **{f"env.{name}": os.environ[name] for name in self.numeric_env if name in os.environ},
        }

    def put(self, tensor: HostTensor) -> Handle:
        """Copy a host tensor to the device with its layout."""
        from parity.backend.torch_eager import supported

        with self._heard(), supported():
            return self._open.put(tensor)

    def get(self, handle: Handle) -> HostTensor:
        """Copy a result back, row-major, bit for bit."""
        with self._heard():
            return self._open.get(handle)

    def run(self, step: Step, inputs: Sequence[Handle | None]) -> tuple[Handle, ...]:
        """Run one step eagerly, compiled or from a captured graph, as the mode says."""
        self._witness = Witness()
        with self._heard() as warned, self.watch() as fallen:
            outputs, witness = self._run(step, inputs)
        witness = dataclasses.replace(witness, host=(*witness.host, *fallen))
        witness = with_reductions(witness, products=self.reduced(), convolutions=self.reduced_convolution())
        self._witness = self._fallbacks.revise(witness, warned) if self._fallbacks else witness
        return outputs

    @contextmanager
    def _heard(self) -> Iterator[list[str]]:
        """Collect the operators that the vendor says ran on the host."""
        if self._fallbacks is None:
            yield []
            return
        with self._fallbacks.watch() as warned:
            yield warned

    def _run(self, step: Step, inputs: Sequence[Handle | None]) -> tuple[tuple[Handle, ...], Witness]:
        if self.spec.mode not in ("compile", "graph"):
            outputs = self._open.run(step, inputs, reduced=None)
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
            reduced=None,
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
    def _torch(self) -> Any:
        """torch, which the launcher's process never imports."""
        import torch

        return torch

    @property
    def _open(self) -> TorchEager:
        assert self._eager is not None, "open() comes first"
        return self._eager


def _compiled() -> int:
    """Return how many graphs torch's compiler counts in this process; unused, it is not loaded."""
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", None)
    return int(counters["stats"]["unique_graphs"]) if counters else 0


def _refuse_two(torch: ModuleType, own: str, *, spec: str, built: bool) -> None:
    """Raise BackendError where this process already belongs to another accelerator (DEVICES.md 1.1).

    `built` also refuses a torch that was built for another one, used or not.
    """
    other = ask(torch, "_C._get_accelerator")
    kind = getattr(other, "type", "cpu")
    if own in {"", "cpu"} or kind in {"cpu", own} or not (built or ask(torch, f"{kind}.is_available")):
        return
    raise BackendError(
        f"'{spec}' cannot be opened: torch {torch.__version__} here drives {kind}, and one process has one "
        f"accelerator. Use an environment whose torch is for {own}, or write '{kind}'"
    )
