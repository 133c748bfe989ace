"""Gaudi's environment variables: what each mode and setting exports, and where every flag stands.

Defaults are those of the last release whose source is public; what a later one does is unknown.
Reads the environment only, and imports no SDK.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from parity.backend.spec import Setting
from parity.backend.vendor_api import UNKNOWN

__all__ = ["LAZY_MODES", "environment", "is_on", "release_of", "standing", "value_of"]

# HPU graphs exist only in lazy mode (DEVICES.md 3.3, execution).
LAZY_MODES = ("lazy", "graph")
# Defaults are known up to here: 1.20 to 1.24 are closed (DEVICES.md 10, item 1).
_PUBLISHED = (1, 19)

# DEVICES.md 6.
_STRICT: Mapping[str, str] = {
    "PT_HPU_PLACE_ON_CPU": "none",
    "PT_HPU_FORCE_TANH_FOR_GELU": "0",
    "PT_HPU_ENABLE_DIV_PRECISE": "1",
    "PT_HPU_METRICS_GC_DETAILS": "1",
    "PT_COMPILE_ONLY_MODE": "0",
    "HABANA_PROFILE": "0",
}
# A private flag of the graph compiler, for Gaudi2 only; that it needs the second is unverified (6).
_IEEE: Mapping[str, str] = {"GAUDI2_FORCE_MME_FP32_IEEE": "1", "ENABLE_EXPERIMENTAL_FLAGS": "true"}

# Default of every flag that changes numbers or where they are computed: DEVICES.md 3.3, its table and
# execution; None where no default is documented.
_DEFAULTS: Mapping[str, str | None] = {
    "PT_HPU_FORCE_TANH_FOR_GELU": "true",
    "PT_HPU_ENABLE_VALID_DATA_RANGE_CHECK": "true",
    "PT_HPU_ENABLE_DIV_PRECISE": "false",
    "PT_HPU_ENABLE_NEGATIVE_INDEXING": "false",
    "PT_HPU_STOCHASTIC_ROUNDING_MODE": "1",
    "PT_HPU_SDPA_SFMX_BWD_V2": "false",
    "PT_HPU_SDPA_QKV_SLICE_MODE_FWD": None,
    "PT_HPU_SDPA_BC_FACTOR": None,
    "PT_HPU_MATMUL3D_2D_RESHAPE": "false",
    "PT_HPU_OVERRIDE_LINEAR_MATMUL_EAGER": "false",
    "PT_HPU_USE_UNSORTED_SCATTER_ADD": "true",
    "PT_HPU_COMPILE_DECOMPOSITION_MODE": "habana",
    "PT_HPU_INFERENCE_MODE": None,
    "PT_HPU_WEIGHT_SHARING": None,  # 1 in lazy mode
    "PT_HPU_ENABLE_WEIGHT_CPU_PERMUTE": None,
    "PT_HPU_MAX_COMPOUND_OP_SIZE": "INT64_MAX",
    "PT_HPU_AUTOCAST_LOWER_PRECISION_OPS_LIST": None,
    "PT_HPU_AUTOCAST_FP32_OPS_LIST": None,
    "PT_HPU_PLACE_ON_CPU": "every operator",
    "PT_HPU_USE_EAGER_FALLBACK": "1",
    "PT_HPU_ENABLE_REFINE_DYNAMIC_SHAPES": "false",
    "PT_HPU_FORCE_STATIC_COMPILE": None,
    "PT_HPU_DISABLE_HPUGRAPH_REPLAY_HASHCHECK": "true",
    "PT_HPU_GPU_MIGRATION": None,
    "PT_COMPILE_ONLY_MODE": "false",
    "MME_ENABLE_STOCHASTIC_ROUNDING": "false",
    "GAUDI2_FORCE_MME_FP32_IEEE": "false",
    "ENABLE_EXPERIMENTAL_FLAGS": None,
    "ENABLE_MME_CD_CONCURRENCY": "true",
    "ENABLE_MME_CD_CONCURRENCY_REDUCTION_BF16_FP16": "true",
    "PROPAGATE_CASTS": "true",
    "DETERMINISTIC_MODE": "2",
}
_FLAGS = ("PT_HPU_LAZY_MODE", "PT_ENABLE_INT64_SUPPORT", *_DEFAULTS)


def environment(mode: str, setting: Setting, *, flavour: str | None) -> dict[str, str]:
    """Return what a mode and setting exports; `flavour` is the one that was asked for, if any."""
    lazy = mode in LAZY_MODES
    # Always said: the default was 1 up to release 1.19 and is 0 in 1.23 and 1.24 (DEVICES.md 3.3).
    variables = {"PT_HPU_LAZY_MODE": "1" if lazy else "0"}
    if mode == "compile":
        # In both settings: nothing else tells that a node left the compiled graph (DEVICES.md 3.3).
        variables["PT_HPU_USE_EAGER_FALLBACK"] = "0"
    if setting is Setting.STRICT:
        variables.update(_STRICT)
        if not lazy:
            variables["PT_ENABLE_INT64_SUPPORT"] = "1"
        if flavour in (None, "gaudi2"):
            variables.update(_IEEE)
    return variables


def release_of(plugin: str | None) -> tuple[int, int] | None:
    """Return (1, 19) for a plugin's version `1.19.0.561`, None when it cannot be read."""
    match = re.match(r"(\d+)\.(\d+)", plugin or "")
    return (int(match[1]), int(match[2])) if match else None


def standing(
    variables: Mapping[str, str], *, mode: str, flavour: str, release: tuple[int, int] | None
) -> dict[str, str]:
    """Return every flag as the environment has it, its default in brackets where it is unset.

    A default that a later release may have changed is said to be unknown, with the last known one.
    """
    return {
        name: variables.get(name, f"unset [{_bracket(name, mode=mode, flavour=flavour, release=release)}]")
        for name in _FLAGS
    }


def value_of(
    name: str,
    variables: Mapping[str, str],
    *,
    mode: str,
    flavour: str,
    release: tuple[int, int] | None,
) -> str | None:
    """Return what a flag amounts to: its variable, else its default where the release's is known."""
    if name in variables:
        return variables[name]
    known = release is not None and release <= _PUBLISHED
    return _default(name, mode=mode, flavour=flavour) if known else None


def is_on(value: str) -> bool:
    """Whether a flag's text switches it on."""
    return value.strip().lower() in ("1", "true")


def _bracket(name: str, *, mode: str, flavour: str, release: tuple[int, int] | None) -> str:
    default = _default(name, mode=mode, flavour=flavour)
    if default is None or release is None:
        return UNKNOWN
    return default if release <= _PUBLISHED else f"{UNKNOWN}; {default} in 1.19"


def _default(name: str, *, mode: str, flavour: str) -> str | None:
    if name == "PT_HPU_LAZY_MODE":
        return "1"
    if name == "PT_ENABLE_INT64_SUPPORT":
        # DEVICES.md 3.3: false in lazy mode and on the first Gaudi, else true.
        return "false" if mode in LAZY_MODES or flavour == "gaudi" else "true"
    if name == "PT_HPU_WEIGHT_SHARING" and mode in LAZY_MODES:
        return "1"
    return _DEFAULTS[name]
