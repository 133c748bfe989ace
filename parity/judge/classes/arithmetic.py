"""The basic operations: IEEE 754 gives each exactly one result, the exact one rounded once.

Does not judge functions, whose last places a standard leaves open (`pointwise`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from parity.case.dtype import DType, encode
from parity.case.tensor import HostTensor
from parity.judge.budget import Budget, Exact, Expected, Question

__all__ = ["add", "div", "mul", "rounded_once"]

_Operation = Callable[..., npt.NDArray[np.generic]]


def add(q: Question) -> tuple[Expected, ...]:
    """y = a + b, to the bit: the sum rounded once to nearest even; integers wrap modulo 2^bits."""
    return (_rounded_once(q, np.add),)


def mul(q: Question) -> tuple[Expected, ...]:
    """y = a b, to the bit: the product rounded once to nearest even; integers wrap modulo 2^bits."""
    return (_rounded_once(q, np.multiply),)


def div(q: Question) -> tuple[Expected, ...]:
    """y = a / b, to the bit: the quotient rounded once to nearest even.

    A profile that says how many last places its division is off (`ulps` of div) is held to
    H = 2 ulps u |y| instead; sigma = H/3.
    """
    ulps = q.ulps("div")
    if not ulps:
        return (_rounded_once(q, np.divide),)
    a, b = q.inputs
    assert a is not None and b is not None
    value = a / b
    least = ulps * q.accumulator.dtype.min_subnormal
    hard = torch.where(value == 0, 0.0, 2 * ulps * q.accumulator.unit * value.abs() + least)
    return (Budget(dtype=q.dtype, value=value, hard=hard, sigma=hard / 3),)


def _rounded_once(q: Question, operation: _Operation) -> Exact:
    """Return the only result there is, and beside it zero where subnormal results are flushed.

    Operands of at most 24 bits: one operation in float64, rounded again, is rounded once, since
    53 >= 2 * 24 + 2 (Figueroa, When is double rounding innocuous?, 1995). That holds for a kernel
    that computes 16-bit operands in float32 too, 24 >= 2 * 11 + 2. For float64 and integers numpy's
    operation is itself the definition.
    """
    a, b = (t.numpy() if t is not None else None for t in q.inputs)
    return rounded_once(q, np.asarray(operation(a, b)))


def rounded_once(q: Question, result: npt.NDArray[np.generic]) -> Exact:
    """Return an exact result, or one of 53 bits, rounded to the first input's type."""
    if not q.dtype.is_float:
        return Exact(bits=HostTensor.of(result, q.dtype))
    bits = _encoded(result, q.dtype)
    flushes = q.profile.flush_subnormals or q.declares("results_flushed")
    flushed = np.where(np.abs(result) < q.dtype.min_normal, np.copysign(0.0, result), result)
    return Exact(bits=bits, alternatives=(_encoded(flushed, q.dtype),) if flushes else (), any_nan=True)


def _encoded(values: npt.NDArray[np.generic], to: DType) -> HostTensor:
    codes = encode(values.astype(np.float64), to)
    return HostTensor.of(codes.reshape(-1).view(to.storage).reshape(codes.shape), to)
