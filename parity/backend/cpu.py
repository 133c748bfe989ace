"""torch on the host's CPU, eager or compiled by Inductor.

Importing this module does not import torch: `open` does, in the child.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from parity.backend import inductor
from parity.backend.arithmetic import Arithmetic
from parity.backend.base import Availability, Handle, Witness
from parity.backend.cpu_profile import cpu_arithmetic, cpu_profile
from parity.backend.profile import Profile
from parity.backend.reduced import with_reductions
from parity.backend.spec import BackendSpec, Setting, check_flavour, check_spec
from parity.case.case import Step
from parity.case.tensor import HostTensor

if TYPE_CHECKING:
    import torch

    from parity.backend.torch_eager import TorchEager

__all__ = ["STRICT_ENV", "CpuBackend"]

# oneDNN reads its variable, under either name, when torch is loaded; OpenMP and MKL likewise.
STRICT_ENV: Mapping[str, str] = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT",
    "DNNL_DEFAULT_FPMATH_MODE": "STRICT",
}


class CpuBackend:
    """The protocol `Backend` on the host's CPU; `flavour` is its instruction set, such as `avx512`."""

    def __init__(self, spec: BackendSpec, setting: Setting) -> None:
        check_spec(spec, modes=("eager", "compile"))
        self.spec = spec
        self.setting = setting
        self.flavour = ""
        self.on_phase: Callable[[str], None] | None = None
        self._eager: TorchEager | None = None
        self._witness: Witness | None = None

    def env(self) -> Mapping[str, str]:
        """One thread, oneDNN's strict arithmetic and Inductor's under strict, nothing under production."""
        if self.setting is not Setting.STRICT:
            return {}
        return {**STRICT_ENV, **inductor.STRICT_ENV} if self._compiles else STRICT_ENV

    def available(self) -> Availability:
        """Whether torch is installed, and where it is to compile, a C++ compiler."""
        if importlib.util.find_spec("torch") is None:
            return Availability(ok=False, reason="torch is not installed", hint="pip install torch")
        if self._compiles:
            return inductor.available()
        return Availability(ok=True, reason="torch is installed")

    def open(self) -> None:
        """Import torch, pin its switches under strict, and learn the flavour.

        Raises BackendError when the flavour that was asked for is another machine's.
        """
        # Not at the top of the module: the launcher asks `env` and `available` without torch.
        import torch

        from parity.backend import torch_switches
        from parity.backend.torch_eager import TorchEager

        if self.setting is Setting.STRICT:
            torch_switches.pin()
        self.flavour = torch_switches.capability()
        check_flavour(self.spec, here=self.flavour)
        self._switches = torch_switches
        self._eager = TorchEager(torch.device("cpu"))

    def provenance(self) -> Mapping[str, str]:
        """Versions, the processor, and every numeric switch as read back."""
        found = {"flavour": self.flavour, **self._switches.identity(), **self._switches.read_back()}
        if not self._compiles:
            return found
        from torch._inductor import config

        return {**found, **inductor.properties(config)}

    def profile(self) -> Profile:
        """What `cpu_profile` declares."""
        return cpu_profile(self.setting)

    def arithmetic(self) -> Arithmetic:
        """What torch says of its arithmetic here, for the probe."""
        return cpu_arithmetic(self.setting)

    @property
    def threads(self) -> int:
        """Threads that one operation may be shared out to."""
        import torch

        return torch.get_num_threads()

    @threads.setter
    def threads(self, count: int) -> None:
        import torch

        torch.set_num_threads(count)

    def put(self, tensor: HostTensor) -> Handle:
        """Copy a host tensor into torch with its layout."""
        return self._open.put(tensor)

    def get(self, handle: Handle) -> HostTensor:
        """Copy a result back, row-major, bit for bit."""
        return self._open.get(handle)

    def run(self, step: Step, inputs: Sequence[Handle | None]) -> tuple[Handle, ...]:
        """Run one step, eagerly or as Inductor compiles it."""
        self._witness = None
        if not self._compiles:
            return self._open.run(step, inputs, reduced=self._switches.reduced_float32())
        from parity.backend import torch_graph

        outputs, witness = torch_graph.run_compiled(
            step, inputs, device=self.device, compiler="inductor", phase=self._phase
        )
        reduced = self._switches.reduced_float32()
        self._witness = with_reductions(witness, products=reduced, convolutions=reduced)
        return outputs

    @property
    def device(self) -> torch.device:
        """Where tensors of this backend lie."""
        return self._open.device

    def synchronize(self) -> None:
        """Nothing to wait for: calls on a CPU return when they are done."""

    def witness(self) -> Witness:
        """Every ATen operation that the latest `run` dispatched, and every kernel generated for it."""
        return self._witness or self._open.witness()

    @property
    def _compiles(self) -> bool:
        return self.spec.mode == "compile"

    def _phase(self, name: str) -> None:
        if self.on_phase is not None:
            self.on_phase(name)

    @property
    def _open(self) -> TorchEager:
        assert self._eager is not None, "open() comes first"
        return self._eager
