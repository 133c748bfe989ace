"""Inputs of every operation, drawn from a generator: what shows that an implementation is the reference.

The values of a call are float32 and of the size that they have in a network. Draws no special
values; the cases of parity do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from parity.engine.model.arch import Router
from parity.engine.ops import reference
from parity.engine.ops.op import Call
from parity.engine.run.batch import Batch, Run, flatten

__all__ = ["batches"]

_HIDDEN = 24


def _normal(draw: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=draw)


def _matrix(draw: Generator, *shape: int) -> Tensor:
    return _normal(draw, *shape) / math.sqrt(shape[-1])


def batches(draw: Generator, size: int) -> Iterator[tuple[Batch, int]]:
    """Yield steps of every kind, and how many slots their pool has.

    A whole prompt; a chunk behind cached tokens; one decode; several, of unlike lengths; all of them
    together. No slot follows another's.
    """
    chunk, one = (size // 2, size - size // 2), ((3, 1), (size, 1), (0, 1))
    for parts in (((0, size),), (chunk,), ((size, 1),), one, ((0, size), chunk, *one)):
        total = sum(context + length for context, length in parts)
        slots = iter(torch.randperm(total, generator=draw).tolist())
        runs = [
            Run(tokens=[0] * length, context=context, slots=list(itertools.islice(slots, context + length)))
            for context, length in parts
        ]
        yield flatten(runs, device=torch.device("cpu")), total


@reference.embed.drawn
def _embed(draw: Generator, size: int) -> Iterator[Call]:
    tokens = torch.randint(0, 11, (size,), generator=draw)
    for scale in (1.0, 4.9):
        yield Call((tokens,), {"w": _normal(draw, 11, _HIDDEN), "scale": scale})


@reference.linear.drawn
def _linear(draw: Generator, size: int) -> Iterator[Call]:
    w = _matrix(draw, 40, _HIDDEN)
    for rows, bias in ((size, None), (1, _normal(draw, 40))):
        yield Call((_normal(draw, rows, _HIDDEN),), {"w": w, "b": bias})


@reference.rms_norm.drawn
def _rms_norm(draw: Generator, size: int) -> Iterator[Call]:
    for shape, offset in (((size, _HIDDEN), 0.0), ((size, 3, _HIDDEN), 0.0), ((size, _HIDDEN), 1.0)):
        yield Call((_normal(draw, *shape),), {"w": _normal(draw, _HIDDEN), "eps": 1e-5, "offset": offset})


@reference.add.drawn
def _add(draw: Generator, size: int) -> Iterator[Call]:
    yield Call((_normal(draw, size, _HIDDEN), _normal(draw, size, _HIDDEN)), {})


@reference.add_rms_norm.drawn
def _add_rms_norm(draw: Generator, size: int) -> Iterator[Call]:
    for offset in (0.0, 1.0):
        x, y = _normal(draw, size, _HIDDEN), _normal(draw, size, _HIDDEN)
        yield Call((x, y), {"w": _normal(draw, _HIDDEN), "eps": 1e-5, "offset": offset})


@reference.rotate.drawn
def _rotate(draw: Generator, size: int) -> Iterator[Call]:
    angles = 6.28 * torch.rand(size, 4, generator=draw)
    for dim, interleaved in itertools.product((8, 12), (False, True)):
        x = _normal(draw, size, 3, dim)
        yield Call((x, angles.cos(), angles.sin()), {"interleaved": interleaved})


@reference.store.drawn
def _store(draw: Generator, size: int) -> Iterator[Call]:
    for batch, slots in batches(draw, size):
        rows = _normal(draw, len(batch.tokens), 2, 4)
        yield Call((rows,), {"pool": torch.zeros(slots, 2, 4), "batch": batch})


@reference.attend.drawn
def _attend(draw: Generator, size: int) -> Iterator[Call]:
    kinds = ((4, 2, None, None), (3, 3, 2, None), (4, 1, None, 5.0), (4, 2, 3, 5.0))
    for (batch, slots), (heads, groups, window, cap) in itertools.product(batches(draw, size), kinds):
        options = {
            "keys": _normal(draw, slots, groups, 8),
            "values": _normal(draw, slots, groups, 6),
            "batch": batch,
            "scale": 8**-0.5,
            "window": window,
            "softcap": cap,
        }
        yield Call((_normal(draw, len(batch.tokens), heads, 8),), options)


@reference.latent_attend.drawn
def _latent_attend(draw: Generator, size: int) -> Iterator[Call]:
    for batch, slots in batches(draw, size):
        options = {
            "latents": _normal(draw, slots, 10 + 4),
            "w": _matrix(draw, 3 * (6 + 5), 10),
            "nope": 6,
            "batch": batch,
            "scale": 10**-0.5,
        }
        yield Call((_normal(draw, len(batch.tokens), 3, 6 + 4),), options)


@reference.gated.drawn
def _gated(draw: Generator, size: int) -> Iterator[Call]:
    for activation in ("silu", "gelu", "gelu_pytorch_tanh"):
        yield Call((_normal(draw, size, 2 * _HIDDEN),), {"activation": activation})


@reference.route.drawn
def _route(draw: Generator, size: int) -> Iterator[Call]:
    plain = Router(experts=8, top=2)
    grouped = Router(
        experts=8, top=3, scores="sigmoid", groups=4, top_groups=2, group_best=2, bias=True, scale=2.5
    )
    wide = Router(experts=8, top=2, normalise=False, wide=True)
    for router in (plain, grouped, wide):
        bias = 0.1 * _normal(draw, 8) if router.bias else None
        w = _matrix(draw, 8, _HIDDEN)
        yield Call((_normal(draw, size, _HIDDEN),), {"w": w, "bias": bias, "router": router})


@reference.experts.drawn
def _experts(draw: Generator, size: int) -> Iterator[Call]:
    weights = torch.rand(size, 2, generator=draw)
    chosen = torch.rand(size, 5, generator=draw).topk(2).indices
    options = {"up": _matrix(draw, 5, 16, _HIDDEN), "down": _matrix(draw, 5, _HIDDEN, 8)}
    yield Call((_normal(draw, size, _HIDDEN), weights, chosen), {**options, "activation": "silu"})


@reference.softcap.drawn
def _softcap(draw: Generator, size: int) -> Iterator[Call]:
    yield Call((20 * _normal(draw, size, _HIDDEN),), {"cap": 30.0})
