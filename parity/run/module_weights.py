"""The parameters and buffers of a module by the names under which its recording refers to them.

A view of a weight is named by the weight and its sizes, strides and offset in it: `experts.w[4x8 by 8x1 at
32]`. Does not load or make a module.
"""

from __future__ import annotations

import re

import torch
from torch import nn

from parity.backend.torch_call import real_view
from parity.backend.torch_tensor import dtype_of, to_host, torch_dtype
from parity.case.tensor import HostTensor
from parity.run.subject import FindWeight
from parity.store.recording import TensorRef

__all__ = ["weights_in"]

_VIEW = re.compile(r"(.+)\[([0-9x]+|scalar) by ([0-9x]+|-) at (\d+)\]")


def weights_in(model: nn.Module) -> FindWeight:
    """Return what finds a weight of `model`, or a view of one, in host memory; None for another name."""
    held: dict[str, torch.Tensor] = {
        **dict(model.named_buffers(remove_duplicate=False)),
        **dict(model.named_parameters(remove_duplicate=False)),
    }

    def find(ref: TensorRef) -> HostTensor | None:
        if ref.name in held:
            return to_host(real_view(held[ref.name].detach()))
        viewed = _VIEW.fullmatch(ref.name)
        weight = held.get(viewed[1]) if viewed else None
        if viewed is None or weight is None:
            return None
        shape, stride = (_numbers(text) for text in (viewed[2], viewed[3]))
        offset = int(viewed[4]) + weight.storage_offset()
        dtype = weight.dtype if weight.is_complex() else torch_dtype(ref.dtype)
        storage = weight.untyped_storage()
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) + 1
        if len(shape) != len(stride) or last * dtype.itemsize > storage.nbytes():
            return None  # of another model than this one
        view = torch.empty(0, dtype=dtype).set_(storage, offset, shape, stride)
        found = to_host(real_view(view))
        return found if found.dtype == dtype_of(real_view(view).dtype) else None

    return find


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x"))) if text[0].isdigit() else ()
