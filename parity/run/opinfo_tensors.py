"""Tensors of torch's own samples: on the host, on the device in the layout that they have, and by name.

Does not run anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from parity.backend.base import Backend
from parity.backend.torch_call import real_view
from parity.backend.torch_tensor import to_host
from parity.case.tensor import HostTensor
from parity.store.recording import TensorRef

__all__ = ["fetched", "host_of", "is_part", "moved", "ref_of"]


def host_of(tensor: Tensor) -> HostTensor:
    """Return a sample's tensor in host memory; a complex one as pairs."""
    return to_host(real_view(tensor.detach().resolve_neg()))


def is_part(tensor: Tensor) -> bool:
    """Whether a tensor sees only a part of its memory, or some of it twice."""
    return tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()


def fetched(backend: Backend, tensor: Tensor) -> HostTensor:
    """Return a tensor of the device in host memory, row-major."""
    return backend.get(real_view(tensor.detach().resolve_neg())).contiguous()


def moved(tensor: Tensor, backend: Backend) -> Tensor:
    """Return a tensor on the device with the strides that it has."""
    flat = real_view(tensor.detach().resolve_neg())
    last = sum((n - 1) * s for n, s in zip(flat.shape, flat.stride(), strict=True)) + 1 if flat.numel() else 0
    storage = to_host(flat.as_strided((last,), (1,), flat.storage_offset()))
    host = HostTensor(
        dtype=storage.dtype, storage=storage.storage, shape=tuple(flat.shape), stride=tuple(flat.stride())
    )
    placed: Tensor = backend.put(host)
    return torch.view_as_complex(placed) if tensor.is_complex() else placed


def ref_of(name: str, host: HostTensor, *, role: str, like: Tensor | None = None) -> TensorRef:
    """Return how a step names a tensor; with the strides of `like`, where the step saw others."""
    return TensorRef(
        name=name,
        role=role,
        dtype=host.dtype,
        shape=host.shape,
        stride=host.stride if like is None else tuple(like.stride()),
        offset=0,
        digest=host.digest(),
    )
