"""Products and sums: the error is that of adding n terms in some order (NUMERICS.md 1.1)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parity.case.dtype import DType
from parity.case.tensor import HostTensor
from parity.judge.budget import Budget, Exact, Expected, Question, sum_error

__all__ = [
    "EXACT_PRODUCT_BITS",
    "addmm",
    "cumsum",
    "finite",
    "folds",
    "index_put",
    "linear",
    "matmul",
    "mean",
    "of_addmm",
    "of_linear",
    "of_product",
    "overflows",
    "product",
    "scatter_add",
    "sum_",
    "with_addend",
]

# Products of two significands of at most 12 bits are exact in a 24-bit accumulator.
EXACT_PRODUCT_BITS = 11


def product(
    q: Question, a: Tensor, b: Tensor, *, dtype: DType, weight_unit: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (y, H, h^2, free) of a @ b in float64, by two companion products.

    S = |a| |b| and q = (a a)(b b). `weight_unit` is the roundoff of a declared rounding of b,
    which adds u S to H and (0.42 u)^2 q to h^2.
    """
    magnitude = a.abs() @ b.abs()
    # Where all of it is finite, so is all that it is made of.
    reach = magnitude if bool(magnitude.isfinite().all()) else finite(a) @ finite(b)
    return of_product(
        q,
        value=a @ b,
        magnitude=magnitude,
        squares=a.square() @ b.square(),
        reach=reach,
        terms=a.shape[-1],
        dtype=dtype,
        weight_unit=weight_unit,
    )


def of_product(
    q: Question,
    *,
    value: Tensor,
    magnitude: Tensor,
    squares: Tensor,
    reach: Tensor,
    terms: int,
    dtype: DType,
    weight_unit: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (y, H, h^2, free) of a product of which y, S, q and the S of finite terms are known."""
    hard, variance = sum_error(
        terms=terms,
        magnitude=magnitude,
        squares=squares,
        total=value,
        outputs=value.numel(),
        accumulator=q.accumulator,
        exact_terms=dtype.mantissa_bits + 1 <= EXACT_PRODUCT_BITS,
    )
    if weight_unit:
        hard = hard + weight_unit * magnitude
        variance = variance + (0.42 * weight_unit) ** 2 * squares
    # Beneath the normal range a product is rounded to the accumulator's smallest step.
    least = q.accumulator.dtype.min_subnormal
    hard, variance = hard + 0.5 * terms * least, variance + terms * (0.3 * least) ** 2
    if q.declares("products_flushed"):
        # What is lost is anything below the smallest normal: uniform, so a third of its square.
        lost = q.accumulator.dtype.min_normal
        hard, variance = hard + terms * lost, variance + terms * lost**2 / 3
    return value, hard, variance, overflows(value, reach, q, terms=terms)


def overflows(
    value: Tensor, magnitude: Tensor, q: Question, *, terms: Tensor | float, largest: Tensor | None = None
) -> Tensor:
    """Mark sums whose finite terms can overflow in some order, so that any value is legal.

    `magnitude` is the sum of the magnitudes of the finite terms, S. No partial sum exceeds the
    terms of one sign, (S + |y|) / 2, but for n roundings; infinity comes half a step, u max,
    beyond the largest value, which `largest` and less than that never reach. A NaN among the
    inputs stays.
    """
    u, most = q.accumulator.unit, q.accumulator.dtype.max_finite
    n = torch.as_tensor(terms, dtype=torch.float64)
    one_sign = (magnitude + torch.where(value.isfinite(), value.abs(), magnitude)) / 2
    reached = one_sign * (1 + n * u) >= most * (1 + u / 2)
    if largest is not None:
        reached &= one_sign - largest >= u * most
    return ~value.isnan() & reached


def finite(x: Tensor) -> Tensor:
    """Return |x| with 0 for what is not finite."""
    return x.abs().nan_to_num(nan=0.0, posinf=0.0)


def matmul(q: Question) -> tuple[Expected, ...]:
    """y = a b: H = (c(K) [+1 when products are inexact]) u |a||b|, h^2 by the sum rule with q = a^2 b^2.

    Source: Higham and Mary 2019; block-FMA form Blanchard et al., SISC 42 (2020) C124. In float64 the
    result is judged, to the bit, where no partial sum is rounded in any order.
    """
    a, b = q.inputs
    assert a is not None and b is not None
    if q.dtype.name == "f64" and _never_rounds(a, b):
        exact = (a @ b).numpy()
        # A sum of zeros has the sign that its order gives it.
        other = np.where(exact == 0, -exact, exact)
        return (Exact(bits=HostTensor.of(exact, q.dtype), alternatives=(HostTensor.of(other, q.dtype),)),)
    value, hard, variance, free = product(q, a, b, dtype=q.dtype)
    return (Budget(dtype=q.dtype, value=value, hard=hard, sigma=variance.sqrt(), free=free),)


def _never_rounds(a: Tensor, b: Tensor) -> bool:
    """Whether float64 holds every partial sum of a b: multiples of one unit, fewer than 2^53 of them.

    With 2^i the last place that any element of a uses and 2^j that of b, every product and every
    partial sum is a multiple of 2^(i + j) and at most |a||b|.
    """
    if not (a.isfinite().all() and b.isfinite().all() and a.any() and b.any()):
        return False
    unit = 2.0 ** (_last_place(a) + _last_place(b))
    return bool(((a.abs() @ b.abs()) / unit < 2.0**53).all())


def _last_place(x: Tensor) -> int:
    """Return the exponent of the lowest bit that any element, of which one is not 0, has set."""
    fraction, exponent = torch.frexp(x[x != 0])
    whole = torch.ldexp(fraction, torch.tensor(53)).to(torch.int64)
    _, lowest = torch.frexp((whole & -whole).to(torch.float64))
    return int((exponent - 53 + lowest - 1).min())


def linear(q: Question) -> tuple[Expected, ...]:
    """y = x w^T + bias: the matmul rule, plus one addition u (|y - bias| + |y|).

    A profile that declares `product_rounded` rounds x w^T to a dtype before it adds the bias, where x
    is not one contiguous matrix; one that declares `product_stored` does so whatever the layout.
    """
    x, w, bias = (*q.inputs, None)[:3]
    assert x is not None and w is not None
    return (of_linear(q, product(q, x, w.transpose(-1, -2), dtype=q.dtype), bias),)


def of_linear(q: Question, made: tuple[Tensor, Tensor, Tensor, Tensor], bias: Tensor | None) -> Budget:
    """Return the budget of `linear` from (y, H, h^2, free) of its product."""
    middle = 0.0 if folds(q) else q.unit_of("product_rounded")
    return with_addend(q, *made, bias, middle=middle)


def folds(q: Question) -> bool:
    """Whether the first input of a `linear` is one contiguous matrix, which some kernels treat otherwise."""
    raw = q.raw[0]
    return raw is not None and (len(raw.shape) == 2 or raw.is_contiguous)


def addmm(q: Question) -> tuple[Expected, ...]:
    """y = beta c + alpha a b: the matmul rule times |alpha|, plus u (3 |alpha a b| + 3 |beta c| + |y|).

    A profile that declares `product_stored` (value: a dtype) stores alpha a b in it before it adds
    beta c: H += u |alpha a b| + eta / 2.
    """
    c, a, b = q.inputs
    assert c is not None and a is not None and b is not None
    return (of_addmm(q, product(q, a, b, dtype=q.dtype), c),)


def of_addmm(q: Question, made: tuple[Tensor, Tensor, Tensor, Tensor], c: Tensor) -> Budget:
    """Return the budget of `addmm` from (y, H, h^2, free) of its product."""
    value, hard, variance, free = made
    alpha, beta, u = q.number("alpha"), q.number("beta"), q.accumulator.unit
    hard = abs(alpha) * hard + 2 * u * abs(alpha) * value.abs()
    variance = alpha**2 * variance + (0.42 * u * alpha * value).square()
    # torch documents that beta = 0 ignores c, NaN and infinity included.
    addend = beta * c if beta else torch.zeros_like(c)
    return with_addend(q, alpha * value, hard, variance, free, addend)


def with_addend(
    q: Question,
    value: Tensor,
    hard: Tensor,
    variance: Tensor,
    free: Tensor,
    addend: Tensor | None,
    *,
    middle: float = 0.0,
) -> Budget:
    """Return the budget of a sum to which something is added, or of the sum alone.

    `middle` is the roundoff of a declared rounding of the sum before that.
    """
    if addend is None:
        return Budget(dtype=q.dtype, value=value, hard=hard, sigma=variance.sqrt(), free=free)
    u, least = q.accumulator.unit, q.least_of("product_stored")
    middle = max(middle, q.unit_of("product_stored"))
    total = value + addend
    hard = hard + middle * value.abs() + least / 2 + u * (3 * addend.abs() + value.abs() + total.abs())
    variance = variance + (0.42 * middle * value).square() + (0.42 * u * total).square()
    variance = variance + (0.42 * u * addend).square() + (0.3 * least) ** 2
    return Budget(dtype=q.dtype, value=total, hard=hard, sigma=variance.sqrt(), free=free)


def sum_(q: Question) -> tuple[Expected, ...]:
    """y = sum x over dim: H = c(n) u S, h^2 = (0.42 u)^2 (n (q/6 + s^2/3) + s^2)."""
    value, hard, variance, free = _reduce(q)
    return (Budget(dtype=q.dtype, value=value, hard=hard, sigma=variance.sqrt(), free=free),)


def mean(q: Question) -> tuple[Expected, ...]:
    """y = sum x / n: the sum rule divided by n, plus 2 u |y| for the division."""
    value, hard, variance, free = _reduce(q)
    terms, u = _terms(q), q.accumulator.unit
    value = value / terms
    hard = hard / terms + 2 * u * value.abs()
    variance = variance / terms**2 + (0.42 * u * value).square()
    return (Budget(dtype=q.dtype, value=value, hard=hard, sigma=variance.sqrt(), free=free),)


def _terms(q: Question) -> float:
    # Zero terms divide to NaN, as the mean of nothing must.
    return float(q.x.shape[q.integer("dim")]) if q.x.ndim else 1.0


def _reduce(q: Question) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def total(x: Tensor) -> Tensor:
        return x.sum(q.integer("dim"), keepdim=bool(q.attrs["keepdim"]))

    value, magnitude = total(q.x), total(q.x.abs())
    hard, variance = sum_error(
        terms=_terms(q),
        magnitude=magnitude,
        squares=total(q.x.square()),
        total=value,
        outputs=value.numel(),
        accumulator=q.accumulator,
        exact_terms=True,
    )
    largest = finite(q.x).amax(q.integer("dim"), keepdim=bool(q.attrs["keepdim"])) if q.x.numel() else None
    free = overflows(value, total(finite(q.x)), q, terms=_terms(q), largest=largest)
    return value, hard, variance, free


def cumsum(q: Question) -> tuple[Expected, ...]:
    """y_i = sum of the first i terms: the sum rule with prefix n_i, S_i and q_i."""
    dim = q.integer("dim")
    x = q.x
    value, magnitude = x.cumsum(dim), x.abs().cumsum(dim)
    length = x.shape[dim] if x.ndim else 1
    shape = [1] * x.ndim
    if x.ndim:
        shape[dim] = length
    terms = torch.arange(1, length + 1, dtype=torch.float64).reshape(shape)
    hard, variance = sum_error(
        terms=terms,
        magnitude=magnitude,
        squares=x.square().cumsum(dim),
        total=value,
        outputs=value.numel(),
        accumulator=q.accumulator,
        exact_terms=True,
    )
    rows = max(value.numel() // max(length, 1), 1)
    free = overflows(value, finite(x).cumsum(dim), q, terms=terms)
    return (
        Budget(dtype=q.dtype, value=value, hard=hard, sigma=variance.sqrt(), independent=rows, free=free),
    )


def scatter_add(q: Question) -> tuple[Expected, ...]:
    """y = x with src added at index: the sum rule with the number of terms that meet at each element."""
    x, index, src = q.inputs
    assert x is not None and index is not None and src is not None
    dim = q.integer("dim")
    src = src[tuple(slice(n) for n in index.shape)]

    def add(base: Tensor, values: Tensor) -> Tensor:
        return base.scatter_add(dim, index, values)

    return (_accumulated(q, x, src, add),)


def index_put(q: Question) -> tuple[Expected, ...]:
    """y = x with values added at rows `index`: the sum rule per element (accumulating form)."""
    x, index, values = q.inputs
    assert x is not None and index is not None and values is not None

    def add(base: Tensor, addend: Tensor) -> Tensor:
        return base.index_put((index,), addend, accumulate=True)

    return (_accumulated(q, x, values.expand(*index.shape, *x.shape[1:]), add),)


def _accumulated(q: Question, x: Tensor, src: Tensor, add: object) -> Budget:
    assert callable(add)
    value, magnitude = add(x, src), add(x.abs(), src.abs())
    terms = add(torch.zeros_like(x), torch.ones_like(src)) + 1
    hard, variance = sum_error(
        terms=terms,
        magnitude=magnitude,
        squares=add(x.square(), src.square()),
        total=value,
        outputs=value.numel(),
        accumulator=q.accumulator,
        exact_terms=True,
    )
    # An element that nothing is added to is a copy: no error at all.
    copied = terms == 1
    hard = torch.where(copied, 0.0, hard)
    variance = torch.where(copied, 0.0, variance)
    free = overflows(value, add(finite(x), finite(src)), q, terms=terms) & ~copied
    return Budget(dtype=q.dtype, value=value, hard=hard, sigma=variance.sqrt(), free=free)
