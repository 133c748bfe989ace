"""Products with weights: bias, layout, left-out terms."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from parity.judge.budget import Budget
from parity.judge.oracle import to_float64
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import (
    Asked,
    Guess,
    hypothesis,
    only,
    replaced,
)
from parity.localize.hypotheses_precision import factors

__all__ = []

_TILES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


_BIASED = {"linear": 2, "conv1d": 2, "conv2d": 2, "layer_norm": 2, "addmm": 0}


@hypothesis(*_BIASED)
def _bias(asked: Asked) -> Iterator[Guess]:
    position = _BIASED[asked.op]
    if not asked.has(position):
        return
    bias = asked.x(position)
    for text, other in (
        ("the bias is missing", torch.zeros_like(bias)),
        ("the bias was added twice", 2 * bias),
        ("the bias was subtracted", -bias),
        ("the bias is moved by one", bias.roll(1, -1)),
        ("the bias is moved by minus one", bias.roll(-1, -1)),
        ("the bias is reversed", bias.flip(-1)),
    ):
        yield Guess(
            kind=CauseKind.BIAS, text=text, expected=asked.ask(inputs={position: asked.like(position, other)})
        )


@hypothesis("matmul", "bmm", "linear", "addmm", "conv1d", "conv2d", "int8_linear", "int8_weight_linear")
def _weight(asked: Asked) -> Iterator[Guess]:
    position = 2 if asked.op == "addmm" else 1
    w = asked.x(position)
    changes = [("reversed along the last dimension", w.flip(-1))]
    if w.ndim > 1 and w.shape[-1] == w.shape[-2]:
        changes.append(("transposed", w.transpose(-1, -2)))
    if w.ndim > 1:
        changes.append(("laid out in the other order in memory", w.transpose(-1, -2).reshape(w.shape)))
    # Along the other dimension the order is that of the results, unless those had scales or a bias added.
    summed = -2 if asked.op in {"matmul", "bmm", "addmm"} else -1
    both = asked.op.startswith("int") or (asked.op in {"linear", "addmm"} and asked.has(_BIASED[asked.op]))
    dims = range(-min(w.ndim, 2), 0) if both else (summed,) if w.ndim > 1 else (-1,)
    for dim in dims:
        changes += [(f"moved by {k} along dimension {dim + w.ndim}", w.roll(k, dim)) for k in (1, -1)]
        n = w.shape[dim]
        if n % 2 == 0 and n > 2:
            order = torch.arange(n)
            apart = torch.cat((order[::2], order[1::2]))
            changes += [
                (f"with halves swapped along dimension {dim + w.ndim}", w.roll(n // 2, dim)),
                (f"with even and odd apart along dimension {dim + w.ndim}", w.index_select(dim, apart)),
                (
                    f"with halves interleaved along dimension {dim + w.ndim}",
                    w.index_select(dim, apart.argsort()),
                ),
            ]
    for text, other in changes:
        changed = {position: asked.like(position, other)}
        yield Guess(
            kind=CauseKind.WEIGHT_LAYOUT, text=f"the weight is {text}", expected=asked.ask(inputs=changed)
        )


@hypothesis("matmul", "bmm", "linear", "addmm", "sum", "mean")
def _terms(asked: Asked) -> Iterator[Guess]:
    """A tile of the terms left out, counted twice, or taken from the tile before."""
    pair, right = factors(asked), asked.right[0]
    if pair is None or not isinstance(right, Budget):
        return
    a, b, finish = pair
    n = a.shape[-1]
    error = _linear_part(asked, right)
    for size in (t for t in _TILES if t < n):
        for start, weight in _suspects(a, b, error, size):
            end = min(start + size, n)
            part = a[..., start:end] @ b[..., start:end, :]
            words = "left out" if weight < 0 else "added twice"
            text = f"terms {start} to {end - 1} of {n} {words}"
            value = finish(a @ b + weight * part)
            yield Guess(
                kind=CauseKind.TERMS, text=text, expected=only(asked, 0, replaced(right, value)), cost=3.0
            )


def _linear_part(asked: Asked, right: Budget) -> Tensor:
    return to_float64(asked.got[0]) - right.value


def _suspects(a: Tensor, b: Tensor, error: Tensor, size: int) -> Iterator[tuple[int, float]]:
    """Yield the tile whose part of the product the error is most like, and -1 or 1."""
    n = a.shape[-1]
    starts = list(range(0, n, size))
    if size < 16 and len(starts) > 64:  # the ends alone: single terms are lost there
        starts = sorted({0, n - size, starts[-1]})
    best: tuple[float, int, float] | None = None
    for start in starts:
        part = a[..., start : start + size] @ b[..., start : start + size, :]
        part = part.reshape(error.shape) if part.numel() == error.numel() else part
        if part.shape != error.shape:
            return
        norm = float(part.square().sum())
        slope = float((part * error).sum()) / norm if norm else 0.0
        share = slope * slope * norm
        if best is None or share > best[0]:
            best = (share, start, slope)
    if best is not None:
        yield best[1], -1.0 if best[2] < 0 else 1.0
