"""Huawei Ascend through torch_npu: eager, compiled and graph-captured.

Written from DEVICES.md 3.4 and 6. What an installed version does not have is reported as unknown.
With PARITY_NPU_PROFILE=1 in the environment every step runs under the vendor's profiler, which
tells kernels of the AI CPU from those of the AI cores. Importing this imports neither torch nor
torch_npu.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parity.backend import npu_host, npu_switches
from parity.backend.arithmetic import Arithmetic
from parity.backend.base import Availability, Handle, Node, Witness
from parity.backend.device import Memory, TorchDevice
from parity.backend.device_graph import capture
from parity.backend.host_fallback import FallbackWarning, Repeat, listen
from parity.backend.npu_profile import npu_arithmetic, npu_profile
from parity.backend.npu_slow_path import WARNING, SlowPath, ai_cpu_kernels
from parity.backend.profile import Profile
from parity.backend.spec import BackendSpec, Setting
from parity.backend.vendor_api import ask, find, said
from parity.case.case import Step
from parity.errors import BackendError

__all__ = ["NpuBackend"]

_CANN = ("CANN", "RUNTIME", "COMPILER", "HCCL", "TOOLKIT", "OPP", "OPP_KERNEL", "DRIVER")  # DEVICES.md 3.4
_PROFILE = "PARITY_NPU_PROFILE"
_CASTS = frozenset(("_to_copy", "to", "convert_element_type"))
_FP8 = "float8"


class NpuBackend(TorchDevice):
    """The protocol `Backend` on one Ascend device."""

    family = "npu"
    device_type = "npu"
    modes: Sequence[str] = ("eager", "compile", "graph")
    collective = "hccl"
    numeric_env = npu_switches.NUMERIC_ENV
    switch_table = npu_switches.TABLE
    refuses_other_builds = True
    fallback_warning = FallbackWarning(
        pattern=r"CAUTION: The operator '(?P<op>[^']+)' is not currently supported on the NPU backend",
        repeat=Repeat.ONCE_PER_OP,
        source="DEVICES.md 3.4, CPU fallback",
    )

    def __init__(self, spec: BackendSpec, setting: Setting) -> None:
        super().__init__(spec, setting)
        self._npu: Any = None
        self._sdk: Any = None
        self._slow = SlowPath()

    def env(self) -> Mapping[str, str]:
        """Under strict the variables of DEVICES.md 6.

        The device is chosen by its index: ASCEND_RT_VISIBLE_DEVICES stays what the user's is.
        """
        return npu_switches.STRICT_ENV if self.setting is Setting.STRICT else {}

    def available(self) -> Availability:
        """Whether torch_npu, the torch that it needs and a device node are here."""
        return npu_host.availability(dev=npu_host.DEV)

    def load(self) -> None:
        """Import torch_npu. Raises BackendError with the reason."""
        if os.environ.get("TORCH_NPU_DISABLED_WARNING"):
            raise BackendError(
                "TORCH_NPU_DISABLED_WARNING is set: nothing would tell that an operator ran on the host. "
                "Unset it"
            )
        try:
            self._sdk = importlib.import_module("torch_npu")
        except Exception as error:
            raise npu_host.failed_import(error, torch=str(self._torch.__version__)) from error
        self._npu = find(self._torch, "npu")
        if self._npu is None:
            raise BackendError("torch_npu was imported and torch has no module 'npu': reinstall torch_npu")
        if _profiling() and find(self._sdk, "profiler.profile") is None:
            raise BackendError(f"{_PROFILE} is set, and this torch_npu has no profiler. Unset it")

    def select(self) -> None:
        """Make the device the current one, where this version can."""
        ask(self._npu, "set_device", self.ordinal())

    def pin(self) -> None:
        """Set every switch of the table, the layout and the level of determinism."""
        self._unpinned = npu_switches.pin(self._torch)
        # Deterministic algorithms would fill what is not initialised, and hide garbage in padding
        # (DEVICES.md 3.0).
        self._torch.utils.deterministic.fill_uninitialized_memory = False

    def name(self) -> str:
        """Return the generation, such as `ascend910b`."""
        return npu_host.flavour(said(ask(self._npu, "get_device_name", self.ordinal())))

    def identity(self) -> Mapping[str, str]:
        """Return names and versions of the device, torch_npu and CANN, and what is left of a float64."""
        cann = {name: said(ask(self._sdk, "npu.utils.get_cann_version", name)) for name in _CANN}
        return {
            "device": said(ask(self._npu, "get_device_name", self.ordinal())),
            "devices": said(ask(self._npu, "device_count")),
            "capability": said(ask(self._npu, "get_device_capability")),
            "bf16": said(ask(self._npu, "is_bf16_supported")),
            "plugin": said(find(self._sdk, "__version__")),
            "plugin_git": said(find(self._sdk, "version.git_version")),
            "sdk": cann["CANN"],
            "driver": cann["DRIVER"],
            **{f"cann.{name}": version for name, version in cann.items()},
            "slow_path": "profiler and warnings" if _profiling() else "warnings only",
            "to.f64": self._to_float64(),
        }

    def _to_float64(self) -> str:
        """Ask for float64 on the device: `.to` gives float32 there (DEVICES.md 3.4, dtypes)."""
        torch = self._torch
        with self._heard() as warned:
            try:
                wide = torch.ones(1, dtype=torch.float32).to(self.device).to(torch.float64)
                moved = torch.full((1,), 1 + 2**-40, dtype=torch.float64).to(self.device).cpu()
            except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
                return f"unsupported: {(str(error).splitlines() or [type(error).__name__])[0]}"
        if warned:
            return "unknown: converted on the host"
        if wide.dtype is not torch.float64:
            return f"changed: comes back as {str(wide.dtype).removeprefix('torch.')}"
        return "native" if moved.item() == 1 + 2**-40 else f"changed: {1 + 2**-40!r} became {moved.item()!r}"

    def switches(self) -> Mapping[str, str]:
        """Return every switch of DEVICES.md 3.4 as read back."""
        filled = find(self._torch, "utils.deterministic.fill_uninitialized_memory")
        found = npu_switches.read_back(self._torch, self._sdk)
        found |= {name: f"{found[name]} (not pinned: {words})" for name, words in self._unpinned.items()}
        return {**found, "fill_uninitialized_memory": said(filled)}

    def reduced(self) -> str | None:
        """Return `hf32` where float32 products may use it."""
        return npu_switches.reduced(self._torch, "matmul")

    def reduced_convolution(self) -> str | None:
        """Return `hf32` where convolutions may use it, which is the default (DEVICES.md 3.4)."""
        return npu_switches.reduced(self._torch, "conv")

    def profile(self) -> Profile:
        """What `npu_profile` declares under the switches as they are."""
        return npu_profile(products=self.reduced(), convolutions=self.reduced_convolution())

    def arithmetic(self) -> Arithmetic:
        """What is documented of this chip under the switches as they are, to hold a probe against."""
        inf_nan = ask(self._npu, "utils.is_support_inf_nan")
        return npu_arithmetic(self.flavour, products=self.reduced(), inf_nan=inf_nan)

    def synchronize(self) -> None:
        """Wait for every stream of the device, and for the queue before it."""
        self._npu.synchronize()

    def memory(self) -> Memory:
        """Return what the driver and the allocator say."""
        free, total = ask(self._npu, "mem_get_info") or (None, None)
        return Memory(total=total, free=free, peak=ask(self._npu, "max_memory_allocated"))

    def capture(self, function: Callable[..., Any], inputs: Sequence[Any]) -> Callable[[], Any]:
        """Capture into an NPUGraph, with the shared code: only the graph is passed to `torch.npu.graph`.

        Its fourth argument is not the one of `torch.cuda.graph` (DEVICES.md 3.4, graphs).
        """
        return capture(self._npu, "NPUGraph", self.device, function, inputs)

    def run(self, step: Step, inputs: Sequence[Handle | None]) -> tuple[Handle, ...]:
        """Run one step, and find what ran on the AI CPU or was converted on the host."""
        with listen(WARNING) as heard, self._kernels() as kernels:
            outputs = super().run(step, inputs)
        witness = self._slow.revise(self._witness, heard, kernels, device=str(self.device))
        narrow = any(_FP8 in str(x.dtype) for x in (*inputs, *outputs) if x is not None)
        self._witness = self._converted(witness) if narrow else witness
        return outputs

    @contextmanager
    def watch(self) -> Iterator[list[Node]]:
        """Wait for the step: what its queue warns of belongs to it."""
        yield []
        self.synchronize()

    def _converted(self, witness: Witness) -> Witness:
        """Take for the host's the conversions of a step with fp8, which are done there silently.

        DEVICES.md 3.4, dtypes: aclnnCast rejects them except on Ascend 950.
        """
        if self.flavour == "ascend950":
            return witness

        def here(node: Node) -> bool:
            return node.kind.rpartition(":")[2] not in _CASTS

        ran = (*witness.executed, *witness.moved)
        return dataclasses.replace(
            witness,
            executed=tuple(filter(here, witness.executed)),
            moved=tuple(filter(here, witness.moved)),
            host=(*witness.host, *(dataclasses.replace(n, device="cpu") for n in ran if not here(n))),
        )

    @contextmanager
    def _kernels(self) -> Iterator[list[Node]]:
        """Collect, when asked for, the profiler's table of what ran on the AI CPU."""
        kernels: list[Node] = []
        if not _profiling():
            yield kernels
            return
        profiler, device = self._sdk.profiler, str(self.device)
        with tempfile.TemporaryDirectory() as folder:
            with profiler.profile(
                activities=[profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.NPU],
                # Below level 1 the kernels' units are left out (DEVICES.md 3.4, profiler).
                experimental_config=profiler._ExperimentalConfig(  # noqa: SLF001 - its only name
                    profiler_level=profiler.ProfilerLevel.Level1,
                    aic_metrics=profiler.AiCMetrics.PipeUtilization,
                ),
                on_trace_ready=profiler.tensorboard_trace_handler(folder),
            ):
                yield kernels
                self.synchronize()
            tables = [path.read_text(errors="replace") for path in Path(folder).rglob("kernel_details.csv")]
        found = [ai_cpu_kernels(table, device=device) for table in tables]
        if not found or None in found:
            kernels.append(Node(kind="AI_CPU:unknown", device=device, precision="?"))
        kernels += [node for nodes in found if nodes for node in nodes]


def _profiling() -> bool:
    return os.environ.get(_PROFILE, "") not in ("", "0")
