"""The switches of torch on a CPU that change arithmetic: pin them, and read them back.

They are global to the process. Does not know about accelerators.
"""

# ruff: noqa: SLF001 - some of torch's switches have no public reader
from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

__all__ = ["capability", "identity", "pin", "read_back", "reduced_float32"]

_FPMATH = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")
# What the strict setting pins, and what chooses other kernels; the latter is the machine's.
_REPORTED_ENV = (
    *_FPMATH,
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
)
# dtype that products are rounded to: how oneDNN's and torch's switches say so; coarsest first.
_REDUCED = {"bf16": ("bf16", "any", "medium"), "f16": ("f16",), "tf32": ("tf32", "high")}
_ONEDNN_GROUPS = ("matmul", "conv", "rnn")


# Instruction sets that decide which bf16, f16 and int8 kernels oneDNN has.
_FEATURES = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
    *("asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2"),
)


def capability() -> str:
    """Return the instruction set that ATen's own kernels use here, in lower case."""
    return torch.backends.cpu.get_cpu_capability().lower()


def identity() -> dict[str, str]:
    """Return versions of torch and its libraries, and the processor."""
    model, flags = _processor()
    version = torch.version
    return {
        "torch": torch.__version__,
        "torch_git": str(version.git_version),
        "cpu": model,
        "architecture": platform.machine(),
        "features": " ".join(name for name in _FEATURES if name in flags),
        "libraries": "; ".join(
            line.strip(" -")
            for line in torch.__config__.show().splitlines()
            if "Library" in line or "DNN v" in line
        ),
    }


def _processor() -> tuple[str, set[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return platform.processor(), set()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    model = fields.get("model name") or fields.get("CPU part") or platform.processor()
    return model, set((fields.get("flags") or fields.get("Features") or "").split())


def pin() -> None:
    """Set every switch to its most exact value. Undone only by the end of the process."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision("highest")
    # Per-backend precision exists since torch 2.9; 'highest' above reaches its matmul only. Set group
    # by group: `mkldnn.fp32_precision` itself also changes cuDNN's, after which torch.export fails.
    for group in _ONEDNN_GROUPS:
        switch = getattr(torch.backends.mkldnn, group, None)
        if hasattr(switch, "fp32_precision"):
            switch.fp32_precision = "ieee"  # type: ignore[union-attr] # hasattr says that it is not None
    if hasattr(torch._C, "_set_cpu_allow_fp16_reduced_precision_reduction"):
        torch._C._set_cpu_allow_fp16_reduced_precision_reduction(False)


def reduced_float32() -> str | None:
    """Return the dtype name that float32 products may be rounded to, None when they may not.

    ATen does not say which kernel it took, so permission counts as use. On CPUs without AMX the
    oneDNN of torch 2.13 is permitted bf16 and stays in f32.
    """
    allowed = [os.environ.get(name, "").lower() for name in _FPMATH]
    allowed += [value for name, value in _precisions().items() if not name.endswith((".conv", ".rnn"))]
    for reduced, wordings in _REDUCED.items():
        if any(value in wordings for value in allowed):
            return reduced
    return None


def _precisions() -> dict[str, str]:
    try:
        found = {"float32_matmul_precision": torch.get_float32_matmul_precision()}
    except RuntimeError:  # refuses to answer once the per-backend switches below were used
        found = {"float32_matmul_precision": "mixed"}
    for group in _ONEDNN_GROUPS:
        switch = getattr(torch.backends.mkldnn, group, None)
        precision = getattr(switch, "fp32_precision", None)
        if precision is not None:
            found[f"mkldnn.{group}"] = str(precision)
    return found


def read_back() -> dict[str, str]:
    """Return every switch that changes arithmetic as it is now, and the variables that matter."""
    found = {
        "threads": str(torch.get_num_threads()),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
        "flush_subnormals": str(_flushes()),
        "mkldnn": str(torch._C._has_mkldnn and torch._C._get_mkldnn_enabled()),
        **_precisions(),
    }
    if hasattr(torch._C, "_get_cpu_allow_fp16_reduced_precision_reduction"):
        found["fp16_reduced_precision_reduction"] = str(
            torch._C._get_cpu_allow_fp16_reduced_precision_reduction()
        )
    return found | {f"env.{name}": os.environ[name] for name in _REPORTED_ENV if name in os.environ}


def _flushes() -> bool:
    # There is no getter: halve the smallest normal and see whether anything is left.
    return not bool((torch.full((1,), 2.0**-126) * 0.5).item())
