"""Elementwise arithmetic that differs from the host's: functions, division, subnormals, overflow.

Each function takes and returns CPU tensors. Knows nothing of ATen's calling conventions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from parity.backend.arithmetic import Flush

__all__ = ["divided", "flushed_inputs", "flushed_results", "function", "saturated"]

_EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "erf": torch.erf,
    "tanh": torch.tanh,
    "rsqrt": torch.rsqrt,
}
_HASH = -1640531535  # Knuth's multiplicative constant 2654435761 as an int32


def function(name: str, x: Tensor, ulps: int) -> Tensor:
    """Return a float32 function: correctly rounded, and `ulps` off for about a quarter of all inputs.

    Which ones depends on the input's bits alone, and so does the sign. Through float64, whose own
    error decides a rounding wrongly once in 2^28.
    """
    right = _EXACT[name](x.double()).float()
    mixed = (x.contiguous().view(torch.int32) * _HASH) >> 8
    off = torch.where(mixed & 3 == 0, torch.where(mixed & 4 == 0, ulps, -ulps), 0)
    bits = right.view(torch.int32)
    magnitude = bits & 0x7FFFFFFF
    # What is zero, subnormal, infinite or NaN stays, and nothing becomes so.
    movable = (magnitude >= 0x00800000 + ulps) & (magnitude < 0x7F800000 - ulps)
    return torch.where(movable, bits + off.int(), bits).view(torch.float32)


def divided(a: Tensor, b: Tensor) -> Tensor:
    """Return a times the reciprocal of b, which is rounded to its dtype."""
    return a * b.reciprocal()


def flushed_inputs(x: Tensor, flush: Flush) -> Tensor:
    """Return x as an elementwise operation reads it."""
    return _flushed(x) if flush in (Flush.INPUTS, Flush.BOTH) else x


def flushed_results(x: Tensor, flush: Flush) -> Tensor:
    """Return x as an elementwise operation writes it."""
    return _flushed(x) if flush in (Flush.RESULTS, Flush.BOTH) else x


def _flushed(x: Tensor) -> Tensor:
    tiny = x.abs() < torch.finfo(x.dtype).tiny
    return torch.where(tiny, torch.zeros_like(x).copysign(x), x)


def saturated(y: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Return y with the largest finite value where finite inputs gave an infinity.

    Element by element where the inputs broadcast to y; otherwise only if all inputs are finite.
    """
    floats = [x for x in inputs if x.is_floating_point()]
    # No 8-bit float overflows a wider type, and its codes may mean something else here than to torch.
    if any(x.itemsize == 1 for x in floats):
        return y
    finite = torch.ones((), dtype=torch.bool)
    for x in floats:
        finite = finite & (x.isfinite() if _broadcasts(x, y) else x.isfinite().all())
    limit = torch.full_like(y, torch.finfo(y.dtype).max).copysign(y)
    return torch.where(y.isinf() & finite, limit, y)


def _broadcasts(x: Tensor, y: Tensor) -> bool:
    try:
        return bool(np.broadcast_shapes(x.shape, y.shape) == tuple(y.shape))
    except ValueError:
        return False
