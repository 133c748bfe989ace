"""What meets at an index: sums, products and extremes of a number of terms that differs by element.

Evaluated by numpy in float64. Overwriting is in `indexing`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from parity.case.dtype import DTYPES, DType, encode
from parity.case.tensor import HostTensor
from parity.judge.budget import RMS_ROUNDING, Budget, Exact, Expected, Question, sum_error
from parity.judge.classes.indexing import raw, slots, up_to_nan
from parity.judge.classes.sums import finite, overflows

__all__ = ["bincount", "scatter_reduce"]

_Array = npt.NDArray[np.generic]
_Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Meeting:
    """Terms [n] and the element at which each meets others; `start` is what an element begins with."""

    start: _Array
    at: npt.NDArray[np.int64]
    terms: _Array
    counts: npt.NDArray[np.int64]  # terms an element, its own value among them

    def by(self, ufunc: np.ufunc, start: _Array, terms: _Array) -> _Array:
        """Reduce terms into a copy of what elements begin with."""
        result = np.array(start)
        ufunc.at(result, self.at, terms)
        return result


def scatter_reduce(q: Question) -> tuple[Expected, ...]:
    """y = x with src reduced into it at index along dim, by element over its n terms.

    sum and mean: the sum rule; a mean adds 2 u |y|, and where a profile declares
    `intermediates_rounded` u_16 |y| for its sum. prod: (n - 1) u |y| and beneath the normal range
    n eta / 2 times what the factors above 1 make of it. amin and amax, and all of integers, which
    wrap: to the bit, the sign of zero free; NaN wins.
    """
    x, index, src = raw(q, 0), raw(q, 1).astype(np.int64), q.inputs[2]
    assert src is not None
    at = slots(index, x.shape, q.integer("dim") % x.ndim).reshape(-1)
    terms = src.numpy()[tuple(slice(n) for n in index.shape)].reshape(-1)
    hits = np.bincount(at, minlength=x.size)
    own, reduce = bool(q.attrs["include_self"]), str(q.attrs["reduce"])
    values, neutral = q.x.numpy().reshape(-1), _neutral(reduce, q.dtype)
    start = values if own else np.where(hits > 0, neutral, values).astype(values.dtype)
    met = _Meeting(start=start, at=at, terms=terms, counts=hits + np.where(own | (hits == 0), 1, 0))
    if not q.dtype.is_float or reduce in ("amin", "amax"):
        return (_selected(q, met, _UFUNCS[reduce], touched=hits > 0),)
    budget = _product(q, met) if reduce == "prod" else _sum(q, met, mean=reduce == "mean")
    # An element that nothing meets is a copy.
    copied = torch.from_numpy(hits == 0)
    hard, sigma = (torch.where(copied, 0.0, t) for t in (budget.hard, budget.sigma))
    assert budget.free is not None
    value, free = torch.where(copied, torch.from_numpy(values), budget.value), budget.free & ~copied
    value, hard, sigma, free = (t.reshape(x.shape) for t in (value, hard, sigma, free))
    return (dataclasses.replace(budget, value=value, hard=hard, sigma=sigma, free=free),)


_UFUNCS: dict[str, np.ufunc] = {
    "sum": np.add,
    "prod": np.multiply,
    "amin": np.minimum,
    "amax": np.maximum,
}


def _neutral(reduce: str, dtype: DType) -> float | int:
    if reduce in ("sum", "mean", "prod"):
        return 1 if reduce == "prod" else 0
    if dtype.is_float:
        return np.inf if reduce == "amin" else -np.inf
    limits = np.iinfo(dtype.storage)
    return int(limits.max if reduce == "amin" else limits.min)


def _selected(q: Question, met: _Meeting, ufunc: np.ufunc, *, touched: npt.NDArray[np.bool_]) -> Expected:
    """An exact result: where something meets, its value, which has either sign where it is zero."""
    x = raw(q, 0)
    made, of = met.by(ufunc, met.start, met.terms), q.dtype
    if not of.is_float:
        return Exact(bits=HostTensor.of(made.reshape(x.shape), of))
    code = encode(made.astype(np.float64), of)
    own = np.array(x, order="C").reshape(-1).view(code.dtype)
    bits = HostTensor.of(np.where(touched, code, own).view(of.storage).reshape(x.shape), of)
    return up_to_nan(bits, touched, signed_zero=False)


def _sum(q: Question, met: _Meeting, *, mean: bool) -> Budget:
    """The sum rule for the terms of each element."""
    budget = _added(q, met, q.dtype)
    if not mean:
        return budget
    n, u = torch.from_numpy(met.counts).to(torch.float64), q.accumulator.unit
    value = budget.value / n
    stored = q.unit_of("intermediates_rounded")
    hard = budget.hard / n + (2 * u + stored) * value.abs() + q.least_of("intermediates_rounded") / (2 * n)
    sigma = torch.sqrt((budget.sigma / n).square() + (RMS_ROUNDING * (u + stored) * value).square())
    return dataclasses.replace(budget, value=value, hard=hard, sigma=sigma)


def _added(q: Question, met: _Meeting, of: DType) -> Budget:
    def add(change: Callable[[Tensor], Tensor]) -> Tensor:
        start, terms = (change(torch.from_numpy(np.array(t))).numpy() for t in (met.start, met.terms))
        return torch.from_numpy(met.by(np.add, start, terms))

    value, n = add(lambda t: t), torch.from_numpy(met.counts).to(torch.float64)
    hard, variance = sum_error(
        terms=n,
        magnitude=add(torch.abs),
        squares=add(torch.square),
        total=value,
        outputs=value.numel(),
        accumulator=q.accumulator,
        exact_terms=True,
    )
    free = overflows(value, add(finite), q, terms=n) & (n > 1)
    return Budget(dtype=of, value=value, hard=hard, sigma=variance.sqrt(), free=free)


def _product(q: Question, met: _Meeting) -> Budget:
    """A product of n factors in any order, n - 1 of them rounded.

    Order decides, and any result is legal, where the factors above 1 alone overflow and others would
    bring the product back, and where an infinity meets factors whose own product underflows.
    """
    u, kept = q.accumulator.unit, q.accumulator.dtype

    def times(change: Callable[[_Floats], _Floats]) -> _Floats:
        start, terms = (change(t.astype(np.float64)) for t in (met.start, met.terms))
        return met.by(np.multiply, start, terms).astype(np.float64)

    value = times(lambda f: f)
    large = times(lambda f: np.where(np.isfinite(f), np.maximum(np.abs(f), 1), 1))
    small = times(lambda f: np.where(np.isnan(f) | (f == 0), 1, np.minimum(np.abs(f), 1)))
    shrinks = (small < 1) | (value == 0)
    steps = (met.counts - 1).clip(min=0)
    overflow = (large * (1 + steps * u) >= kept.max_finite * (1 + u / 2)) & shrinks
    vanishes = np.isinf(value) & (small < kept.min_normal)
    least = kept.min_normal if q.profile.flush_subnormals else kept.min_subnormal / 2
    lost = np.where((steps > 0) & (small * (1 - steps * u) < kept.min_normal), steps * least * large, 0.0)
    relative = steps * u * (1 + steps * u)
    hard = relative * np.abs(value) + np.where(np.isfinite(lost), lost, 0.0)
    sigma = RMS_ROUNDING * u * np.sqrt(steps) * np.abs(value) + np.where(np.isfinite(lost), lost / 2, 0.0)
    return Budget(
        dtype=q.dtype,
        value=torch.from_numpy(value),
        hard=torch.from_numpy(hard),
        sigma=torch.from_numpy(sigma),
        free=torch.from_numpy((overflow | vanishes) & ~np.isnan(value)),
    )


def bincount(q: Question) -> tuple[Expected, ...]:
    """How often each number is in x, int64 and exact; with weights their sum, by the sum rule."""
    at = raw(q, 0).astype(np.int64)
    length = max(q.integer("minlength"), int(at.max(initial=-1)) + 1)
    hits = np.bincount(at, minlength=length).astype(np.int64)
    weights = q.inputs[1] if len(q.inputs) > 1 else None
    if weights is None:
        return (Exact(bits=HostTensor.of(hits, DTYPES["i64"])),)
    given = q.raw[1]
    assert given is not None
    met = _Meeting(start=np.zeros(length), at=at, terms=weights.numpy(), counts=hits)
    return (_added(q, met, given.dtype),)
