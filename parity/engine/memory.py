"""What a model will need before it is loaded, and which part of it does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from parity.engine.kv.pool import slot_bytes
from parity.engine.model.arch import Arch
from parity.engine.model.names import weights
from parity.errors import UsageError

__all__ = ["Estimate", "estimate", "require"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes: final weights, the KV pool, the largest activations of a step, and what loading adds."""

    weights: int
    kv: int
    activations: int
    loading: int

    @property
    def total(self) -> int:
        """The most that is needed at one time."""
        return self.weights + self.kv + max(self.activations, self.loading)

    def __str__(self) -> str:
        return (
            f"{_gib(self.weights)} of weights, {_gib(self.kv)} of keys and values, "
            f"{_gib(self.activations)} of activations, {_gib(self.loading)} while loading"
        )


def estimate(arch: Arch, *, dtype: torch.dtype, slots: int, budget: int) -> Estimate:
    """Return what a network needs with `slots` cached tokens and steps of `budget` tokens.

    Activations: a layer's widest intermediate beside its input and output, the attention scores of a
    full step, and the scores of the vocabulary in float32.
    """
    sizes = [prod(w.shape) for w in weights(arch)]
    largest = max(prod(part.shape) for w in weights(arch) for inner in w.parts for part in inner)
    widest = max(2 * layer.feed_forward.width for layer in arch.layers)
    heads = max(layer.attention.heads for layer in arch.layers)
    rows = budget * (3 * arch.hidden + widest) * dtype.itemsize
    scores = heads * budget * min(slots, arch.max_positions) * max(4, dtype.itemsize)
    return Estimate(
        weights=sum(sizes) * dtype.itemsize,
        kv=slots * slot_bytes(arch, dtype),
        activations=rows + scores + budget * arch.vocab * 4,
        loading=2 * largest * max(4, dtype.itemsize),
    )


def require(needed: Estimate, *, device: torch.device) -> None:
    """Raise UsageError naming what will not fit in the memory that is free now, where that is known."""
    free = _free(device)
    if free is None or needed.total <= free:
        return
    part = "the weights alone" if needed.weights > free else "weights and cache together"
    raise UsageError(
        f"{device} has {_gib(free)} free, but this needs {_gib(needed.total)}: {needed}; {part} do not fit. "
        "Take a smaller model, a narrower dtype or fewer kv_tokens"
    )


def _free(device: torch.device) -> int | None:
    if device.type == "cpu":
        try:
            lines = Path("/proc/meminfo").read_text().splitlines()
        except OSError:  # not Linux
            return None
        found = next((line for line in lines if line.startswith("MemAvailable:")), None)
        return int(found.split()[1]) * 1024 if found else None
    module = getattr(torch, device.type, None)
    query = getattr(module, "mem_get_info", None)
    try:
        return int(query()[0]) if query else None
    except Exception:  # noqa: BLE001  # a vendor's query that fails says nothing of what fits
        return None


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
