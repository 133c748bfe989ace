"""Conversions between dtypes, by our own integer encoder: torch's cast is a subject, not the rule."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from parity.case.dtype import DType, Kind, Overflow, decode, dtype, encode
from parity.case.tensor import HostTensor
from parity.judge.budget import Exact, Expected, Question

__all__ = ["cast"]

_Codes = npt.NDArray[np.generic]


def cast(q: Question) -> tuple[Expected, ...]:
    """y = x as `to`: floats round once to nearest even, integers wrap, floats to integers truncate.

    Beyond the largest finite value of an fp8 format both saturation and the format's own overflow
    (infinity, else NaN) are legal (OCP 8-bit floating point specification 1.0, section 5.1); for other
    floats only infinity. What C leaves undefined (NaN or out of range to an integer) is free. A
    profile that declares `cast_through` (value: a dtype) may round twice, through that dtype.
    """
    x, to = q.raw[0], dtype(str(q.attrs["to"]))
    assert x is not None
    if x.dtype is to:
        return (Exact(bits=x.contiguous()),)
    if to.kind is not Kind.FLOAT:
        return (_to_integer(x, to),)
    values = _float_values(x)
    if not x.dtype.is_float and to.bits < 64:
        values = _sticky(np.asarray(x.array(), order="C"), values)
    legal = [encode(values, to)]
    if to.bits == 8:
        legal.append(encode(values, to, overflow=Overflow.SATURATE))
    through = q.profile.fact("cast_through", op=q.op, dtype=x.dtype)
    if through:
        middle = dtype(through.value)
        legal += [encode(decode(encode(values, middle), middle), to)]
    tensors = [_tensor(codes, to) for codes in legal]
    return (Exact(bits=tensors[0], alternatives=tuple(tensors[1:]), any_nan=True),)


def _float_values(x: HostTensor) -> npt.NDArray[np.float64]:
    """Return the elements in float64, row-major; exact for floats and integers below 2^53."""
    array = np.asarray(x.array(), order="C")
    if x.dtype.is_float:
        return decode(array.reshape(-1).view(f"u{x.dtype.itemsize}"), x.dtype).reshape(x.shape)
    return array.astype(np.float64)


def _sticky(exact: _Codes, rounded: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Round integers to odd in float64, so that the second rounding sees that bits were lost."""
    result = rounded.copy()
    # Only beyond 2^53 is anything lost, and few elements are: Python integers stay readable.
    for i in np.flatnonzero(np.abs(rounded) >= 2.0**53):
        whole, near = int(exact.flat[i]), int(rounded.flat[i])
        if whole != near:
            below = near if abs(near) < abs(whole) else int(np.nextafter(rounded.flat[i], 0.0))
            bits = np.float64(below).view(np.uint64) | np.uint64(1)
            result.flat[i] = bits.view(np.float64)
    return result


def _to_integer(x: HostTensor, to: DType) -> Exact:
    array = np.asarray(x.array(), order="C")
    if to.kind is Kind.BOOL:
        return Exact(bits=HostTensor.of(_float_values(x) != 0 if x.dtype.is_float else array != 0, to))
    if not x.dtype.is_float:
        return Exact(bits=HostTensor.of(array.astype(to.storage), to))
    values = np.trunc(_float_values(x))
    low = -(2.0 ** (to.bits - 1)) if to.signed else 0.0
    high = 2.0 ** (to.bits - 1) if to.signed else 2.0**to.bits
    defined = (values >= low) & (values < high)
    result = np.where(defined, values, 0.0).astype(to.storage)
    return Exact(bits=HostTensor.of(result, to), free=torch.from_numpy(~defined))


def _tensor(codes: npt.NDArray[np.unsignedinteger], to: DType) -> HostTensor:
    return HostTensor.of(codes.reshape(-1).view(to.storage).reshape(codes.shape), to)
