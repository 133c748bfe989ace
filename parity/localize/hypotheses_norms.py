"""Norms with another epsilon, mean, weight or order of rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.judge.budget import Budget
from parity.judge.oracle import to_float64
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import (
    Asked,
    Guess,
    hypothesis,
    nearest,
    valued,
)

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

    def made(self, d: Tensor, spread: Tensor, g: Tensor | None = None) -> Tensor:
        return d / spread.sqrt() * (self.g if g is None else g) + self.b


_Made = Iterator[tuple[CauseKind, str, Tensor]]


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
    for family in (_epsilons(norm), _weights(norm), _counts(asked, norm), _means(norm, centred=centred)):
        for kind, text, value in family:
            yield valued(asked, kind, text, value)
    yield from _fitted_epsilon(asked, d, norm.power, norm.g, norm.b)
    yield from _rounded_norm(asked, d, norm.power + norm.eps, norm.g, norm.b)


def _epsilons(n: _Norm) -> _Made:
    eps, power, K = n.eps, n.power, n.x.shape[-1]
    yield _K.EPSILON, "epsilon was added to the root", n.d / (power.sqrt() + eps) * n.g + n.b
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


def _counts(asked: Asked, n: _Norm) -> _Made:
    """The mean of squares is over another number of terms, or misses some."""
    K, d, eps = n.x.shape[-1], n.d, n.eps
    fitted = _fitted_terms(asked, d, n.power, n.g, n.b)
    for count in sorted({K - 1, K + 1, 1, 1 << (K - 1).bit_length(), *fitted} - {0, K}):
        text = f"the mean of squares was taken over {count} terms, not {K}"
        yield _K.MEAN, text, n.made(d, n.power * K / count + eps)
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


def _fitted_terms(asked: Asked, d: Tensor, power: Tensor, g: Tensor, b: Tensor) -> list[int]:
    """Return the whole number of terms that the mean of squares seems to be taken over."""
    spread = (d * g / (to_float64(asked.got[0]) - b)).square() - float(asked.attrs["eps"] or 0)
    found = float((power * d.shape[-1] / spread).nanmedian())
    return [round(found)] if math.isfinite(found) and 0.25 < found / d.shape[-1] < 4 else []


def _fitted_epsilon(asked: Asked, d: Tensor, power: Tensor, g: Tensor, b: Tensor) -> Iterator[Guess]:
    got = to_float64(asked.got[0])
    root = d * g / (got - b)
    found = (root.square() - power).median()
    if bool(found.isfinite()) and float(found) > 0:
        value = d / (power + found).sqrt() * g + b
        yield valued(asked, _K.EPSILON, f"epsilon is about {float(found):.3g}", value, cost=12.0)


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
