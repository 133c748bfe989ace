"""Stands for the Gaudi plugin, on torch's CPU device; each line says for which fact of DEVICES.md."""

from __future__ import annotations

import contextlib
import sys
import types

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# 3.3, provenance: both lines as they are quoted there, in a table like the tool's.
HL_SMI = """\
+-----------------------------------------------------------------------------+
| HL-SMI Version:                              hl-1.17.0-fw-51.1.0            |
| Driver Version:                                     1.17.0-8a5dfb8          |
+-----------------------------------------------------------------------------+
"""


class Fake:
    """The plugin; what it was called with is in `calls`, in order."""

    def __init__(self, *, device: str = "GAUDI3") -> None:
        self.calls: list[str] = []
        self.fallen: dict[str, int] = {}  # what the metric says of the next context
        self.hpu = types.ModuleType("torch.hpu")  # 3.3: `torch.hpu` is the module
        self.hpu.is_available = lambda: True  # 3.3, availability
        self.hpu.device_count = lambda: 8  # 3.3, availability
        self.hpu.get_device_name = lambda index: device  # 3.3: "GAUDI", "GAUDI2" or "GAUDI3"
        self.hpu.get_device_capability = lambda: "1.24.1"  # 3.3: returns a string
        self.hpu.synchronize = lambda: self.calls.append("synchronize")  # 3.3, sync: no device argument
        # 3.3, memory: the keys of memory_stats, bytes.
        self.hpu.memory_stats = lambda: {"Limit": 1000, "InUse": 300, "MaxInUse": 700, "NumAllocs": 3}
        self.metrics = types.ModuleType("habana_frameworks.torch.hpu.metrics")  # 3.3, CPU fallback detection
        self.metrics.metric_localcontext = self._context
        self.metrics.metric_global = self._total  # 3.3: metric_global is imported beside it
        self.experimental = types.ModuleType("habana_frameworks.torch.utils.experimental")
        self.experimental._is_fp16_supported = lambda: True  # 3.3, availability

    @contextlib.contextmanager
    def _context(self, name):
        assert name == "cpu_fallback"  # 3.3, CPU fallback detection
        self.calls.append("metric starts")
        # 3.3: stats() gives pairs; FallbackOps counts by operator.
        stats = [("TotalNumber", sum(self.fallen.values())), ("FallbackOps", self.fallen)]
        yield types.SimpleNamespace(stats=lambda: stats)
        self.calls.append("metric stops")

    def _total(self, name):
        assert name == "graph_compilation"  # 3.3, recompile
        # 3.3: {"TotalNumber", "TotalTime", "AvgTime"}.
        return types.SimpleNamespace(stats=lambda: [("TotalNumber", 5), ("TotalTime", 70), ("AvgTime", 14)])

    def with_graphs(self) -> Fake:
        """Add what exists in lazy mode only (3.3, execution)."""
        calls = self.calls

        class HPUGraph:
            def replay(self):  # 3.3: torch.hpu.HPUGraph().replay()
                calls.append("replay")

        @contextlib.contextmanager
        def graph(hpu_graph, stream=None):  # 3.3: torch.hpu.graph(hpu_graph, stream=None, dry_run=False)
            calls.append("capture begins")
            yield
            calls.append("capture ends")

        self.hpu.HPUGraph, self.hpu.graph = HPUGraph, graph
        return self

    def install(self, monkeypatch) -> Fake:
        """Put the plugin where an import finds it."""
        for name, module in {
            "habana_frameworks": types.ModuleType("habana_frameworks"),
            "habana_frameworks.torch": types.ModuleType("habana_frameworks.torch"),  # 3.3, registration
            "habana_frameworks.torch.hpu": self.hpu,  # 3.3: equal to torch.hpu
            "habana_frameworks.torch.hpu.metrics": self.metrics,
            "habana_frameworks.torch.utils": types.ModuleType("habana_frameworks.torch.utils"),
            "habana_frameworks.torch.utils.experimental": self.experimental,
        }.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(torch, "hpu", self.hpu, raising=False)
        return self


class Narrow(TorchDispatchMode):
    """What a copy on the chip keeps of wide types, and how Gaudi2 reads E4M3."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name == "aten::clone" and result.dtype is torch.int64:
            return result.to(torch.int32).to(torch.int64)  # 3.3: int64 is computed as int32 in lazy mode
        if name == "aten::clone" and result.dtype is torch.float64:
            return result.to(torch.float32).to(torch.float64)  # 3.3, dtypes: Double is mapped to float
        if (
            name == "aten::_to_copy"
            and args[0].dtype is torch.float8_e4m3fn
            and result.dtype is torch.float32
        ):
            # H6: what e4m3fn reads as 256 to 448 is infinity or NaN on Gaudi2.
            return torch.where(result.abs() > 240, torch.inf, result)
        return result
