"""Round tensors to a format exactly: the primitives of every emulated sum.

Values are float64 tensors that hold numbers of narrower formats, or pairs whose unevaluated sum is
meant. Uses no conversion that rounds twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from parity.backend.profile import Rounding
from parity.case.dtype import DType

__all__ = ["bits_kept", "rounded", "stored", "two_sum"]

_MANTISSA_F32 = 23


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rounded sum of two float64 tensors and its error, which is exact (Knuth)."""
    total = a + b
    shadow = total - a
    error = (a - (total - shadow)) + (b - shadow)
    return total, torch.where(total.isfinite(), error, 0.0)


def rounded(high: Tensor, low: Tensor | None, to: DType, rounding: Rounding) -> Tensor:
    """Return `high + low` rounded once to a format, in float64. `high` is their float64 sum."""
    if to.bits == 64:
        return high if low is None or rounding is Rounding.NEAREST else _towards_zero(high, low)
    exact = high if low is None else _to_odd(high, low)
    _, exponent = torch.frexp(exact)
    lowest = (exponent.long() - 1).clamp(min=1 - to.bias) - to.mantissa_bits
    scaled = exact * _power(-lowest)
    whole = scaled.round() if rounding is Rounding.NEAREST else scaled.trunc()
    value = whole * _power(lowest)
    beyond = torch.inf if rounding is Rounding.NEAREST else to.max_finite
    value = torch.where(value.abs() > to.max_finite, torch.full_like(value, beyond).copysign(value), value)
    return torch.where(exact.isfinite(), value, exact)


def _power(exponent: Tensor) -> Tensor:
    # Split, so that neither factor leaves float64's normal range; of its own subnormals none arise.
    half = exponent.div(2, rounding_mode="floor")
    return _bits(half) * _bits(exponent - half)


def _bits(exponent: Tensor) -> Tensor:
    return (exponent.clamp(-1022, 1023) + 1023).bitwise_left_shift(52).view(torch.float64)


def _to_odd(high: Tensor, low: Tensor) -> Tensor:
    """Round `high + low` to odd, after which one rounding to a narrower format is exact."""
    bits = high.view(torch.int64)
    step = torch.where((low > 0) == (high > 0), 1, -1)
    moved = (bits + step).view(torch.float64)
    return torch.where((low != 0) & (bits % 2 == 0) & high.isfinite(), moved, high)


def _towards_zero(high: Tensor, low: Tensor) -> Tensor:
    closer = (high.view(torch.int64) - 1).view(torch.float64)
    return torch.where((low != 0) & ((low > 0) != (high > 0)) & (high != 0), closer, high)


def bits_kept(x: Tensor, mantissa_bits: int) -> Tensor:
    """Round float32 to fewer explicit mantissa bits, to nearest with ties to even; NaN stays."""
    drop = _MANTISSA_F32 - mantissa_bits
    bits = x.contiguous().view(torch.int32)
    odd = (bits >> drop) & 1
    kept = (bits + ((1 << (drop - 1)) - 1) + odd) & -(1 << drop)
    return torch.where(x.isnan(), x, kept.view(torch.float32))


def stored(value: Tensor, to: torch.dtype, of: DType) -> Tensor:
    """Return a float64 tensor rounded once, to nearest, to torch's dtype `to`, which is our `of`."""
    # torch goes from float64 to 16 bits by way of float32, which would round twice.
    return rounded(value, None, of, Rounding.NEAREST).to(to) if of.bits == 16 else value.to(to)
