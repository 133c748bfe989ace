"""NVIDIA and AMD accelerators, which torch both calls `cuda`; `torch.version.hip` tells them apart.

Facts are those of DEVICES.md 3.1 (NVIDIA) and 3.2 (AMD). Imports torch only in the child.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from parity.backend import cuda_chip, cuda_switches, installed
from parity.backend.arithmetic import Arithmetic, Products, Reads
from parity.backend.base import Availability
from parity.backend.chip_name import short_name
from parity.backend.device import Memory, TorchDevice
from parity.backend.device_graph import capture
from parity.backend.profile import Accumulator, Declared, Profile
from parity.backend.spec import Setting
from parity.backend.vendor_api import UNKNOWN, ask, find, said
from parity.case.dtype import DTYPES

__all__ = ["CudaBackend"]

_PRODUCTS = ("matmul", "bmm", "linear", "addmm", "attention")
_CONVOLUTIONS = ("conv1d", "conv2d")
_TF32_BITS = "11"  # 10 explicit mantissa bits (DEVICES.md 3.1, documented deviations) and the leading one


class CudaBackend(TorchDevice):
    """The protocol `Backend` on an NVIDIA or AMD accelerator; the flavour is the chip, such as `h200`."""

    family = "cuda"
    device_type = "cuda"
    modes = ("eager", "compile", "graph")
    collective = "nccl"  # also RCCL's name in torch (DEVICES.md 3.2)
    numeric_env = cuda_switches.NUMERIC_ENV
    switch_table = cuda_switches.SWITCHES

    def env(self) -> Mapping[str, str]:
        """Deterministic workspaces under strict, nothing under production."""
        if self.setting is not Setting.STRICT:
            return {}
        build = installed.torch_build()
        is_hip = build is not None and build.hip is not None
        return {**cuda_switches.STRICT_ENV, **(cuda_switches.STRICT_HIP_ENV if is_hip else {})}

    def available(self) -> Availability:
        """Whether torch is built for one and its device nodes are here."""
        return cuda_chip.available(installed.torch_build(), environ=os.environ)

    def select(self) -> None:
        """Make it the current device, which graphs and streams are created on."""
        self._torch.cuda.set_device(self.device)

    def name(self) -> str:
        """Return the chip's short name."""
        full = ask(self._torch, "cuda.get_device_name", self.device)
        return short_name(str(full or "")) or self._architecture.partition(":")[0] or UNKNOWN

    @property
    def _is_hip(self) -> bool:
        return find(self._torch, "version.hip") is not None

    @property
    def _architecture(self) -> str:
        """`gfx942:sramecc+:xnack-` on AMD, empty on NVIDIA, whose capability says it."""
        if not self._is_hip:
            return ""
        properties = ask(self._torch, "cuda.get_device_properties", self.device)
        return str(find(properties, "gcnArchName") or "")

    def identity(self) -> Mapping[str, str]:
        """Return device, architecture, driver, toolkit and library versions."""
        capability = ask(self._torch, "cuda.get_device_capability", self.device)
        properties = ask(self._torch, "cuda.get_device_properties", self.device)
        return {
            "device": said(ask(self._torch, "cuda.get_device_name", self.device)),
            "device_architecture": self._architecture or _dotted(capability),
            "processors": said(find(properties, "multi_processor_count")),
            "driver": cuda_chip.driver(is_hip=self._is_hip),
            "hip" if self._is_hip else "cuda": said(
                find(self._torch, f"version.{'hip' if self._is_hip else 'cuda'}")
            ),
            "cudnn": said(ask(self._torch, "backends.cudnn.version")),
            "nccl": _dotted(ask(self._torch, "cuda.nccl.version")),
            "architectures_built": said(" ".join(ask(self._torch, "cuda.get_arch_list") or ())),
            "fp8": self._fp8(),
        }

    def _fp8(self) -> str:
        """Return which 8-bit format with four exponent bits the chip's products read."""
        if self._is_hip:
            # DEVICES.md 3.2: gfx94x reads fnuz codes, gfx95x and gfx12 the OCP ones.
            architecture = self._architecture
            return next(
                (
                    name
                    for start, name in (("gfx94", "e4m3fnuz"), ("gfx95", "e4m3fn"), ("gfx12", "e4m3fn"))
                    if architecture.startswith(start)
                ),
                UNKNOWN,
            )
        capability = ask(self._torch, "cuda.get_device_capability", self.device)
        if capability is None:
            return UNKNOWN
        return "e4m3fn" if capability >= (8, 9) else "unsupported"  # DEVICES.md 2, row fp8

    def reduced(self) -> str | None:
        """Return `tf32` where float32 products may use it."""
        return cuda_switches.reduced(self._torch, cuda_switches.PRODUCT, environ=os.environ)

    def reduced_convolution(self) -> str | None:
        """Return `tf32` where convolutions may use it, which is the default (DEVICES.md 3.1)."""
        return cuda_switches.reduced(self._torch, cuda_switches.CONVOLUTION, environ=os.environ)

    def profile(self) -> Profile:
        """Sums in float32; TF32 where it is permitted; what an MI200 flushes."""
        declared = [
            Declared(
                fact="inputs_rounded",
                ops=ops,
                dtypes=("f32",),
                value=_TF32_BITS,
                source="torch notes, cuda.md: TF32 reads 10 mantissa bits (DEVICES.md 3.1)",
            )
            for ops, permitted in (
                (_PRODUCTS, self.reduced()),
                (_CONVOLUTIONS, self.reduced_convolution()),
            )
            if permitted == "tf32"
        ]
        if self._architecture.startswith("gfx90a"):
            declared += [
                Declared(
                    fact=fact,
                    ops=(*_PRODUCTS, *_CONVOLUTIONS),
                    dtypes=("bf16", "f16"),
                    source="torch notes, numerical_accuracy.md: MI200 flushes input and output denormals of "
                    "bf16 and f16 V_DOT2 and MFMA (DEVICES.md 3.2)",
                )
                for fact in ("inputs_flushed", "products_flushed")
            ]
        return Profile(accumulator=Accumulator(dtype=DTYPES["f32"]), declared=tuple(declared))

    def arithmetic(self) -> Arithmetic:
        """Return what is documented: native wide types (DEVICES.md 2), and how float32 is read."""
        reads = {None: Reads.IEEE, "tf32": Reads.TF32}.get(self.reduced())
        products = {} if reads is None else {"f32": Products(reads=reads)}
        return Arithmetic(int64="i64", float64="f64", products=products)

    def synchronize(self) -> None:
        """Wait for every stream of the device."""
        self._torch.cuda.synchronize(self.device)

    def memory(self) -> Memory:
        """Return what the driver and torch's allocator say."""
        free, total = ask(self._torch, "cuda.mem_get_info", self.device) or (None, None)
        peak = ask(self._torch, "cuda.max_memory_allocated", self.device)
        return Memory(total=total, free=free, peak=peak)

    def capture(self, function: Callable[..., Any], inputs: Sequence[Any]) -> Callable[[], Any]:
        """Capture into a CUDA or HIP graph."""
        return capture(self._torch.cuda, "CUDAGraph", self.device, function, inputs)


def _dotted(version: tuple[int, ...] | None) -> str:
    return said(version and ".".join(map(str, version)))
