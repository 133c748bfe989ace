"""A tensor in host memory with its exact dtype and layout, in no framework's type.

The currency between stages: generators make it, backends take and return it, golden files hold
it, the judge reads it. Does not compute.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from parity.case.dtype import DType

__all__ = ["HostTensor", "contiguous_stride"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HostTensor:
    """`storage` is flat, of `dtype.storage`; `shape`, `stride` and `offset` count elements.

    Raises ValueError when the view would leave the storage.
    """

    dtype: DType
    storage: npt.NDArray[np.generic]
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    def __post_init__(self) -> None:
        if self.storage.ndim != 1 or self.storage.dtype != self.dtype.storage:
            raise ValueError(
                f"storage must be flat {self.dtype.storage}, got {self.storage.ndim}-d {self.storage.dtype}"
            )
        if len(self.shape) != len(self.stride):
            raise ValueError(f"shape {self.shape} and stride {self.stride} differ in length")
        if self.offset < 0 or any(n < 0 for n in (*self.shape, *self.stride)):
            raise ValueError(f"negative shape, stride or offset: {self.shape}, {self.stride}, {self.offset}")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if self.numel and last >= self.storage.size:
            raise ValueError(f"view reaches element {last} of a storage of {self.storage.size} elements")

    @classmethod
    def of(cls, array: npt.NDArray[np.generic], dtype: DType) -> HostTensor:
        """Wrap a numpy array of `dtype.storage` as a contiguous tensor (copied only if it is not)."""
        flat = np.ascontiguousarray(array).reshape(-1)
        return cls(dtype=dtype, storage=flat, shape=array.shape, stride=contiguous_stride(array.shape))

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without gaps of the layout."""
        return self.numel * self.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether the storage holds exactly these elements in row-major order."""
        return (
            self.offset == 0
            and self.storage.size == self.numel
            and (self.numel == 0 or self.stride == contiguous_stride(self.shape))
        )

    def array(self) -> npt.NDArray[np.generic]:
        """Return the strided numpy view, read-only, of `dtype.storage`."""
        strides = tuple(s * self.dtype.itemsize for s in self.stride)
        start = self.storage[self.offset :] if self.numel else self.storage
        return np.lib.stride_tricks.as_strided(start, self.shape, strides, writeable=False)

    def contiguous(self) -> HostTensor:
        """Return a row-major tensor of the same elements; itself when it already is one."""
        return self if self.is_contiguous else HostTensor.of(self.array(), self.dtype)

    def digest(self) -> str:
        """Return `sha256:…` over dtype tag, shape and row-major little-endian elements.

        The layout does not count: two layouts of the same values have one digest.
        """
        sha = hashlib.sha256(f"{self.dtype.tag}{list(self.shape)}".encode())
        flat = self.contiguous().storage
        sha.update(flat.astype(flat.dtype.newbyteorder("<"), copy=False).view(np.uint8).data)
        return f"sha256:{sha.hexdigest()}"


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the row-major strides of `shape`, in elements."""
    stride: list[int] = []
    step = 1
    for n in reversed(shape):
        stride.append(step)
        step *= max(n, 1)
    return tuple(reversed(stride))
