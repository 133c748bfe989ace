"""Stands for torch.cuda on a machine with an NVIDIA or AMD chip; tensors stay on the host.

Each line says for which fact of DEVICES.md it stands.
"""

from __future__ import annotations

import contextlib
import types

import torch

# 3.1, provenance: what the driver's file says, its open and its older wording.
OPEN_DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build  (dvs)\n"
OLD_DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"


class Fake:
    """torch.cuda; what it was called with is in `calls`, in order."""

    def __init__(self, *, name: str = "NVIDIA H200", capability=(9, 0), architecture: str = "") -> None:
        self.calls: list[str] = []
        properties = types.SimpleNamespace(multi_processor_count=132)  # 3.1, provenance
        if architecture:
            properties.gcnArchName = architecture  # 3.2: `gcnArchName` on ROCm only
        self.functions = {
            "get_device_name": lambda device: name,  # 3.1, provenance
            "get_device_capability": lambda device: capability,  # 3.1, provenance
            "get_device_properties": lambda device: properties,  # 3.1, provenance
            "get_arch_list": lambda: ["sm_80", "sm_90"],  # 3.1, provenance
            "mem_get_info": lambda device: (100, 400),  # 3.1, memory: (free, total)
            "max_memory_allocated": lambda device: 250,  # 3.1, memory
            "synchronize": lambda device: self.calls.append(f"synchronize {device}"),  # 3.1, sync
            "set_device": lambda device: self.calls.append(f"device {device}"),  # 3.1, index
        }
        self.version = {"hip": "7.0.1"} if architecture else {"cuda": "13.0"}  # 3.2, flavour test

    def install(self, monkeypatch, *, without=()) -> Fake:
        """Put it in the place of torch's, in which each call raises without a chip."""
        for function, fake in self.functions.items():
            if function in without:
                monkeypatch.delattr(torch.cuda, function)
            else:
                monkeypatch.setattr(torch.cuda, function, fake)
        for toolkit in ("cuda", "hip"):
            monkeypatch.setattr(torch.version, toolkit, self.version.get(toolkit))  # 3.2, flavour test
        monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 28, 9))  # 3.1, provenance
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91400)  # 3.1, provenance
        return self

    def with_graphs(self, monkeypatch, *, refusal: str = "") -> Fake:
        """Add graphs whose replay runs again what was captured."""
        calls = self.calls

        class Graph:  # 3.1, graph: torch.cuda.CUDAGraph(); g.replay()
            def replay(self):
                calls.append("replay")

        class Stream:
            def __init__(self, device):
                calls.append("side stream")

            def wait_stream(self, other):
                calls.append("wait")

        @contextlib.contextmanager
        def graph(_graph):  # 3.1, graph: torch.cuda.graph(g) is a context manager
            calls.append("capture")
            if refusal:
                raise RuntimeError(refusal)
            yield

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "graph", graph)
        return self


class _Closed:
    """Switches that refuse names and, where `mixed`, readers: as torch's own modules do."""

    def __init__(self, **switches) -> None:
        object.__setattr__(self, "_on", dict(switches))

    def __getattr__(self, name):
        if name not in self._on:
            raise AttributeError(name)
        if isinstance(self._on[name], Exception):
            raise self._on[name]
        return self._on[name]

    def __setattr__(self, name, value) -> None:
        if name not in self._on:
            raise AttributeError(name)
        # 3.1: the tuple form is of torch 2.10, and older ones want one boolean.
        if isinstance(value, tuple):
            raise TypeError("expected a bool")
        self._on[name] = value


def torch_2_5() -> types.ModuleType:
    """Torch before fp32_precision (2.9), fp16 accumulation (2.7) and the tuple form (2.10): 3.1, switches."""
    module = types.ModuleType("torch")
    matmul = _Closed(
        allow_tf32=False,  # 3.1: default False
        allow_fp16_reduced_precision_reduction=True,  # 3.1: default True
        allow_bf16_reduced_precision_reduction=True,  # 3.1: default True
    )
    cudnn = _Closed(
        allow_tf32=True,  # 3.1: default True
        deterministic=False,  # 3.1: default False
        benchmark=False,  # 3.1: default False
    )
    module.backends = types.SimpleNamespace(cuda=types.SimpleNamespace(matmul=matmul), cudnn=cudnn)
    return module


def torch_that_was_mixed() -> types.ModuleType:
    """Torch 2.9 after a library set the newer interface: readers raise (3.1, legacy and new)."""
    raised = RuntimeError("mix of the legacy and new APIs")
    module = torch_2_5()
    module.backends.cuda.matmul = _Closed(allow_tf32=raised, fp32_precision=raised)
    module.backends.fp32_precision = "none"  # 3.1: since 2.9
    return module
