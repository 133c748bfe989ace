"""Which element types a torch device really keeps: asked by value, since many convert silently.

A device that holds float64 as float32 raises nothing. Says nothing of ops.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

from parity.backend.torch_eager import inability
from parity.backend.torch_tensor import to_host, to_torch
from parity.case.dtype import DTYPES, DType, decode, encode
from parity.case.tensor import HostTensor

__all__ = ["dtypes"]

_Put = Callable[[HostTensor], torch.Tensor]
_Get = Callable[[torch.Tensor], HostTensor]


def dtypes(device: torch.device, *, put: _Put | None = None, get: _Get = to_host) -> dict[str, str]:
    """Return per dtype `native`, `changed: …`, or the device's own words where it refuses.

    Values need all bits of the type: the largest finite one, and the one just above 1. `put` and
    `get` are how the backend moves tensors, where it has a way of its own.
    """
    move = put or functools.partial(to_torch, device=device)
    return {name: _kept(DTYPES[name], move, get) for name in DTYPES}


def _kept(kind: DType, put: _Put, get: _Get) -> str:
    tensor = _witness(kind)
    try:
        handle = put(tensor)
        # A copy that the device makes itself: put and get alone may only hand bits through.
        back = get(handle.clone())
    except Exception as error:  # noqa: BLE001  # whatever it raises is the answer
        words = inability(error) or str(error).partition("\n")[0]
        return f"unsupported: {words or type(error).__name__}"
    if back.dtype != kind:
        return f"changed: comes back as {back.dtype}"
    return (
        "native" if back.digest() == tensor.digest() else f"changed: {_shown(tensor)} became {_shown(back)}"
    )


def _witness(kind: DType) -> HostTensor:
    if kind.is_float:
        one = int(encode(np.array([1.0]), kind)[0])
        codes = np.array([one + 1, kind.max_code], dtype=np.uint64)
        return HostTensor.of(codes.astype(f"u{kind.itemsize}").view(kind.storage), kind)
    if kind.name == "bool":
        return HostTensor.of(np.array([True, False]), kind)
    limits = np.iinfo(kind.storage)
    return HostTensor.of(np.array([limits.max - 1, limits.max], dtype=kind.storage), kind)


def _shown(tensor: HostTensor) -> str:
    flat = tensor.array()
    values = decode(flat.view(f"u{tensor.dtype.itemsize}"), tensor.dtype) if tensor.dtype.is_float else flat
    return ", ".join(repr(value) for value in values.tolist())
