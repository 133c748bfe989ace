"""The basic operations, and everything in 64 bits, with what a device without them does.

In 64 bits no emulated float32 arithmetic is right: those kernels are numpy's, and their faults are
what fewer bits leave.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from parity.case.tensor import HostTensor
from parity.selftest.arithmetic import EXACT, PLAIN, TILE, Arithmetic, nearest
from parity.selftest.kernel import Kernel, Moves
from parity.selftest.problem import Outputs, Problem

__all__ = [
    "KERNELS",
    "NUMPY",
    "TORCH",
    "Array",
    "matmul_wide",
    "of_two",
    "of_two_wide",
]

Array = np.ndarray
TORCH: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "mul": torch.mul,
    "div": torch.div,
    "sub": torch.sub,
}
NUMPY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "mul": np.multiply,
    "div": np.divide,
    "sub": np.subtract,
}


def of_two(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """a + b, a b or a / b in float32, rounded once."""
    a, b = how.number(p.x(0)), how.number(p.x(1))
    match bug:
        case "operands_flushed":
            least = p.dtype.min_normal
            a, b = (torch.where(t.abs() < least, torch.zeros_like(t).copysign(t), t) for t in (a, b))
        case "operand_bf16":
            b = nearest(b, "bf16")
        case "first_row_for_all" if b.ndim > 1:
            b = b[:1].expand_as(b)
        case "subtracted":
            b = -b
        case "by_reciprocal":
            return a * (1 / b)
        case "by_fast_reciprocal":
            return a * nearest(1 / b, "bf16")
        case "swapped":
            a, b = b, a
        case "floored":
            return torch.floor(a / b)
        case "sign_of_zero_divisor_lost":
            b = torch.where(b == 0, b.abs(), b)
    y: Tensor = TORCH[p.op](a, b)
    if bug == "invalid_is_0":
        return torch.where(y.isnan() & ~a.isnan() & ~b.isnan(), 0.0, y)
    return y


def of_two_wide(p: Problem, bug: str) -> Outputs:
    """The same on float64 or int64."""
    a, b = p.raw(0), p.raw(1)
    if bug == "first_row_for_all" and b.ndim > 1:
        b = np.broadcast_to(b[:1], b.shape)
    if bug == "subtracted":
        b = -b
    if bug == "swapped":
        a, b = b, a
    y = NUMPY[p.op](a, b)
    if p.dtype.is_float:
        most = float(np.finfo(np.float32).max)
        match bug:
            case "as_32_bits":
                y = NUMPY[p.op](a.astype(np.float32), b.astype(np.float32)).astype(np.float64)
            case "kept_as_32_bits":
                y = y.astype(np.float32).astype(np.float64)
            case "saturated":
                y = np.clip(y, -most, most)
        return (HostTensor.of(np.asarray(y), p.dtype),)
    match bug:
        case "as_32_bits":
            y = NUMPY[p.op](a.astype(np.int32), b.astype(np.int32)).astype(np.int64)
        case "kept_as_32_bits":
            y = y.astype(np.int32).astype(np.int64)
        case "saturated" | "as_float64":
            limits = np.iinfo(np.int64)
            exact = NUMPY[p.op](a.astype(object), b.astype(object))
            exact = np.array([int(float(v)) if bug == "as_float64" else v for v in np.ravel(exact)], object)
            y = np.clip(exact, limits.min, limits.max).astype(np.int64).reshape(np.shape(y))
    return (HostTensor.of(np.asarray(y), p.dtype),)


def matmul_wide(p: Problem, bug: str) -> Outputs:
    """a @ b in float64, of numbers so small that no order rounds."""
    a, b = p.raw(0), p.raw(1)
    K = a.shape[-1]
    match bug:
        case "reversed":
            a, b = a[..., ::-1], b[..., ::-1, :]
        case "as_32_bits":
            a, b = a.astype(np.float32), b.astype(np.float32)
        case "inputs_as_32_bits":
            a, b = (t.astype(np.float32).astype(np.float64) for t in (a, b))
        case "two_halves":
            high_a, high_b = (t.astype(np.float16).astype(np.float64) for t in (a, b))
            return _wide(p, high_a @ high_b + high_a @ (b - high_b) + (a - high_a) @ high_b)
        case "kept_as_32_bits":
            return _wide(p, (a @ b).astype(np.float32))
        case "dropped_k_tail":
            kept = K - (K % TILE or 1)
            a, b = a[..., :kept], b[..., :kept, :]
    return _wide(p, a @ b)


def _wide(p: Problem, y: Array) -> Outputs:
    return (HostTensor.of(np.asarray(y).astype(np.float64), p.dtype),)


_SHARED = ("operands_flushed", "operand_bf16", "first_row_for_all", "invalid_is_0")
_ONCE = (PLAIN, EXACT)
_WIDE = ("first_row_for_all", "subtracted", "as_32_bits", "kept_as_32_bits", "saturated", "as_float64")

KERNELS: dict[str, Kernel | Moves] = {
    "add": Kernel(compute=of_two, bugs=(*_SHARED, "subtracted"), legitimate=_ONCE),
    "mul": Kernel(compute=of_two, bugs=_SHARED, legitimate=_ONCE),
    "div": Kernel(
        compute=of_two,
        bugs=(
            *_SHARED,
            "by_reciprocal",
            "by_fast_reciprocal",
            "swapped",
            "floored",
            "sign_of_zero_divisor_lost",
        ),
        legitimate=_ONCE,
    ),
    "add:wide": Moves(compute=of_two_wide, bugs=_WIDE),
    "mul:wide": Moves(compute=of_two_wide, bugs=_WIDE),
    "matmul:wide": Moves(
        compute=matmul_wide,
        bugs=("as_32_bits", "inputs_as_32_bits", "two_halves", "kept_as_32_bits", "dropped_k_tail"),
        ways=("", "reversed"),
    ),
}
