"""Whole quotients and remainders: discontinuous, so that several results may be right.

Where rounding a / b may carry it over a whole number, what lies on either side of it is right
(NUMERICS.md 9); everywhere else there is one result. Integers have one always. u is the accumulator's
roundoff.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from parity.case.dtype import DType, decode, nearest
from parity.case.tensor import HostTensor
from parity.judge.budget import Exact, Expected, Question, SetValued

__all__ = ["floor_divide", "remainder", "trunc_divide"]

_Floats = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]
_Array = npt.NDArray[Any]  # floats or integers, and what numpy makes of them


def floor_divide(q: Question) -> tuple[Expected, ...]:
    """y = floor(a / b), of integers to the bit; of floats any floor of a / b (1 + d), rounded once,
    0 <= d <= 2 u above, and 2 u below too from a quotient of 1/(4 u) on.

    A quotient rounded to nearest never falls below the whole number beneath it, which is representable,
    but may reach the next. (a - fmod(a, b)) / b, as C code has it, is rounded twice: 2 u. A division
    with `ulps` of its own adds 2 ulps u to both sides. By way of fmod an infinite a gives NaN.
    A profile that declares `intermediates_rounded` may have every step of that way in its dtype.
    """
    if not q.dtype.is_float:
        return (_of_integers(q, _floor),)
    return (_of_floats(q, np.floor, _by_fmod),)


def trunc_divide(q: Question) -> tuple[Expected, ...]:
    """y = a / b without its fraction, of integers to the bit; of floats as floor_divide, by magnitude.

    A profile that declares `intermediates_rounded` may round the quotient to its dtype first.
    """
    if not q.dtype.is_float:
        return (_of_integers(q, _trunc),)
    return (_of_floats(q, np.trunc, lambda a, b, to: np.trunc(nearest(np.asarray(a / b), to))),)


def remainder(q: Question) -> tuple[Expected, ...]:
    """y = a - b n, n = floor(a / b), of integers to the bit; of floats rounded once.

    fmod is exact (C17 7.12.10.1), adding b to it rounds once, and so does a fused a - b n. n + 1 is as
    right where a quotient rounded twice may reach it, 2 u |a / b| away, below a quotient of 1/(4 u): its
    result is then about 0 where the other is about b, or the other way round. Of an infinite b the
    formula gives NaN.
    """
    a, b = _operands(q)
    if not q.dtype.is_float:
        return (_of_integers(q, lambda a, b: a - b * _floor(a, b)),)
    with np.errstate(all="ignore"):
        rest = np.fmod(a, b)
        below = (rest != 0) & ((b < 0) != (rest < 0))
        r = np.where(below, rest + b, rest)
        size = np.abs(a / b)
        slack = _unit(q) * size + np.where(a == 0, 0.0, _smallest(q))
        # From a quotient up to the next whole number, without adding b and taking it away again.
        gap, next_one = np.where(below, -rest / b, 1 - rest / b), np.where(below, rest, rest - b)
        carried = (rest != 0) & (gap <= slack) & (size < 1 / (4 * q.accumulator.unit))
        legal = [nearest(r, q.dtype), np.where(carried, nearest(next_one, q.dtype), np.nan)]
        if q.ulps("div"):
            # Such a quotient may fall short of the whole number that it is, too.
            legal.append(np.where(r / b <= slack, nearest(r + b, q.dtype), np.nan))
        nan = np.isnan(r) | np.isinf(b)

    def wrong(outputs: tuple[HostTensor, ...]) -> _Mask:
        got = _numbers(outputs[0])
        right = np.isnan(got) & nan
        for each in legal:
            right |= got == each
        return np.asarray(~(right | _flushed(q, got, legal[0])))

    rule = "the exact remainder of a quotient that rounding may reach, rounded once"
    return (SetValued(dtype=q.dtype, shape=r.shape, wrong=wrong, rule=rule),)


def _operands(q: Question) -> tuple[_Array, _Array]:
    a, b = q.inputs
    assert a is not None and b is not None
    return np.asarray(a.numpy()), np.asarray(b.numpy())


def _of_integers(q: Question, operation: Callable[[_Array, _Array], _Array]) -> Exact:
    """Return the one result; a division by 0 and the lowest by -1, which C leaves undefined, are free."""
    a, b = np.broadcast_arrays(*_operands(q))
    undefined = b == 0
    if q.dtype.signed:
        undefined = undefined | ((b == -1) & (a == np.iinfo(q.dtype.storage).min))
    result = operation(a, np.where(undefined, np.array(1, b.dtype), b))
    return Exact(
        bits=HostTensor.of(result.astype(q.dtype.storage), q.dtype), free=torch.from_numpy(undefined)
    )


def _floor(a: _Array, b: _Array) -> _Array:
    return np.asarray(np.floor_divide(a, b))


def _trunc(a: _Array, b: _Array) -> _Array:
    whole = np.floor_divide(a, b)
    return np.asarray(whole + ((whole * b != a) & ((a < 0) != (b < 0))).astype(whole.dtype))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quotients:
    """What a / b may be before its fraction is dropped: from `low` to `high`, with one sign."""

    low: _Floats
    high: _Floats


def _of_floats(
    q: Question,
    whole: Callable[[_Floats], _Floats],
    through: Callable[[_Floats, _Floats, DType], _Floats],
) -> SetValued:
    """`through` is what a declared rounding of intermediates gives."""
    a, b = _operands(q)
    with np.errstate(all="ignore"):
        exact = np.asarray(a / b)
        made = _quotients(q, a, b, exact, upward=whole is np.floor)
        low, high = nearest(whole(made.low), q.dtype), nearest(whole(made.high), q.dtype)
        stored = through(a, b, q.dtype) if q.declares("intermediates_rounded") else None

    def wrong(outputs: tuple[HostTensor, ...]) -> _Mask:
        got = _numbers(outputs[0])
        with np.errstate(all="ignore"):
            right = (got >= low) & (got <= high) & (np.isinf(got) | (got == np.floor(got)))
        right |= np.isnan(got) & (np.isnan(exact) | np.isinf(a))
        if stored is not None:
            right |= (got == stored) | (np.isnan(got) & np.isnan(stored))
        return np.asarray(~right)

    rule = "the whole part of a quotient that rounding may reach"
    return SetValued(dtype=q.dtype, shape=exact.shape, wrong=wrong, rule=rule)


def _quotients(q: Question, a: _Floats, b: _Floats, exact: _Floats, *, upward: bool) -> _Quotients:
    """Return the reachable quotients. `upward` says that the whole part lies below, not towards zero."""
    size, u = np.abs(exact), q.accumulator.unit
    near, own = _unit(q) * size, 2 * q.ulps("div") * u * size
    far = size >= 1 / (4 * u)
    # Beneath a quotient that is not exact a division may give the smallest number, or 0.
    least = np.where(exact == 0, 0.0, _smallest(q))
    low, high = exact - np.where(far, near, own) - least, exact + near + least
    if not upward:
        outer, inner = size + near + least, size - np.where(far, near, own) - least
        low, high = np.where(exact < 0, -outer, inner), np.where(exact < 0, -inner, outer)
    low, high = (
        np.where(exact > 0, np.maximum(low, 0.0), low),
        np.where(exact < 0, np.minimum(high, 0.0), high),
    )
    if upward:
        # A quotient of an infinite divisor is 0 from below: the floor of what it approaches is -1.
        below = np.isinf(b) & np.isfinite(a) & (a != 0) & ((a < 0) != (b < 0))
        low = np.where(below, -1.0, low)
    infinite = np.isinf(exact)
    return _Quotients(low=np.where(infinite, exact, low), high=np.where(infinite, exact, high))


def _by_fmod(a: _Floats, b: _Floats, to: DType) -> _Floats:
    """Return floor(a / b) as C code forms it by fmod, with each result rounded to a dtype."""
    r = np.fmod(a, b)
    quotient = nearest(np.asarray(nearest(np.asarray(a - r), to) / b), to)
    quotient = np.where((r != 0) & ((b < 0) != (r < 0)), nearest(quotient - 1, to), quotient)
    below = np.floor(quotient)
    above = nearest(below + 1, to)
    made = np.where(nearest(quotient - below, to) > 0.5, above, below)
    return np.where(b == 0, a / b, np.where(quotient == 0, 0.0, made))


def _unit(q: Question) -> float:
    """Relative error of a quotient: two roundings, and the division's own last places."""
    return 2 * (1 + q.ulps("div")) * q.accumulator.unit


def _smallest(q: Question) -> float:
    to = q.accumulator.dtype
    return to.min_normal if q.profile.flush_subnormals else to.min_subnormal


def _flushed(q: Question, got: _Floats, value: _Floats) -> _Mask:
    """Mark zeros where subnormal results are flushed."""
    flushes = q.profile.flush_subnormals or q.declares("results_flushed")
    return np.asarray((got == 0) & (np.abs(value) < q.dtype.min_normal) & flushes)


def _numbers(tensor: HostTensor) -> _Floats:
    codes = np.asarray(tensor.array(), order="C").reshape(-1).view(f"u{tensor.dtype.itemsize}")
    return decode(codes, tensor.dtype).reshape(tensor.shape)
