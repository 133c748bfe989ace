"""Norms with another epsilon, mean, weight or order of rounding."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.judge.budget import Budget
from parity.judge.oracle import to_float64
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import Asked, Guess, hypothesis, valued
from parity.localize.hypotheses_rounding import nearest

__all__ = []

_K = CauseKind


@dataclass(frozen=True, slots=True, kw_only=True)
class _Norm:
    """x [..., K]; d is x or x less its mean, power the mean of d^2, g has the offset in it."""

    x: Tensor
    d: Tensor
    power: Tensor
    g: Tensor
    b: Tensor
    eps: float
    stored: str = ""  # the type of the normalised values, where they are rounded before the weight

    def made(self, d: Tensor, spread: Tensor, g: Tensor | None = None) -> Tensor:
        normal = d / spread.sqrt()
        normal = nearest(normal, self.stored) if self.stored else normal
        return normal * (self.g if g is None else g) + self.b

    def of_terms(self, count: int) -> Tensor:
        """Return the norm whose mean of squares is the same sum over another number of terms."""
        return self.made(self.d, self.power * self.d.shape[-1] / count + self.eps)


_Made = Iterator[tuple[CauseKind, str, Tensor]]
_Priced = Iterator[tuple[CauseKind, str, Tensor, float]]  # with the nats of what was fitted
# Nats of a rounding that was not asked for beside what else went wrong.
_SECOND = 3.0


@hypothesis("rms_norm", "weighted_rms_norm", "layer_norm")
def _norms(asked: Asked) -> Iterator[Guess]:
    x, K = asked.x(0), asked.x(0).shape[-1]
    ones, zeros = torch.ones(K, dtype=torch.float64), torch.zeros(K, dtype=torch.float64)
    centred = asked.op == "layer_norm"
    d = x - x.mean(-1, keepdim=True) if centred else x
    norm = _Norm(
        x=x,
        d=d,
        power=d.square().mean(-1, keepdim=True),
        g=(asked.x(1) if asked.has(1) else ones) + float(asked.attrs.get("offset") or 0),
        b=asked.x(2) if asked.has(2) else zeros,
        eps=float(asked.attrs["eps"] or 0),
    )
    dtype = asked.right[0].dtype
    for stored in ("", dtype.name) if dtype.bits <= 16 else ("",):
        n = dataclasses.replace(norm, stored=stored)
        # Unasked, that is a second thing that went otherwise.
        own = _SECOND if stored and not asked.attrs.get("rounds_first") else 0.0
        for family in (_epsilons(n), _weights(n), _counts(n), _means(n, centred=centred)):
            for kind, text, value in family:
                yield valued(asked, kind, text, value, cost=own)
        for kind, text, value, cost in (*_fitted_epsilon(asked, n), *_fitted_terms(asked, n)):
            yield valued(asked, kind, text, value, cost=own + cost)
    yield from _rounded_norm(asked, d, norm.power + norm.eps, norm.g, norm.b)


def _epsilons(n: _Norm) -> _Made:
    eps, power, K = n.eps, n.power, n.x.shape[-1]
    yield _K.EPSILON, "epsilon was added to the root", n.made(n.d, (power.sqrt() + eps).square())
    yield _K.EPSILON, "epsilon was added to the sum", n.made(n.d, power + eps / K)
    yield _K.EPSILON, "epsilon was squared", n.made(n.d, power + eps * eps)
    yield _K.EPSILON, "the larger of variance and epsilon was taken", n.made(n.d, power.clamp(min=eps))
    text = "the root is missing: divided by the variance"
    yield _K.NOT_APPLIED, text, n.d / (power + eps) * n.g + n.b
    yield _K.NOT_APPLIED, "not divided by the root mean square", n.d * n.g + n.b


def _weights(n: _Norm) -> _Made:
    spread = n.power + n.eps
    for text, g in (
        ("the weight is missing", torch.ones_like(n.g)),
        ("one was added to the weight", n.g + 1),
        ("the weight is moved by one", n.g.roll(1, -1)),
        ("the weight is moved by minus one", n.g.roll(-1, -1)),
        ("the weight was applied twice", n.g.square()),
    ):
        yield _K.NORM_WEIGHT, text, n.made(n.d, spread, g)
    yield _K.NORM_WEIGHT, "the weight was added instead of multiplied", n.d / spread.sqrt() + n.g


def _counts(n: _Norm) -> _Made:
    """The mean of squares is over another number of terms, or misses some."""
    K, d, eps = n.x.shape[-1], n.d, n.eps
    for count in sorted(_usual_counts(K)):
        yield _K.MEAN, f"the mean of squares was taken over {count} terms, not {K}", n.of_terms(count)
    if K < 3:
        return
    for word, part in (("last", d[..., :-1]), ("first", d[..., 1:])):
        text = f"the {word} element is missing from the mean of squares"
        yield _K.MEAN, text, n.made(d, part.square().sum(-1, keepdim=True) / K + eps)
    for count in sorted({K // 2, K // 4 * 3, *(K // t * t for t in (32, 64, 128))} - {0, K}):
        part = d[..., :count].square()
        text = f"the mean of squares saw the first {count} of {K} elements"
        yield _K.MEAN, text, n.made(d, part.mean(-1, keepdim=True) + eps)
        yield _K.MEAN, text, n.made(d, part.sum(-1, keepdim=True) / K + eps)


def _means(n: _Norm, *, centred: bool) -> _Made:
    x, eps = n.x, n.eps
    squares, off = x.square().mean(-1, keepdim=True), x - x.mean(-1, keepdim=True)
    if centred:
        yield _K.MEAN, "the mean was not subtracted", n.made(x, squares + eps)
        text = "the mean was subtracted from the values, not in the variance"
        yield _K.MEAN, text, n.made(n.d, squares + eps)
        yield _K.MEAN, "the mean was subtracted in the variance alone", n.made(x, n.power + eps)
        return
    spread = off.square().mean(-1, keepdim=True)
    yield _K.MEAN, "the mean was subtracted", n.made(off, spread + eps)
    yield _K.MEAN, "the variance was taken, not the mean of squares", n.made(x, spread + eps)


def _usual_counts(K: int) -> set[int]:
    return {K - 1, K + 1, 1, 1 << (K - 1).bit_length()} - {0, K}


def _fitted_terms(asked: Asked, n: _Norm) -> _Priced:
    """The whole number of terms that the mean of squares seems to be taken over."""
    K = n.d.shape[-1]
    spread = (n.d * n.g / (to_float64(asked.got[0]) - n.b)).square() - n.eps
    found = float((n.power * K / spread).nanmedian())
    if math.isfinite(found) and 0.25 < found / K < 4 and round(found) not in {0, K, *_usual_counts(K)}:
        text = f"the mean of squares was taken over {round(found)} terms, not {K}"
        yield _K.MEAN, text, n.of_terms(round(found)), math.log(4 * K)


def _fitted_epsilon(asked: Asked, n: _Norm) -> _Priced:
    """Another number in the root, or beside it, that the ratio of each element to the right one tells."""
    root, u = n.power.sqrt(), asked.right[0].dtype.unit_roundoff
    ratio = n.d * n.g / (to_float64(asked.got[0]) - n.b) / root
    inside = _slope(ratio.square() - 1, 1 / n.power, 8 * u)
    if inside > 0:
        text = f"epsilon is about {inside:.3g}"
        yield _K.EPSILON, text, n.made(n.d, n.power + inside), 12.0
    outside = _slope(ratio - 1, 1 / root, 4 * u)
    if outside > 0:
        text = f"about {outside:.3g} was added to the root"
        yield _K.EPSILON, text, n.made(n.d, (root + outside).square()), 12.0


def _slope(y: Tensor, x: Tensor, noise: float) -> float:
    """Return a with y = a x by least squares over what lies within `noise` of it, 0 where nothing does."""
    x = x.expand(y.shape)
    usable = y.isfinite() & x.isfinite() & (x != 0)
    if not bool(usable.any()):
        return 0.0
    x, y = x[usable], y[usable]
    # The larger x is, the more of y is a x, and not the rounding of a result.
    strong = x.abs() >= x.abs().median()
    slope = float((y[strong] / x[strong]).median())
    for _ in range(3):
        near = (y - slope * x).abs() <= noise
        if bool(near.any()):
            slope = float((x[near] * y[near]).sum() / x[near].square().sum())
    return slope


def _rounded_norm(asked: Asked, d: Tensor, spread: Tensor, g: Tensor, b: Tensor) -> Iterator[Guess]:
    right = asked.right[0]
    if not isinstance(right, Budget):
        return
    names = [n for n in ("bf16", "f16") if right.dtype.name in {n, "f32"}]
    for name in names:
        normal = nearest(d / spread.sqrt(), name)
        text = f"the normalised values were rounded to {name} before the weight"
        yield valued(asked, _K.ROUNDING_ORDER, text, normal * g + b)
        factor = nearest(spread.rsqrt(), name)
        text = f"the factor of each row was rounded to {name}"
        yield valued(asked, _K.INTERMEDIATE, text, d * factor * g + b)
        text = f"squares were rounded to {name} before they were added"
        squares = nearest(d.square(), name).mean(-1, keepdim=True) + float(asked.attrs["eps"] or 0)
        yield valued(asked, _K.INTERMEDIATE, text, d / squares.sqrt() * g + b)
        text = f"the mean of squares was rounded to {name}"
        yield valued(asked, _K.INTERMEDIATE, text, d / nearest(spread, name).sqrt() * g + b)
