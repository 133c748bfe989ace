"""Powers, roots and reciprocals: of each element with an exponent of its own, or with one for all."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parity.case.tensor import HostTensor
from parity.selftest.arithmetic import EXACT, PLAIN, Arithmetic, nearest
from parity.selftest.kernel import MIDDLE, Kernel, Moves
from parity.selftest.pointwise import WAYS, Function, by_fast_exp, pointwise, table
from parity.selftest.problem import Outputs, Problem

__all__ = ["KERNELS", "power", "reciprocal", "relu_squared", "root", "sqrt"]


def root(x: Tensor) -> Tensor:
    """Square root, correctly rounded: torch's on a CPU, MKL's, is not."""
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(np.asarray(np.sqrt(x.numpy())))


def sqrt(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """Square root."""
    match bug:
        case "by_table":
            return table(root, x)
        case "by_rsqrt":
            return x * (1 / root(x))
        case "magnitude_taken":
            return root(x.abs())
        case "estimate":
            return nearest(root(x), "tf32")
        case "negative_as_0":
            return root(x.clamp(min=0))
        case "sign_of_0_lost":
            return root(torch.where(x == 0, 0.0, x))
        case "subnormal_as_0":
            return root(torch.where(x.abs() < 2**-126, torch.zeros_like(x).copysign(x), x))
    return how.mid(root(how.mid(x)))


def reciprocal(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """1 / x."""
    match bug:
        case "estimate":
            return nearest(1 / x, "tf32")
        case "one_newton_step":
            y = nearest(1 / x, "bf16")
            return y * (2 - x * y)
        case "of_0_is_largest":
            return torch.where(x == 0, torch.finfo(torch.float32).max, 1 / x)
        case "sign_of_0_lost":
            return 1 / torch.where(x == 0, 0.0, x)
        case "subnormal_as_0":
            return 1 / torch.where(x.abs() < 2**-126, torch.zeros_like(x).copysign(x), x)
        case "magnitude_taken":
            return 1 / x.abs()
    return how.mid(1 / how.mid(x))


def relu_squared(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """max(x, 0)^2."""
    match bug:
        case "relu_omitted":
            return x * x
        case "not_squared":
            return x.clamp(min=0)
        case "nan_swallowed_by_max":
            return torch.where(x > 0, x, 0.0).square()
        case "leaky":
            return torch.where(x > 0, x, 0.01 * x).square()
        case "cubed":
            return x.clamp(min=0) ** 3
        case "operand_bf16":
            return nearest(x, "bf16").clamp(min=0).square()
        case "infinity_clamped":
            return x.clamp(0, 2.0**63).square()
    return how.mid(how.mid(x.clamp(min=0)).square())


def power(a: Tensor, b: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """a^b."""
    match bug:
        case "by_logarithm":
            return (b * a.log()).exp()
        case "by_magnitude":
            return a.abs() ** b
        case "by_fast_exp":
            return by_fast_exp(b * a.log())
        case "exponent_bf16":
            return a ** nearest(b, "bf16")
        case "exponent_whole":
            return a ** b.trunc()
        case "swapped":
            return b.expand_as(a) ** a
        case "to_0_of_nan":
            return torch.where(a.isnan() | b.isnan(), torch.nan, a**b)
        case "of_0_is_0":
            return torch.where(a == 0, 0.0, a**b)
    return how.off(how.mid(a) ** how.mid(b))


def _pow(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    return power(how.number(p.x(0)), how.number(p.x(1)), how, bug)


def _pow_scalar(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    x, n = how.number(p.x(0)), p.number("exponent")
    match bug:
        case "exponent_plus_1":
            return x ** (n + 1)
        case "exponent_of_other_sign":
            return x**-n
        case "square" if n == 3:
            return x * x
        case "square_rounded" if n == 3 and p.out.bits == 16:
            return nearest(x * x, p.out.name) * x
        case "one_newton_step" if n == -1:
            y = nearest(1 / x, "bf16")
            return y * (2 - x * y)
        case "fast_root" if n == 0.5:
            return nearest(x.abs().sqrt(), "tf32").copysign(x)
    if how.fused and n in (2, 3):
        x = how.mid(x)
        return x * x if n == 2 else x * x * x
    return power(x, torch.tensor(n, dtype=x.dtype), how, bug)


def _pow_wide(p: Problem, bug: str) -> Outputs:
    x, n = p.raw(0), p.integer("exponent")
    match bug:
        case "as_32_bits":
            y = (x.astype(np.int32) ** n).astype(np.int64)
        case "as_float64" | "saturated":
            exact = np.array([int(v) ** n for v in x.reshape(-1)], object)
            exact = np.array([int(float(v)) for v in exact], object) if bug == "as_float64" else exact
            limits = np.iinfo(np.int64)
            y = np.clip(exact, limits.min, limits.max).astype(np.int64).reshape(x.shape)
        case "exponent_plus_1":
            y = x ** (n + 1)
        case "square":
            y = x * x
        case _:
            y = x**n
    return (HostTensor.of(np.asarray(y), p.dtype),)


def _once(function: Function, *bugs: str) -> Kernel:
    """A function that IEEE 754 rounds correctly."""
    return Kernel(compute=pointwise(function), bugs=bugs, legitimate=(PLAIN, EXACT), arithmetics=MIDDLE)


# 16 last places are granted to a power: some library uses half of them.
_POWER_WAYS = (
    *WAYS,
    Arithmetic(name="functions_8_high", ulps=8),
    Arithmetic(name="functions_8_low", ulps=-8, fused=True),
)
_POWER = ("by_logarithm", "by_magnitude", "by_fast_exp", "exponent_bf16", "of_0_is_0")

KERNELS: dict[str, Kernel | Moves] = {
    "sqrt": _once(
        sqrt,
        *("by_table", "by_rsqrt", "magnitude_taken", "estimate", "negative_as_0", "sign_of_0_lost"),
        "subnormal_as_0",
    ),
    "reciprocal": _once(
        reciprocal,
        *("estimate", "one_newton_step", "of_0_is_largest", "sign_of_0_lost", "subnormal_as_0"),
        "magnitude_taken",
    ),
    "relu_squared": _once(
        relu_squared,
        *("relu_omitted", "not_squared", "nan_swallowed_by_max", "leaky", "cubed", "operand_bf16"),
        "infinity_clamped",
    ),
    "pow": Kernel(
        compute=_pow,
        bugs=(*_POWER, "exponent_whole", "swapped", "to_0_of_nan"),
        legitimate=_POWER_WAYS,
        arithmetics=MIDDLE,
    ),
    "pow_scalar": Kernel(
        compute=_pow_scalar,
        bugs=(
            *_POWER,
            *("exponent_plus_1", "exponent_of_other_sign", "square", "square_rounded", "one_newton_step"),
            "fast_root",
        ),
        legitimate=_POWER_WAYS,
        arithmetics=MIDDLE,
    ),
    "pow_scalar:wide": Moves(
        compute=_pow_wide, bugs=("as_32_bits", "as_float64", "saturated", "exponent_plus_1", "square")
    ),
}
