"""Stands for torch_npu, on torch's CPU device; each line says for which fact of DEVICES.md."""

from __future__ import annotations

import contextlib
import enum
import sys
import types
import warnings
from pathlib import Path

import torch

# 3.4, CPU fallback: the warning as it is quoted there.
CAUTION = (
    "CAUTION: The operator '{op}' is not currently supported on the NPU backend and will fall back to run "
    "on the CPU. This may have performance implications.\n"
)
# 3.4, dtypes: the argsort warning; its words are those of vllm-ascend#16865.
AI_CPU = (
    "Warning: Warning: kernel [ArgSort] can not support dtype int32 or int64 on AiCore, Now this kernel is "
    "running on AiCpu.If you are more concerned about high-performance execution,please cast dtype to "
    "float32. (function operator())\n"
)
# 3.4, CPU fallback, with the switch set: the message of torch_npu's CheckCpuFallbackAllowed.
DISABLED = (
    "The operator 'aten::digamma' would execute its main computation on CPU through dispatcher backend "
    "fallback, but CPU fallback is disabled by TORCH_NPU_FALLBACK_CPU_DISABLE=1.\n"
    "[ERROR] (PID:1, Device:0, RankID:-1) ERR01007 OPS feature not supported"
)
# 3.4, profiler: `Accelerator Core` is documented; the other columns are those that users publish.
KERNELS = """\
Device_id,Task ID,Stream ID,Name,Type,OP State,Accelerator Core,Start Time(us),Duration(us),\
Input Data Types,Output Data Types
0,1,2,aclnnSort_SortAiCpu,Sort,dynamic,AI_CPU,1750000000000000.027,310.1,INT64,INT64;INT64
0,2,2,aclnnMm_MatMulV2,MatMulV2,dynamic,AI_CORE,1750000000000320.001,12.5,"DT_BF16;DT_BF16",DT_BF16
0,3,2,aclnnCast_Cast,Cast,dynamic,AI_VECTOR_CORE,1750000000000340.001,1.5,DT_BF16,FLOAT
0,4,2,aclnnIndexPut_Index,,dynamic,AI_CPU,1750000000000350.001,90.0,FLOAT,
"""


class CubeMathType(enum.Enum):  # 3.4: the members and their values
    KEEP_DTYPE = 0
    ALLOW_FP32_DOWN_PRECISION = 1
    USE_FP16 = 2
    USE_HF32 = 3
    USE_FP32_ADD = 4


class _Matmul:
    allow_hf32 = False  # 3.4: default False
    cube_math_type = None  # 3.4: default None, overrides allow_hf32

    def __setattr__(self, name, value):
        if name == "cube_math_type" and not isinstance(value, CubeMathType):
            raise TypeError("cube_math_type must be a CubeMathType")  # 3.4: type-checked
        super().__setattr__(name, value)


class _Config:  # 3.4: torch.npu.config.allow_internal_format; npu_config.py has no reader for it
    def __init__(self, options):
        object.__setattr__(self, "_options", options)

    def __setattr__(self, name, value):
        assert name == "allow_internal_format"
        self._options["ALLOW_INTERNAL_FORMAT"] = b"enable" if value else b"disable"


class Fake:
    """torch_npu; what it was called with is in `calls`, in order."""

    def __init__(self, *, device: str = "Ascend910B3") -> None:
        self.calls: list[object] = []
        self.options: dict[str, bytes] = {}
        self.level, self.compatible = 0, False  # 3.4: both defaults
        self.flat = False
        self.sdk, self.npu = types.ModuleType("torch_npu"), types.ModuleType("torch_npu.npu")
        sdk, npu = self.sdk, self.npu
        sdk.__version__ = "2.13.0"  # 3.4, provenance
        sdk.version = types.SimpleNamespace(git_version="9e73e70")  # 3.4, provenance
        sdk.npu = npu  # 3.4: torch.npu is torch_npu.npu
        npu.is_available, npu.device_count = (lambda: True), (lambda: 8)  # 3.4, availability
        npu.get_device_name = lambda index: device  # 3.4: 'Ascend910B3', 'Ascend910_9382', …
        npu.get_device_capability = lambda: None  # 3.4: None unless a variable is set
        npu.is_bf16_supported = lambda: True  # 3.4, dtypes
        npu.set_device = lambda index: self.calls.append(("set_device", index))
        npu.synchronize = lambda device=None: self.calls.append("synchronize")  # 3.4, sync
        npu.mem_get_info = lambda: (600, 1000)  # 3.4, memory: CUDA-like, (free, total)
        npu.max_memory_allocated = lambda: 250  # 3.4, memory
        npu.utils = types.SimpleNamespace(
            get_cann_version=lambda module: {"CANN": "9.0.0", "DRIVER": "25.2.0"}.get(module, ""),  # 3.4
            is_support_inf_nan=lambda: True,  # 3.4: asks for the overflow mode
        )
        npu.matmul, npu.CubeMathType = _Matmul(), CubeMathType  # 3.4, numeric switches
        npu.conv = types.SimpleNamespace(allow_hf32=True)  # 3.4: default True
        npu.config = _Config(self.options)
        npu.set_option = self._set_option  # 3.4, ACL_PRECISION_MODE
        npu.set_mm_bmm_format_nd = lambda on: setattr(self, "flat", on)  # 3.4, beside allow_internal_format
        npu.get_mm_bmm_format_nd = lambda: self.flat  # torch_npu/npu/npu_config.py
        npu.is_jit_compile_false = lambda: True  # 3.4
        npu.use_compatible_impl = lambda on: setattr(self, "compatible", on)  # 3.4
        npu.are_compatible_impl_enabled = lambda: self.compatible  # beside it in torch_npu/npu/__init__.py
        npu.set_deterministic_level = self._set_level  # 3.4: 0 to 3
        sdk._C = types.SimpleNamespace(
            _npu_getOption=self.options.get,  # torch_npu/npu/npu_config.py: bytes, or None where unset
            _npu_get_deterministic_level=lambda: self.level,  # torch_npu/npu/__init__.py
        )

    def _set_option(self, options):
        self.options.update({name: value.encode() for name, value in options.items()})

    def _set_level(self, level):
        # torch_npu/npu/__init__.py: warns, and enables torch's own switch where it is not.
        warnings.warn("please do not use 'torch.use_deterministic_algorithms' anymore", stacklevel=2)
        assert torch.are_deterministic_algorithms_enabled()
        self.level = level

    def old(self) -> Fake:
        """Take away what DEVICES.md 3.4 has of later versions."""
        for name in ("use_compatible_impl", "are_compatible_impl_enabled", "set_deterministic_level"):
            delattr(self.npu, name)
        for name in ("CubeMathType", "is_bf16_supported", "config", "mem_get_info", "max_memory_allocated"):
            delattr(self.npu, name)
        del self.sdk._C, self.sdk.version, self.npu.utils
        return self

    def with_graphs(self) -> Fake:
        """Add device graphs (3.4, graphs)."""
        calls = self.calls

        class NPUGraph:
            def replay(self):  # 3.4: .replay()
                calls.append("replay")

        @contextlib.contextmanager
        def graph(npu_graph, pool=None, stream=None, auto_dispatch_capture=False):  # noqa: FBT002 - 3.4: 4th
            calls.append("capture begins")
            yield
            calls.append("capture ends")

        stream = types.SimpleNamespace(wait_stream=lambda other: None)
        self.npu.NPUGraph, self.npu.graph = NPUGraph, graph
        self.npu.Stream = self.npu.current_stream = lambda device: stream  # 2: as torch.cuda's
        self.npu.stream = contextlib.nullcontext  # 2: as torch.cuda's
        return self

    def with_profiler(self, table: str | None) -> Fake:
        """Add the profiler (3.4, profiler), which writes a table of kernels, or nothing."""

        @contextlib.contextmanager
        def profile(*, activities, experimental_config, on_trace_ready):  # 3.4, the three arguments
            assert experimental_config == {"profiler_level": 1, "aic_metrics": "PipeUtilization"}
            assert activities == ["CPU", "NPU"]
            yield
            on_trace_ready(table)

        def handler(folder):  # 3.4: tensorboard_trace_handler(dir); kernel_details.csv lies below it
            def write(table):
                if table is not None:
                    (Path(folder) / "host_1_ascend_pt").mkdir()
                    (Path(folder) / "host_1_ascend_pt" / "kernel_details.csv").write_text(table)

            return write

        self.sdk.profiler = types.SimpleNamespace(
            profile=profile,
            tensorboard_trace_handler=handler,
            ProfilerActivity=types.SimpleNamespace(CPU="CPU", NPU="NPU"),  # 3.4
            ProfilerLevel=types.SimpleNamespace(Level1=1),  # 3.4: needs level 1 or 2
            AiCMetrics=types.SimpleNamespace(PipeUtilization="PipeUtilization"),  # 3.4
            _ExperimentalConfig=lambda **options: options,  # 3.4
        )
        return self

    def install(self, monkeypatch) -> Fake:
        """Put the plugin where an import finds it."""
        monkeypatch.setitem(sys.modules, "torch_npu", self.sdk)  # 3.4: import torch_npu
        monkeypatch.setattr(torch, "npu", self.npu, raising=False)  # 2: flavour is torch.npu
        return self
