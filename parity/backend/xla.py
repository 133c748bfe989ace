"""TPU and Trainium by torch_xla: lazy graphs, counters of what ran on the host, products by passes.

Facts are those of DEVICES.md 3.6. torch_xla ends with 2.9; its successors stand in the table of
`accelerator`. Imports torch and torch_xla only in the child.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from parity.backend import installed
from parity.backend.accelerator import AcceleratorBackend
from parity.backend.base import Availability, Handle, Node, unplaced
from parity.backend.device import Memory
from parity.backend.spec import Setting
from parity.backend.vendor_api import UNKNOWN, ask, find, said
from parity.case.case import Step
from parity.errors import BackendError

__all__ = ["XlaBackend"]

# What a TPU's float32 product is made of: 1, 3 or 6 products of bfloat16 parts (3.6, numerics).
_PASSES = {"default": "bf16", "high": "bf16x2", "highest": "bf16x3"}
# A read of one element by the host, which is no missing kernel (3.6, fallback).
_READS = "aten::_local_scalar_dense"


class XlaBackend(AcceleratorBackend):
    """The protocol `Backend` on an XLA device; the flavour is what PJRT drives, such as `tpu`."""

    @property
    def sees_fallbacks(self) -> bool:
        """Counters say what ran on the host."""
        return True

    def available(self) -> Availability:
        """Whether torch_xla is here, for this torch: their versions must be equal (3.6)."""
        state = super().available()
        xla, build = installed.distribution("torch_xla"), installed.torch_build()
        if not (state.ok and xla and build) or _release(xla) == _release(build.version):
            return state
        return Availability(
            ok=False, reason=f"torch_xla {xla} is not for torch {build.version}", hint=self.facts.hint
        )

    def load(self) -> None:
        """Import torch_xla; lazy mode is its default, eager mode is asked for, before anything runs."""
        super().load()
        self._xla = importlib.import_module("torch_xla")
        if self.spec.mode != "eager":
            return
        eager = find(self._module("experimental"), "eager_mode")
        if eager is None:
            raise BackendError(
                f"'{self.spec}' cannot be opened: this torch_xla has no eager mode. Write 'xla+lazy'"
            )
        eager(True)

    def _module(self, name: str) -> Any:
        try:
            return importlib.import_module(f"torch_xla.{name}")
        except ImportError:  # an older or newer torch_xla; what is asked of it is then unknown
            return None

    def pin(self) -> None:
        """Six passes for a float32 product, and what the table pins."""
        super().pin()
        ask(self._module("backends"), "set_mat_mul_precision", "highest")

    def name(self) -> str:
        """Return what PJRT drives, in lower case."""
        return self._hardware().lower()

    def _hardware(self) -> str:
        return said(ask(self._module("runtime"), "device_type"))

    def identity(self) -> Mapping[str, str]:
        """Return the hardware, its attributes and torch_xla's version."""
        attributes = ask(self._module("runtime"), "runtime_device_attributes", str(self.device))
        return {
            **super().identity(),
            "device": self._hardware(),
            "attributes": said(attributes and dict(sorted(attributes.items()))),
        }

    def switches(self) -> Mapping[str, str]:
        """Return the precision of products as read back, with the table's."""
        return {**super().switches(), "xla.mat_mul_precision": self._precision()}

    def _precision(self) -> str:
        return said(ask(self._module("backends"), "get_mat_mul_precision"))

    def reduced(self) -> str | None:
        """Return how a float32 product is put together, `?` where it is not documented."""
        hardware = self._hardware()
        if hardware == "TPU":
            precision = self._precision()
            # Without a reader, what nobody set is the default; whether ours was set is then unknown.
            unread = "default" if self.setting is Setting.PRODUCTION else UNKNOWN
            return _PASSES.get(unread if precision == UNKNOWN else precision, "?")
        # Strict passes `--auto-cast none`; what an installed compiler does without it is unknown.
        return None if hardware == "NEURON" and self.setting is Setting.STRICT else "?"

    def synchronize(self) -> None:
        """Compile and run what was collected, and wait for it."""
        sync = find(self._xla, "sync")
        model = self._module("core.xla_model")
        if sync is not None:
            sync(wait=True)
        else:
            model.mark_step(wait=True)
        ask(model, "wait_device_ops")

    @contextmanager
    def watch(self) -> Iterator[list[Node]]:
        """Count what ran on the host in a step: every counter of an ATen operator that grew."""
        found: list[Node] = []
        before = self._counters()
        yield found
        if self.spec.mode == "lazy":
            self._phase("compile")
        self.synchronize()
        if self.spec.mode == "lazy":
            self._phase("run")
        after = self._counters()
        self._is_counted = before is not None and after is not None
        grown = (name for name, count in (after or {}).items() if count > (before or {}).get(name, 0))
        found += [Node(kind=name, device="cpu", precision="?") for name in grown]

    def run(self, step: Step, inputs: Sequence[Handle | None]) -> tuple[Handle, ...]:
        """Run one step; nothing is proved by a version that counts no fallbacks."""
        outputs = super().run(step, inputs)
        if not self._is_counted:
            unproved = tuple(map(unplaced, self._witness.executed))
            self._witness = dataclasses.replace(self._witness, executed=unproved)
        return outputs

    def _counters(self) -> dict[str, int] | None:
        metrics = self._module("debug.metrics")
        names = ask(metrics, "counter_names")
        if names is None:
            return None
        ops = [name for name in names if name.startswith("aten::") and name != _READS]
        return {name: int(ask(metrics, "counter_value", name) or 0) for name in ops}

    def recompiles(self) -> int | None:
        """Return how many graphs XLA compiled in this process."""
        data = ask(self._module("debug.metrics"), "metric_data", "CompileTime")
        return int(data[0]) if data else None

    def memory(self) -> Memory:
        """Return what PJRT says; there is no peak that could be reset."""
        said_bytes = ask(self._module("core.xla_model"), "get_memory_info", self.device) or {}
        total, used = said_bytes.get("bytes_limit"), said_bytes.get("bytes_used")
        return Memory(total=total, free=None if total is None or used is None else total - used)


def _release(version: str) -> str:
    return version.partition("+")[0]
