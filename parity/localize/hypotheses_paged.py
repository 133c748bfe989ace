"""Attention that reads other slots: a table off by one, pages exchanged, another request's keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from parity.judge.budget import Budget
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_attended import Block, asked_way, blocks_of, evaluated
from parity.localize.hypotheses_base import Asked, Guess, hypothesis, only, replaced

__all__ = []

_K = CauseKind
# Positions at the start of a request that may be another's: one, and pages of the usual sizes.
_LED = (1, 8, 16, 32, 64)


@hypothesis("paged_attention", "latent_attention")
def _slots(asked: Asked) -> Iterator[Guess]:
    pool = asked.x(1).shape[0]
    slots = asked.x(3)
    for step in (1, -1):
        other = asked.like(3, (slots + step).clamp(0, pool - 1))
        text = f"slots are {'one too high' if step > 0 else 'one too low'}"
        yield Guess(kind=_K.OFF_BY_ONE, text=text, expected=asked.ask(inputs={3: other}))
        other = asked.like(3, slots.roll(step))
        yield Guess(kind=_K.OFF_BY_ONE, text=f"slots moved by {step}", expected=asked.ask(inputs={3: other}))
    for size in (8, 16, 32):
        if len(slots) >= 2 * size:
            pages = slots.clone()
            pages[:size], pages[size : 2 * size] = slots[size : 2 * size], slots[:size]
            text = f"the first two pages of {size} slots are exchanged"
            yield Guess(kind=_K.PERMUTED, text=text, expected=asked.ask(inputs={3: asked.like(3, pages)}))


@hypothesis("paged_attention", "latent_attention")
def _another_request(asked: Asked) -> Iterator[Guess]:
    right, blocks = asked.right[0], blocks_of(asked)
    if not isinstance(right, Budget) or len(blocks) < 2:
        return
    way = asked_way(asked)
    plain = evaluated(blocks, way, right.value)
    longest = max(b.key.shape[-2] for b in blocks)
    for whose, others in _others(blocks):
        for count in (n for n in _LED if n == 1 or n < 2 * longest):
            for what in ("keys and values", "keys", "values"):
                pairs = zip(blocks, others, strict=True)
                value = evaluated([_led(b, o, count, what) for b, o in pairs], way, right.value)
                # Where nothing changed the exact value stands, so that the evaluation's order does not count.
                value = torch.where(value == plain, right.value, value)
                which = "first" if count == 1 else f"first {count}"
                text = f"the {which} {what} of a request are those of {whose}"
                yield Guess(kind=_K.OPERAND, text=text, expected=only(asked, 0, replaced(right, value)))


def _others(blocks: list[Block]) -> Iterator[tuple[str, list[Block]]]:
    """Yield, by a name, the request that is read in the place of each."""
    if len(blocks) == 2:
        yield "the other one", blocks[::-1]
        return
    yield "the one before", [*blocks[-1:], *blocks[:-1]]
    yield "the one after", [*blocks[1:], *blocks[:1]]
    yield "the first", [blocks[0]] * len(blocks)
    yield "the last", [blocks[-1]] * len(blocks)


def _led(block: Block, other: Block, count: int, what: str) -> Block:
    """Return a block whose first `count` keys, values or both are another's."""

    def joined(own: Tensor, theirs: Tensor) -> Tensor:
        n = min(count, own.shape[1], theirs.shape[1])
        return torch.cat((theirs[:, :n], own[:, n:]), 1)

    key = joined(block.key, other.key) if "keys" in what else block.key
    value = joined(block.value, other.value) if "values" in what else block.value
    return dataclasses.replace(block, key=key, value=value)
