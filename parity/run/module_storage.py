# ruff: noqa: SLF001 - a storage's address and a tensor's count of writes have no other name
"""Which memory a tensor lies in, how often torch wrote to it, and whether a recording can hold it.

A device that is written in Python wraps its `elements`: their memory is the tensor's. Does not copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from parity.backend.torch_tensor import torch_dtype
from parity.case.dtype import DTYPES

__all__ = ["address", "elements", "is_plain", "only_views", "version"]

# Complex numbers are recorded as pairs of floats.
_DTYPES = {
    torch.complex64,
    torch.complex128,
    *(torch_dtype(d) for d in DTYPES.values() if hasattr(torch, d.tag)),
}
_ORDINARY = {Tensor, torch.nn.Parameter, *((torch.nn.Buffer,) if hasattr(torch.nn, "Buffer") else ())}


def elements(tensor: Tensor) -> Tensor:
    """Return the tensor that has the elements: the tensor itself, or the one that it wraps."""
    if type(tensor) in _ORDINARY:
        return tensor
    inner = getattr(tensor, "elements", None)
    return inner if isinstance(inner, Tensor) else tensor


def is_plain(tensor: Tensor) -> bool:
    """Whether a recording can hold a tensor: of a dtype that it has, in a storage of its own."""
    inner = elements(tensor)
    return (
        type(inner) in _ORDINARY
        and inner.layout is torch.strided
        and inner.dtype in _DTYPES
        and not torch._C._functorch.is_functorch_wrapped_tensor(inner)
    )


def address(tensor: Tensor) -> int:
    """Return the address by which a tensor's memory is known."""
    return int(elements(tensor).untyped_storage()._cdata)


def version(tensor: Tensor) -> int:
    """Return how often torch wrote to a tensor's memory; 0 of inference tensors, which have no count."""
    inner = elements(tensor)
    return 0 if inner.is_inference() else inner._version


def only_views(results: Sequence[Tensor], given: Sequence[Tensor]) -> bool:
    """Whether all results lie in the memory of what was given."""
    known = set(map(address, given))
    return all(address(tensor) in known for tensor in results)
