"""Stands for torch.xpu on a machine with an Intel GPU; tensors stay on the host.

Each line says for which fact of DEVICES.md it stands.
"""

from __future__ import annotations

import types

import torch


class Fake:
    """torch.xpu; what it was called with is in `calls`, in order."""

    def __init__(self, *, name: str = "Intel(R) Arc(TM) B580 Graphics", has_fp64: bool | None = True) -> None:
        self.calls: list[str] = []
        properties = types.SimpleNamespace(
            driver_version="1.6.33578", platform_name="Intel(R) oneAPI", max_compute_units=160
        )  # 3.5: get_device_properties
        if has_fp64 is not None:
            properties.has_fp64 = has_fp64  # 3.5: has_fp64 is each chip's own
        self.functions = {
            "get_device_name": lambda device: name,  # 3.5
            "get_device_properties": lambda device: properties,  # 3.5
            "mem_get_info": lambda device: (100, 400),  # 3.5: memory as CUDA
            "max_memory_allocated": lambda device: 250,  # 3.5: memory as CUDA
            "synchronize": lambda device: self.calls.append(f"synchronize {device}"),  # 3.5: sync
            "set_device": lambda device: self.calls.append(f"device {device}"),  # 3.5: index
        }

    def install(self, monkeypatch, *, without=()) -> Fake:
        for function, fake in self.functions.items():
            if function in without:
                monkeypatch.delattr(torch.xpu, function, raising=False)
            else:
                monkeypatch.setattr(torch.xpu, function, fake, raising=False)
        monkeypatch.setattr(torch.version, "xpu", "20250302", raising=False)  # 3.5: torch.version.xpu
        return self


def named(operator: str) -> str:
    """What PYTORCH_DEBUG_XPU_FALLBACK=1 warns of at each call (3.5, CPU fallback); it closes no quote."""
    return f"The operator '{operator} on the XPU backend is falling back to run on the CPU."


# 3.5, CPU fallback: without the variable, once per process.
UNNAMED = "Aten Op fallback from XPU to CPU happends. This may have performance implications."


def torch_2_7(*, allow_tf32: object) -> types.ModuleType:
    """Torch with `mkldnn.allow_tf32` (2.7) and no `fp32_precision` (2.9): 3.5, numerics."""
    module = types.ModuleType("torch")
    module.backends = types.SimpleNamespace(mkldnn=types.SimpleNamespace(allow_tf32=allow_tf32))
    return module
