"""What stands between scores and a token: penalties for repeating, and the nucleus of probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor
from parity.judge.budget import RMS_ROUNDING, Budget, Expected, Question, SetValued, sum_error

__all__ = ["penalties", "top_p_mask"]


def top_p_mask(q: Question) -> tuple[Expected, ...]:
    """Kept where the sum c of the probabilities before one is at most the threshold t.

    Free where |c - t| <= B. B is the hard bound of a sum of what precedes and of the element itself,
    which samplers may add and subtract again, u of that sum for this, and u t for the threshold in
    the type of the sum. The sum is kept in the accumulator, whatever the type of p.
    """
    p, threshold, u = q.x, q.number("threshold"), q.accumulator.unit
    through = p.cumsum(-1)
    before = through - p
    hard, _ = sum_error(
        terms=torch.arange(1, p.shape[-1] + 1, dtype=torch.float64).expand(p.shape),
        magnitude=through,
        squares=p.square().cumsum(-1),
        total=through,
        outputs=p.numel(),
        accumulator=q.accumulator,
        exact_terms=True,
    )
    bound = hard + u * through + u * threshold
    kept = (before <= threshold).numpy()
    free = ((before - threshold).abs() <= bound).numpy()

    def wrong(outputs: tuple[HostTensor, ...]) -> npt.NDArray[np.bool_]:
        bad: npt.NDArray[np.bool_] = (outputs[0].array() != kept) & ~free
        return bad

    rule = "kept where the sum before is at most the threshold; free where rounding decides that"
    return (SetValued(dtype=DTYPES["bool"], shape=tuple(p.shape), wrong=wrong, rule=rule),)


def penalties(q: Question) -> tuple[Expected, ...]:
    """y = a - b - c, computed in the accumulator and rounded once.

    a = l / r or l r where the token was seen, b = f n for n times, c = presence. Per seen token
    H = u (3 |a| + 2 |b| + |c| + max(|a| + |b|, |b| + |c|) + |y|): r in that type, its reciprocal
    and the product; f in that type and its product; c; the first of the two subtractions, whichever
    it is; the last. h^2 = (0.42 u)^2 times their squares. What was not seen is a copy.
    """
    scores, tokens = q.x, q.inputs[1]
    assert tokens is not None
    rows, vocabulary = scores.shape
    places = tokens.numpy() + (vocabulary + 1) * np.arange(rows)[:, None]
    counted = np.bincount(places.reshape(-1), minlength=rows * (vocabulary + 1))
    n = torch.from_numpy(counted.reshape(rows, vocabulary + 1)[:, :vocabulary].astype(np.float64))
    seen, repetition, u = n > 0, q.number("repetition"), q.accumulator.unit
    a = torch.where(scores > 0, scores / repetition, scores * repetition)
    a = torch.where(seen, a, scores)
    b, c = q.number("frequency") * n, q.number("presence") * seen
    y = a - b - c
    first = torch.maximum(a.abs() + b.abs(), b.abs() + c.abs())
    parts = (3**0.5 * a.abs(), 2**0.5 * b.abs(), c.abs(), first, y.abs())
    hard = u * (3 * a.abs() + 2 * b.abs() + c.abs() + first + y.abs())
    hard = hard + (q.ulps("div") * 2 * u) * a.abs() + q.accumulator.dtype.min_subnormal
    sigma = RMS_ROUNDING * u * torch.stack([t.square() for t in parts]).sum(0).sqrt()
    hard, sigma = (torch.where(seen, t, 0.0) for t in (hard, sigma))
    return (Budget(dtype=q.dtype, value=y, hard=hard, sigma=sigma),)
