"""Attention that sees other keys, scales otherwise, reads other heads or stores its weights narrower."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from parity.judge.budget import Budget
from parity.judge.oracle import to_float64
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_attended import Block, Way, asked_way, blocks_of, evaluated
from parity.localize.hypotheses_base import Asked, Guess, hypothesis, only, price, replaced
from parity.localize.hypotheses_rounding import nearest

__all__ = []

_K = CauseKind
_OPS = ("attention", "paged_attention", "latent_attention")
_STEPS = 36  # each leaves 0.62 of the interval: what a float32 result can tell apart
_LOOK = 6  # after which a scale that is another one is much nearer than the asked one
_TILES = 8  # of the keys that are tried one by one
_Changes = Iterator[tuple[CauseKind, str, dict[str, object]]]
# H query heads, G key heads, T queries, S keys, D and E their sizes


@hypothesis(*_OPS)
def _other_ways(asked: Asked) -> Iterator[Guess]:
    right = asked.right[0]
    if not isinstance(right, Budget):
        return
    blocks, way = blocks_of(asked), asked_way(asked)
    plain = evaluated(blocks, way, right.value)
    for kind, text, other in _variants(asked, blocks, way):
        value = evaluated(blocks, other, right.value)
        # Where nothing changed the exact value stands, so that the evaluation's order does not count.
        value = torch.where(value == plain, right.value, value)
        yield Guess(kind=kind, text=text, expected=only(asked, 0, replaced(right, value)))
    scale = _fitted_scale(blocks, way, right.value, to_float64(asked.got[0]))
    if scale is not None:
        value = evaluated(blocks, dataclasses.replace(way, scale=scale), right.value)
        text = f"the scale of the scores is {scale:.6g}, not {way.scale:.6g}"
        expected, cost = only(asked, 0, replaced(right, value)), price(right.dtype.unit_roundoff)
        yield Guess(kind=_K.ATTENTION_SCALE, text=text, expected=expected, cost=cost)


def _fitted_scale(blocks: list[Block], way: Way, right: Tensor, got: Tensor) -> float | None:
    """Return the scale under which the results lie nearest, None where none beats the asked one by far."""

    def off(power: float) -> float:
        value = evaluated(blocks, dataclasses.replace(way, scale=way.scale * 2.0**power), right)
        return float((value - got).nan_to_num(0.0, 0.0, 0.0).square().sum())

    best = min((n / 4 for n in range(-16, 17)), key=off)
    low, high = best - 0.25, best + 0.25
    for done in range(_STEPS):  # golden section
        if done == _LOOK and off((low + high) / 2) > 0.5 * off(0):
            return None
        step = (high - low) * 0.381966
        low, high = (low, high - step) if off(low + step) < off(high - step) else (low + step, high)
    return float(way.scale * 2.0 ** ((low + high) / 2))


def _variants(asked: Asked, blocks: list[Block], way: Way) -> Iterator[tuple[CauseKind, str, Way]]:
    for kind, text, changes in (
        *_scales(asked, blocks, way),
        *_sights(asked, blocks, way),
        *_heads(blocks),
        *_stale_keys(),
        *_tiles(blocks),
        *_parts(asked, blocks),
        *_precision(blocks),
        *_softcaps(way),
    ):
        yield kind, text, dataclasses.replace(way, **changes)  # type: ignore[arg-type]  # fields of Way by name


def _scales(asked: Asked, blocks: list[Block], way: Way) -> _Changes:
    D, E = asked.x(0).shape[-1], blocks[0].value.shape[-1]
    options = {
        "missing": 1.0,
        "1 / D": 1 / D,
        "squared": way.scale**2,
        "the root of itself": math.sqrt(way.scale),
    }
    options |= {
        f"that of {n} dimensions": n**-0.5 for n in sorted({D - 1, D + 1, D // 2, 2 * D, E, 64, 128} - {0})
    }
    if "nope" in asked.attrs:
        options["that of the nope part alone"] = float(int(asked.attrs["nope"] or 1)) ** -0.5
    options |= {"times log2(e)": way.scale / math.log(2), "times ln(2)": way.scale * math.log(2)}
    options |= {f"times {f:g}": way.scale * f for f in (0.5, 2.0)}
    for text, scale in options.items():
        if abs(scale / way.scale - 1) > 1e-9:
            yield _K.ATTENTION_SCALE, f"the scale of the scores is {text}", {"scale": scale}


def _sights(asked: Asked, blocks: list[Block], way: Way) -> _Changes:
    if way.causal:
        yield _K.MASK, "a query sees the key after its own", {"ahead": 1}
        yield _K.MASK, "a query does not see its own key", {"ahead": -1}
        yield _K.MASK, "a query sees two keys after its own", {"ahead": 2}
        yield _K.MASK, "the causal mask is missing", {"causal": False}
        yield _K.MASK, "query positions start at key 0", {"aligned": False}
    else:
        yield _K.MASK, "a causal mask was applied", {"causal": True}
    if way.window is not None:
        for step in (1, -1):
            text = f"the window is {'one wider' if step > 0 else 'one narrower'}"
            yield _K.MASK, text, {"window": way.window + step}
        yield _K.MASK, "the window is missing", {"window": None}
        yield _K.MASK, "the window is half as wide", {"window": max(way.window // 2, 1)}
    if asked.op == "attention" and asked.has(3):
        yield _K.MASK, "the given mask was not applied", {"masked": False}
    yield _K.MASK, "the first key is hidden", {"hidden": slice(0, 1)}
    yield _K.MASK, "the last key is hidden", {"hidden": slice(-1, None)}
    S = max(b.key.shape[-2] for b in blocks)
    for n in sorted({1, 2, 3, 4, -S % 8, -S % 16, -S % 32, -S % 64, -S % 128} - {0}):
        yield _K.MASK, f"{n} padded zero keys are seen", {"leaked": n}


def _heads(blocks: list[Block]) -> _Changes:
    H, G = blocks[0].query.shape[0], blocks[0].key.shape[0]
    order = torch.arange(G)
    if 1 < G < H:
        yield (
            _K.HEAD_GROUPS,
            "query head h reads head h % G",
            {"groups": lambda x, h: x.repeat(h // len(x), 1, 1)},
        )
    for text, picked in (
        ("all query heads read head 0", torch.zeros_like(order)),
        ("query heads read the head after theirs", order.roll(-1)),
        ("query heads read the head before theirs", order.roll(1)),
        ("heads are in reverse order", order.flip(0)),
    ):
        if G > 1:
            groups = lambda x, h, p=picked: x[p].repeat_interleave(h // len(x), 0)  # noqa: E731 - one expression, bound here
            yield _K.HEAD_GROUPS, text, {"groups": groups}
    if blocks[0].key.shape == blocks[0].value.shape:
        yield _K.OPERAND, "keys and values are exchanged", {"keys": lambda k, v: (v, k)}
        yield _K.OPERAND, "keys were read as values", {"keys": lambda k, v: (k, k)}  # noqa: ARG005 - what is not read


def _tiles(blocks: list[Block]) -> _Changes:
    S = max(b.key.shape[-2] for b in blocks)
    for size in (16, 32, 64, 128):
        starts = list(range(0, S, size)) if size < S else []
        for start in starts if len(starts) <= _TILES else [0, starts[-1]]:
            text = f"keys {start} to {min(start + size, S) - 1} are left out"
            yield _K.TERMS, text, {"hidden": slice(start, start + size)}


def _parts(asked: Asked, blocks: list[Block]) -> _Changes:
    """Some dimensions count for nothing in the scores: one of the two parts of a key, or a tile."""
    D = blocks[0].key.shape[-1]

    def without(k: Tensor, start: int, end: int) -> Tensor:
        return torch.cat((k[..., :start], torch.zeros_like(k[..., start:end]), k[..., end:]), -1)

    parts = []
    if "nope" in asked.attrs:
        nope = int(asked.attrs["nope"] or 0)
        parts = [(_K.OPERAND, "the shared part of the keys is missing", nope, D)]
        parts += [(_K.OPERAND, "the part of the keys without positions is missing", 0, nope)]
    sizes = [size for size in (8, 16, 32, 64) if size < D]
    for size in sizes:
        for start in sorted({0, (D - 1) // size * size}):
            end = min(start + size, D)
            parts.append(
                (_K.TERMS, f"dimensions {start} to {end - 1} are left out of the scores", start, end)
            )
    for kind, text, start, end in parts:
        yield kind, text, {"keys": lambda k, v, a=start, b=end: (without(k, a, b), v)}


def _stale_keys() -> _Changes:
    def last(k: Tensor, *, of: int | None) -> Tensor:
        end = torch.zeros_like(k[:, -1:]) if of is None else k[:, of - 1 : of]
        return torch.cat((k[:, :-1], end), 1)

    yield (
        _K.STALE,
        "the last key and value are zero",
        {"keys": lambda k, v: (last(k, of=None), last(v, of=None))},
    )
    yield _K.STALE, "the last key is zero", {"keys": lambda k, v: (last(k, of=None), v)}
    yield _K.STALE, "the last value is zero", {"keys": lambda k, v: (k, last(v, of=None))}
    text = "the last key and value are those of the position before"
    yield _K.STALE, text, {"keys": lambda k, v: (last(k, of=-1), last(v, of=-1))}
    yield _K.ROLL, "values are one position late", {"keys": lambda k, v: (k, v.roll(1, 1))}
    yield _K.ROLL, "keys are one position late", {"keys": lambda k, v: (k.roll(1, 1), v)}


def _precision(blocks: list[Block]) -> _Changes:
    for name in ("bf16", "f16", "e4m3fn"):
        yield (
            _K.INTERMEDIATE,
            f"softmax weights were rounded to {name}",
            {"after": lambda p, n=name: nearest(p, n)},
        )
        yield (
            _K.INTERMEDIATE,
            f"exponentials were rounded to {name}",
            {"weights": lambda e, n=name: nearest(e, n)},
        )
        if name != "e4m3fn":
            yield (
                _K.INTERMEDIATE,
                f"scores were rounded to {name}",
                {"scores": lambda s, n=name: nearest(s, n)},
            )
            text = f"the denominator was rounded to {name}"
            yield _K.DENOMINATOR, text, {"total": lambda t, _, n=name: nearest(t, n)}
    yield _K.DENOMINATOR, "not divided by the denominator", {"total": lambda t, _: torch.ones_like(t)}
    assert blocks


def _softcaps(way: Way) -> _Changes:
    if way.cap is not None:
        yield _K.SOFTCAP, "the cap of the scores is missing", {"cap": None}
        for cap in (30.0, 50.0, 2 * way.cap, way.cap / 2):
            if cap != way.cap:
                yield _K.SOFTCAP, f"the cap of the scores is {cap:g}", {"cap": cap}
    else:
        for cap in (30.0, 50.0):
            yield _K.SOFTCAP, f"scores were capped at {cap:g}", {"cap": cap}
