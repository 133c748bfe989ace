"""Float64 values rounded to a narrower type, as hypotheses of less precision need it.

Does not say which types a device has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from parity.case.dtype import decode, encode
from parity.case.dtype import dtype as named

__all__ = ["BITS", "kept_bits", "nearest", "truncated"]

# Significand bits of what an accelerator reads operands in.
BITS = {"tf32": 11, "bf16": 8, "f16": 11}


def nearest(x: Tensor, to: str) -> Tensor:
    """Round float64 to a narrower type, to nearest even: a dtype's name, or `tf32`."""
    if to == "tf32":
        return kept_bits(x, 11)
    kind = named(to)
    return torch.from_numpy(decode(encode(x.contiguous().numpy(), kind), kind))


def kept_bits(x: Tensor, bits: int) -> Tensor:
    """Round float64 to `bits` significand bits, to nearest even, in any range."""
    spread = x * (2.0 ** (53 - bits) + 1)  # Veltkamp's splitting: two roundings do what frexp would
    return torch.where(spread.isfinite(), spread - (spread - x), x)


def truncated(x: Tensor, to: str) -> Tensor:
    """Drop what a type with fewer significand bits cannot hold; its range does not matter."""
    fraction, exponent = torch.frexp(x)
    return torch.ldexp(torch.trunc(torch.ldexp(fraction, torch.tensor(BITS[to]))), exponent - BITS[to])
