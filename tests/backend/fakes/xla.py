"""Stands for torch_xla; tensors stay on the host. Each line names its fact in DEVICES.md 3.6."""

from __future__ import annotations

import sys
import types


class Fake:
    """torch_xla and its modules; what it was called with is in `calls`, in order."""

    def __init__(self, *, hardware: str = "TPU") -> None:
        self.calls: list[str] = []
        self.counters = {"aten::_local_scalar_dense": 3, "CachedCompile": 7}  # fallback; recompile
        self.precision = "default"  # numerics: the default
        self.modules = {
            "": {"sync": lambda *, wait: self.calls.append(f"sync {wait}")},  # sync
            "core.xla_model": {
                "mark_step": lambda *, wait: self.calls.append(f"mark_step {wait}"),  # sync, old
                "wait_device_ops": lambda: self.calls.append("wait"),  # sync
                # memory; the keys are unverified, so the adapter must live without them.
                "get_memory_info": lambda device: {"bytes_limit": 400, "bytes_used": 300},
            },
            "runtime": {
                "device_type": lambda: hardware,  # device
                "runtime_device_attributes": lambda device: {"core_on_chip": 0},  # device
            },
            "backends": {
                "set_mat_mul_precision": self._set,  # numerics
                "get_mat_mul_precision": lambda: (
                    self.precision
                ),  # not in 3.6: the adapter must live without it
            },
            "experimental": {"eager_mode": lambda on: self.calls.append(f"eager {on}")},  # modes
            "debug.metrics": {
                "counter_names": lambda: list(self.counters),  # fallback
                "counter_value": self.counters.get,  # fallback
                "metric_data": lambda name: (4, 1.5, ()) if name == "CompileTime" else None,  # recompile
            },
        }

    def _set(self, precision: str) -> None:
        self.precision = precision

    def install(self, monkeypatch, *, without=()) -> Fake:
        """Make it importable; `without` are functions that this version does not have."""
        monkeypatch.setitem(sys.modules, "torch_xla", types.ModuleType("torch_xla"))
        for name, functions in self.modules.items():
            full = f"torch_xla.{name}".rstrip(".")
            module = types.ModuleType(full)
            for function, fake in functions.items():
                if function not in without:
                    setattr(module, function, fake)
            for package in ("torch_xla.core", "torch_xla.debug"):
                monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
            monkeypatch.setitem(sys.modules, full, module)
        return self
