"""The weights of a checkpoint: checked against the architecture first, then read tensor by tensor.

A missing, misshapen or unexpected tensor, an absent or truncated shard is one error that names
file and tensor, before anything is loaded. Peak memory is the final weights and the largest
tensor. fp8 checkpoints are dequantised, per tensor or by blocks, or kept as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from parity.engine.model.arch import Arch
from parity.engine.model.names import Part, Weight, ignorable, weights
from parity.engine.model.scaled import Codes, Scaled, dense
from parity.errors import UsageError

__all__ = ["Checkpoint", "Weights", "digest_of", "load", "read_experts", "read_weight", "weight_dtype"]

Weights = dict[str, "torch.Tensor | Scaled | tuple[Scaled, ...]"]

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
# What a quantised tensor's scale is called: DeepSeek's blocks, and one for the whole tensor.
_SCALES = ("_scale_inv", "_scale")
_UNUSED_SUFFIXES = (*_SCALES, ".input_scale", ".k_scale", ".v_scale", "_scale_2")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor in a shard."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


class Checkpoint:
    """The safetensors files of a folder. Opening reads headers alone.

    `block` is the size of the blocks of a quantised tensor that share a scale.
    Raises UsageError naming the file for a shard that is absent, cut short or of another format.
    """

    def __init__(self, folder: Path, *, block: tuple[int, int] | None = None) -> None:
        self.folder = folder
        self.block = block
        self.tensors: dict[str, _Entry] = {}
        for file, names in self._shards().items():
            self._read_header(file, names)
        self.prefix = self._prefix()

    def _shards(self) -> dict[Path, set[str] | None]:
        index = self.folder / _INDEX
        if not index.is_file():
            return {self.folder / _SINGLE: None}
        try:
            mapping = json.loads(index.read_text())["weight_map"]
            names = {str(name): str(shard) for name, shard in mapping.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{index}: has no usable 'weight_map': {error}. Download it again") from None
        found: dict[Path, set[str] | None] = {}
        for name, shard in names.items():
            found.setdefault(self.folder / shard, set()).add(name)  # type: ignore[union-attr] # never None here
        return found

    def _read_header(self, file: Path, expected: set[str] | None) -> None:
        if not file.is_file():
            raise UsageError(f"{file}: is not there. Download the checkpoint again, all of its files")
        try:
            handle: Any = safe_open(str(file), framework="pt")
        except (SafetensorError, OSError) as error:
            raise UsageError(
                f"{file}: cannot be read, it may be cut short: {error}. Download it again"
            ) from None
        present = set(handle.keys())
        absent = sorted((expected or set()) - present)
        if absent:
            raise UsageError(f"{file}: lacks '{absent[0]}', which {_INDEX} says is in it. Download it again")
        for name in present:
            if name in self.tensors:
                raise UsageError(f"{file}: tensor '{name}' is in {self.tensors[name].file.name} too")
            part = handle.get_slice(name)
            self.tensors[name] = _Entry(file, tuple(part.get_shape()), str(part.get_dtype()))

    def _prefix(self) -> str:
        embedding = "embed_tokens.weight"
        # A layer for multi-token prediction brings an embedding of its own.
        found = [n for n in self.tensors if n.endswith(embedding) and "layers" not in n.split(".")]
        if len(found) != 1:
            raise UsageError(f"{self.folder}: has {len(found)} tensors named '…{embedding}', expected one")
        return found[0].removesuffix(embedding)

    def name_of(self, name: str) -> str:
        """Return a part's name in the files: layers lie below a prefix, the head does not."""
        return name if name.startswith("lm_head.") else self.prefix + name

    def check(self, arch: Arch) -> None:
        """Raise UsageError unless the files hold each weight in its shape, and nothing unknown."""
        needed: set[str] = set()
        for weight in weights(arch):
            for part in (part for inner in weight.parts for part in inner):
                name = self.name_of(part.name)
                needed.add(name)
                entry = self.tensors.get(name)
                if entry is None:
                    raise UsageError(f"{self.folder}: tensor '{name}' is missing, which {weight.name} needs")
                if entry.shape != part.shape:
                    raise UsageError(
                        f"{entry.file}: tensor '{name}' has shape {list(entry.shape)}, but config.json "
                        f"makes it {list(part.shape)}"
                    )
        scales = {name + suffix for name in needed for suffix in _UNUSED_SUFFIXES}
        scales |= {name.removesuffix(".weight") + s for name in needed for s in _UNUSED_SUFFIXES}
        for name in sorted(self.tensors.keys() - needed - scales):
            if not ignorable(name, self.prefix, arch):
                file = self.tensors[name].file
                raise UsageError(f"{file}: tensor '{name}' belongs to nothing that config.json describes")

    def part(self, part: Part, dtype: torch.dtype) -> torch.Tensor:
        """Return one tensor in `dtype`, dequantised where it has a scale."""
        codes = self.codes(part)
        if codes is not None:
            return codes.dense(dtype)
        name = self.name_of(part.name)
        raw = self._tensor(name)
        if raw.element_size() == 1:
            raise UsageError(
                f"{self.tensors[name].file}: tensor '{name}' is {raw.dtype} without a scale beside it"
            )
        return raw.to(dtype)

    def codes(self, part: Part) -> Codes | None:
        """Return one tensor as it is stored, None where it has no scale and so is no code."""
        name = self.name_of(part.name)
        scale = next((name + suffix for suffix in _SCALES if name + suffix in self.tensors), None)
        if scale is None:
            return None
        return Codes(name, self._tensor(name), self._tensor(scale), self.block)

    def can_keep(self, weight: Weight) -> bool:
        """Whether a weight enters nothing but products, and every part of it is codes with a scale."""
        if not weight.is_matrix or weight.name == "embed" or weight.name.endswith("router"):
            return False
        names = [self.name_of(part.name) for inner in weight.parts for part in inner]
        return all(any(name + suffix in self.tensors for suffix in _SCALES) for name in names)

    def nbytes(self, arch: Arch, dtype: torch.dtype, *, keep: bool) -> int:
        """Return the bytes of all weights once loaded; scales, at most 1 in 128 codes, not counted."""
        sizes = {w: prod(w.shape) for w in weights(arch)}
        return sum(n if keep and self.can_keep(w) else n * dtype.itemsize for w, n in sizes.items())

    def _tensor(self, name: str) -> torch.Tensor:
        # Opened for each tensor: a mapping that stays open keeps every page that was read resident.
        with safe_open(str(self.tensors[name].file), framework="pt") as handle:
            tensor: torch.Tensor = handle.get_tensor(name)
        return tensor


def load(
    checkpoint: Checkpoint, arch: Arch, *, dtype: torch.dtype, device: torch.device, keep: bool = False
) -> Weights:
    """Return every weight by name; with `keep`, what is stored as codes stays so.

    Raises UsageError before anything is read for one that is not right.
    """
    checkpoint.check(arch)
    found: Weights = {}
    for weight in weights(arch):
        kept = keep and checkpoint.can_keep(weight)
        found[weight.name] = (
            _kept(checkpoint, weight, device)
            if kept
            else read_weight(checkpoint, weight, dtype=dtype, device=device)
        )
    return found


def _kept(checkpoint: Checkpoint, weight: Weight, device: torch.device) -> Scaled | tuple[Scaled, ...]:
    def one(inner: tuple[Part, ...]) -> Scaled:
        parts = [checkpoint.codes(part) for part in inner]
        return Scaled(
            tuple(
                replace(part, codes=part.codes.to(device), scale=part.scale.to(device))
                for part in parts
                if part is not None
            )
        )

    made = tuple(map(one, weight.parts))
    return made if weight.stacked else made[0]


def read_weight(
    checkpoint: Checkpoint, weight: Weight, *, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return one weight, joined, stacked and dequantised; of a checkpoint that was checked."""
    dtype = weight_dtype(weight, dtype)
    made = torch.empty(weight.shape, dtype=dtype, device=device)
    places = made if weight.stacked else made[None]
    for place, inner in zip(places, weight.parts, strict=True):
        row = 0
        for part in inner:
            place[row : row + part.shape[0]] = checkpoint.part(part, dtype)
            row += part.shape[0]
    return made


def weight_dtype(weight: Weight, dtype: torch.dtype) -> torch.dtype:
    """Return the type of a weight in a network that computes in `dtype`."""
    # What breaks ties of scores stays as it was trained.
    return torch.promote_types(dtype, torch.float32) if weight.name.endswith("router.bias") else dtype


def read_experts(
    checkpoint: Checkpoint,
    weight: Weight,
    experts: Sequence[int],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Return some matrices of a stacked weight, in the order given; the others are not read."""
    return read_weight(
        checkpoint,
        replace(weight, parts=tuple(weight.parts[expert] for expert in experts)),
        dtype=dtype,
        device=device,
    )


def digest_of(tensors: Weights, dtype: torch.dtype) -> str:
    """Return `sha256:…` over names, shapes, types and values, whatever device holds them.

    What is kept as codes counts as what it is computed with, so that both ways of loading agree.
    """
    sha = hashlib.sha256()
    for name in sorted(tensors):
        described = ""
        for stack, tensor in _dense(tensors[name], dtype):
            for chunk in _bytes(tensor):
                sha.update(chunk)
            described = f"{name}{[*stack, *tensor.shape]}{tensor.dtype}"
        sha.update(described.encode())
    return f"sha256:{sha.hexdigest()}"


def _dense(
    weight: torch.Tensor | Scaled | tuple[Scaled, ...], dtype: torch.dtype
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield the matrices of a weight one after another, and how many of them a stack has."""
    if isinstance(weight, tuple):
        yield from (([len(weight)], each.dense(dtype)) for each in weight)
    else:
        yield [], dense(weight, dtype)


def _bytes(tensor: torch.Tensor) -> Iterator[memoryview]:
    rows = tensor if tensor.ndim > 1 else tensor[None]
    for row in rows:  # a piece at a time: a copy of everything could be what no longer fits
        yield row.detach().contiguous().cpu().view(torch.uint8).numpy().data
