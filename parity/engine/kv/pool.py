"""Where keys and values lie: one tensor a layer and kind, a row a slot. Does not know who owns a slot."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from parity.engine.model.arch import Arch, Attention

__all__ = ["LayerPool", "Pool", "slot_bytes"]


@dataclass(frozen=True, slots=True)
class LayerPool:
    """keys [slots, G, D] and values [slots, G, E]; for latent attention keys [slots, latent + rope] alone."""

    keys: torch.Tensor
    values: torch.Tensor | None


class Pool:
    """The pools of all layers. Unwritten slots hold NaN, so that reading one is seen in the result."""

    def __init__(self, arch: Arch, slots: int, *, dtype: torch.dtype, device: torch.device) -> None:
        def room(shape: tuple[int, ...]) -> torch.Tensor:
            return torch.full((slots, *shape), float("nan"), dtype=dtype, device=device)

        self.layers = []
        for layer in arch.layers:
            keys, values = _shapes(layer.attention)
            self.layers.append(LayerPool(room(keys), room(values) if values else None))


def _shapes(a: Attention) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    if a.mla is not None:
        return (a.mla.latent + a.mla.rope,), None
    return (a.kv_heads, a.key_dim), (a.kv_heads, a.value_dim)


def slot_bytes(arch: Arch, dtype: torch.dtype) -> int:
    """Return what one token's keys and values take in all layers."""
    elements = 0
    for layer in arch.layers:
        for shape in _shapes(layer.attention):
            if shape:
                size = 1
                for n in shape:
                    size *= n
                elements += size
    return elements * dtype.itemsize
