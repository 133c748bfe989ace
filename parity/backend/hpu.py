"""Intel Gaudi through the vendor's torch plugin: eager, lazy, compiled and graph-captured.

Written from DEVICES.md 3.3 and 6. What an installed version does not have is reported as unknown.
Importing this imports neither torch nor the plugin.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from parity.backend import hpu_flags, hpu_host, hpu_plugin, installed
from parity.backend.arithmetic import Arithmetic
from parity.backend.base import Availability, Handle, Node, Unsupported, unplaced
from parity.backend.device import Memory, TorchDevice
from parity.backend.hpu_profile import hpu_arithmetic, hpu_profile
from parity.backend.profile import Profile
from parity.backend.spec import BackendSpec, Setting
from parity.backend.vendor_api import UNKNOWN, ask, find, said
from parity.case.case import Step
from parity.case.tensor import HostTensor
from parity.errors import BackendError

if TYPE_CHECKING:
    from parity.backend.hpu_tensor import GaudiTensors

__all__ = ["HpuBackend"]


class HpuBackend(TorchDevice):
    """The protocol `Backend` on one Gaudi; a process holds one, named by its environment."""

    family = "hpu"
    device_type = "hpu"
    modes: Sequence[str] = ("eager", "lazy", "compile", "graph")
    collective = "hccl"

    def __init__(self, spec: BackendSpec, setting: Setting) -> None:
        super().__init__(spec, setting)
        self._hpu: Any = None
        self._plugin: Any = None
        self._metrics: Any = None
        self._smi: Mapping[str, str] = {}
        self._carrier: GaudiTensors | None = None
        self._counted = True  # what falls back to the host is counted, or forbidden

    def env(self) -> Mapping[str, str]:
        """The mode, the device that the child sees, and under strict the flags of DEVICES.md 6."""
        variables = hpu_flags.environment(self.spec.mode, self.setting, flavour=self.spec.flavour)
        if self.spec.index:
            # set_device only reads the environment: one process, one device (DEVICES.md 3.3).
            module = hpu_host.module_of(self.spec.index[0], os.environ)
            variables |= {"HABANA_VISIBLE_MODULES": module, "HLS_MODULE_ID": module}
        return variables

    def ordinal(self) -> int:
        """Return 0: the environment shows this process one device."""
        return 0

    def available(self) -> Availability:
        """Whether the plugin, a torch that it accepts and a device node are here."""
        return hpu_host.availability(lazy=self._lazy, dev=hpu_host.DEV)

    def load(self) -> None:
        """Import the plugin. Raises BackendError with the reason, and for an environment that is not ours."""
        self._check_environ()
        # Now, since a process that has a device open is never forked (DEVICES.md 3.3).
        self._smi = hpu_host.hl_smi()
        try:
            self._plugin = importlib.import_module("habana_frameworks.torch")
            self._metrics = _module("habana_frameworks.torch.hpu.metrics")
        except Exception as error:
            raise hpu_host.failed_import(
                error, torch=str(self._torch.__version__), lazy=self._lazy
            ) from error
        self._hpu = find(self._torch, "hpu")
        if self._hpu is None:
            raise BackendError(
                f"habana_frameworks.torch was imported and torch has no module 'hpu'. {hpu_host.IMAGE}"
            )
        if ask(self._hpu, "is_available") is False:
            raise BackendError(
                f"'{self.spec}': the plugin sees no device. hl-smi lists them; one that another process "
                "holds is not available"
            )

    def _check_environ(self) -> None:
        wanted, found = "1" if self._lazy else "0", os.environ.get("PT_HPU_LAZY_MODE")
        if found != wanted:
            raise BackendError(
                f"'{self.spec}' needs PT_HPU_LAZY_MODE={wanted} before Python starts, and it is "
                f"{found or 'not set'}. Start it through `parity`, or export the variable"
            )
        if hpu_flags.is_on(os.environ.get("PT_COMPILE_ONLY_MODE", "")):
            raise BackendError(
                "PT_COMPILE_ONLY_MODE is set: graphs are compiled and not run, so every result would be "
                "garbage. Unset it"
            )

    def open(self) -> None:
        """Open the device, and learn how its E4M3 is read."""
        super().open()
        from parity.backend.hpu_tensor import GaudiTensors

        self._carrier = GaudiTensors(self.device, gaudi2=self.flavour == "gaudi2")

    def pin(self) -> None:
        """Set torch's own switches; the plugin's are variables."""
        super().pin()
        # Deterministic algorithms would fill what is not initialised, and hide garbage in padding
        # (DEVICES.md 3.0).
        self._torch.utils.deterministic.fill_uninitialized_memory = False

    def name(self) -> str:
        """Return `gaudi`, `gaudi2` or `gaudi3`, from the device's name."""
        name = ask(self._hpu, "get_device_name", self.ordinal())
        return re.sub(r"[^a-z0-9._-]+", "-", said(name).lower())

    def identity(self) -> Mapping[str, str]:
        """Return names and versions, and which of torch's functions another library replaced."""
        plugin = installed.distribution("habana-torch-plugin")
        return {
            "device": said(ask(self._hpu, "get_device_name", self.ordinal())),
            "capability": said(ask(self._hpu, "get_device_capability")),
            "devices": said(ask(self._hpu, "device_count")),
            "fp16": said(ask(_module("habana_frameworks.torch.utils.experimental"), "_is_fp16_supported")),
            "plugin": said(plugin),
            "sdk": said(plugin),
            **self._smi,
            "patched": hpu_plugin.patched(self._torch),
        }

    def switches(self) -> Mapping[str, str]:
        """Return every flag of DEVICES.md 3.3 as the environment has it, with the default where unset."""
        flags = hpu_flags.standing(
            os.environ, mode=self.spec.mode, flavour=self.flavour, release=self._release()
        )
        filled = find(self._torch, "utils.deterministic.fill_uninitialized_memory")
        return {
            **super().switches(),
            "fill_uninitialized_memory": said(filled),
            **{f"env.{name}": value for name, value in flags.items()},
        }

    def provenance(self) -> Mapping[str, str]:
        """As for every device, with E4M3 asked by its codes: a copy of them reveals nothing."""
        from parity.backend.hpu_tensor import codes_of_e4m3

        found = dict(super().provenance())
        with self.watch() as fallen:
            read_as = codes_of_e4m3(self.device)
        found["fp8.e4m3"] = f"{UNKNOWN}: read on the host" if fallen else read_as
        if read_as == "e4m3_gaudi2" and not fallen:
            found |= {"dtype.e4m3_gaudi2": "native", "dtype.e4m3fn": "changed: 256.0 became inf"}
        return found

    def profile(self) -> Profile:
        """What `hpu_profile` declares."""
        return hpu_profile(self.flavour)

    def arithmetic(self) -> Arithmetic:
        """What is documented of this chip, release and mode, to hold a probe against."""

        def flag(name: str) -> str | None:
            return hpu_flags.value_of(
                name, os.environ, mode=self.spec.mode, flavour=self.flavour, release=self._release()
            )

        return hpu_arithmetic(self.flavour, self.spec.mode, flag)

    def put(self, tensor: HostTensor) -> Handle:
        """Copy a host tensor to the device with its layout."""
        from parity.backend.torch_eager import supported

        with supported():
            return self._tensors.put(tensor)

    def get(self, handle: Handle) -> HostTensor:
        """Copy a result back, row-major, bit for bit."""
        return self._tensors.get(handle)

    def run(self, step: Step, inputs: Sequence[Handle | None]) -> tuple[Handle, ...]:
        """Run one step; what the plugin refuses to place on the host or outside a graph is Unsupported."""
        try:
            outputs = super().run(self._tensors.asked(step), inputs)
        except Exception as error:
            words = hpu_plugin.refusal(error)
            if words is None:
                raise
            raise Unsupported(words) from error
        self._tensors.adopt(step, inputs, outputs)
        self._witness = self._tensors.truth(step, self._witness)
        if not self._counted:
            unknown = unplaced(Node(kind="what the host may have run", device="", precision=""))
            self._witness = dataclasses.replace(self._witness, executed=(*self._witness.executed, unknown))
        return outputs

    @contextmanager
    def watch(self) -> Iterator[list[Node]]:
        """Collect what the plugin's metric counts as run on the host."""
        fallen: list[Node] = []
        if self.spec.mode == "lazy":
            # Its graph is compiled where it is waited for, with the limit that compiling has.
            self._phase("compile")
        context = ask(self._metrics, "metric_localcontext", "cpu_fallback")
        if context is None:
            self._counted = os.environ.get("PT_HPU_PLACE_ON_CPU") == "none"
            yield fallen
            self.synchronize()
            return
        with context as metric:
            yield fallen
            # Its callbacks are asynchronous (DEVICES.md 3.3, CPU fallback detection).
            self.synchronize()
        fallen += hpu_plugin.fallbacks(dict(metric.stats()))

    def synchronize(self) -> None:
        """Run what is queued, lazy graphs included, and wait; it takes no device."""
        self._hpu.synchronize()

    def memory(self) -> Memory:
        """Return what the allocator's statistics say."""
        stats = ask(self._hpu, "memory_stats") or {}
        total, used = stats.get("Limit"), stats.get("InUse")
        free = None if total is None or used is None else total - used
        return Memory(total=total, free=free, peak=stats.get("MaxInUse"))

    def recompiles(self) -> int | None:
        """Return how many graphs were compiled in this process.

        The metric is never reset: its reset leaves parts of it as they were (DEVICES.md 3.3).
        """
        number = dict(ask(ask(self._metrics, "metric_global", "graph_compilation"), "stats") or {})
        total = number.get("TotalNumber")
        return None if total is None else int(total)

    def compiler(self) -> str | Callable[..., Any]:
        """Return the vendor's compiler; inductor does not know this device."""
        from torch._dynamo import list_backends

        if "hpu_backend" not in list_backends(exclude_tags=()):
            raise Unsupported("torch.compile has no backend 'hpu_backend' in this version of the plugin")
        return "hpu_backend"

    def capture(self, function: Callable[..., Any], inputs: Sequence[Any]) -> Callable[[], Any]:
        """Capture an HPUGraph, which exists in lazy mode only, and return its replay."""
        graph, capturing = find(self._hpu, "HPUGraph"), find(self._hpu, "graph")
        if not self._lazy or graph is None or capturing is None:
            raise Unsupported("torch.hpu has no HPUGraph here: it exists only where PT_HPU_LAZY_MODE=1")
        self.synchronize()
        captured = graph()
        with capturing(captured):
            outputs = function(*inputs)

        def replay() -> Any:
            captured.replay()
            self.synchronize()
            return outputs

        return replay

    @property
    def _lazy(self) -> bool:
        return self.spec.mode in hpu_flags.LAZY_MODES

    def _release(self) -> tuple[int, int] | None:
        return hpu_flags.release_of(installed.distribution("habana-torch-plugin"))

    @property
    def _tensors(self) -> GaudiTensors:
        assert self._carrier is not None, "open() comes first"
        return self._carrier


def _module(name: str) -> Any:
    """Return a part of the plugin, None where this version has none."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
