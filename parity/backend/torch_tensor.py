"""Carry tensors between the host type and torch, bit for bit and with their layout.

Everything is moved as integers, so that no NaN payload passes through a float register. Does
not convert values.
"""

from __future__ import annotations

import numpy as np
import torch

from parity.backend.base import Unsupported
from parity.case.dtype import DTYPES, DType
from parity.case.tensor import HostTensor

__all__ = ["dtype_of", "lent", "name_of", "to_host", "to_torch", "torch_dtype"]

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_TORCH: dict[str, torch.dtype] = {
    name: getattr(torch, d.tag) for name, d in DTYPES.items() if hasattr(torch, d.tag)
}
_NAMES = {torch_type: name for name, torch_type in _TORCH.items()}


def torch_dtype(of: DType) -> torch.dtype:
    """Return torch's own type. Raises Unsupported for a format that torch does not have."""
    if of.name not in _TORCH:
        raise Unsupported(f"torch {torch.__version__} has no dtype for {of.tag}")
    return _TORCH[of.name]


def dtype_of(of: torch.dtype) -> DType:
    """Return our type for one of torch's. Raises Unsupported for one that we do not have."""
    if of not in _NAMES:
        raise Unsupported(f"{of} is not one of parity's dtypes ({', '.join(DTYPES)})")
    return DTYPES[_NAMES[of]]


def name_of(of: torch.dtype) -> str:
    """Return our name for one of torch's types, `?` for one that we do not have."""
    return _NAMES.get(of, "?")


def to_torch(tensor: HostTensor, device: torch.device) -> torch.Tensor:
    """Copy the whole storage to `device`, then take the same view of it."""
    base = torch.empty(tensor.storage.size, dtype=_BITS[tensor.dtype.itemsize])
    bits = base.numpy()
    bits[:] = tensor.storage.view(bits.dtype)
    elements = base.to(device).view(torch_dtype(tensor.dtype))
    return elements.as_strided(tensor.shape, tensor.stride, tensor.offset)


def lent(tensor: torch.Tensor) -> HostTensor:
    """Return the elements of a contiguous host tensor in its own memory, which nobody may write then."""
    ours = dtype_of(tensor.dtype)
    bits = tensor.detach().view(_BITS[ours.itemsize]).numpy()
    return HostTensor.of(bits.view(ours.storage), ours)


def to_host(tensor: torch.Tensor) -> HostTensor:
    """Copy the elements back, row-major."""
    ours = dtype_of(tensor.dtype)
    bits = tensor.detach().view(_BITS[ours.itemsize]).contiguous().cpu().numpy()
    return HostTensor.of(np.array(bits).view(ours.storage), ours)
