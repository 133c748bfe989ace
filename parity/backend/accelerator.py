"""Accelerators that follow torch's common interface, by a table of facts instead of a file for each.

`torch.accelerator` is asked where the device's own module does not answer: it is missing before
torch 2.6 and partial after (DEVICES.md 1.2). Imports torch only in the child.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

from parity.backend import installed
from parity.backend.accelerator_facts import ANY, FACTS, Facts
from parity.backend.arithmetic import Arithmetic
from parity.backend.base import Availability, Handle, Unsupported
from parity.backend.chip_name import short_name
from parity.backend.device import Memory, TorchDevice
from parity.backend.device_graph import capture
from parity.backend.profile import Accumulator, Declared, Profile
from parity.backend.spec import BackendSpec, Setting
from parity.backend.switch import Switch, read
from parity.backend.vendor_api import UNKNOWN, ask, find, said
from parity.case.case import Step
from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor
from parity.errors import BackendError

__all__ = ["AcceleratorBackend"]

# As MPS words a type that it does not have (DEVICES.md 3.7, dtypes).
_NO_SUCH_TYPE = re.compile(r"doesn't support|does not support|not supported|Cannot convert a", re.IGNORECASE)
_PRODUCTS = ("matmul", "bmm", "linear", "addmm", "attention")
_CONVOLUTIONS = ("conv1d", "conv2d")
_TF32_BITS = "11"


class AcceleratorBackend(TorchDevice):
    """The protocol `Backend` on a device of the table, or on whatever else registers one with torch."""

    def __init__(self, spec: BackendSpec, setting: Setting) -> None:
        self.facts: Facts = FACTS.get(spec.family, ANY)
        self.family = self.facts.family
        self.device_type = self.facts.device_type
        self.modes = self.facts.modes
        self.numeric_env = self.facts.numeric_env
        self.collective = self.facts.collective
        self.switch_table = self.facts.switches
        self.fallback_warning = self.facts.fallback
        super().__init__(spec, setting)

    @property
    def sees_fallbacks(self) -> bool:
        """Whether an operator that ran on the host is warned of or counted."""
        return self.facts.fallback is not None

    def env(self) -> Mapping[str, str]:
        """What the table exports under strict, nothing under production."""
        return self.facts.strict_env if self.setting is Setting.STRICT else {}

    def available(self) -> Availability:
        """Whether the evidence that costs nothing says so; the device answers when it is opened."""
        set_here = [name for name in self.facts.unset if name in os.environ]
        if set_here and self.setting is Setting.STRICT:
            return Availability(
                ok=False,
                reason=f"{set_here[0]} is set and changes arithmetic silently",
                hint=f"unset {set_here[0]}, or use --production",
            )
        return _available(self.facts)

    def load(self) -> None:
        """Import the vendor's module, or find which device another package has registered."""
        if self.facts.module:
            try:
                importlib.import_module(self.facts.module)
            except Exception as error:
                raise BackendError(
                    f"'{self.spec}' cannot be opened: {self.facts.module} cannot be imported: {error}. "
                    f"{self.facts.hint}"
                ) from error
        if not self.device_type:
            self.device_type = self._registered()

    def _registered(self) -> str:
        # Without the check it names what torch was built for, here or not (DEVICES.md 3.0).
        device = ask(self._torch, "accelerator.current_accelerator", True)
        if device is None and find(self._torch, "accelerator") is None:
            device = ask(self._torch, "_C._get_accelerator")
        kind = str(getattr(device, "type", "cpu"))
        if kind == "cpu":
            raise BackendError(
                f"'{self.spec}' cannot be opened: torch knows no accelerator. {self.facts.hint}"
            )
        return kind

    @property
    def _kind(self) -> str:
        return self.facts.device_type or self.device_type

    def _own(self, function: str) -> str:
        return f"{self._kind}.{function}"

    @property
    def _shared(self) -> Any:
        """torch.accelerator, None where it is missing or drives another device."""
        drives = ask(self._torch, "accelerator.current_accelerator")
        return find(self._torch, "accelerator") if getattr(drives, "type", "") == self._kind else None

    def select(self) -> None:
        """Make it the current device, where this version can say so."""
        choose = find(self._torch, self._own("set_device")) or find(self._shared, "set_device_index")
        if choose is not None:
            choose(self.device.index)

    def name(self) -> str:
        """Return the chip's short name, or the family where nobody names the chip."""
        return short_name(self._full_name()) or self.device_type

    def _full_name(self) -> str:
        if self.facts.name_path:
            return str(ask(self._torch, self.facts.name_path) or "")
        return str(ask(self._torch, self._own("get_device_name"), self.device.index) or "")

    def identity(self) -> Mapping[str, str]:
        """Return device and package versions, where they are said."""
        rows = [Switch(path=path, source=self.facts.source) for path in self.facts.versions]
        module = self.facts.module
        return {
            "device": self._full_name() or UNKNOWN,
            "device_architecture": said(
                ask(self._torch, self._own("get_device_capability"), self.device.index)
            ),
            # MPSGraph comes with macOS, and results with it (DEVICES.md 3.7).
            "system": f"{platform.system()} {platform.mac_ver()[0] or platform.release()}",
            **({module: said(installed.distribution(module))} if module else {}),
            **{row.name: read(self._torch, row) for row in rows},
            **self._declared_types(),
        }

    def _declared_types(self) -> dict[str, str]:
        return {f"declared.{name}": value for name, value in self.facts.arithmetic.facts()}

    def reduced(self) -> str | None:
        """Return what the vendor's switch lets float32 products be rounded to."""
        return self._permitted(self.facts.product)

    def reduced_convolution(self) -> str | None:
        """Return the same for convolutions."""
        return self._permitted(self.facts.convolution)

    def _permitted(self, row: Switch | None) -> str | None:
        if row is None:
            return self.facts.reduced_strict if self.setting is Setting.STRICT else self.facts.reduced
        return {"True": "tf32", "False": None}.get(read(self._torch, row), "?")

    def profile(self) -> Profile:
        """Sums in float32; TF32 where a switch permits it."""
        return Profile(
            accumulator=Accumulator(dtype=DTYPES["f32"]),
            declared=tuple(
                Declared(
                    fact="inputs_rounded",
                    ops=ops,
                    dtypes=("f32",),
                    value=_TF32_BITS,
                    source=f"torch.{row.path} is on ({self.facts.source})",
                )
                for ops, row in ((_PRODUCTS, self.facts.product), (_CONVOLUTIONS, self.facts.convolution))
                if row is not None and self._permitted(row) == "tf32"
            ),
        )

    def arithmetic(self) -> Arithmetic:
        """Return what the table documents."""
        return self.facts.arithmetic

    def put(self, tensor: HostTensor) -> Handle:
        """Copy a host tensor to the device with its layout."""
        with _typed():
            return super().put(tensor)

    def run(self, step: Step, inputs: Sequence[Handle | None]) -> tuple[Handle, ...]:
        """Run one step; without a way to see host fallbacks, only a device's own kernels are proof."""
        from parity.backend.torch_kernels import with_own_kernels

        with _typed():
            outputs = super().run(step, inputs)
        if not self.sees_fallbacks:
            self._witness = with_own_kernels(self._witness, self.device_type)
        return outputs

    def synchronize(self) -> None:
        """Wait for the device. Raises BackendError where this version cannot."""
        wait = find(self._torch, self._own("synchronize")) or find(self._shared, "synchronize")
        if wait is None:
            raise BackendError(
                f"'{self.spec}' cannot be used: neither torch.{self._kind} nor torch.accelerator can "
                "wait for it. Install a newer torch"
            )
        wait()

    def memory(self) -> Memory:
        """Return what the device's module or torch.accelerator says."""
        free, total = (
            ask(self._torch, self._own("mem_get_info"), self.device.index)
            or ask(self._shared, "get_memory_info", self.device.index)
            or (None, ask(self._torch, self._own("recommended_max_memory")))
        )
        peak = ask(self._torch, self._own("max_memory_allocated"))
        return Memory(total=total, free=free, peak=peak)

    def compiler(self) -> str:
        """Return what the vendor registers with torch.compile."""
        assert self.facts.compiler is not None, "the mode does not exist without one"
        return self.facts.compiler

    def capture(self, function: Callable[..., Any], inputs: Sequence[Any]) -> Callable[[], Any]:
        """Capture into the vendor's device graph."""
        module = find(self._torch, self.facts.device_type)
        return capture(module, str(self.facts.graph), self.device, function, inputs)


@contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except TypeError as error:
        if not _NO_SUCH_TYPE.search(str(error)):
            raise
        raise Unsupported(str(error).splitlines()[0]) from error


def _available(facts: Facts) -> Availability:
    build = installed.torch_build()
    if build is None:
        return Availability(ok=False, reason="torch is not installed", hint=facts.hint)
    if facts.family == "mps":
        return _apple(facts)
    if not facts.module:
        return _unlisted(facts)
    if installed.module(facts.module) is None:
        return Availability(ok=False, reason=f"{facts.module} is not installed", hint=facts.hint)
    version = installed.distribution(facts.module) or "of unknown version"
    return Availability(ok=True, reason=f"{facts.module} {version} is installed; no device was asked")


def _apple(facts: Facts) -> Availability:
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Darwin", "arm64"):
        return Availability(
            ok=False, reason=f"this is {system} on {machine}, not macOS on arm64", hint=facts.hint
        )
    return Availability(ok=True, reason=f"macOS {platform.mac_ver()[0]} on arm64; no device was asked")


def _unlisted(facts: Facts) -> Availability:
    found = _plugins()
    if not found:
        return Availability(ok=False, reason="no other package adds a device to torch", hint=facts.hint)
    return Availability(ok=True, reason=f"{', '.join(found)} adds a device to torch; it was not asked")


def _plugins() -> list[str]:
    """Return the packages that add a device to torch by an entry point and have no family of their own."""
    listed = {row.module for row in FACTS.values()} | {"habana_frameworks", "torch_npu"}
    packages = {
        point.value.partition(":")[0].partition(".")[0] for point in entry_points(group="torch.backends")
    }
    return sorted(packages - listed)
