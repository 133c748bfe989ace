"""The weighted sum of the experts that were chosen for each row.

A composition of products, an activation and a sum, each stored or not (`computed`). What no row chose
is not read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from parity.case.dtype import DTYPES
from parity.judge.budget import RMS_ROUNDING, Budget, Expected, Question
from parity.judge.classes.computed import Computed, keep
from parity.judge.classes.pointwise import activation_of
from parity.judge.classes.sums import product

__all__ = ["experts"]

# T rows, K hidden, F width of an expert, n of these rows


def experts(q: Question) -> tuple[Expected, ...]:
    """y = sum_j w_j o_j, o = m down^T, m = f(gate) up, [gate, up] = x up^T:

    H_h = H(product);  H_f = |f'| H_gate + H(f);  H_m = |up| H_f + |f| H_up + H_f H_up + 2 u |m|;
    H_o = H(product) + H_m |down|^T;  H = sum |w| H_o + 2 u |w o| + (top - 1) u sum |w o|. sigma^2 the
    same of squares, and (0.42 u)^2 top (q/6 + s^2/3) for the sum. f' is taken at its largest within
    H_gate: |f''| < 0.8. A row in which something overflows that is stored is free.
    """
    x, weights, chosen, up, down = q.inputs
    assert x is not None and weights is not None and chosen is not None
    assert up is not None and down is not None
    nothing = torch.zeros_like(x)
    total = Computed(value=nothing, hard=nothing.clone(), variance=nothing.clone())
    magnitude, squares, free = nothing.clone(), nothing.clone(), torch.zeros(x.shape, dtype=torch.bool)
    # In the order in which models add them up, which matters where the running sum is stored.
    for expert in sorted(set(chosen.flatten().tolist())):
        rows, place = torch.where(chosen == expert)
        made, over = _expert(q, x[rows], up[expert], down[expert])
        weight = weights[rows, place, None]
        term = keep(q, made.times(weight, unit=2 * q.accumulator.unit), "term")
        sums = keep(q, _plus(total, term, rows), "sum")
        total = _with(total, sums, rows)
        magnitude[rows] += term.value.abs()
        squares[rows] += term.value.square()
        free[rows] |= over
    top, u = chosen.shape[-1], q.accumulator.unit
    hard = total.hard + max(top - 1, 0) * u * magnitude
    variance = total.variance
    if top > 1:
        variance = variance + (RMS_ROUNDING * u) ** 2 * top * (squares / 6 + total.value.square() / 3)
    free |= (magnitude >= q.accumulator.dtype.max_finite) | (hard == torch.inf)
    return (
        Budget(
            dtype=q.dtype,
            value=total.value,
            hard=hard,
            sigma=variance.sqrt(),
            free=free & ~total.value.isnan(),
        ),
    )


def _expert(q: Question, x: Tensor, up: Tensor, down: Tensor) -> tuple[Computed, Tensor]:
    """x [n, K], up [2F, K], down [K, F]; the second of the pair is where something may overflow."""
    value, hard, variance, over = product(q, x, up.T, dtype=q.dtype)
    h = keep(q, Computed(value=value, hard=hard, variance=variance), "hidden")
    m = _gated(q, h)
    value, hard, variance, free = product(q, m.value, down.T, dtype=DTYPES["f32"])
    made = Computed(
        value=value,
        hard=hard + m.hard @ down.T.abs(),
        variance=variance + m.variance @ down.T.square(),
    )
    made = keep(q, made, "made")
    row = (over | (h.hard == torch.inf)).any(-1, keepdim=True) | (m.hard == torch.inf).any(-1, keepdim=True)
    return made, free | row


def _gated(q: Question, h: Computed) -> Computed:
    """f(gate) up of h = [gate, up]."""
    activation = str(q.attrs["activation"])
    (gate, up), (d_gate, d_up), (v_gate, v_up) = (t.chunk(2, -1) for t in (h.value, h.hard, h.variance))
    value, own, share = activation_of(q, gate, activation)
    own = own + q.accumulator.dtype.min_subnormal + q.flushed()
    slope = _slope(gate, activation)
    f = Computed(
        value=value,
        hard=(slope + 0.8 * d_gate).clamp(max=1.14) * d_gate + own,
        variance=slope.square() * v_gate + (share * own).square(),
    )
    f = keep(q, f, "activation")
    made, u = f.value * up, q.accumulator.unit
    m = Computed(
        value=made,
        hard=up.abs() * f.hard + f.value.abs() * d_up + f.hard * d_up + 2 * u * made.abs(),
        variance=up.square() * f.variance + f.value.square() * v_up + (RMS_ROUNDING * u * made).square(),
    )
    return keep(q, m, "gated")


def _slope(x: Tensor, activation: str) -> Tensor:
    """Return |f'| at x; the two forms of gelu differ by less than 0.01 in it."""
    if activation == "silu":
        s = torch.sigmoid(x)
        return (s * (1 + x.clamp(-1e4, 1e4) * (1 - s))).abs()
    density = (-x.square() / 2).exp() / math.sqrt(2 * math.pi)
    return (torch.erfc(-x / math.sqrt(2)) / 2 + x.clamp(-1e4, 1e4) * density).abs() + 0.01


def _plus(total: Computed, term: Computed, rows: Tensor) -> Computed:
    """Return these rows of a sum with a term added."""
    return Computed(
        value=total.value[rows] + term.value,
        hard=total.hard[rows] + term.hard,
        variance=total.variance[rows] + term.variance,
    )


def _with(total: Computed, made: Computed, rows: Tensor) -> Computed:
    """Return a sum with these rows replaced."""

    def written(before: Tensor, new: Tensor) -> Tensor:
        after = before.clone()
        after[rows] = new
        return after

    return Computed(
        value=written(total.value, made.value),
        hard=written(total.hard, made.hard),
        variance=written(total.variance, made.variance),
    )
