"""Right values that a format spoilt: clipped, flushed, on a narrower grid, with a bit turned, misread."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from parity.case.dtype import DTYPES, DType, decode, encode
from parity.case.tensor import HostTensor
from parity.judge.budget import Budget, Exact
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import (
    Asked,
    Guess,
    float_outputs,
    floats,
    host,
    hypothesis,
    only,
    replaced,
)
from parity.localize.hypotheses_fit import Observed
from parity.localize.hypotheses_rounding import nearest, truncated

__all__ = []

_LIMITS = {"f16": 65504.0, "e5m2": 57344.0, "e4m3fn": 448.0, "e4m3fnuz or Gaudi 2's e4m3": 240.0, "i8": 127.0}


# Where all values are in the range of both, a flavour of the same bias is a rounding and nothing more.
_RARE = 4.0
# Flavours of one layout, which differ in bias or in the top of their range.
_PAIRS = (
    ("e4m3fn", "e4m3fnuz"),
    ("e4m3fnuz", "e4m3fn"),
    ("e4m3fn", "e4m3_gaudi2"),
    ("e5m2", "e5m2fnuz"),
    ("e5m2fnuz", "e5m2"),
)
_FP8 = ("e4m3fn", "e4m3fnuz", "e4m3_gaudi2", "e5m2", "e5m2fnuz")


@hypothesis()
def _clipped(asked: Asked) -> Iterator[Guess]:
    for i, right, value, got in float_outputs(asked):
        finite = got.isfinite() & ((got - value).abs() > 2 * right.dtype.unit_roundoff * value.abs())
        found = float(got[finite].abs().max()) if bool(finite.any()) else 0.0
        known = [(limit, f"clipped at {limit:g}, the largest {name}") for name, limit in _LIMITS.items()]
        fitted = [(found, f"clipped at {found:.6g}")] if found and found not in _LIMITS.values() else []
        for limit, text in [*known, *fitted]:
            expected = replaced(right, value.clamp(-limit, limit), factor=1.0)
            cost = 0.0 if (limit, text) in known else 12.0
            yield Guess(kind=CauseKind.SATURATED, text=text, expected=only(asked, i, expected), cost=cost)
        if right.dtype.name != "f16":
            over = torch.where(value.abs() > _LIMITS["f16"], torch.inf * value.sign(), value)
            text = "infinite beyond 65504, the largest f16"
            yield Guess(
                kind=CauseKind.NON_FINITE,
                text=text,
                expected=only(asked, i, replaced(right, over, factor=1.0)),
            )


@hypothesis()
def _flushed(asked: Asked) -> Iterator[Guess]:
    for i, right, value, got in float_outputs(asked):
        lost = (got == 0) & (value != 0)
        if not bool(lost.any()):
            continue
        largest = float(value[lost].abs().max())
        known = {d.min_normal: f"the smallest normal {d.name}" for d in DTYPES.values() if d.is_float}
        above = min((n for n in known if n > largest), default=largest)
        limits = [(largest * (1 + 1e-12), f"below {largest:.6g}", 12.0)]
        if above < 2 * largest or above == right.dtype.min_normal:
            limits.append((above, f"below {above:.6g}, {known.get(above, '')}", 0.0))
        for limit, words, cost in limits:
            expected = replaced(right, torch.where(value.abs() < limit, 0.0, value), factor=1.0)
            text = f"values {words}, became 0"
            yield Guess(kind=CauseKind.FLUSHED, text=text, expected=only(asked, i, expected), cost=cost)


@hypothesis()
def _regridded(asked: Asked) -> Iterator[Guess]:
    """The result lies on a narrower type's grid, was truncated, or was rounded twice."""
    for i, right, value, _ in float_outputs(asked):
        grids = [(f"rounded to {name}", nearest(value, name)) for name in _narrower(right.dtype)]
        if right.dtype.name == "f32":
            grids += [(f"truncated to {name}", truncated(value, name)) for name in ("bf16", "f16", "tf32")]
        if right.dtype.name in ("bf16", "f16"):
            name = right.dtype.name
            grids.append((f"truncated to {name} instead of rounded", truncated(value, name)))
        for words, grid in grids:
            expected = replaced(right, grid, factor=1.0, exact=True)
            if isinstance(expected, Budget):
                expected = dataclasses.replace(expected, roundings=1)
            text = f"results were {words}"
            yield Guess(kind=CauseKind.OUTPUT_ROUNDING, text=text, expected=only(asked, i, expected))


@hypothesis()
def _lowered(asked: Asked) -> Iterator[Guess]:
    """Results between the right rounding and one step nearer to zero, in a narrow type.

    Between half a step above the value and three halves below it: all that is known is the side.
    """
    for i, right, value, _ in float_outputs(asked):
        if right.dtype.bits > 16:
            continue
        step = 2 * Observed.of(asked.got[i]).half_step
        own = (right.hard, right.sigma) if isinstance(right, Budget) else (step * 0, step * 0)
        hard, sigma = (t.expand(value.shape) for t in own)
        expected = Budget(
            dtype=right.dtype,
            value=value - value.sign() * step / 2,
            hard=hard + step / 2,
            # Of a uniform error of that width.
            sigma=(sigma.square() + step.square() / 12).sqrt(),
        )
        text = f"results are up to one step of {right.dtype} too near to zero"
        yield Guess(
            kind=CauseKind.OUTPUT_ROUNDING,
            text=text,
            expected=only(asked, i, expected),
            noise=True,
            most=True,
        )


def _narrower(dtype: DType) -> list[str]:
    return [n for n in ("bf16", "f16", "e4m3fn", "e5m2") if DTYPES[n].mantissa_bits < dtype.mantissa_bits]


@hypothesis()
def _flipped(asked: Asked) -> Iterator[Guess]:
    """One bit of the stored result is another, the same one in every element that fails."""
    for i, right, value, _ in float_outputs(asked):
        if right.dtype.bits > 32:
            continue
        codes = encode(value.contiguous().numpy(), right.dtype)
        for bit in range(right.dtype.bits - 2, right.dtype.mantissa_bits - 4, -1):
            other = torch.from_numpy(decode(codes ^ codes.dtype.type(1 << bit), right.dtype))
            expected = replaced(right, other, factor=(other / value).nan_to_num(1.0, 1.0, 1.0))
            text = f"bit {bit} is the other one"
            yield Guess(kind=CauseKind.BIT_FLIP, text=text, expected=only(asked, i, expected), cost=4.0)


@hypothesis()
def _strange(asked: Asked) -> Iterator[Guess]:
    for i, right, value, got in float_outputs(asked):
        new = ~got.isfinite() & value.isfinite()
        if not bool(new.any()):
            continue
        for text, what in (("NaN", torch.nan), ("infinite", torch.inf), ("minus infinite", -torch.inf)):
            whole = torch.full_like(value, what)
            expected = Budget(dtype=right.dtype, value=whole, hard=torch.zeros(()), sigma=torch.zeros(()))
            name = f"{text} where the value is finite"
            yield Guess(kind=CauseKind.NON_FINITE, text=name, expected=only(asked, i, expected), cost=4.0)


@hypothesis()
def _wrapped(asked: Asked) -> Iterator[Guess]:
    """Integers: wrapped or clipped at fewer bits, or one too many."""
    for i, right in enumerate(asked.right):
        if not isinstance(right, Exact) or right.dtype.is_float or not right.bits.numel:
            continue
        value = right.bits.array().astype(np.int64)
        for bits in (8, 16, 32):
            half = 1 << (bits - 1)
            wrapped = (value + half) % (2 * half) - half
            for text, changed, kind in (
                (f"wrapped at {bits} bits", wrapped, CauseKind.WRAPPED),
                (f"wrapped at {bits} bits, unsigned", value % (2 * half), CauseKind.WRAPPED),
                (f"clipped at {bits} bits", np.clip(value, -half, half - 1), CauseKind.SATURATED),
            ):
                expected = Exact(bits=host(torch.from_numpy(changed), right.dtype))
                yield Guess(kind=kind, text=text, expected=only(asked, i, expected))
        for step in (1, -1):
            expected = Exact(bits=host(torch.from_numpy(value + step), right.dtype))
            text = f"every value is {'one too high' if step > 0 else 'one too low'}"
            yield Guess(kind=CauseKind.OFF_BY_ONE, text=text, expected=only(asked, i, expected))


@hypothesis()
def _misread(asked: Asked) -> Iterator[Guess]:
    """A wider tensor went through 8 bits on its way, written in one flavour and read in another."""
    for i, right, value, _ in float_outputs(asked):
        for wrote, read in _PAIRS:
            expected = replaced(right, _through(value, wrote, read), exact=True)
            text = f"results were written as {wrote} and read as {read}"
            yield Guess(kind=CauseKind.FP8_FLAVOUR, text=text, expected=only(asked, i, expected), cost=_RARE)
    for n in floats(asked)[:2]:
        x = asked.x(n)
        scale = float(x.abs().max()) / 448 or 1.0
        for wrote, read in _PAIRS:
            for by, words in ((1.0, ""), (scale, ", with one scale")):
                other = asked.like(n, _through(x / by, wrote, read) * by)
                text = f"input {n} was written as {wrote} and read as {read}{words}"
                answer = asked.ask(inputs={n: other})
                yield Guess(kind=CauseKind.FP8_FLAVOUR, text=text, expected=answer, cost=_RARE)


def _through(x: Tensor, wrote: str, read: str) -> Tensor:
    codes = encode(x.contiguous().numpy(), DTYPES[wrote])
    return torch.from_numpy(decode(codes, DTYPES[read]))


@hypothesis()
def _flavours(asked: Asked) -> Iterator[Guess]:
    """An 8-bit float input or result that was read by another flavour's table."""
    for n in floats(asked):
        tensor = asked.inputs[n]
        if tensor is None or tensor.dtype.bits != 8:
            continue
        for name in (f for f in _FP8 if f != tensor.dtype.name):
            values = decode(tensor.contiguous().array().astype(np.uint8), DTYPES[name])
            other = host(torch.from_numpy(values), DTYPES["f32"])
            text = f"input {n} was read as {name}, not {tensor.dtype}"
            expected = tuple(
                dataclasses.replace(e, dtype=right.dtype) if isinstance(e, Budget) else None
                for e, right in zip(asked.ask(inputs={n: other}), asked.right, strict=True)
            )
            yield Guess(kind=CauseKind.FP8_FLAVOUR, text=text, expected=expected)
    for i, right, value, _ in float_outputs(asked):
        if right.dtype.bits != 8:
            continue
        for name in (f for f in _FP8 if f != right.dtype.name):
            codes = encode(value.contiguous().numpy(), DTYPES[name])
            coded = Exact(bits=HostTensor.of(codes, right.dtype))
            text = f"results are coded as {name}, not {right.dtype}"
            yield Guess(kind=CauseKind.FP8_FLAVOUR, text=text, expected=only(asked, i, coded))
