"""Stands for the modules of Apple, Moore Threads, Cambricon and Neuron; tensors stay on the host.

Each line says for which fact of DEVICES.md it stands.
"""

from __future__ import annotations

import sys
import types

import torch


def _place(monkeypatch, kind: str, package: str, functions: dict) -> None:
    monkeypatch.setattr(torch, kind, types.SimpleNamespace(**functions), raising=False)
    monkeypatch.setitem(sys.modules, package, types.ModuleType(package))


def musa(monkeypatch, *, calls: list[str], has_tf32_switch: bool = True) -> None:
    """3.8; `mudnn` as an older version when it has no switch."""
    functions = {
        "get_device_name": lambda index: "MTT S4000",  # 3.8: functions
        "get_device_capability": lambda index: (2, 2),  # 3.8: functions
        "mem_get_info": lambda index: (100, 400),  # 3.8: functions
        "max_memory_allocated": lambda: 250,  # 3.8: functions
        "synchronize": lambda: calls.append("synchronize"),  # 3.8: functions
        "set_device": lambda index: calls.append(f"device {index}"),  # 3.8: as torch.cuda
    }
    _place(monkeypatch, "musa", "torch_musa", functions)
    mudnn = types.SimpleNamespace(version=lambda: 2800)  # 3.8: torch.backends.mudnn.version()
    if has_tf32_switch:
        mudnn.allow_tf32 = True  # 3.8, numerics: default True, governs everything
    monkeypatch.setattr(torch.backends, "mudnn", mudnn, raising=False)
    monkeypatch.setattr(torch.version, "musa", "3.1.0", raising=False)  # 3.8: torch.version.musa


def mlu(monkeypatch) -> None:
    """3.9, with what the public snapshot has."""
    _place(monkeypatch, "mlu", "torch_mlu", {"synchronize": lambda: None})  # 3.9: functions
    # 3.9, numerics: matmul's default is unverified, so this version does not say it.
    switches = types.SimpleNamespace(custom=types.SimpleNamespace(allow_tf32=False))
    monkeypatch.setattr(torch.backends, "mlu", switches, raising=False)
    cnnl = types.SimpleNamespace(allow_tf32=True)  # 3.9, numerics: convolutions, default True
    monkeypatch.setattr(torch.backends, "cnnl", cnnl, raising=False)


def mps(monkeypatch) -> None:
    """3.7."""
    functions = {
        "synchronize": lambda: None,  # 3.7: sync
        "recommended_max_memory": lambda: 400,  # 3.7: memory, which has no peak
    }
    monkeypatch.setattr(torch, "mps", types.SimpleNamespace(**functions))
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M2 Max", raising=False)  # 3.7
    monkeypatch.setattr(torch.backends.mps, "get_core_count", lambda: 38, raising=False)  # 3.7


def neuron(monkeypatch) -> None:
    """3.6, TorchNeuron: works with torch.accelerator; nothing else of its interface is documented."""
    monkeypatch.setitem(sys.modules, "torch_neuronx", types.ModuleType("torch_neuronx"))


def warned(operator: str, maker: str) -> str:
    """How a fallback is worded (3.7 and 3.9, fallback)."""
    return f"The operator '{operator}' is not currently supported on the {maker} backend and will fall back"


# 3.7, dtypes.
NO_FLOAT64 = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."


class Accelerator:
    """torch.accelerator of 2.6, where memory is not asked yet (3.0, since)."""

    def __init__(self, kind: str | None) -> None:
        self.calls: list[str] = []
        self._kind = kind

    def current_accelerator(self, check_available: bool = False):  # noqa: FBT001, FBT002 - 3.0: since 2.6
        # 3.0: without the check it names what torch was built for.
        kind = self._kind or (None if check_available else "cuda")
        return None if kind is None else types.SimpleNamespace(type=kind)

    def synchronize(self) -> None:  # 3.0: since 2.6
        self.calls.append("synchronize")

    def set_device_index(self, index: int) -> None:  # 3.0: since 2.6
        self.calls.append(f"device {index}")
