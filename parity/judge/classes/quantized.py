"""Linear layers over quantised weights, against dequantise-then-matmul."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parity.case.dtype import dtype
from parity.case.tensor import HostTensor
from parity.judge.budget import RMS_ROUNDING, Budget, Expected, Question
from parity.judge.classes.sums import finite, overflows, product

__all__ = ["int4_weight_linear", "int8_linear", "int8_weight_linear", "unpack_int4"]


def int8_linear(q: Question) -> tuple[Expected, ...]:
    """y = (x w^T) x_scale w_scale: the integer sum is exact, then H = 4 u |y|, sigma = H/4."""
    x, w, x_scale, w_scale = q.inputs
    assert x is not None and w is not None and x_scale is not None and w_scale is not None
    exact = x.to(torch.float64) @ w.to(torch.float64).T
    value = exact * x_scale * w_scale
    hard = 4 * q.profile.accumulator.unit * value.abs()
    return (Budget(dtype=dtype(str(q.attrs["out"])), value=value, hard=hard, sigma=0.25 * hard),)


def int8_weight_linear(q: Question) -> tuple[Expected, ...]:
    """y = x (w scale)^T: the matmul rule on dequantised weights; the scale's rounding adds
    u_dt S + 2 u |y| to H and (0.42 u_dt)^2 q to sigma^2.

    u_dt is the accumulator's, unless the profile declares `weights_dequantised` (value: a dtype).
    """
    x, w, scale = q.inputs
    assert x is not None and w is not None and scale is not None
    return (_dequantised(q, x, w.to(torch.float64), scale.reshape(-1, 1)),)


def int4_weight_linear(q: Question) -> tuple[Expected, ...]:
    """y = x ((nibbles(w) - 8) scale)^T by groups along K: as the int8 rule; low nibble first."""
    x, _, scale = q.inputs
    raw = q.raw[1]
    assert x is not None and scale is not None and raw is not None
    w = unpack_int4(raw).to(torch.float64)
    return (_dequantised(q, x, w, scale.repeat_interleave(q.integer("group"), -1)[:, : w.shape[1]]),)


def unpack_int4(packed: HostTensor) -> Tensor:
    """Return int64[N, K] in -8..7 from uint8[N, K/2], low nibble first."""
    codes = packed.array().astype(np.int64)
    nibbles = np.stack((codes & 15, codes >> 4), -1).reshape(codes.shape[0], -1)
    return torch.from_numpy(nibbles - 8)


def _dequantised(q: Question, x: Tensor, code: Tensor, scale: Tensor) -> Budget:
    """Bound x (code scale)^T; a kernel may scale the sum instead, which then overflows by itself."""
    u, w = q.accumulator.unit, code * scale
    # Scaling a weight rounds it once, at least in the accumulator.
    unit = q.unit_of("weights_dequantised") or u
    value, hard, variance, free = product(q, x, w.T, dtype=dtype("f32"), weight_unit=unit)
    hard = hard + 2 * u * value.abs()
    variance = variance + 2 * (RMS_ROUNDING * u * value).square()
    free = free | overflows(value, finite(x) @ code.abs().T, q, terms=x.shape[-1])
    return Budget(dtype=q.dtype, value=value, hard=hard, sigma=variance.sqrt(), free=free)
