"""Functions of one element, and of two for swiglu, and what their kernels get wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from parity.selftest.arithmetic import EXACT, PLAIN, Arithmetic, exp, nearest
from parity.selftest.kernel import MIDDLE, Kernel
from parity.selftest.problem import Problem

__all__ = [
    "KERNELS",
    "SHARED",
    "WAYS",
    "Function",
    "by_fast_exp",
    "erf",
    "exponential",
    "gelu_erf",
    "gelu_tanh",
    "pointwise",
    "rsqrt",
    "sigmoid",
    "silu",
    "swiglu",
    "table",
    "tanh",
]

# Ways that differ for a function: e^x by 2^x, a product with the reciprocal, another textbook form.
WAYS = (
    PLAIN,
    Arithmetic(name="exp2", exp2=True),
    Arithmetic(name="reciprocal", reciprocal=True),
    Arithmetic(name="fused", fused=True),
    Arithmetic(name="exp2_reciprocal", exp2=True, reciprocal=True),
    Arithmetic(name="functions_high", ulps=1),
    Arithmetic(name="functions_low", ulps=-1, reciprocal=True),
    EXACT,
)
SHARED = ("by_table", "by_fast_exp")

Function = Callable[[Tensor, Arithmetic, str], Tensor]


def table(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Interpolate linearly between points 1/32 apart, from -8 to 8; beyond, the function itself."""
    low = (x.clamp(-8, 8) * 32).floor() / 32
    slope = (f(low + 1 / 32) - f(low)) * 32
    return torch.where(x.abs() < 8, f(low) + slope * (x - low), f(x))


def by_fast_exp(x: Tensor) -> Tensor:
    """e^x by Schraudolph's linear significand with a quadratic correction: about 2^-9 of the result."""
    scaled = (x * 1.4426950408889634).clamp(-126, 127)
    f = scaled - scaled.floor()
    return torch.where(x.isfinite(), torch.exp2(scaled.floor()) * (1 + f * (0.6565 + 0.3435 * f)), x.exp())


def _exp(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    return by_fast_exp(x) if bug == "by_fast_exp" else exp(x, how)


def exponential(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """e^x."""
    match bug:
        case "by_table":
            return table(torch.exp, x)
        case "short_log2e":
            return torch.exp2(x * 1.4427)
        case "input_clamped":
            return exp(x.clamp(-80, 80), how)
        case _:
            return _exp(x, how, bug)


def sigmoid(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """1 / (1 + e^-x)."""
    match bug:
        case "by_table":
            return table(torch.sigmoid, x)
        case "hard":
            return (x / 6 + 0.5).clamp(0, 1)
        case "tails_cut":
            return torch.where(x < -8, 0.0, torch.where(x > 8, 1.0, torch.sigmoid(x)))
        case "by_tanh":
            return 0.5 * (1 + torch.tanh(x / 2))
        case "overflow_nan":
            # Where e^x is finite this is another way to the same result.
            return torch.where(exp(x, how) == torch.inf, torch.nan, sigmoid(x, how, ""))
    if how.fused:
        return torch.sigmoid(x)
    return how.divide(torch.ones_like(x), how.mid(1 + how.mid(_exp(-x, how, bug))))


def tanh(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """Hyperbolic tangent."""
    match bug:
        case "by_table":
            return table(torch.tanh, x)
        case "tails_cut":
            return torch.where(x.abs() > 3, x.sign(), torch.tanh(x))
        case "cancels_near_0":
            e = torch.exp(2 * x.clamp(-40, 40))
            return (e - 1) / (e + 1)
        case "pade":
            return (x * (27 + x * x) / (27 + 9 * x * x)).clamp(-1, 1)
        case "identity_near_0":
            return torch.where(x.abs() < 2**-4, x, torch.tanh(x))
        case "by_fast_exp":
            e = _exp(2 * x.clamp(-40, 40), how, bug)
            return (e - 1) / (e + 1)
    if how.fused or how.exp2:
        t = torch.expm1(2 * x.abs())
        return torch.where(x.abs() > 20, x.sign(), how.divide(t, t + 2).copysign(x))
    return how.off(torch.tanh(how.mid(x)))


def erf(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """Error function."""
    match bug:
        case "by_table":
            return table(torch.erf, x)
        case "tails_cut":
            return torch.where(x.abs() > 2, x.sign(), torch.erf(x))
        case "by_tanh":
            return torch.tanh(x * (1.1283792 + 0.1009 * x * x))
        case "absolute_error":
            # Abramowitz and Stegun 7.1.26, exact to 1.5e-7 of 1.
            t = 1 / (1 + 0.3275911 * x.abs())
            series = torch.full_like(t, 1.061405429)
            for term in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
                series = series * t + term
            return (1 - series * t * torch.exp(-x * x)).copysign(x)
    return how.off(torch.erf(how.mid(x)))


def rsqrt(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """1 / sqrt x."""
    match bug:
        case "by_table":
            return table(torch.rsqrt, x)
        case "estimate":
            return nearest(torch.rsqrt(x), "tf32")
        case "magnitude_taken":
            return torch.rsqrt(x.abs())
        case "subnormal_as_0":
            return torch.rsqrt(torch.where(x.abs() < 2**-126, torch.zeros_like(x).copysign(x), x))
        case "sign_of_0_lost":
            return torch.rsqrt(torch.where(x == 0, 0.0, x))
        case "root_bf16":
            return 1 / nearest(torch.sqrt(x), "bf16")
    return how.off(torch.rsqrt(x) if how.reciprocal else 1 / how.mid(torch.sqrt(x)))


def silu(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """x sigmoid(x)."""
    match bug:
        case "by_table":
            return table(lambda t: t * torch.sigmoid(t), x)
        case "hard":
            return x * (x / 6 + 0.5).clamp(0, 1)
        case "tails_cut":
            return torch.where(x < -8, 0.0, x * torch.sigmoid(x))
        case "quick":
            return x * torch.sigmoid(1.702 * x)
        case "overflow_nan":
            return torch.where(exp(x, how) == torch.inf, torch.nan, silu(x, how, ""))
        case "relu":
            return x.clamp(min=0)
    if how.fused:
        return x * torch.sigmoid(x)
    return how.divide(x, how.mid(1 + how.mid(_exp(-x, how, bug))))


def gelu_erf(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """x/2 (1 + erf(x / sqrt 2))."""
    match bug:
        case "by_table":
            return table(lambda t: t / 2 * torch.erfc(-t / math.sqrt(2)), x)
        case "other_gelu":
            return gelu_tanh(x, how, "")
        case "quick":
            return x * torch.sigmoid(1.702 * x)
        case "tails_cut":
            return torch.where(x < -3, 0.0, gelu_erf(x, how, ""))
        case "coarse_erf" | "by_fast_exp":
            # Abramowitz and Stegun 7.1.25: 2.5e-5.
            z = x.abs() / math.sqrt(2)
            t = 1 / (1 + 0.47047 * z)
            erf = 1 - t * (0.3480242 + t * (-0.0958798 + t * 0.7478556)) * _exp(-z * z, how, bug)
            return x / 2 * (1 + erf.copysign(x))
        case "relu":
            return x.clamp(min=0)
    if how.fused:
        return (x * 0.5) * torch.erfc(x * -math.sqrt(0.5))
    t = how.off(torch.erf(x * math.sqrt(0.5)) if how.reciprocal else torch.erf(x / math.sqrt(2)))
    return how.mid(x / 2) * how.mid(1 + how.mid(t))


def gelu_tanh(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    root, cubic = math.sqrt(2 / math.pi), 0.044715
    match bug:
        case "by_table":
            return table(lambda t: gelu_tanh(t, how, ""), x)
        case "other_gelu":
            return x / 2 * torch.erfc(-x / math.sqrt(2))
        case "quick":
            return x * torch.sigmoid(1.702 * x)
        case "tails_cut":
            return torch.where(x < -3, 0.0, gelu_tanh(x, how, ""))
        case "cubic_omitted":
            cubic = 0.0
        case "short_constants":
            root, cubic = 0.7979, 0.0447
        case "relu":
            return x.clamp(min=0)
    cube = how.mid(x * x) * x
    inner = how.mid(root * (x + cubic * cube)) if not how.reciprocal else root * x * (1 + cubic * (x * x))
    if how.fused or how.exp2:
        # 1 + tanh a = 2 / (1 + e^-2a)
        return how.divide(x, 1 + _exp(-2 * inner, how, bug))
    return how.mid(x / 2) * how.mid(
        1 + how.mid(tanh(inner, how, "by_fast_exp" if bug == "by_fast_exp" else ""))
    )


def pointwise(function: Function) -> Callable[[Problem, Arithmetic, str], Tensor]:
    """Return what computes a function of each element of the first input."""

    def compute(p: Problem, how: Arithmetic, bug: str) -> Tensor:
        return function(how.mid(how.number(p.x(0))), how, bug)

    return compute


def swiglu(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """silu(gate) up, rounded once."""
    gate, up = how.mid(how.number(p.x(0))), how.mid(how.number(p.x(1)))
    match bug:
        case "gate_and_up_swapped":
            gate, up = up, gate
        case "gelu_for_silu":
            return gelu_erf(gate, how, "") * up
        case "sigmoid_for_silu":
            return sigmoid(gate, how, "") * up
        case "up_omitted":
            return silu(gate, how, "")
        case "silu_rounded" if p.out.bits == 16:
            return nearest(silu(gate, how, ""), p.out.name) * up
    return how.mid(silu(gate, how, bug)) * up


def _kernel(function: Function, *bugs: str) -> Kernel:
    return Kernel(compute=pointwise(function), bugs=(*SHARED, *bugs), legitimate=WAYS, arithmetics=MIDDLE)


KERNELS = {
    "exp": _kernel(exponential, "short_log2e", "input_clamped"),
    "sigmoid": _kernel(sigmoid, "hard", "tails_cut", "by_tanh", "overflow_nan"),
    "tanh": _kernel(tanh, "tails_cut", "cancels_near_0", "pade", "identity_near_0"),
    "erf": Kernel(
        compute=pointwise(erf),
        bugs=("by_table", "tails_cut", "by_tanh", "absolute_error"),
        legitimate=WAYS,
        arithmetics=MIDDLE,
    ),
    "rsqrt": Kernel(
        compute=pointwise(rsqrt),
        bugs=("by_table", "estimate", "magnitude_taken", "subnormal_as_0", "sign_of_0_lost", "root_bf16"),
        legitimate=WAYS,
        arithmetics=MIDDLE,
    ),
    "silu": _kernel(silu, "hard", "tails_cut", "quick", "overflow_nan", "relu"),
    "gelu_erf": _kernel(gelu_erf, "other_gelu", "quick", "tails_cut", "coarse_erf", "relu"),
    "gelu_tanh": _kernel(
        gelu_tanh, "other_gelu", "quick", "tails_cut", "cubic_omitted", "short_constants", "relu"
    ),
    "swiglu": Kernel(
        compute=swiglu,
        bugs=(
            *SHARED,
            "gate_and_up_swapped",
            "gelu_for_silu",
            "sigmoid_for_silu",
            "up_omitted",
            "silu_rounded",
            "tails_cut",
            "quick",
        ),
        legitimate=WAYS,
        arithmetics=MIDDLE,
    ),
}
