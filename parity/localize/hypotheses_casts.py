"""Conversions that round, clip or overflow by another rule."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from parity.judge.budget import Expected
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import Asked, Guess, hypothesis, only, replaced
from parity.localize.hypotheses_rounding import nearest

__all__ = []

_K = CauseKind


@hypothesis("cast")
def _casts(asked: Asked) -> Iterator[Guess]:
    x, right = asked.x(0).to(torch.float64), asked.right[0]
    to = right.dtype
    made: list[tuple[CauseKind, str, Tensor]] = []
    if not to.is_float:
        half = 2.0 ** (to.bits - 1)
        low, high = (-half, half - 1) if to.signed else (0.0, 2 * half - 1)
        for name, whole in (
            ("rounded to nearest", x.round()), ("rounded down", x.floor()),
            ("rounded up", x.ceil()), ("truncated", x.trunc()),
        ):  # fmt: skip
            made.append((_K.CONVERSION, f"{name} and clipped at the range", whole.clamp(low, high)))
            wrapped = torch.remainder(whole - low, 2 * half) + low
            made.append((_K.CONVERSION, f"{name} and wrapped at the range", wrapped))
    else:
        most = to.max_finite
        made.append((_K.CONVERSION, "clipped at the largest value", nearest(x.clamp(-most, most), to.name)))
        over = torch.where(x.abs() > most, torch.inf * x.sign(), x)
        made.append((_K.CONVERSION, "infinite beyond the largest value", over))
        over = torch.where(x.abs() > most, torch.nan, x)
        made.append((_K.CONVERSION, "NaN beyond the largest value", over))
        made += [
            (_K.DOUBLE_ROUNDING, f"rounded to {middle} first", nearest(nearest(x, middle), to.name))
            for middle in ("f32", "f16", "bf16")
        ]
        bits = to.mantissa_bits + 1
        fraction, exponent = torch.frexp(x)
        scaled = torch.ldexp(fraction, torch.tensor(bits))
        for name, whole in (
            ("truncated", scaled.trunc()),
            ("ties away from zero", (scaled.abs() + 0.5).floor() * scaled.sign()),
            ("rounded up", scaled.ceil()), ("rounded down", scaled.floor()),
        ):  # fmt: skip
            made.append((_K.CONVERSION, name, torch.ldexp(whole, exponent - bits)))
    for kind, text, value in made:
        expected: Expected | None = replaced(right, value, exact=True)
        yield Guess(kind=kind, text=f"the conversion: {text}", expected=only(asked, 0, expected))
