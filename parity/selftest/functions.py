"""Functions beside activations: what their kernels get wrong, from cancellation to a short 2 pi.

Powers and roots stand in `powers`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from parity.selftest.arithmetic import Arithmetic, exp
from parity.selftest.kernel import MIDDLE, Kernel, Moves
from parity.selftest.pointwise import WAYS, Function, by_fast_exp, pointwise, table

__all__ = [
    "KERNELS",
    "cosine",
    "expm1",
    "log",
    "log1p",
    "sine",
    "softplus",
]


# What a fast function is off by, in place of some last places.
_FAST = float(2.0**-21.4)


def softplus(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """log(1 + e^x), beyond 20 x itself."""
    match bug:
        case "by_table":
            return table(torch.nn.functional.softplus, x)
        case "cancels":
            return torch.where(x > 20, x, (1 + x.exp()).log())
        case "overflows":
            return torch.where(x.exp() == torch.inf, torch.inf, softplus(x, how, ""))
        case "threshold_5":
            return torch.where(x > 5, x, softplus(x, how, ""))
        case "relu":
            return x.clamp(min=0)
        case "base_2":
            return torch.where(x > 20, x, (1 + torch.exp2(x)).log2())
        case "by_fast_exp":
            return torch.where(x > 20, x, by_fast_exp(x).log1p())
    if how.fused:
        return x.clamp(min=0) + how.off(torch.log1p(exp(-x.abs(), how)))
    return torch.where(x > 20, x, how.off(torch.log1p(how.mid(exp(how.mid(x), how)))))


def expm1(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """e^x - 1."""
    match bug:
        case "by_table":
            return table(torch.expm1, x)
        case "cancels":
            return x.exp() - 1
        case "two_terms_near_0":
            return torch.where(x.abs() < 0.03, x + x * x / 2, torch.expm1(x))
        case "identity_near_0":
            return torch.where(x.abs() < 2**-7, x, torch.expm1(x))
        case "less_1_omitted":
            return x.exp()
        case "tail_cut":
            return torch.where(x < -5, -1.0, torch.expm1(x))
        case "by_fast_exp":
            return by_fast_exp(x) - 1
    if how.fused:
        # 2 sinh(x/2) e^(x/2), where neither cancels.
        near = 2 * torch.sinh(x / 2) * (x / 2).exp()
        return torch.where(x.abs() < 1, near, torch.expm1(x))
    return how.off(torch.expm1(how.mid(x)))


def log(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """Natural logarithm."""
    match bug:
        case "absolute_error":
            # A fast logarithm: 2^-21.4 in place of some last places, which near 1 are fewer.
            return torch.log(x) + torch.sin(x * 1000) * _FAST
        case "base_2":
            return torch.log2(x)
        case "short_ln_2":
            return torch.log2(x) * 0.6931
        case "by_table":
            return table(torch.log, x)
        case "of_0_is_lowest":
            return torch.where(x == 0, torch.finfo(torch.float32).min, torch.log(x))
        case "magnitude_taken":
            return torch.log(x.abs())
        case "subnormal_as_0":
            return torch.log(torch.where(x.abs() < 2**-126, 0.0, x))
        case "with_epsilon":
            return torch.log(x + 1e-6)
    if how.exp2 and not how.wide:
        far = (x < 0.5) | (x > 2)
        return how.off(torch.where(far, torch.log2(x) * 0.6931471805599453, torch.log(x)))
    return how.off(torch.log(how.mid(x)))


def log1p(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """log(1 + x)."""
    match bug:
        case "cancels":
            return (1 + x).log()
        case "by_table":
            return table(torch.log1p, x)
        case "two_terms_near_0":
            return torch.where(x.abs() < 0.03, x - x * x / 2, torch.log1p(x))
        case "identity_near_0":
            return torch.where(x.abs() < 2**-7, x, torch.log1p(x))
        case "plus_1_omitted":
            return x.log()
        case "base_2":
            return torch.log1p(x) * 1.4426950408889634
        case "of_minus_1_is_lowest":
            return torch.where(x == -1, torch.finfo(torch.float32).min, torch.log1p(x))
        case "magnitude_taken":
            return torch.log1p(x.abs())
    return how.off(torch.log1p(how.mid(x)))


def _turned(x: Tensor, bug: str) -> Tensor:
    """Return the angle that a kernel with a bug takes the function of, less whole turns."""
    turns = (x.double() / (2 * math.pi)).round()
    match bug:
        case "short_2_pi":
            # One float32 number for 2 pi: an error of 2^-24 of the angle.
            return x - (turns * float(np.float32(2 * math.pi))).to(x.dtype)
        case "two_parts_of_2_pi":
            high = float(np.float32(2 * math.pi))
            rest = (x.double() - turns * high).to(torch.float32).double()
            return (rest - turns * float(np.float32(2 * math.pi - high))).to(x.dtype)
        case "range_ends":
            return torch.where(x.abs() > 2.0**15, 0.0, x)
        case "degrees":
            return x * (math.pi / 180)
        case "in_turns":
            return x * (2 * math.pi)
        case "magnitude_taken":
            return x.abs()
        case _:
            return x


def _trigonometric(function: Function, other: Function) -> Function:
    def compute(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
        match bug:
            case "by_table":
                return table(lambda t: function(t, how, ""), x)
            case "the_other":
                return other(x, how, "")
            case "absolute_error":
                # A fast function: 2^-21.4 of 1 on a turn around 0, whatever the result is.
                return function(x, how, "") + torch.cos(x * 1000) * _FAST
            case "five_terms":
                # Of the series, after its reduction: an error of 2^-7 at the ends.
                turned = torch.remainder(x.double() + math.pi, 2 * math.pi) - math.pi
                return _series(turned, odd=function is _sine)
        return function(_turned(x, bug), how, "")

    return compute


def _sine(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    del bug
    return how.off(torch.sin(how.mid(x)))


def _cosine(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    del bug
    return how.off(torch.cos(how.mid(x)))


def _series(x: Tensor, *, odd: bool) -> Tensor:
    first = 1 if odd else 0
    terms = (x ** (2 * k + first) * (-1.0) ** k / math.factorial(2 * k + first) for k in range(5))
    return sum(terms, torch.zeros_like(x)).to(torch.float32)


sine, cosine = _trigonometric(_sine, _cosine), _trigonometric(_cosine, _sine)
_ANGLES = (
    *("short_2_pi", "two_parts_of_2_pi", "range_ends", "degrees", "in_turns", "magnitude_taken"),
    *("the_other", "by_table", "absolute_error", "five_terms"),
)


def _kernel(function: Function, *bugs: str) -> Kernel:
    return Kernel(compute=pointwise(function), bugs=bugs, legitimate=WAYS, arithmetics=MIDDLE)


KERNELS: dict[str, Kernel | Moves] = {
    "softplus": _kernel(
        softplus,
        *("by_table", "cancels", "overflows", "threshold_5", "relu", "base_2", "by_fast_exp"),
    ),
    "expm1": _kernel(
        expm1,
        *("by_table", "cancels", "two_terms_near_0", "identity_near_0", "less_1_omitted", "tail_cut"),
        "by_fast_exp",
    ),
    "log": _kernel(
        log,
        *("absolute_error", "base_2", "short_ln_2", "by_table", "of_0_is_lowest", "magnitude_taken"),
        *("subnormal_as_0", "with_epsilon"),
    ),
    "log1p": _kernel(
        log1p,
        *("cancels", "by_table", "two_terms_near_0", "identity_near_0", "plus_1_omitted", "base_2"),
        *("of_minus_1_is_lowest", "magnitude_taken"),
    ),
    "sin": _kernel(sine, *_ANGLES),
    "cos": _kernel(cosine, *_ANGLES),
}
