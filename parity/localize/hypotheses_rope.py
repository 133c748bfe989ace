"""Rotary positions: angles of other positions or another base, other pairs, other signs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import Asked, Guess, hypothesis, valued
from parity.localize.hypotheses_rounding import nearest

__all__ = []

_K = CauseKind


_BASES = (1e3, 1e4, 5e4, 1e5, 5e5, 1e6, 5e6, 1e7)


@hypothesis("rope")
def _rope(asked: Asked) -> Iterator[Guess]:
    positions = asked.x(1)
    for step in (1, -1):
        moved = asked.like(1, positions + step)
        text = f"positions are {'one too high' if step > 0 else 'one too low'}"
        yield Guess(kind=_K.POSITION, text=text, expected=asked.ask(inputs={1: moved}))
    start = asked.like(1, positions - positions.min())
    yield Guess(kind=_K.POSITION, text="positions start at 0", expected=asked.ask(inputs={1: start}))
    for step in (1, -1):
        moved = asked.like(1, positions.roll(step, -1))
        text = "positions are those of the neighbouring row"
        yield Guess(kind=_K.POSITION, text=text, expected=asked.ask(inputs={1: moved}))
    mirrored = asked.like(1, -positions)
    yield Guess(
        kind=_K.ROPE_SIGN,
        text="the sign of the sine is the other one",
        expected=asked.ask(inputs={1: mirrored}),
    )
    D, base = asked.x(0).shape[-1], float(asked.attrs["base"] or 1)
    exponent = torch.arange(0, D, 2, dtype=torch.float64) / D
    p = positions.to(torch.float64)[..., None]
    angle = p * base**-exponent
    layout = bool(asked.attrs["interleaved"])
    for name in ("bf16", "f16"):
        turned = _turn(asked.x(0), nearest(angle.cos(), name), nearest(angle.sin(), name), interleaved=layout)
        yield valued(asked, _K.INTERMEDIATE, f"cosine and sine were rounded to {name}", turned)
        rounded = nearest(angle, name)
        turned = _turn(asked.x(0), rounded.cos(), rounded.sin(), interleaved=layout)
        yield valued(asked, _K.INTERMEDIATE, f"angles were rounded to {name}", turned)
        rounded = nearest(p, name) * base**-exponent
        turned = _turn(asked.x(0), rounded.cos(), rounded.sin(), interleaved=layout)
        yield valued(asked, _K.INTERMEDIATE, f"positions were rounded to {name}", turned)
    turned = _turn(asked.x(0), angle.sin(), angle.cos(), interleaved=layout)
    yield valued(asked, _K.ROPE_SIGN, "sine and cosine are exchanged", turned)


@hypothesis("rotate")
def _rotate(asked: Asked) -> Iterator[Guess]:
    x, cos, sin = (asked.x(i) for i in range(3))
    layout = bool(asked.attrs["interleaved"])
    for kind, text, c, s in (
        (_K.ROPE_SIGN, "the sign of the sine is the other one", cos, -sin),
        (_K.ROPE_SIGN, "sine and cosine are exchanged", sin, cos),
        (_K.POSITION, "each row has the angles of the row before", cos.roll(1, 0), sin.roll(1, 0)),
        (_K.POSITION, "each row has the angles of the row after", cos.roll(-1, 0), sin.roll(-1, 0)),
        (
            _K.POSITION,
            "all rows have the angles of the first",
            cos[:1].expand_as(cos),
            sin[:1].expand_as(sin),
        ),
        (_K.POSITION, "rows have the angles in reverse order", cos.flip(0), sin.flip(0)),
        (_K.ROPE_BASE, "the angles of a row are in reverse order", cos.flip(-1), sin.flip(-1)),
    ):
        yield valued(asked, kind, text, _turn_heads(x, c, s, interleaved=layout))
    yield from _other_angles(asked, x, cos, sin, layout)
    yield valued(
        asked, _K.ROPE_SIGN, "both terms have the same sign", _same_sign(x, cos, sin, interleaved=layout)
    )
    for name in ("bf16", "f16"):
        c, s = nearest(cos, name), nearest(sin, name)
        text = f"cosine and sine were rounded to {name}"
        yield valued(asked, _K.INPUTS_ROUNDED, text, _turn_heads(x, c, s, interleaved=layout))
    size = 2 * cos.shape[-1]
    half = torch.cat(
        (
            _turn_heads(x[..., : size // 2], cos[:, : size // 4], sin[:, : size // 4], interleaved=layout),
            x[..., size // 2 :],
        ),
        -1,
    )
    yield valued(asked, _K.ROPE_LAYOUT, "only half of the dimensions were turned", half)
    if size < x.shape[-1]:
        last = torch.cat((x[..., :-size], _turn_heads(x[..., -size:], cos, sin, interleaved=layout)), -1)
        yield valued(asked, _K.ROPE_LAYOUT, "the last dimensions were turned, not the first", last)


def _other_angles(asked: Asked, x: Tensor, cos: Tensor, sin: Tensor, layout: bool) -> Iterator[Guess]:  # noqa: FBT001 - one fact of the op, handed on
    """Positions one further, or angles of another base, found from the angles of the tables."""
    if cos.shape[-1] < 2 or not len(cos):
        return
    angle = torch.atan2(sin, cos)
    position, rate, own = _frequencies(angle)
    count = torch.arange(len(angle), dtype=torch.float64)[:, None]
    for text, other in (("start at 0", position - position[0]), ("count the rows of the step", count)):
        turned = other * rate
        value = _turn_heads(x, turned.cos(), turned.sin(), interleaved=layout)
        yield valued(asked, _K.POSITION, f"positions {text}", value)
    for step in (1, -1, 2, -2):
        moved = angle + step * rate
        text = f"positions are {abs(step)} too {'high' if step > 0 else 'low'}"
        yield valued(asked, _K.POSITION, text, _turn_heads(x, moved.cos(), moved.sin(), interleaved=layout))
    pairs = cos.shape[-1]
    for base in _BASES:
        if abs(math.log(base / own)) > 0.2:  # tables are rounded, so their base is known roughly
            turned = position * base ** -(torch.arange(pairs, dtype=torch.float64) / pairs)
            text = f"the base of the angles is {base:g}, not {own:.4g}"
            value = _turn_heads(x, turned.cos(), turned.sin(), interleaved=layout)
            yield valued(asked, _K.ROPE_BASE, text, value)
    for factor in (0.5, 2.0, 0.25, 4.0, 8.0, 0.125):
        turned = position * rate * factor
        text = f"the angles are {factor:g} times as large"
        value = _turn_heads(x, turned.cos(), turned.sin(), interleaved=layout)
        yield valued(asked, _K.ROPE_BASE, text, value)


def _frequencies(angle: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return (position [T, 1], radians a position [R], base) that angles [T, R] were most likely made of.

    A usual base whose tables look like these is taken; else the base that the slowest angles tell,
    and of rows that are neighbours the steps between them.
    """
    pairs = angle.shape[-1]
    share = torch.arange(pairs, dtype=torch.float64) / pairs
    best: tuple[float, Tensor, Tensor, float] | None = None
    for base in _BASES:
        rate = base**-share
        position = (angle[:, -1:] / rate[-1]).round()
        # The slowest angle may be known too roughly to tell neighbours apart.
        near = torch.stack([position + k for k in range(-3, 4)])
        missed = ((near * rate).cos() - angle.cos()).square() + ((near * rate).sin() - angle.sin()).square()
        error, which = missed.mean(-1).min(0)
        total = float(error.mean())
        if best is None or total < best[0]:
            best = (total, near.gather(0, which[None, :, None])[0], rate, base)
    assert best is not None
    if best[0] < 1e-4 or len(angle) < 2:
        return best[1], best[2], best[3]
    rate = torch.atan2((angle[1:] - angle[:-1]).sin(), (angle[1:] - angle[:-1]).cos()).median(0).values
    slowest = float(rate[-1]) or 1.0
    return (angle[:, -1:] / slowest).round(), rate, abs(slowest) ** (-pairs / (pairs - 1))


def _turn_heads(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    size = 2 * cos.shape[-1]
    turned = _turn(x[..., :size], cos[:, None], sin[:, None], interleaved=interleaved)
    return torch.cat((turned, x[..., size:]), -1)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    if interleaved:
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)
    low, high = x.chunk(2, -1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


def _same_sign(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    size, c, s = 2 * cos.shape[-1], cos[:, None], sin[:, None]
    part = x[..., :size]
    if interleaved:
        even, odd = part[..., 0::2], part[..., 1::2]
        made = torch.stack((even * c + odd * s, odd * c + even * s), -1).flatten(-2)
    else:
        low, high = part.chunk(2, -1)
        made = torch.cat((low * c + high * s, high * c + low * s), -1)
    return torch.cat((made, x[..., size:]), -1)
