"""Ascend's switches that change arithmetic: variables, what strict pins, and reading all of it back.

Written from DEVICES.md 3.4 and 6, and from torch_npu/npu/npu_config.py for what can be read. Does
not import torch_npu; it is handed in.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from parity.backend import switch
from parity.backend.switch import Switch
from parity.backend.vendor_api import ask, find, said

__all__ = ["NUMERIC_ENV", "STRICT_ENV", "TABLE", "pin", "read_back", "reduced"]

STRICT_ENV: Mapping[str, str] = {
    "TORCH_NPU_FALLBACK_CPU_DISABLE": "1",
    "HCCL_DETERMINISTIC": "strict",
    "LCCL_DETERMINISTIC": "1",
    "CLOSE_MATMUL_K_SHIFT": "1",
    "ATB_MATMUL_SHUFFLE_K_ENABLE": "0",
    "ATB_LLM_LCOC_ENABLE": "0",
    "INF_NAN_MODE_ENABLE": "1",
}
NUMERIC_ENV: Sequence[str] = (
    *STRICT_ENV,
    "INF_NAN_MODE_FORCE_DISABLE",
    "TORCH_NPU_USE_COMPATIBLE_IMPL",
    "TORCH_NPU_LEGACY_IMPL_LIST",
    "TORCHINDUCTOR_NPU_BACKEND",
    "TASK_QUEUE_ENABLE",
    "ASCEND_LAUNCH_BLOCKING",
    "ASCEND_RT_VISIBLE_DEVICES",
)
_TABLE = "DEVICES.md 3.4, numeric switches"
TABLE: Sequence[Switch] = (
    Switch(path="npu.matmul.allow_hf32", exact=(False,), source=_TABLE),
    Switch(path="npu.conv.allow_hf32", exact=(False,), source=_TABLE),
    Switch(
        path="npu.are_compatible_impl_enabled()",
        exact=(True,),
        setter="npu.use_compatible_impl",
        source=f"{_TABLE}; torch_npu/npu/__init__.py has the reader",
    ),
    Switch(
        path="npu.get_mm_bmm_format_nd()",
        exact=(True,),
        setter="npu.set_mm_bmm_format_nd",
        source=f"{_TABLE}; torch_npu/npu/npu_config.py has the reader",
    ),
    Switch(path="npu.is_jit_compile_false()", source=_TABLE),
    Switch(path="npu.utils.is_support_inf_nan()", source=_TABLE),
)
# Options that have a setter of their own and no reader but the one of all options.
_FORMAT = "npu.option.ALLOW_INTERNAL_FORMAT"
_OPTIONS = (_FORMAT, "npu.option.ACL_PRECISION_MODE", "npu.option.ACL_OP_SELECT_IMPL_MODE")
_CUBE = "npu.matmul.cube_math_type"
_NO_ROUNDING = ("KEEP_DTYPE", "USE_FP32_ADD")
_ROUNDING = {"USE_HF32": "hf32", "USE_FP16": "f16"}


def pin(torch: Any) -> dict[str, str]:
    """Set every switch that this version has; return, by name, the words of what could not be set."""
    # First, and only warning where a kernel has no deterministic form: the level below would set it
    # otherwise. Of one thread's settings the first that an op ran under counts (DEVICES.md 3.4).
    torch.use_deterministic_algorithms(True, warn_only=True)
    refused = switch.pin(torch, TABLE)
    keep = find(torch, "npu.CubeMathType.KEEP_DTYPE")
    attributes = [(_FORMAT, "npu.config", "allow_internal_format", False)]
    # Its type is checked, so without the enumeration nothing can be set.
    attributes += [(_CUBE, "npu.matmul", "cube_math_type", keep)] if keep is not None else []
    for name, owner, attribute, value in attributes:
        holder = find(torch, owner)
        if holder is not None:
            try:
                setattr(holder, attribute, value)
            except Exception as error:  # noqa: BLE001 - each vendor refuses in its own way
                refused[name] = (str(error).splitlines() or [type(error).__name__])[0]
    ask(torch, "npu.set_option", {"ACL_PRECISION_MODE": "must_keep_origin_dtype"})
    with warnings.catch_warnings():
        # It says not to use torch's own switch after it, which was set before.
        warnings.simplefilter("ignore")
        ask(torch, "npu.set_deterministic_level", 1)
    return refused


def read_back(torch: Any, sdk: Any) -> dict[str, str]:
    """Return every switch as this version says it."""
    kind = find(torch, _CUBE)
    return {
        **switch.read_back(torch, TABLE),
        _CUBE: said(getattr(kind, "name", kind)),
        "npu.deterministic_level": said(ask(sdk, "_C._npu_get_deterministic_level")),
        **{name: _option(sdk, name.rpartition(".")[2]) for name in _OPTIONS},
    }


def _option(sdk: Any, name: str) -> str:
    value = ask(sdk, "_C._npu_getOption", name)
    return said(value.decode(errors="replace") if isinstance(value, bytes) else value)


def reduced(torch: Any, owner: str) -> str | None:
    """Return what float32 operands of `matmul` or `conv` may be rounded to, None when nothing.

    `?` where this version does not say.
    """
    if owner == "matmul":
        kind = getattr(find(torch, _CUBE), "name", None)
        if kind is not None:  # overrides the switch below (DEVICES.md 3.4)
            return None if kind in _NO_ROUNDING else _ROUNDING.get(kind, "?")
    allowed = find(torch, f"npu.{owner}.allow_hf32")
    return "?" if allowed is None else "hf32" if allowed else None
