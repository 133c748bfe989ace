"""Softmax with another denominator, without its maximum, or in less precision."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from parity.judge.oracle import to_float64
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import Asked, Guess, hypothesis, valued
from parity.localize.hypotheses_rounding import nearest

__all__ = []

_K = CauseKind


_Made = Iterator[tuple[CauseKind, str, Tensor]]


@hypothesis("softmax", "log_softmax")
def _softmax(asked: Asked) -> Iterator[Guess]:
    x, dim = asked.x(0), int(asked.attrs["dim"] or 0)
    log = asked.op == "log_softmax"
    top = x.amax(dim, keepdim=True)
    e = (x - torch.where(top == -torch.inf, 0.0, top)).exp()
    total = e.sum(dim, keepdim=True)
    for kind, text, p in (*_denominators(asked, e, total, top, dim), *_rounded(x, e, total, top, dim)):
        yield valued(asked, kind, text, p.log() if log else p)
    for text, largest in (("", 3.4028235e38), (", in f16", 65504.0)):
        value = _overflowing(x, dim, log=log, largest=largest)
        yield valued(asked, _K.NON_FINITE, f"the maximum was not subtracted{text}", value)
    text = "the logarithm is missing" if log else "a logarithm was taken"
    yield valued(asked, _K.NOT_APPLIED, text, x.softmax(dim) if log else x.log_softmax(dim))
    yield valued(asked, _K.SCALE, "powers of 2 instead of e", ((x - top) * math.log(2)).softmax(dim))


def _denominators(asked: Asked, e: Tensor, total: Tensor, top: Tensor, dim: int) -> _Made:
    n = e.shape[dim]
    usual = (1, 2, (1 << (n - 1).bit_length()) - n, *(-n % t for t in (8, 16, 32, 64, 128)))
    for k in sorted({*usual, *_fitted_padding(asked, e, total, top)} - {0}):
        text = f"{k} padded zeros are in the denominator"
        yield _K.DENOMINATOR, text, e / (total + k * (-top).exp())
    for word, at in (("last", -1), ("first", 0)):
        text = f"the {word} element is missing from the denominator"
        yield _K.DENOMINATOR, text, e / (total - e.narrow(dim, at, 1))
    yield _K.DENOMINATOR, "one was added to the denominator", e / (total + 1)
    yield _K.DENOMINATOR, "not divided by the denominator", e


def _rounded(x: Tensor, e: Tensor, total: Tensor, top: Tensor, dim: int) -> _Made:
    for name in ("bf16", "f16"):
        low = nearest(e, name)
        yield _K.DENOMINATOR, f"the denominator was rounded to {name}", e / nearest(total, name)
        yield _K.INTERMEDIATE, f"exponentials were rounded to {name}", low / total
        yield _K.INTERMEDIATE, f"exponentials were rounded to {name}", low / low.sum(dim, keepdim=True)
        yield _K.INTERMEDIATE, f"differences were rounded to {name}", nearest(x - top, name).softmax(dim)


def _fitted_padding(asked: Asked, e: Tensor, total: Tensor, top: Tensor) -> list[int]:
    """Return how many zeros the denominator seems to hold beside its own terms."""
    got = to_float64(asked.got[0])
    found = float(
        ((e / (got.exp() if asked.op == "log_softmax" else got) - total) / (-top).exp()).nanmedian()
    )
    return [round(found)] if 0.5 < found < 1e6 else []


def _overflowing(x: Tensor, dim: int, *, log: bool, largest: float) -> Tensor:
    e = x.exp()
    e = torch.where(e > largest, torch.inf, e)
    p = e / e.sum(dim, keepdim=True)
    return p.log() if log else p
