"""Which experts a row may choose, and what they then weigh.

Scores that lie closer together than their errors may be ranked either way, so several sets are
right; weights are held against those of the experts that were chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor
from parity.judge.budget import RMS_ROUNDING, Budget, Expected, Question, SetValued, growth
from parity.judge.classes.computed import Computed, keep
from parity.judge.classes.sums import product

__all__ = ["route"]

# T rows, N experts

_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scores:
    """Scores [T, N] with the error of each alone, and the relative one that a row shares, [T, 1].

    `variance` is the expected squared relative error of each; rows in `free` may be anything.
    """

    value: Tensor
    hard: Tensor
    variance: Tensor
    shared: Tensor
    free: Tensor


def route(q: Question) -> tuple[Expected, ...]:
    """s = softmax or sigmoid of l = x w^T: H_l = H(product), l stored or not unless `wide`.

    chosen: a set C of `top` different experts is right iff no expert outside has r > r_c + H_r + H_rc
    for a c in C, r = s + bias, among the experts of `top_groups` groups that are right by the same
    rule: a group's score is the sum of its `group_best` best r, its error the sum of as many H_r.
    weights: s_c (/ sum of C) scale, between the quotients that s +- H_s allow, + (c(top) + 5) u.
    """
    scores = _scores(q)
    bias = (*q.inputs, None)[2]
    u = q.accumulator.unit
    rank = scores.value if bias is None else scores.value + bias
    bound = scores.hard + scores.shared * scores.value + u * (0.0 if bias is None else rank.abs())
    shape = (len(q.x), q.integer("top"))

    def wrong(outputs: tuple[HostTensor, ...]) -> _Mask:
        chosen = outputs[1].array().astype(np.int64)
        return np.asarray(_wrong(q, rank.numpy(), bound.numpy(), chosen) & ~scores.free.numpy())

    def budget(outputs: tuple[HostTensor, ...]) -> Budget:
        chosen = torch.from_numpy(outputs[1].array().astype(np.int64)).clamp(0, rank.shape[-1] - 1)
        return _weights(q, scores, chosen)

    def beyond(outputs: tuple[HostTensor, ...]) -> _Mask:
        made = budget(outputs)
        off = (torch.from_numpy(outputs[0].array().astype(np.float64)) - made.value).abs()
        return np.asarray((off > made.total()[0]).numpy() & ~scores.free.numpy())

    if q.dtype.name == "f64":
        nothing = torch.zeros(shape, dtype=torch.float64)
        weights: Expected = Budget(dtype=q.dtype, value=nothing, hard=nothing, sigma=nothing)
    else:
        rule = "the weights of the experts that were chosen"
        weights = SetValued(dtype=DTYPES["f32"], shape=shape, wrong=beyond, rule=rule, budget=budget)
    rule = "different experts, none passed over that scores higher by more than both errors"
    return (weights, SetValued(dtype=DTYPES["i64"], shape=shape, wrong=wrong, rule=rule))


def _scores(q: Question) -> _Scores:
    x, w = q.inputs[:2]
    assert x is not None and w is not None and q.raw[1] is not None
    finest = max(q.dtype, q.raw[1].dtype, key=lambda d: d.mantissa_bits)
    logits, hard, variance, free = product(q, x, w.T, dtype=finest)
    made = keep(q, Computed(value=logits, hard=hard, variance=variance), "logits")
    logits, hard, variance, free = made.value, made.hard, made.variance, free | (made.hard == torch.inf)
    row = (free & ~logits.isnan()).any(-1, keepdim=True)
    scores = _sigmoid if q.attrs["scores"] == "sigmoid" else _softmax
    return scores(q, logits, hard, variance, row)


def _sigmoid(q: Question, logits: Tensor, hard: Tensor, variance: Tensor, free: Tensor) -> _Scores:
    """s = 1 / (1 + e^-l): between those of l - H and l + H, + s u ((1 - s)(2 |l| + 4) + 4)."""
    s, u = torch.sigmoid(logits), q.accumulator.unit
    size = logits.abs().clamp(max=1e4)
    own = u * ((1 - s) * (2 * size + 2 * q.ulps("exp")) + 4)
    reach = torch.maximum(torch.sigmoid(logits + hard) - s, s - torch.sigmoid(logits - hard))
    # Below -88.7 the exponential overflows, and the score with it to 0.
    lost = torch.where(logits <= -88.7, s, 0.0) + 2 * q.accumulator.dtype.min_subnormal + q.flushed()
    lost = lost + q.offset()
    return _Scores(
        value=s,
        hard=reach + s * own + lost,
        variance=(1 - s).square() * variance
        + (own / 3).square()
        + torch.where(s > 0, lost / s, 0.0).square(),
        shared=torch.zeros_like(s[:, :1]),
        free=free,
    )


def _softmax(q: Question, logits: Tensor, hard: Tensor, variance: Tensor, free: Tensor) -> _Scores:
    """p: rel = e^(H_l + u (3 d + 4)) - 1 of each, and sum_j p_j rel_j + (c(N) + 3) u of all."""
    p, u, terms = logits.softmax(-1), q.accumulator.unit, logits.shape[-1]
    d = logits.amax(-1, keepdim=True) - logits
    rel = torch.expm1((hard + u * (3 * d + 2 * q.ulps("exp"))).clamp(max=50.0))
    shared = (p * rel).sum(-1, keepdim=True) + (growth(terms, outputs=p.numel()) + 3) * u
    least = q.ulps("exp") * q.accumulator.dtype.min_subnormal + q.flushed()
    return _Scores(
        value=p,
        hard=torch.minimum(p * rel, torch.ones_like(p)) + least,
        variance=variance + (RMS_ROUNDING * u) ** 2 * ((1.5 * d).square() + 6),
        shared=shared,
        free=free,
    )


def _weights(q: Question, scores: _Scores, chosen: Tensor) -> Budget:
    """The budget of the weights of `chosen` [T, top]."""
    s, hard, relative = (t.gather(-1, chosen) for t in (scores.value, scores.hard, scores.variance))
    u, scale, top = q.accumulator.unit, q.number("scale"), chosen.shape[-1]
    nan_ok = None
    if q.attrs["normalise"]:
        low, high = (s - hard).clamp(min=0.0), s + hard
        total = s.sum(-1, keepdim=True)
        value = s / total
        others = (high.sum(-1, keepdim=True) - high, low.sum(-1, keepdim=True) - low)
        least, most = low / (low + others[0]), high / (high + others[1])
        bound = torch.maximum(most - value, value - least)
        nan_ok = low.sum(-1, keepdim=True).expand(value.shape) <= 0
        shared = (value.square() * relative).sum(-1, keepdim=True)
        relative = (1 - 2 * value) * relative + shared
    else:
        value, bound = s, hard + s * scores.shared
        shared = (scores.value.square() * scores.variance).sum(-1, keepdim=True)
        relative = relative + shared + (RMS_ROUNDING * u) ** 2 * scores.value.shape[-1] / 3
    bound = bound + value * u * (growth(top, outputs=value.numel()) + 5)
    relative = relative.clamp(min=0.0) + (RMS_ROUNDING * u) ** 2 * (top / 3 + 3)
    return Budget(
        dtype=DTYPES["f32"],
        value=value * scale,
        hard=bound * abs(scale),
        sigma=value * abs(scale) * relative.sqrt(),
        independent=max(len(value), 1),
        free=scores.free.expand(value.shape) & ~value.isnan(),
        nan_ok=nan_ok,
    )


def _wrong(
    q: Question, rank: npt.NDArray[np.float64], bound: npt.NDArray[np.float64], chosen: npt.NDArray[np.int64]
) -> _Mask:
    """Mark chosen experts that do not exist, stand twice, or were passed by a better one."""
    experts = rank.shape[-1]
    bad: _Mask = (chosen < 0) | (chosen >= experts)
    bad |= (chosen[:, :, None] == chosen[:, None, :]).sum(-1) > 1
    inside = np.where(bad, 0, chosen)
    taken = np.zeros(rank.shape, np.bool_)
    np.put_along_axis(taken, inside, values=~bad, axis=-1)
    if q.integer("groups") == 1:
        return bad | _passed(rank, bound, taken, inside, np.ones(rank.shape, np.bool_))
    for i in range(len(rank)):
        bad[i] |= _grouped(q, rank[i], bound[i], taken[i], inside[i])
    return bad


def _passed(
    rank: npt.NDArray[np.float64],
    bound: npt.NDArray[np.float64],
    taken: _Mask,
    chosen: npt.NDArray[np.int64],
    allowed: _Mask,
) -> _Mask:
    """Mark chosen experts whose rank is certainly below that of an allowed one that was not chosen."""
    left = np.where(allowed & ~taken, rank - bound, -np.inf)
    best = np.fmax.reduce(left, axis=-1, keepdims=True, initial=-np.inf)
    most = np.take_along_axis(rank + bound, chosen, -1)
    out = ~np.take_along_axis(allowed, chosen, -1)
    return np.asarray((most < best) | out)


def _grouped(
    q: Question,
    rank: npt.NDArray[np.float64],
    bound: npt.NDArray[np.float64],
    taken: _Mask,
    chosen: npt.NDArray[np.int64],
) -> _Mask:
    """The same of one row, under the choice of groups that leaves least to object to."""
    groups = q.integer("groups")
    size = len(rank) // groups
    best: _Mask | None = None
    for allowed in _choices(q, rank.reshape(groups, size), bound.reshape(groups, size)):
        found = _passed(rank, bound, taken, chosen, np.repeat(allowed, size))
        if best is None or found.sum() < best.sum():
            best = found
        if not best.any():
            break
    assert best is not None
    return best


def _choices(q: Question, rank: npt.NDArray[np.float64], bound: npt.NDArray[np.float64]) -> Iterator[_Mask]:
    """Yield every set of groups that may be the best ones, as a mask."""
    count, best, u = q.integer("top_groups"), q.integer("group_best"), q.accumulator.unit
    highest = np.sort(rank, -1)[:, -best:]
    score = highest.sum(-1)
    error = np.sort(bound, -1)[:, -best:].sum(-1) + best * u * np.abs(highest).sum(-1)
    if not (np.isfinite(score).all() and np.isfinite(error).all()):
        # No group is certainly better than one whose scores are unknown.
        yield np.ones(len(score), np.bool_)
        return
    low, high = score - error, score + error
    certain = (high[None, :] < low[:, None]).sum(-1) >= len(score) - count
    excluded = (low[None, :] > high[:, None]).sum(-1) >= count
    open_groups = np.flatnonzero(~certain & ~excluded)
    for some in itertools.combinations(open_groups, count - int(certain.sum())):
        allowed = certain.copy()
        allowed[list(some)] = True
        if allowed.all() or low[~allowed].max() <= high[allowed].min():
            yield allowed
