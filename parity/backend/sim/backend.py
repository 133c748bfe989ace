"""Simulated chips as a backend: `sim/gaudi2`, `sim/ascend910b+lazy`, `sim/<your own>`.

A rehearsal: the judge is told no quirk, as no vendor tells, and has to find them. What the chip
declares is in `arithmetic`, for the probe. Importing this imports no torch.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from parity.backend.arithmetic import Arithmetic
from parity.backend.base import SLOW_PATH, Availability, Handle, Node, Witness
from parity.backend.cpu import STRICT_ENV
from parity.backend.cpu_profile import cpu_profile
from parity.backend.device import TorchDevice
from parity.backend.observed import Observed
from parity.backend.profile import Profile
from parity.backend.sim.chip import MODES, Chip
from parity.backend.sim.load import CHIPS_VARIABLE, chips, find
from parity.backend.spec import BackendSpec, Setting, check_mode
from parity.case.case import Step
from parity.case.tensor import HostTensor
from parity.errors import BackendError, UsageError

if TYPE_CHECKING:
    from parity.backend.sim.device import Engine

__all__ = ["PATH_VARIABLE", "SimBackend"]

PATH_VARIABLE = "PARITY_SIM_PATH"  # `mode` takes the dispatch mode though this torch has the hook


class SimBackend(TorchDevice):
    """One simulated chip. Several indices are several processes, each with a device of its own.

    `chip` takes the place of the one that the flavour names.
    """

    family = "sim"
    device_type = "sim"
    modes: Sequence[str] = MODES
    # A chip that is simulated is never what somebody came to check unasked.
    is_accelerator = False

    def __init__(self, spec: BackendSpec, setting: Setting, chip: Chip | None = None) -> None:
        super().__init__(spec, setting)
        self.chip = chip or (find(spec.flavour) if spec.flavour else None)
        if self.chip is not None:
            check_mode(spec, modes=self.chip.modes)
        self._engine: Engine | None = None

    def env(self) -> Mapping[str, str]:
        """The host's own switches: what no chip declares is computed by its kernels.

        Raises UsageError without a chip: the launcher asks this before it starts a child.
        """
        self._require_chip()
        return STRICT_ENV if self.setting is Setting.STRICT else {}

    def available(self) -> Availability:
        """Whether torch is installed; which chips there are."""
        if importlib.util.find_spec("torch") is None:
            return Availability(ok=False, reason="torch is not installed", hint="pip install torch")
        if self.chip is None:
            names = ", ".join(chips())
            return Availability(
                ok=True, reason=f"simulated chips: {names}", hint="name one, such as sim/gaudi2"
            )
        return Availability(ok=True, reason=f"simulated: {self.chip.title}")

    def open(self) -> None:
        """Register the device with torch, or take the dispatch mode where torch has no hook for one.

        Raises UsageError without a chip, BackendError while a fault keeps the device shut or where
        lazy mode has no device.
        """
        chip = self._require_chip()
        import torch

        from parity.backend import torch_switches
        from parity.backend.sim import device, faults
        from parity.backend.sim.kernels import Kernels
        from parity.backend.torch_eager import TorchEager

        faults.check_not_poisoned()
        if self.setting is Setting.STRICT:
            torch_switches.pin()
        self._faults = faults.Faults(faults.parse(os.environ.get(faults.FAULTS_VARIABLE, "")))
        self._kernels = Kernels(chip, self.setting, self.spec.mode, self._faults)
        self._has_device = device.has_hook() and os.environ.get(PATH_VARIABLE) != "mode"
        if self._has_device:
            self.device = device.register()
            self._engine = self._engine_of_mode()
        elif self.spec.mode == "lazy":
            raise BackendError(
                f"'{self.spec}' cannot be opened: torch {torch.__version__} has no hook for a device written "
                "in Python, and lazy mode needs one. Use the eager mode, or torch 2.11"
            )
        else:
            self.device = torch.device("cpu")
        self.flavour = self.name()
        self._eager = TorchEager(self.device)

    def _engine_of_mode(self) -> Engine:
        from parity.backend.sim.device import Eager
        from parity.backend.sim.lazy import Lazy

        return Lazy(self._kernels, phase=self._phase) if self.spec.mode == "lazy" else Eager(self._kernels)

    def _require_chip(self) -> Chip:
        if self.chip is None:
            raise UsageError(
                f"'{self.spec}' names no chip; there are {', '.join(f'sim/{n}' for n in chips())}"
            )
        return self.chip

    def name(self) -> str:
        """The chip's name."""
        return self._require_chip().name

    def arithmetic(self) -> Arithmetic:
        """What the chip declares in this setting and mode, which the judge is not told."""
        return self._require_chip().arithmetic(self.setting, self.spec.mode)

    def profile(self) -> Profile:
        """The host's own facts, whose kernels serve where the chip declares nothing; no quirk."""
        return cpu_profile(self.setting)

    def identity(self) -> Mapping[str, str]:
        """The chip, how it is simulated, its active quirks and the faults that were added."""
        chip = self._require_chip()
        active = chip.active(self.setting, self.spec.mode)
        faults = ", ".join(map(str, self._faults.faults))
        return {
            "chip": chip.title,
            "mode": self.spec.mode,
            "path": "device" if self._has_device else "dispatch mode",
            "quirks": ", ".join(quirk.name for quirk in active) or "none",
            "faults": faults or "none",
            **({CHIPS_VARIABLE: os.environ[CHIPS_VARIABLE]} if CHIPS_VARIABLE in os.environ else {}),
        }

    def provenance(self) -> Mapping[str, str]:
        """What every torch device says, asked of this chip's device."""
        with self.in_use():
            return super().provenance()

    def put(self, tensor: HostTensor) -> Handle:
        """Copy a host tensor to the chip's memory with its layout, as the chip keeps its type."""
        import torch

        from parity.backend.sim.device import SimTensor
        from parity.backend.torch_eager import supported
        from parity.backend.torch_tensor import to_torch

        with supported():
            arrived = self._kernels.arrived(to_torch(tensor, torch.device("cpu")))
        return SimTensor(arrived) if self._has_device else arrived

    def get(self, handle: Handle) -> HostTensor:
        """Wait for a result and copy it back, bit for bit."""
        from parity.backend.sim.device import SimTensor
        from parity.backend.torch_tensor import to_host

        self.synchronize()
        tensor = handle.elements if isinstance(handle, SimTensor) else handle
        assert tensor is not None, "a result that was never computed"
        return to_host(tensor)

    def run(self, step: Step, inputs: Sequence[Handle | None]) -> tuple[Handle, ...]:
        """Run one step, after the faults that strike before it."""
        self._faults.begin(step.op, phase=self._phase)
        import torch

        if isinstance(step, Observed):  # whose caller uses the chip for more than this
            return super().run(step, inputs)
        # Model code that names no device means the one it runs on.
        with self.in_use(), torch.device(self.device):
            return super().run(step, inputs)

    def _run(self, step: Step, inputs: Sequence[Handle | None]) -> tuple[tuple[Handle, ...], Witness]:
        if self._has_device or isinstance(step, Observed):
            outputs = self._open.run(step, inputs, reduced=self.reduced())
            return outputs, self._open.witness()
        return self._run_plain(step, inputs)

    def _run_plain(self, step: Step, inputs: Sequence[Handle | None]) -> tuple[tuple[Handle, ...], Witness]:
        """Run a step where the tensors are the CPU's, without the kernels that only the CPU has."""
        import torch

        from parity.backend.base import Unsupported
        from parity.backend.torch_eager import as_tuple, supported
        from parity.backend.torch_ops import PLAIN_OPS
        from parity.backend.torch_witness import Trace

        if step.op not in PLAIN_OPS:
            raise Unsupported(f"op '{step.op}' has no torch implementation")
        with supported(), torch.no_grad(), Trace(self.device, reduced=self.reduced()) as trace:
            outputs = as_tuple(PLAIN_OPS[step.op](*inputs, **step.attrs))
        return outputs, trace.witness(outputs)

    def synchronize(self) -> None:
        """Run what lazy mode has put off."""
        if self._engine is not None:
            self._engine.flush()

    def recompiles(self) -> int | None:
        """How many graphs lazy mode has compiled, None in eager mode."""
        from parity.backend.sim.lazy import Lazy

        return self._engine.recompiles if isinstance(self._engine, Lazy) else None

    @contextmanager
    def watch(self) -> Iterator[list[Node]]:
        """Collect what the chip ran on the host or on a slow part of its own, and where."""
        self._kernels.fallen.clear()
        fallen: list[Node] = []
        yield fallen
        self.synchronize()
        fallen += self._kernels.fallen

    def witness(self) -> Witness:
        """What the latest `run` executed; the AI CPU is a part of the chip, though a slow one."""
        seen = super().witness()
        slow = tuple(
            dataclasses.replace(node, kind=f"{SLOW_PATH}{node.kind}", device=str(self.device))
            for node in seen.host
            if node.device == "aicpu"
        )
        host = tuple(node for node in seen.host if node.device != "aicpu")
        return dataclasses.replace(seen, executed=(*seen.executed, *slow), host=host)

    def in_use(self) -> AbstractContextManager[None]:
        """Let tensors of device `sim` be this chip's while the block runs."""
        from parity.backend.sim.device import using
        from parity.backend.sim.mode import simulated

        return using(self._engine) if self._engine is not None else simulated(self._kernels)
