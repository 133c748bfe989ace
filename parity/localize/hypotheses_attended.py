"""Attention of every op in one form: blocks of queries over their own keys, evaluated in float64.

A `Way` says how; with one thing changed it gives what a faulty kernel would give. Does not derive
bounds: those of the right answer hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.localize.hypotheses_base import (
    Asked,
)

__all__ = ["Block", "Way", "asked_way", "blocks_of", "evaluated"]

# H query heads, G key heads, T queries, S keys, D and E their sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """query [H, T, D], key [G, S, D], value [G, S, E], position [T] of each query among the keys.

    `mask` [.., T, S] is added to the scores. `at` puts the block's y [H, T, E] where it belongs.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    position: Tensor
    mask: Tensor | None
    at: Callable[[Tensor, Tensor], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How attention is computed; the defaults are what was asked once `asked_way` has filled them."""

    scale: float
    causal: bool
    window: int | None
    cap: float | None
    ahead: int = 0  # keys beyond its own position that a query sees
    aligned: bool = True  # the last query stands at the last key
    masked: bool = True
    hidden: slice | None = None  # keys that no query sees
    groups: Callable[[Tensor, int], Tensor] | None = None
    keys: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    scores: Callable[[Tensor], Tensor] | None = None
    weights: Callable[[Tensor], Tensor] | None = None  # of exp(s - max)
    after: Callable[[Tensor], Tensor] | None = None  # of the weights divided by their sum
    total: Callable[[Tensor, Tensor], Tensor] | None = None  # of the sum and the maximum
    leaked: int = 0  # zero keys and values beside the given ones


def asked_way(asked: Asked) -> Way:
    """Return the way that the step's own attributes ask for."""
    D = asked.x(0).shape[-1]
    scale, window, cap = (asked.attrs.get(n) for n in ("scale", "window", "softcap"))
    return Way(
        scale=1 / math.sqrt(D) if scale is None else float(scale),
        causal=bool(asked.attrs["causal"]) if asked.op == "attention" else True,
        window=None if window is None else int(window),
        cap=None if cap is None else float(cap),
    )


def evaluated(blocks: list[Block], way: Way, like: Tensor) -> Tensor:
    """Return y as every block gives it in this way; rows of no block are those of `like`."""
    made = like.clone()
    for block in blocks:
        block.at(made, _attended(block, way))
    return made


def _attended(block: Block, way: Way) -> Tensor:
    """Return y [H, T, E] of a block."""
    H = block.query.shape[0]
    k, v = (block.key, block.value) if way.keys is None else way.keys(block.key, block.value)
    if way.leaked:
        k, v = (torch.nn.functional.pad(t, (0, 0, 0, way.leaked)) for t in (k, v))
    if way.groups is not None:
        k, v = way.groups(k, H), way.groups(v, H)
    else:
        k, v = (t.repeat_interleave(H // t.shape[0], 0) for t in (k, v))
    s = block.query @ k.transpose(-1, -2) * way.scale
    if way.cap is not None:
        s = way.cap * torch.tanh(s / way.cap)
    if way.scores is not None:
        s = way.scores(s)
    s = s.masked_fill(~_seen(block, way, s.shape[-1]), -torch.inf)
    if block.mask is not None and way.masked:
        s = s + torch.nn.functional.pad(block.mask, (0, way.leaked))
    top = s.amax(-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    e = (s - top).exp()
    e = e if way.weights is None else way.weights(e)
    total = e.sum(-1, keepdim=True)
    total = total if way.total is None else way.total(total, top)
    p = torch.where(total > 0, e / total, 0.0)
    p = p if way.after is None else way.after(p)
    return p @ v


def _seen(block: Block, way: Way, keys: int) -> Tensor:
    position = block.position if way.aligned else torch.arange(len(block.position))
    own, key = position[:, None], torch.arange(keys)
    given = keys - way.leaked
    seen = torch.ones(len(own), keys, dtype=torch.bool)
    if way.causal:
        seen &= key <= own + way.ahead
    if way.window is not None:
        seen &= key > own - way.window
    if way.hidden is not None:
        seen[:, way.hidden] = False
    if way.leaked:
        seen[:, given:] = True
    return seen


def blocks_of(asked: Asked) -> list[Block]:
    """Return the batches or segments of an attention op; latents as the keys and values of every head."""
    if asked.op == "attention":
        return _batches(asked)
    return list(_segments(asked))


def _batches(asked: Asked) -> list[Block]:
    q, k, v = (asked.x(i) for i in range(3))
    T, S = q.shape[-2], k.shape[-2]
    mask = asked.x(3) if asked.has(3) else None
    if mask is not None and mask.dtype is torch.bool:
        mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -torch.inf)
    if mask is not None:
        mask = mask.expand(*q.shape[:-1], S)
    blocks = []
    for b in range(q.shape[0]):

        def put(out: Tensor, made: Tensor, b: int = b) -> None:
            out[b] = made

        blocks.append(
            Block(
                query=q[b], key=k[b], value=v[b], position=torch.arange(T) + S - T,
                mask=None if mask is None else mask[b], at=put,
            )
        )  # fmt: skip
    return blocks


def _segments(asked: Asked) -> Iterator[Block]:
    q, slots, table = asked.x(0), asked.x(3), asked.x(4)
    first = 0
    for start, length, context in table.tolist():
        held = slots[first : first + context + length].to(torch.int64)
        first += context + length
        if not length:
            continue
        key, value = _held(asked, held)
        rows = slice(start, start + length)

        def put(out: Tensor, made: Tensor, rows: slice = rows) -> None:
            out[rows] = made.transpose(0, 1)

        yield Block(
            query=q[rows].transpose(0, 1), key=key, value=value,
            position=torch.arange(context, context + length), mask=None, at=put,
        )  # fmt: skip


def _held(asked: Asked, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys [G, S, D] and values [G, S, E] of slots; latents are made into those of every head."""
    if asked.op == "paged_attention":
        return asked.x(1)[slots].transpose(0, 1), asked.x(2)[slots].transpose(0, 1)
    w, nope = asked.x(2), int(asked.attrs["nope"] or 0)
    heads, held = asked.x(0).shape[1], asked.x(1)[slots]
    made = (held[:, : w.shape[1]] @ w.T).reshape(len(held), heads, -1).transpose(0, 1)
    shared = held[:, w.shape[1] :].expand(heads, -1, -1)
    return torch.cat((made[..., :nope], shared), -1), made[..., nope:]
