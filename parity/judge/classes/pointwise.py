"""Functions of one element (and swiglu, of two): H = c u |y| + absolute terms + range term.

The default error of a function is that of the OpenCL full profile (OpenCL C specification,
"Relative error as ULPs"): exp 3 ulp, tanh 5, erf 16, rsqrt 2; one ulp is 2 u. Where the textbook
algorithm cancels or leaves its range before its result does, an absolute term is added.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from parity.errors import GoldenError
from parity.judge.budget import Budget, Expected, Question

__all__ = [
    "activation_of",
    "erf",
    "exp",
    "gelu_erf",
    "gelu_tanh",
    "rsqrt",
    "sigmoid",
    "silu",
    "swiglu",
    "tanh",
]

# Beyond this exp(x) may be infinite in the 8-bit-exponent formats: from 88.7228 on it is, and an
# exponential that is 2 |x| + 4 roundings off is so 2^-15 earlier.
_EXP_RANGE = 88.722


def _budget(
    q: Question, value: Tensor, hard: Tensor, *, share: float, nan_ok: Tensor | None = None
) -> tuple[Expected, ...]:
    return (Budget(dtype=q.dtype, value=value, hard=hard, sigma=share * hard, nan_ok=nan_ok),)


def exp(q: Question) -> tuple[Expected, ...]:
    """y = e^x: H = y u (2 |x| + 4); 2 |x| pays for exp2(x log2 e) with a rounded product. sigma = H/4."""
    value = q.x.exp()
    # The function's last places, which beneath the normal range no longer shrink.
    least = q.ulps("exp") * q.accumulator.dtype.min_subnormal + q.flushed()
    hard = value * q.accumulator.unit * (2 * q.x.abs() + 2 * q.ulps("exp")) + least
    return _budget(q, value, torch.where(value == 0, q.flushed(), hard), share=0.25)


def sigmoid(q: Question) -> tuple[Expected, ...]:
    """y = 1 / (1 + e^-x): H = y u ((1 - y)(2 |x| + 4) + 4) + range; sigma = H/3.

    The exponential's error counts by its share 1 - y of the denominator. Range term: 1 + e^-x
    overflows below -88.7, so results under the smallest normal of the accumulator may be 0.
    """
    value, u = torch.sigmoid(q.x), q.accumulator.unit
    x = q.x.clamp(-1e4, 1e4)
    hard = value * u * ((1 - value) * (2 * x.abs() + 2 * q.ulps("exp")) + 4) + _out_of_range(q, x, value)
    return _budget(q, value, hard, share=1 / 3)


def _out_of_range(q: Question, x: Tensor, value: Tensor) -> Tensor:
    """Absolute error of a sigmoid: all of it where 1 + e^-x overflows, else the accumulator's steps.

    And what is declared of one that is no quotient but 1/2 + r(x).
    """
    lost = torch.where(x <= -_EXP_RANGE, value.abs(), 0.0)
    return lost + 2 * q.accumulator.dtype.min_subnormal + q.flushed() + q.offset()


def tanh(q: Question) -> tuple[Expected, ...]:
    """y = tanh x: 5 ulp (OpenCL full profile), H = 10 u |y|; sigma = H/3."""
    value = torch.tanh(q.x)
    return _budget(q, value, 2 * q.ulps("tanh") * q.accumulator.unit * value.abs(), share=1 / 3)


def erf(q: Question) -> tuple[Expected, ...]:
    """y = erf x: 16 ulp (OpenCL full profile), H = 32 u |y|; sigma = H/3.

    No absolute term: erf is odd and bounded, so no form of it cancels. Near 0 it is 2 x / sqrt(pi),
    which beneath the normal range is off by the accumulator's steps.
    """
    value, ulps = torch.erf(q.x), q.ulps("erf")
    least = torch.where(value == 0, 0.0, ulps * q.accumulator.dtype.min_subnormal)
    return _budget(q, value, 2 * ulps * q.accumulator.unit * value.abs() + least, share=1 / 3)


def rsqrt(q: Question) -> tuple[Expected, ...]:
    """y = 1 / sqrt x: 2 ulp (OpenCL full profile), H = 4 u |y|; sigma = H/3.

    Infinite of x's sign at 0 (IEEE 754 9.2.1), NaN below.
    """
    value = 1 / q.x.sqrt()
    return _budget(q, value, 2 * q.ulps("rsqrt") * q.accumulator.unit * value.abs(), share=1 / 3)


def _silu(q: Question, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (y, H) of x sigmoid(x), 0 at -inf where the formula gives -inf * 0."""
    share = torch.sigmoid(x)
    value = torch.where(x == -torch.inf, 0.0, x * share)
    size, u = x.abs().clamp(max=1e4), q.accumulator.unit
    hard = value.abs() * u * ((1 - share) * (2 * size + 2 * q.ulps("exp")) + 4)
    return value, hard + size * _out_of_range(q, x, share)


def silu(q: Question) -> tuple[Expected, ...]:
    """y = x sigmoid(x): H = |y| u ((1 - s)(2 |x| + 4) + 4) + |x| range; s the sigmoid, sigma = H/4.

    As for the sigmoid: what is beyond the range of 1 + e^-x counts |x| times. At -inf the limit 0
    and the NaN of -inf * 0 are both right.
    """
    value, hard = _silu(q, q.x)
    return _budget(q, value, hard, share=0.25, nan_ok=q.x == -torch.inf)


def swiglu(q: Question) -> tuple[Expected, ...]:
    """y = silu(gate) up, rounded once: H = |up| H(silu) + 2 u |y|; sigma = H/4.

    Where silu(gate) may underflow to 0 and up is infinite, the NaN of 0 * inf is right too.
    """
    gate, up = q.inputs
    assert gate is not None and up is not None
    inner, inner_hard = _silu(q, gate)
    value = inner * up
    # silu of a subnormal is rounded to the accumulator's smallest step before up magnifies it.
    inner_hard = inner_hard + q.accumulator.dtype.min_subnormal
    hard = torch.where(up.isfinite(), up.abs(), 0.0) * inner_hard + 2 * q.accumulator.unit * value.abs()
    vanishing = up.isinf() & (inner.abs() <= inner_hard + q.accumulator.dtype.min_normal)
    return _budget(q, value, hard, share=0.25, nan_ok=(gate == -torch.inf) | vanishing)


def gelu_erf(q: Question) -> tuple[Expected, ...]:
    """y = x/2 (1 + erf(x / sqrt 2)): sigma = 0.3 H,
    H = u (6 |x|/2 (1 + erf(|x| / sqrt 2)) + x^2 e^(-x^2/2) + |y| (x^2 + 3)).

    The first term is absolute: 1 + erf cancels in the negative tail. At -inf both the limit 0
    and the NaN of -inf * 0 are right.
    """
    value, hard = _gelu_erf(q, q.x)
    return _budget(q, value, hard, share=0.3, nan_ok=q.x == -torch.inf)


def _gelu_erf(q: Question, x: Tensor) -> tuple[Tensor, Tensor]:
    u, size = q.accumulator.unit, x.abs().clamp(max=1e150)
    value = torch.where(x == torch.inf, x, x / 2 * torch.erfc(-x / math.sqrt(2)))
    value = torch.where(x == -torch.inf, 0.0, value)
    near = torch.where(size < 40, size.square() * (-size.square() / 2).exp(), 0.0)
    relative = torch.where(size < 40, value.abs() * (size.square() + 3), value.abs() * 3)
    # Beyond |x| = 40 erf is exactly -1 or 1 in every format: nothing cancels any more.
    absolute = torch.where(size < 40, 3 * size * (1 + torch.erf(size / math.sqrt(2))), 0.0)
    return value, u * (absolute + near + relative)


def gelu_tanh(q: Question) -> tuple[Expected, ...]:
    """y = x/2 (1 + tanh a), a = sqrt(2/pi)(x + 0.044715 x^3): sigma = H/3,
    H = |x|/2 (10 u |t| + 2 u (1 + t) + 6 u |a| (1 - t^2)) + 3 u |y|, t = tanh a.

    1 + t cancels in the negative tail, so tanh's 5 ulp stay as an absolute term; 6 u |a| is the
    rounding of the cubic, damped by the slope of tanh.
    """
    value, hard = _gelu_tanh(q, q.x)
    return _budget(q, value, hard, share=1 / 3, nan_ok=q.x == -torch.inf)


def _gelu_tanh(q: Question, x: Tensor) -> tuple[Tensor, Tensor]:
    u, size = q.accumulator.unit, x.abs().clamp(max=1e4)
    bounded = x.clamp(-1e4, 1e4)
    a = math.sqrt(2 / math.pi) * (bounded + 0.044715 * bounded**3)
    t = torch.tanh(a)
    # 1 + tanh a = 2 sigmoid(2 a), without the cancellation.
    value = torch.where(x == -torch.inf, 0.0, x * torch.sigmoid(2 * a))
    inner = 2 * q.ulps("tanh") * u * t.abs() + 2 * u * (1 + t) + 6 * u * a.abs() * (1 - t.square())
    # Beyond |x| = 20 tanh is exactly -1 or 1 in every format: nothing cancels any more.
    return value, torch.where(size < 20, size / 2 * inner, 0.0) + 3 * u * value.abs()


def activation_of(q: Question, x: Tensor, activation: str) -> tuple[Tensor, Tensor, float]:
    """Return (y, H, sigma / H) of the activation that an attribute names, before y is rounded."""
    match activation:
        case "silu":
            return *_silu(q, x), 0.25
        case "gelu":
            return *_gelu_erf(q, x), 0.3
        case "gelu_pytorch_tanh":
            return *_gelu_tanh(q, x), 1 / 3
        case _:
            raise GoldenError(
                f"{q.op}: activation '{activation}' is none of silu, gelu and gelu_pytorch_tanh. "
                "Record it again with one of these"
            )
