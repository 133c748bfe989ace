"""Matrices kept as their checkpoint has them: 8-bit codes with scales, made dense for each product.

A product computes with exactly what a dequantised checkpoint would hold, at half its memory or
less. Reads no files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from parity.errors import UsageError

__all__ = ["Codes", "Matrix", "Scaled", "dense"]


@dataclass(frozen=True, slots=True)
class Codes:
    """fp8 codes [rows, columns] and their scale: one number, one a row or column, or one a block.

    `block` is the declared size of blocks; it does not follow from the number of scales: 576 rows
    in blocks of 128 have 5, as they would in blocks of 120. Raises UsageError where it is needed and
    not known.
    """

    name: str
    codes: Tensor
    scale: Tensor
    block: tuple[int, int] | None

    def __post_init__(self) -> None:
        if self.scale.numel() != 1:
            self._blocks()

    def _blocks(self) -> list[int]:
        if self.scale.ndim != self.codes.ndim:
            shapes = f"{list(self.scale.shape)} for {list(self.codes.shape)}"
            raise UsageError(f"tensor '{self.name}': scale of shape {shapes}")
        found = []
        for axis, (size, count) in enumerate(zip(self.codes.shape, self.scale.shape, strict=True)):
            declared = self.block[axis] if self.block else None
            block = -(-size // count) if count in (1, size) else declared
            if block is None or -(-size // block) != count:
                raise UsageError(
                    f"tensor '{self.name}': {count} scales for {size} along dimension {axis}, but blocks of "
                    f"{block}: config.json must name 'quantization_config.weight_block_size'"
                )
            found.append(block)
        return found

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Return codes times scale, computed in float32 and rounded once to `dtype`."""
        scale = self.scale.float()
        if scale.numel() == 1:
            return (self.codes.float() * scale.reshape(())).to(dtype)
        for axis, block in enumerate(self._blocks()):
            scale = scale.repeat_interleave(block, axis).narrow(axis, 0, self.codes.shape[axis])
        return (self.codes.float() * scale).to(dtype)


@dataclass(frozen=True, slots=True)
class Scaled:
    """A matrix [out, in] whose parts lie below each other."""

    parts: tuple[Codes, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the whole."""
        return sum(p.codes.shape[0] for p in self.parts), self.parts[0].codes.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return sum(p.codes.nbytes + p.scale.nbytes for p in self.parts)

    def numel(self) -> int:
        """Number of elements."""
        rows, columns = self.shape
        return rows * columns

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix that a product is computed with."""
        return torch.cat([part.dense(dtype) for part in self.parts])


Matrix = Tensor | Scaled


def dense(matrix: Matrix, dtype: torch.dtype) -> Tensor:
    """Return a matrix as a tensor, itself where it is one."""
    return matrix if isinstance(matrix, Tensor) else matrix.dense(dtype)
