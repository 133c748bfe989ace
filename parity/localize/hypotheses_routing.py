"""Another routing, or another expert."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from parity.case.tensor import HostTensor
from parity.judge.budget import Budget, SetValued
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import Asked, Guess, hypothesis, only, repaired, replaced
from parity.localize.hypotheses_rounding import nearest

__all__ = []

_K = CauseKind
# Experts that are left out one by one.
_TRIED = 16


_Outputs = tuple[HostTensor, ...]
_Mask = npt.NDArray[np.bool_]
_Chosen = npt.NDArray[np.int64]


@hypothesis("route")
def _routing(asked: Asked) -> Iterator[Guess]:
    experts = asked.x(1).shape[0]
    for step in (1, -1):
        text = f"experts are numbered {'one too high' if step > 0 else 'one too low'}"
        yield repaired(asked, _K.OFF_BY_ONE, text, functools.partial(_renumbered, step=step, experts=experts))
    if asked.has(2):
        yield Guess(kind=_K.ROUTING, text="the bias was not added", expected=asked.ask(inputs={2: None}))
        negative = asked.like(2, -asked.x(2))
        yield Guess(kind=_K.ROUTING, text="the bias was subtracted", expected=asked.ask(inputs={2: negative}))
    yield from _weighed(asked)
    mirrored = asked.like(0, -asked.x(0))
    yield Guess(
        kind=_K.ROUTING, text="the worst experts were chosen", expected=asked.ask(inputs={0: mirrored})
    )
    yield from _passed_over(asked)


def _passed_over(asked: Asked) -> Iterator[Guess]:
    """Ranks 2 to top + 1 instead of 1 to top: with the best one beside them they are the right set."""
    top = int(asked.attrs["top"] or 1)
    best, more = _best(asked), asked.ask(attrs={"top": top + 1})[1]
    right = asked.right[1]
    if best is None or not isinstance(right, SetValued) or not isinstance(more, SetValued):
        return

    def wrong(outputs: _Outputs) -> _Mask:
        chosen = np.concatenate((best, outputs[1].array()), 1)
        joined = (outputs[0], HostTensor.of(chosen.astype(outputs[1].dtype.storage), outputs[1].dtype))
        return more.wrong(joined)[:, 1:]

    text = "the best expert was passed over"
    expected = (None, dataclasses.replace(right, wrong=wrong))
    yield Guess(kind=_K.OFF_BY_ONE, text=text, expected=expected, whole=True)


def _best(asked: Asked) -> _Chosen | None:
    """Return the expert [T, 1] that each row has to choose where it chooses one, None where that fails."""
    one = asked.ask(attrs={"top": 1})[1]
    if not isinstance(one, SetValued):
        return None
    logits = asked.x(0) @ asked.x(1).T
    scores = logits.sigmoid() if asked.attrs["scores"] == "sigmoid" else logits.softmax(-1)
    order = (scores + asked.x(2) if asked.has(2) else scores).argsort(-1, descending=True).numpy()
    best, missing = order[:, :1].copy(), np.ones(len(order), np.bool_)
    dtype = asked.got[1].dtype
    for place in range(order.shape[1]):  # the best of all may stand in a group that is not allowed
        candidate = order[:, place : place + 1]
        made = HostTensor.of(candidate.astype(dtype.storage), dtype)
        legal = missing & ~one.wrong((asked.got[0], made))[:, 0]
        best[legal] = candidate[legal]
        missing &= ~legal
        if not missing.any():
            return best
    return None


def _renumbered(outputs: _Outputs, *, step: int, experts: int) -> _Outputs:
    chosen = outputs[1]
    moved = (chosen.array().astype(np.int64) - step) % experts
    return (outputs[0], HostTensor.of(moved.astype(chosen.dtype.storage), chosen.dtype))


def _weighed(asked: Asked) -> Iterator[Guess]:
    right = asked.right[0]
    if not isinstance(right, Budget):
        return
    chosen = torch.from_numpy(asked.got[1].array().astype(np.int64)).clamp(0, asked.x(1).shape[0] - 1)
    exact = asked.x(0) @ asked.x(1).T
    yield from _of_logits(asked, right, exact, chosen)
    first = asked.inputs[0]
    if first is not None and first.dtype.bits <= 16 and not asked.attrs["wide"]:  # model code stores them
        yield from _of_logits(asked, right, nearest(exact, first.dtype.name), chosen)


def _of_logits(asked: Asked, right: Budget, logits: Tensor, chosen: Tensor) -> Iterator[Guess]:
    scale = float(asked.attrs["scale"] or 1)
    scores = logits.sigmoid() if asked.attrs["scores"] == "sigmoid" else logits.softmax(-1)
    picked = scores.gather(-1, chosen)
    made = [
        ("the softmax is over the chosen experts alone", logits.gather(-1, chosen).softmax(-1) * scale),
        ("weights are the logits", logits.gather(-1, chosen) * scale),
        ("weights are all the same", torch.full_like(picked, scale / picked.shape[-1])),
        ("the scale was applied twice", right.value * scale),
        ("weights were normalised twice by the scale", right.value / scale),
    ]
    if asked.has(2):
        ranks = (scores + asked.x(2)).gather(-1, chosen)
        total = ranks.sum(-1, keepdim=True) if asked.attrs["normalise"] else torch.ones_like(ranks[:, :1])
        made.append(("the bias is in the weights", ranks / total * scale))
    for text, value in made:
        yield Guess(kind=_K.ROUTING, text=text, expected=only(asked, 0, replaced(right, value)))


@hypothesis("experts")
def _experts(asked: Asked) -> Iterator[Guess]:
    weights, chosen, up, down = (asked.x(i) for i in range(1, 5))
    experts, F = up.shape[0], up.shape[1] // 2
    made: list[tuple[CauseKind, str, int, Tensor]] = [
        (_K.EXPERT, "the next expert was used", 2, (chosen + 1) % experts),
        (_K.EXPERT, "the expert before was used", 2, (chosen - 1) % experts),
        (_K.EXPERT, "each row used the experts of the row before", 2, chosen.roll(1, 0)),
        (_K.EXPERT, "each row used the experts of the row after", 2, chosen.roll(-1, 0)),
        (_K.EXPERT, "the first expert was used throughout", 2, chosen[:, :1].expand_as(chosen)),
        (_K.ROUTING, "weights were not applied", 1, torch.ones_like(weights)),
        (_K.ROUTING, "weights are all the same", 1, weights.mean(-1, keepdim=True).expand_as(weights)),
        (_K.ROUTING, "weights are in reverse order", 1, weights.flip(-1)),
        (_K.ROUTING, "weights are moved by one", 1, weights.roll(1, -1)),
        (_K.ROUTING, "weights were applied twice", 1, weights.square()),
        (_K.ROUTING, "weights were normalised", 1, weights / weights.sum(-1, keepdim=True)),
        (_K.ROUTING, "weights are those of the row before", 1, weights.roll(1, 0)),
        (_K.GATE_UP, "gate and up are exchanged", 3, up.roll(F, 1)),
        (_K.GATE_UP, "gate and up were read as neighbours", 3, torch.cat((up[:, ::2], up[:, 1::2]), 1)),
        (_K.EXPERT, "up is that of the next expert", 3, up.roll(-1, 0)),
        (_K.EXPERT, "down is that of the next expert", 4, down.roll(-1, 0)),
        (_K.EXPERT, "down is that of the expert before", 4, down.roll(1, 0)),
    ]
    made += _left_out(weights, chosen)
    if down.shape[-1] == down.shape[-2]:
        made.append((_K.WEIGHT_LAYOUT, "down is transposed", 4, down.transpose(-1, -2)))
    for kind, text, position, other in made:
        changed = {position: asked.like(position, other)}
        yield Guess(kind=kind, text=text, expected=asked.ask(inputs=changed))
    for activation in ("silu", "gelu", "gelu_pytorch_tanh"):
        if activation != asked.attrs["activation"]:
            text = f"the activation is {activation}"
            yield Guess(kind=_K.ACTIVATION, text=text, expected=asked.ask(attrs={"activation": activation}))


def _left_out(weights: Tensor, chosen: Tensor) -> Iterator[tuple[CauseKind, str, int, Tensor]]:
    for place in range(weights.shape[-1]):
        dropped = weights.clone()
        dropped[:, place] = 0
        yield _K.TERMS, f"the expert at place {place} was left out", 1, dropped
        doubled = weights.clone()
        doubled[:, place] *= 2
        yield _K.TERMS, f"the expert at place {place} was added twice", 1, doubled
    for expert in sorted(set(chosen.flatten().tolist()))[:_TRIED]:
        dropped = torch.where(chosen == expert, 0.0, weights)
        if bool((dropped != weights).any()):
            yield _K.TERMS, f"expert {expert} was left out", 1, dropped
