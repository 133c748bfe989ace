"""The small files of a checkpoint folder: its configuration, its type, what ends an output.

Each that is absent or damaged is one error naming it. Does not read weights or text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from parity.errors import UsageError, near_miss

__all__ = ["block_size", "config_of", "dtype_named", "end_tokens", "own_dtype"]

_SHORT = {"f64": "float64", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}
_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, long) for short, long in _SHORT.items() for name in (short, long)
}


def config_of(folder: Path) -> dict[str, Any]:
    """Return `config.json`."""
    file = folder / "config.json"
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder. Name one that holds config.json and safetensors files")
    if not file.is_file():
        raise UsageError(f"{file}: is not there. Download the checkpoint again, all of its files")
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise UsageError(f"{file}: is not JSON: {error}. Download it again") from None
    if not isinstance(found, dict):
        raise UsageError(f"{file}: must be an object, got {type(found).__name__}")
    return found


def block_size(config: dict[str, Any]) -> tuple[int, int] | None:
    """Return the rows and columns of a quantised block that share a scale."""
    found = (config.get("quantization_config") or {}).get("weight_block_size")
    if found is None:
        return None
    if not (isinstance(found, list) and len(found) == 2 and all(type(n) is int and n > 0 for n in found)):
        raise UsageError(f"config.json: 'weight_block_size' must be two positive integers, got {found!r}")
    return found[0], found[1]


def own_dtype(config: dict[str, Any]) -> str:
    """Return the type that a checkpoint was saved in."""
    places = (config, config.get("text_config") or {})
    found = (place.get(key) for place in places for key in ("dtype", "torch_dtype"))
    named = next((name for name in found if name), None)
    return str(named or "float32").removeprefix("torch.")


def dtype_named(name: str | torch.dtype) -> torch.dtype:
    """Return the type of a name. Raises UsageError for one that nothing is computed in."""
    name = str(name).removeprefix("torch.")
    found = _DTYPES.get(name)
    if found is None:
        raise UsageError(
            f"dtype '{name}' is not known{near_miss(name, _DTYPES)}; known: {', '.join(_DTYPES)}"
        )
    return found


def end_tokens(folder: Path, config: dict[str, Any]) -> frozenset[int]:
    """Return the tokens that end an output."""
    file = folder / "generation_config.json"
    found: Any = None
    if file.is_file():
        try:
            found = json.loads(file.read_text()).get("eos_token_id")
        except (ValueError, AttributeError) as error:
            raise UsageError(f"{file}: is not a JSON object: {error}. Download it again") from None
    if found is None:
        found = config.get("eos_token_id")
    tokens = found if isinstance(found, list) else [] if found is None else [found]
    return frozenset(int(token) for token in tokens)
