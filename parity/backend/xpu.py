"""Intel's GPUs, in torch itself since 2.5. Facts are those of DEVICES.md 3.5.

Imports torch only in the child.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.backend import installed
from parity.backend.arithmetic import Arithmetic
from parity.backend.base import Availability
from parity.backend.chip_name import short_name
from parity.backend.device import Memory, TorchDevice
from parity.backend.device_graph import capture
from parity.backend.host_fallback import FallbackWarning, Repeat
from parity.backend.profile import Accumulator, Declared, Profile
from parity.backend.spec import Setting
from parity.backend.switch import Switch, read
from parity.backend.vendor_api import UNKNOWN, ask, find, said
from parity.case.dtype import DTYPES

__all__ = ["XpuBackend", "available"]

_NUMERICS = "DEVICES.md 3.5, numerics"
_PRODUCT = Switch(path="backends.mkldnn.matmul.fp32_precision", exact=("ieee",), source=_NUMERICS)
_CONVOLUTION = Switch(path="backends.mkldnn.conv.fp32_precision", exact=("ieee",), source=_NUMERICS)
_ALLOW_TF32 = Switch(path="backends.mkldnn.allow_tf32", exact=(False,), source=_NUMERICS)
_PROPERTIES = (
    *("platform_name", "version", "max_compute_units"),
    *("has_fp16", "has_fp64", "has_bfloat16_conversions", "has_subgroup_matrix_multiply_accumulate"),
)
_OPS = {
    _PRODUCT: ("matmul", "bmm", "linear", "addmm", "attention"),
    _CONVOLUTION: ("conv1d", "conv2d"),
}
# Significand bits, the leading one included.
_BITS = {"tf32": "11", "bf16": "8"}


class XpuBackend(TorchDevice):
    """The protocol `Backend` on an Intel GPU; the flavour is the chip, such as `b580`."""

    family = "xpu"
    device_type = "xpu"
    modes = ("eager", "compile", "graph")
    collective = "xccl"
    numeric_env = ("PYTORCH_ENABLE_XPU_FALLBACK", "PYTORCH_XPU_FALLBACK_OP", "PYTORCH_DEBUG_XPU_FALLBACK")
    # Group by group: setting `mkldnn.fp32_precision` itself sets that of every backend. The older
    # interface first, as for cuda.
    switch_table = (
        _ALLOW_TF32,
        _PRODUCT,
        _CONVOLUTION,
        Switch(path="backends.mkldnn.rnn.fp32_precision", exact=("ieee",), source=_NUMERICS),
        Switch(path="backends.mkldnn.fp32_precision", source=_NUMERICS),
        Switch(path="backends.mkldnn.deterministic", exact=(True,), source=_NUMERICS),
        Switch(path="xpu.is_tf32_supported()", source=_NUMERICS),
    )
    # A list of operators falls back whatever the variables say. The first wording names no operator
    # and comes once; with PYTORCH_DEBUG_XPU_FALLBACK=1 every call is named (3.5, CPU fallback), in
    # words that close no quote.
    fallback_warning = FallbackWarning(
        pattern=r"Aten Op fallback from XPU to CPU"
        r"|The operator '(?P<op>[\w:.]+)'? on the XPU backend is falling back",
        repeat=Repeat.EVERY_CALL,
        source="DEVICES.md 3.5, CPU fallback; torch-xpu-ops, XPUFallback.template",
    )

    def env(self) -> Mapping[str, str]:
        """Name every fallback; under strict, none but the built-in ones (DEVICES.md 6)."""
        named = {"PYTORCH_DEBUG_XPU_FALLBACK": "1"}
        strict = self.setting is Setting.STRICT
        return {**named, "PYTORCH_ENABLE_XPU_FALLBACK": "0"} if strict else named

    def available(self) -> Availability:
        """Whether torch is built for one and a device node is here."""
        return available(installed.torch_build())

    def select(self) -> None:
        """Make it the current device."""
        self._torch.xpu.set_device(self.device)

    def name(self) -> str:
        """Return the chip's short name."""
        return short_name(str(ask(self._torch, "xpu.get_device_name", self.device) or "")) or UNKNOWN

    def identity(self) -> Mapping[str, str]:
        """Return device, driver, which is part of the numerics (DEVICES.md 9), and what it can do."""
        properties = ask(self._torch, "xpu.get_device_properties", self.device)
        return {
            "device": said(ask(self._torch, "xpu.get_device_name", self.device)),
            "device_architecture": said(find(properties, "architecture")),
            "driver": said(find(properties, "driver_version")),
            "xpu": said(find(self._torch, "version.xpu")),
            **{name: said(find(properties, name)) for name in _PROPERTIES},
        }

    def reduced(self) -> str | None:
        """Return what oneDNN may round float32 products to."""
        return self._permitted(_PRODUCT)

    def reduced_convolution(self) -> str | None:
        """Return the same for convolutions."""
        return self._permitted(_CONVOLUTION)

    def _permitted(self, row: Switch) -> str | None:
        precision = read(self._torch, row)
        if precision not in ("none", UNKNOWN):
            return None if precision == "ieee" else precision
        # Nothing newer is set: the older switch decides, whose default here is unknown (DEVICES.md 10).
        return {"True": "tf32", "False": None}.get(read(self._torch, _ALLOW_TF32), "?")

    def profile(self) -> Profile:
        """Sums in float32, and inputs rounded where oneDNN is permitted to."""
        permitted = {row: self._permitted(row) for row in _OPS}
        return Profile(
            accumulator=Accumulator(dtype=DTYPES["f32"]),
            declared=tuple(
                Declared(
                    fact="inputs_rounded",
                    ops=_OPS[row],
                    dtypes=("f32",),
                    value=_BITS[precision],
                    source=f"torch.backends.{row.name} permits {precision} (DEVICES.md 3.5)",
                )
                for row, precision in permitted.items()
                if precision in _BITS
            ),
        )

    def arithmetic(self) -> Arithmetic:
        """Return what is documented: float64 is each chip's own property (DEVICES.md 2), int64 native."""
        has = find(ask(self._torch, "xpu.get_device_properties", self.device), "has_fp64")
        return Arithmetic(int64="i64", float64={True: "f64", False: "unsupported"}.get(has))

    def synchronize(self) -> None:
        """Wait for every stream of the device."""
        self._torch.xpu.synchronize(self.device)

    def memory(self) -> Memory:
        """Return what the driver and torch's allocator say."""
        free, total = ask(self._torch, "xpu.mem_get_info", self.device) or (None, None)
        peak = ask(self._torch, "xpu.max_memory_allocated", self.device)
        return Memory(total=total, free=free, peak=peak)

    def capture(self, function: Callable[..., Any], inputs: Sequence[Any]) -> Callable[[], Any]:
        """Capture into an XPU graph, which torch has since 2.11."""
        return capture(self._torch.xpu, "XPUGraph", self.device, function, inputs)


def available(build: installed.TorchBuild | None, *, dev: Path = Path("/dev")) -> Availability:
    """Whether torch's build and the device nodes say that there is one; opens nothing."""
    hint = (
        "install the XPU (+xpu) wheel of torch in an environment of its own; "
        "a vendor's image keeps the torch that it has"
    )
    if build is None:
        return Availability(ok=False, reason="torch is not installed", hint=hint)
    if not build.xpu:
        return Availability(ok=False, reason=f"torch {build.version} has no XPU support", hint=hint)
    reason = f"torch {build.version} for XPU {build.xpu}"
    if os.name == "posix" and not (any(dev.glob("dri/renderD*")) or (dev / "dxg").exists()):
        return Availability(
            ok=False,
            reason=f"{reason}, but there is no /dev/dri/renderD*",
            hint="load Intel's driver, or start the container with its devices",
        )
    return Availability(ok=True, reason=f"{reason}, and a render node is here")
