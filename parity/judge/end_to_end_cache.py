"""Compare what two runs left in their key-value caches, layer by layer and head by head.

Read from the recorded `store` steps: the rows that each step wrote and read back. Information, never a
verdict: every store is judged alone as the exact copy that it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from parity.case.tensor import HostTensor
from parity.judge.oracle import to_float64
from parity.store.recording import Recording

__all__ = ["CacheApart", "Caches", "compare_caches"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheApart:
    """One `store` step on both sides: per head the distance relative to the reference's l2, and the largest.

    `mismatched` rows' elements are not finite on one side alone, or another infinity or NaN; they count in
    neither distance. A latent cache has one head. `worst` is the head of the largest relative distance.
    """

    step: str
    relative_l2: tuple[float, ...]
    largest: tuple[float, ...]
    mismatched: int

    @property
    def worst(self) -> int:
        """The head that lies farthest apart."""
        return max(range(len(self.relative_l2)), key=self.relative_l2.__getitem__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caches:
    """Stores that both runs have, in the reference's order; `unmatched` says of each other one why not."""

    layers: tuple[CacheApart, ...]
    unmatched: tuple[str, ...] = ()


def compare_caches(reference: Recording, target: Recording) -> Caches:
    """Compare the rows [T, G, D], or [T, latent], that every `store` step of two recordings kept."""
    before, after = _stored(reference), _stored(target)
    layers, unmatched = [], [f"'{name}' only on the target" for name in after if name not in before]
    for name, rows in before.items():
        other = after.get(name)
        if name not in after:
            unmatched.append(f"'{name}' only on the reference")
        elif rows is None or other is None:
            side = "reference" if rows is None else "target"
            unmatched.append(f"'{name}' without its rows on the {side}")
        elif rows.shape != other.shape or not rows.numel:
            unmatched.append(f"'{name}' of {list(rows.shape)} and {list(other.shape)}")
        else:
            layers.append(_apart(name, _by_head(rows), _by_head(other)))
    return Caches(layers=tuple(layers), unmatched=tuple(unmatched))


def _stored(recording: Recording) -> dict[str, HostTensor | None]:
    return {
        step.name: recording.tensors.get(step.outputs[0].digest) if step.outputs else None
        for step in recording.steps
        if step.op == "copy" and step.name.rpartition(".")[2].startswith("store_")
    }


def _by_head(rows: HostTensor) -> Tensor:
    """Return rows as [heads, the rest]."""
    values = to_float64(rows)
    values = values if values.dim() == 3 else values.unsqueeze(1)
    return values.transpose(0, 1).flatten(1)


def _apart(name: str, wanted: Tensor, got: Tensor) -> CacheApart:
    both = wanted.isfinite() & got.isfinite()
    same = both | (wanted == got) | (wanted.isnan() & got.isnan())
    error = torch.where(both, got - wanted, 0.0)
    size = torch.where(both, wanted, 0.0).square().sum(-1).sqrt()
    distance = error.square().sum(-1).sqrt()
    relative = torch.where(distance == 0, 0.0, distance / size)
    return CacheApart(
        step=name,
        relative_l2=tuple(relative.tolist()),
        largest=tuple(error.abs().amax(-1).tolist()),
        mismatched=int((~same).sum()),
    )
