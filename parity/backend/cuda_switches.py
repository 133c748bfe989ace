"""What changes arithmetic on CUDA and ROCm: torch's switches as rows, variables, and TF32 as permitted.

Imports no torch; the device's file hands it in.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from parity.backend.switch import Switch, read
from parity.backend.vendor_api import UNKNOWN

__all__ = ["CONVOLUTION", "NUMERIC_ENV", "PRODUCT", "STRICT_ENV", "STRICT_HIP_ENV", "SWITCHES", "reduced"]

# cuBLAS reads its own before the first handle is made (DEVICES.md 3.1, 6).
STRICT_ENV: Mapping[str, str] = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "NVIDIA_TF32_OVERRIDE": "0",  # a kill switch below torch, unverified (3.1); set to 1, it forces TF32
}
STRICT_HIP_ENV: Mapping[str, str] = {
    "HIPBLAS_WORKSPACE_CONFIG": ":4096:2:16:8",  # DEVICES.md 3.2
    "HIPBLASLT_ALLOW_TF32": "0",  # the gate of torch before 2.8 (DEVICES.md 3.2); 6 wants it unset
}
NUMERIC_ENV = (
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "HIPBLAS_WORKSPACE_CONFIG",
    "HIPBLASLT_ALLOW_TF32",
    "ROCBLAS_INTERNAL_FP16_ALT_IMPL",
    "MIOPEN_DEBUG_CONVOLUTION_ATTRIB_FP16_ALT_IMPL",
    "TORCH_BLAS_PREFER_HIPBLASLT",
)

_TABLE = "DEVICES.md 3.1, numeric switches"
_NEW = "DEVICES.md 3.1: fp32_precision since torch 2.9"
PRODUCT = Switch(path="backends.cuda.matmul.fp32_precision", exact=("ieee",), source=_NEW)
CONVOLUTION = Switch(path="backends.cudnn.conv.fp32_precision", exact=("ieee",), source=_NEW)
_OLD_PRODUCT = Switch(path="backends.cuda.matmul.allow_tf32", exact=(False,), source=_TABLE)
_OLD_CONVOLUTION = Switch(path="backends.cudnn.allow_tf32", exact=(False,), source=_TABLE)

# (allow reduced precision, allow split-K) since torch 2.10; before, one boolean.
_BOTH_OFF: tuple[object, ...] = ((False, False), False)

# The older interface comes first: on torch 2.13, setting only the newer one leaves cudnn.allow_tf32
# where it was, its reader then raises, and torch.export with it. In this order both agree.
SWITCHES: tuple[Switch, ...] = (
    _OLD_PRODUCT,
    _OLD_CONVOLUTION,
    PRODUCT,
    CONVOLUTION,
    Switch(path="backends.cudnn.rnn.fp32_precision", exact=("ieee",), source=_NEW),
    Switch(path="backends.fp32_precision", source=_NEW),
    Switch(path="backends.cudnn.fp32_precision", source=_NEW),
    Switch(path="get_float32_matmul_precision()", source="DEVICES.md 3.0"),
    Switch(
        path="backends.cuda.matmul.allow_fp16_reduced_precision_reduction", exact=_BOTH_OFF, source=_TABLE
    ),
    Switch(
        path="backends.cuda.matmul.allow_bf16_reduced_precision_reduction", exact=_BOTH_OFF, source=_TABLE
    ),
    Switch(path="backends.cuda.matmul.allow_fp16_reduced_precision_reduction_split_k", source=_TABLE),
    Switch(path="backends.cuda.matmul.allow_bf16_reduced_precision_reduction_split_k", source=_TABLE),
    Switch(path="backends.cuda.matmul.allow_fp16_accumulation", exact=(False,), source=_TABLE),
    Switch(
        path="backends.cuda.fp16_bf16_reduction_math_sdp_allowed()",
        setter="backends.cuda.allow_fp16_bf16_reduction_math_sdp",
        exact=(False,),
        source=_TABLE,
    ),
    # Attention by its composed kernels: DEVICES.md 6, "sdpa MATH for ref".
    *(
        Switch(
            path=f"backends.cuda.{kind}_sdp_enabled()",
            setter=f"backends.cuda.enable_{kind}_sdp",
            exact=(kind == "math",),
            source="DEVICES.md 3.1, SDPA backend; 6",
        )
        for kind in ("flash", "mem_efficient", "cudnn", "math")
    ),
    Switch(path="backends.cuda.preferred_blas_library()", source=_TABLE),
    Switch(path="backends.cuda.preferred_linalg_library()", source=_TABLE),
    Switch(path="backends.cuda.preferred_rocm_fa_library()", source="DEVICES.md 3.2"),
    Switch(path="backends.cudnn.deterministic", exact=(True,), source=_TABLE),
    Switch(path="backends.cudnn.benchmark", exact=(False,), source=_TABLE),
    Switch(path="are_deterministic_algorithms_enabled()", source="DEVICES.md 3.0"),
    Switch(path="is_deterministic_algorithms_warn_only_enabled()", source="DEVICES.md 3.0"),
    # On, it hides garbage in padding (DEVICES.md 3.0, 9).
    Switch(path="utils.deterministic.fill_uninitialized_memory", exact=(False,), source="DEVICES.md 3.0, 9"),
)


def reduced(torch: ModuleType, switch: Switch, *, environ: Mapping[str, str]) -> str | None:
    """Return what `PRODUCT` or `CONVOLUTION` permits, None for nothing, `?` where torch does not say."""
    if environ.get("NVIDIA_TF32_OVERRIDE") == "1":
        return "tf32"
    if not hasattr(torch.backends, "fp32_precision"):
        allowed = read(torch, _OLD_PRODUCT if switch is PRODUCT else _OLD_CONVOLUTION)
        return {"True": "tf32", "False": None}.get(allowed, "?")
    # What is `none` itself reads as the one above it, and `none` at the top is IEEE.
    precision = read(torch, switch)
    return {"ieee": None, "none": None, UNKNOWN: "?"}.get(precision, precision)
