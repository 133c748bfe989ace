"""Conversions to and from 8-bit floats whose codes mean something else on the chip.

Torch's `float8_e4m3fn` is only the name under which the chip keeps its own format. Uses the
project's own codec, so nothing here depends on torch's casts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from parity.case.dtype import DTYPES, Overflow, decode, encode

__all__ = ["decoded", "encoded"]


def decoded(x: Tensor, flavour: str) -> Tensor:
    """Return what the codes of a `float8_e4m3fn` tensor are on the chip, in float32, which holds each."""
    codes = x.contiguous().view(torch.uint8).numpy()
    return torch.from_numpy(decode(codes, DTYPES[flavour])).float()


def encoded(x: Tensor, flavour: str, overflow: str) -> Tensor:
    """Return a tensor in the chip's format, under the name of torch's, rounded once."""
    beyond = Overflow.SATURATE if overflow == "saturate" else Overflow.NATIVE
    codes = encode(x.double().numpy(), DTYPES[flavour], overflow=beyond)
    return torch.from_numpy(codes).view(torch.float8_e4m3fn)
