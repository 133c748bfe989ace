"""Whether a call of torch gave its float64 oracle to within one rounding: then it is right, unsampled.

    T1  |e| <= 1.7 u |y|      T2  rms(e / (0.42 u |y|)), limits as everywhere
    an element that the type holds: equal, and all of them to the bit where it holds every element

u is float32's unit roundoff, y the call itself in float64 on what the device consumed; 16-bit results
are the rounding of a value within T1. Monte-Carlo arithmetic would allow no less: an element that its
type does not hold was rounded by the last operation that did not only move it, so its samples have
sigma >= 0.42 u |y|; 32 of them, of uniform noise, know sigma^2 to 16 % rms, so four times that leaves
s >= 0.61 sigma, and the bound of `monte_carlo_spread` is at least 6.68 s = 1.7 u |y|. So what is within
here is within there, and what is not has only to be asked there. Says nothing of any other result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from parity.backend.torch_call import Call
from parity.backend.torch_tensor import dtype_of, to_torch
from parity.case.dtype import DTYPES, DType
from parity.case.tensor import HostTensor
from parity.judge.budget import RMS_ROUNDING, Budget, Exact, Expected
from parity.judge.monte_carlo_spread import encoded
from parity.judge.oracle import to_float64

__all__ = ["expected_nearly"]

_HOST = torch.device("cpu")
_ROUNDINGS = 1.7
_UNIT = DTYPES["f32"].unit_roundoff
_JUDGED = (torch.float32, torch.bfloat16, torch.float16)


def expected_nearly(call: Call, consumed: Sequence[HostTensor]) -> tuple[Expected, ...] | None:
    """Return what a call's outputs are to within one rounding, None where its oracle is not known so cheaply.

    Those are calls that raise in float64, that are of integers and give floats, or give what is no float32
    or 16-bit result.
    """
    given = [to_torch(t, _HOST) for t in consumed]
    has_floats = any(_is_inexact(x) for x in given)
    try:
        real = call.run(given)
        wide = call.run([_wide(x) for x in given], widen=_widened)
    except Exception:  # noqa: BLE001  # whatever it is, the slow way says why
        return None
    if len(real) != len(wide) or any(r.shape != w.shape for r, w in zip(real, wide, strict=True)):
        return None
    found = []
    for r, w in zip(real, wide, strict=True):
        expected = _expected(r.dtype, w, has_floats=has_floats)
        if expected is None:
            return None
        found.append(expected)
    return tuple(found) or None


def _expected(dtype: torch.dtype, oracle: Tensor, *, has_floats: bool) -> Expected | None:
    if dtype not in _JUDGED:
        known = dtype_of(dtype) if dtype is oracle.dtype and not dtype.is_floating_point else None
        return None if known is None else Exact(bits=_bits(oracle, known))
    if oracle.dtype is not torch.float64 or not has_floats:
        return None
    held_by = dtype_of(dtype)
    bits = encoded(oracle, held_by)
    exact = to_float64(bits)
    held = (exact == oracle) | (exact.isnan() & oracle.isnan())
    if bool(held.all()):
        return Exact(bits=bits, any_nan=True)
    size = torch.where(held | ~oracle.isfinite(), 0.0, oracle.abs())
    return Budget(
        dtype=held_by,
        value=oracle,
        hard=_ROUNDINGS * _UNIT * size,
        sigma=RMS_ROUNDING * _UNIT * size,
        roundings=1 if held_by.unit_roundoff > _UNIT else 0,
    )


def _bits(values: Tensor, dtype: DType) -> HostTensor:
    return HostTensor.of(values.contiguous().numpy().astype(dtype.storage, copy=False), dtype)


def _is_inexact(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _wide(x: Tensor) -> Tensor:
    return x.to(_widened(x.dtype)) if _is_inexact(x) else x.clone()


def _widened(dtype: torch.dtype) -> torch.dtype:
    if dtype.is_complex:
        return torch.complex128
    return torch.float64 if dtype.is_floating_point else dtype
