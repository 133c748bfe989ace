"""torch on the host's CPU: eager, compiled by Inductor, or by Triton kernels in Triton's interpreter.

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
from parity.backend.profile import Accumulator, Profile
from parity.backend.reduced import with_reductions
from parity.backend.spec import BackendSpec, Setting, check_flavour, check_spec
from parity.case.case import Step
from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor
from parity.errors import BackendError

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
# Read while Triton is imported: a CPU has no compiled kernels.
_INTERPRETER_ENV: Mapping[str, str] = {"TRITON_INTERPRET": "1"}


class CpuBackend:
    """The protocol `Backend` on the host's CPU; `flavour` is its instruction set, such as `avx512`."""

    def __init__(self, spec: BackendSpec, setting: Setting) -> None:
        check_spec(spec, modes=("eager", "compile", "triton"))
        self.spec = spec
        self.setting = setting
        self.flavour = ""
        self.on_phase: Callable[[str], None] | None = None
        self._eager: TorchEager | None = None
        self._witness: Witness | None = None

    def env(self) -> Mapping[str, str]:
        """One thread, oneDNN's strict arithmetic and Inductor's under strict, nothing under production.

        What makes Triton interpret its kernels, in either.
        """
        needed = _INTERPRETER_ENV if self._fuses else {}
        if self.setting is not Setting.STRICT:
            return needed
        return {**STRICT_ENV, **(inductor.STRICT_ENV if self._compiles else {}), **needed}

    def available(self) -> Availability:
        """Whether torch is installed, and what the mode needs: a C++ compiler, or Triton."""
        if importlib.util.find_spec("torch") is None:
            return Availability(ok=False, reason="torch is not installed", hint="pip install torch")
        if self._compiles:
            return inductor.available()
        if self._fuses and importlib.util.find_spec("triton") is None:
            return Availability(
                ok=False, reason="triton is not installed", hint="pip install 'chip-parity[triton]'"
            )
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
        if self._fuses:
            self._load_triton()
        self._eager = TorchEager(torch.device("cpu"))

    def _load_triton(self) -> None:
        from parity.backend import torch_triton

        if not torch_triton.is_interpreted():
            raise BackendError(
                f"'{self.spec}' cannot be opened: Triton was imported without TRITON_INTERPRET=1 in this "
                "process, so its kernels are for a GPU; set it before Python starts"
            )

    def provenance(self) -> Mapping[str, str]:
        """Versions, the processor, and every numeric switch as read back."""
        found = {"flavour": self.flavour, **self._switches.identity(), **self._switches.read_back()}
        if self._fuses:
            from parity.backend import torch_triton

            return {**found, **torch_triton.properties()}
        if not self._compiles:
            return found
        from torch._inductor import config

        return {**found, **inductor.properties(config)}

    def profile(self) -> Profile:
        """What `cpu_profile` declares; of our own kernels, that they accumulate in float32."""
        if self._fuses:
            return Profile(accumulator=Accumulator(dtype=DTYPES["f32"]))
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
        """Run one step, eagerly, as Inductor compiles it or by its Triton kernel."""
        self._witness = None
        if self._fuses:
            from parity.backend import torch_triton

            outputs, self._witness = torch_triton.run_fused(step, inputs)
            return outputs
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
        """Every ATen operation that the latest `run` dispatched, every kernel made or launched for it."""
        return self._witness or self._open.witness()

    @property
    def _compiles(self) -> bool:
        return self.spec.mode == "compile"

    @property
    def _fuses(self) -> bool:
        return self.spec.mode == "triton"

    def _phase(self, name: str) -> None:
        if self.on_phase is not None:
            self.on_phase(name)

    @property
    def _open(self) -> TorchEager:
        assert self._eager is not None, "open() comes first"
        return self._eager
