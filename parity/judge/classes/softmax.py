"""Softmax, log-softmax and logsumexp: exponentials of differences from the row's maximum."""

from __future__ import annotations

import torch
from torch import Tensor

from parity.judge.budget import RMS_ROUNDING, Budget, Expected, Question, growth, pile_up

__all__ = ["log_softmax", "logsumexp", "softmax"]


def _rows(q: Question) -> tuple[int, int, int]:
    """Return (dim, K, number of rows)."""
    dim = q.integer("dim")
    terms = q.x.shape[dim] if q.x.ndim else 1
    return dim, terms, max(q.x.numel() // max(terms, 1), 1)


def _exponentials(q: Question, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (max, d = max - x with 0 for exact zeros, p, sum of exp(-d)) along dim."""
    if q.x.shape[dim if q.x.ndim else 0 :][:1] == (0,):
        empty = q.x.sum(dim, keepdim=True)
        return empty - torch.inf, q.x, q.x, empty
    top = q.x.amax(dim, keepdim=True)
    # A row whose maximum is -inf has no finite term; subtracting 0 keeps its exponentials at 0.
    base = torch.where(top == -torch.inf, 0.0, top)
    e = (q.x - base).exp()
    total = e.sum(dim, keepdim=True)
    distance = torch.where(e == 0, 0.0, base - q.x)
    return top, distance, e / total, total


def _exp_error(q: Question, d: Tensor) -> Tensor:
    """Error of exp(-d) in units of u: 3 d and the function's own, and none at 0."""
    return torch.where(d == 0, 0.0, 3 * d + 2 * q.ulps("exp"))


def _denominator(p: Tensor, dim: int, *, terms: int, unit: float) -> tuple[Tensor, Tensor]:
    """`pile_up` of the sum that p was divided by, in units of that sum."""
    squares = p.square().sum(dim, keepdim=True)
    return pile_up(terms=terms, squares=squares, total=torch.ones_like(squares), unit=unit)


def softmax(q: Question) -> tuple[Expected, ...]:
    """y = exp(-d) / sum, d = max - x: rel = 3 d + 4, H = y u (rel + sum_j y_j rel_j + c(K) + 3).

    3 d pays for exp2(x log2 e) with a rounded product, 4 is the exponential's own error in u.
    sigma = 0.42 u y sqrt((1.5 d)^2 + 6 + K/3). A row that is -inf throughout is 0/0: NaN, as
    torch documents; +inf and NaN make the whole row NaN.
    """
    dim, terms, rows = _rows(q)
    _, d, p, total = _exponentials(q, dim)
    u, relative = q.accumulator.unit, _exp_error(q, d)
    inherited = (p * relative).sum(dim, keepdim=True)
    equal, piled = _denominator(p, dim, terms=terms, unit=u)
    c = growth(terms, outputs=p.numel(), equal=equal)
    # exp's last places, which beneath the normal range no longer shrink.
    least = q.ulps("exp") * q.accumulator.dtype.min_subnormal / total
    hard = p * u * (relative + inherited + c + 3 * (terms > 1)) + least + q.flushed()
    variance = (RMS_ROUNDING * u) ** 2 * ((1.5 * d).square() + 6 + terms / 3) * (terms > 1)
    sigma = p * (variance + piled).sqrt() + 0.5 * least + q.flushed() / 3
    if dim % max(q.x.ndim, 1) != q.x.ndim - 1:
        mid, least = q.unit_of("inner_exp_rounded"), q.least_of("inner_exp_rounded") / total
        hard = hard + mid * p + 0.5 * least
        sigma = (sigma.square() + (RMS_ROUNDING * mid * p).square() + (0.3 * least).square()).sqrt()
    return (Budget(dtype=q.dtype, value=p, hard=hard, sigma=sigma, independent=rows),)


def _log_sum(q: Question) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return (max, d, log sum, H, h^2) of log(sum exp(-d)), all along dim.

    H = u (sum_j p_j (3 d_j + 4) + c(K) + 6 |log sum|): relative error of the sum, then 3 ulp of
    the logarithm (OpenCL full profile). Facts: `intermediates_rounded` rounds x - max, every
    exponential, their sum and its logarithm to a dtype; `log_sum_rounded` the last two.
    """
    dim, terms, rows = _rows(q)
    top, d, p, total = _exponentials(q, dim)
    u = q.accumulator.unit
    log, relative = total.log(), _exp_error(q, d)
    equal, piled = _denominator(p, dim, terms=terms, unit=u)
    c = growth(terms, outputs=rows, equal=equal)
    hard = u * ((p * relative).sum(dim, keepdim=True) + c + 2 * q.ulps("log") * log.abs())
    variance = (RMS_ROUNDING * u) ** 2 * (
        (p.square() * ((1.5 * d).square() + 6 * (d > 0))).sum(dim, keepdim=True)
        + terms / 3 * (terms > 1)
        + (2 * log).square()
    ) + piled
    mid = q.unit_of("intermediates_rounded")
    if mid:
        hard = hard + mid * ((p * (d + 1)).sum(dim, keepdim=True) + 1 + log.abs())
        variance = variance + (RMS_ROUNDING * mid) ** 2 * (
            (p.square() * (d.square() + 1)).sum(dim, keepdim=True) + 1 + log.square()
        )
    last = q.unit_of("log_sum_rounded")
    if last:
        hard = hard + last * (1 + log.abs())
        variance = variance + (RMS_ROUNDING * last) ** 2 * (1 + log.square())
    return top, d, log, hard, variance


def logsumexp(q: Question) -> tuple[Expected, ...]:
    """y = max + log(sum exp(x - max)): the error of the logarithm plus u |y|.

    H = u (sum_j p_j (3 d_j + 4) + c(K) + 6 |log sum| + |y|). Nothing to add gives -inf.
    """
    dim, _, _ = _rows(q)
    top, _, log, hard, variance = _log_sum(q)
    u = q.accumulator.unit
    value = torch.where(top.isinf(), top, top + log)
    hard = hard + u * value.abs()
    sigma = (variance + (RMS_ROUNDING * u * value).square()).sqrt()
    if not q.attrs["keepdim"]:
        value, hard, sigma = (t.squeeze(dim) if t.ndim else t for t in (value, hard, sigma))
    return (Budget(dtype=q.dtype, value=value, hard=hard, sigma=sigma),)


def log_softmax(q: Question) -> tuple[Expected, ...]:
    """y = x - max - log(sum): the logarithm's error plus the absolute terms of two subtractions.

    H = u (|x| + |max| + d + |log sum| + |y|) + H(log sum): near y = 0 the operands cancel, so
    the error is absolute there (149 ulp of the result have been measured on CPU f32).
    """
    _, _, rows = _rows(q)
    top, _, log, hard, variance = _log_sum(q)
    u = q.accumulator.unit
    value = torch.where(top == -torch.inf, torch.nan, q.x - top - log)
    finite_x = torch.where(q.x.isfinite(), q.x, 0.0)
    parts = finite_x.abs() + top.abs() + (top - finite_x).abs() + log.abs() + value.abs()
    hard = hard + u * parts
    # x - max is an intermediate of the result itself.
    mid = q.unit_of("intermediates_rounded")
    hard = hard + mid * (top - finite_x).abs()
    variance = variance + (RMS_ROUNDING * mid * (top - finite_x)).square()
    spread = (top - finite_x).square() + log.square() + value.square() + top.square()
    sigma = (variance + (RMS_ROUNDING * u) ** 2 * spread).sqrt()
    return (Budget(dtype=q.dtype, value=value, hard=hard, sigma=sigma, independent=rows),)
