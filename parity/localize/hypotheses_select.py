"""What was looked up or put in order: indices off by one, another order, other places written."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from parity.case.tensor import HostTensor
from parity.judge.budget import SetValued
from parity.judge.oracle import to_float64
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import (
    Asked,
    Guess,
    hypothesis,
    only,
    repaired,
    replaced,
)

__all__ = []

_K = CauseKind


# Where an op's indices are, and along which dimension of which input they count.
_INDEXED = {
    "embedding": (1, 0), "scaled_embedding": (1, 0), "gather": (1, 0), "index": (1, 0),
    "index_put": (1, 0), "scatter_add": (1, 0),
}  # fmt: skip


_Outputs = tuple[HostTensor, ...]


@hypothesis(*_INDEXED)
def _indices(asked: Asked) -> Iterator[Guess]:
    position, source = _INDEXED[asked.op]
    ids, dim = asked.x(position), int(asked.attrs.get("dim") or 0)
    n = asked.x(source).shape[dim]
    changes = [
        (_K.OFF_BY_ONE, "indices are one too high", (ids + 1).clamp(max=n - 1)),
        (_K.OFF_BY_ONE, "indices are one too low", (ids - 1).clamp(min=0)),
        (_K.OFF_BY_ONE, "indices are one too high and wrap", (ids + 1) % n),
        (_K.OFF_BY_ONE, "indices are one too low and wrap", (ids - 1) % n),
        (_K.REVERSED, "indices count from the end", n - 1 - ids),
        (_K.WRAPPED, "indices wrapped at 8 bits", (ids + 128) % 256 - 128),
        (_K.WRAPPED, "indices wrapped at 8 bits, unsigned", ids % 256),
        (_K.WRAPPED, "indices wrapped at 16 bits", (ids + 32768) % 65536 - 32768),
        (_K.SATURATED, "indices were clipped at 127", ids.clamp(max=127)),
        (_K.SATURATED, "indices were clipped at 255", ids.clamp(max=255)),
        (_K.SATURATED, "indices were clipped below the last row", ids.clamp(max=n - 2)),
        (_K.OFF_BY_ONE, "negative indices were read as 0", ids.clamp(min=0)),
    ]
    changes += [(_K.ROLL, f"indices moved by {step}", ids.roll(step, -1)) for step in (1, -1)]
    for kind, text, other in changes:
        if int(other.max()) < n and int(other.min()) >= -n and not bool((other == ids).all()):
            yield Guess(
                kind=kind, text=text, expected=asked.ask(inputs={position: asked.like(position, other)})
            )


@hypothesis("index_put", "slice_assign", "where", "cat", "tril", "triu")
def _writes(asked: Asked) -> Iterator[Guess]:
    if asked.op == "index_put":
        other = not asked.attrs["accumulate"]
        text = "values were added instead of written" if other else "values were written instead of added"
        value = _put(asked, accumulate=other)
        yield Guess(kind=_K.OPERAND, text=text, expected=only(asked, 0, replaced(asked.right[0], value)))
    if asked.op == "where":
        swapped = {1: asked.inputs[2], 2: asked.inputs[1]}
        yield Guess(kind=_K.OPERAND, text="the two choices are exchanged", expected=asked.ask(inputs=swapped))
    if asked.op == "cat":
        backwards = dict(enumerate(reversed(asked.inputs)))
        text = "the tensors are joined in reverse order"
        yield Guess(kind=_K.OPERAND, text=text, expected=asked.ask(inputs=backwards))
    if asked.op in {"tril", "triu"}:
        triangle = "triu" if asked.op == "tril" else "tril"
        yield Guess(kind=_K.MASK, text="the other triangle was kept", expected=asked.ask(op=triangle))


def _put(asked: Asked, *, accumulate: bool) -> Tensor:
    x, index, values = (asked.x(i) for i in range(3))
    return x.index_put((index,), values.expand(*index.shape, *x.shape[1:]), accumulate=accumulate)


@hypothesis("topk", "sort", "argmax")
def _ordered(asked: Asked) -> Iterator[Guess]:
    """The right answers are sets, so the given outputs are put right and held against them."""
    last, dim = len(asked.got) - 1, int(asked.attrs["dim"] or 0)
    for step in (1, -1):
        text = f"indices are {'one too high' if step > 0 else 'one too low'}"
        yield repaired(asked, _K.OFF_BY_ONE, text, functools.partial(_with_index, position=last, step=step))
    x = asked.x(0).to(torch.float64)
    for kind, text, other in (
        (_K.SIGN, "ordered by magnitude", x.abs()),
        (_K.ORDER, "ordered from the other end", -x),
    ):
        expected = asked.ask(inputs={0: asked.like(0, other)})
        yield Guess(kind=kind, text=text, expected=only(asked, last, expected[last]))
    if asked.op == "argmax":
        return
    yield repaired(
        asked, _K.ORDER, "right elements that are not in order", lambda out: _sorted(asked, out, dim)
    )
    yield repaired(asked, _K.REVERSED, "in reverse order", lambda out: tuple(_flip(t, dim) for t in out))
    for step in (1, -1):
        text = f"moved by {step} along the dimension"
        yield repaired(asked, _K.ROLL, text, functools.partial(_all_rolled, dim=dim, step=-step))
    if asked.op == "sort" and asked.attrs["stable"]:
        yield Guess(
            kind=_K.ORDER, text="equal elements lost their order", expected=asked.ask(attrs={"stable": False})
        )
    if asked.op == "topk":
        yield from _next_ones(asked, dim)


def _next_ones(asked: Asked, dim: int) -> Iterator[Guess]:
    """The first one was passed over: ranks 2 to k + 1 instead of 1 to k."""
    k, n = int(asked.attrs["k"] or 1), asked.x(0).shape[dim]
    if k >= n:
        return
    longer = asked.ask(attrs={"k": k + 1})
    best = asked.x(0).to(torch.float64).topk(1, dim, largest=bool(asked.attrs["largest"]))
    first = (asked.like(0, best.values), HostTensor.of(best.indices.numpy(), asked.got[1].dtype))
    expected = []
    for right, whole in zip(asked.right, longer, strict=True):
        assert isinstance(right, SetValued) and isinstance(whole, SetValued)

        def wrong(
            outputs: _Outputs, whole: SetValued = whole
        ) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
            joined = tuple(
                HostTensor.of(np.concatenate((a.array(), b.array()), dim), b.dtype)
                for a, b in zip(first, outputs, strict=True)
            )
            return np.moveaxis(np.moveaxis(whole.wrong(joined), dim, 0)[1:], 0, dim)

        expected.append(dataclasses.replace(right, wrong=wrong))
    text = "the first one was passed over"
    yield Guess(kind=_K.OFF_BY_ONE, text=text, expected=tuple(expected), whole=True)


def _with_index(outputs: _Outputs, *, position: int, step: int) -> _Outputs:
    index = outputs[position]
    moved = HostTensor.of((index.array().astype(np.int64) - step).astype(index.dtype.storage), index.dtype)
    return (*outputs[:position], moved, *outputs[position + 1 :])


def _sorted(asked: Asked, outputs: _Outputs, dim: int) -> _Outputs:
    down = bool(asked.attrs.get("largest", asked.attrs.get("descending")))
    order = to_float64(outputs[0]).to(torch.float64).argsort(dim=dim, descending=down, stable=True).numpy()
    return tuple(HostTensor.of(np.take_along_axis(t.array(), order, dim), t.dtype) for t in outputs)


def _flip(tensor: HostTensor, dim: int) -> HostTensor:
    return HostTensor.of(np.flip(tensor.array(), dim), tensor.dtype)


def _all_rolled(outputs: _Outputs, *, dim: int, step: int) -> _Outputs:
    return tuple(_rolled(t, dim, step) for t in outputs)


def _rolled(tensor: HostTensor, dim: int, step: int) -> HostTensor:
    return HostTensor.of(np.roll(tensor.array(), step, dim), tensor.dtype)
