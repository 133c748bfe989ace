"""Quantised weights: scales of another group, codes read in another way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor
from parity.judge.budget import Budget
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import (
    Asked,
    Guess,
    hypothesis,
    only,
    replaced,
)

__all__ = []


@hypothesis("int8_linear", "int8_weight_linear", "int4_weight_linear")
def _scales(asked: Asked) -> Iterator[Guess]:
    for position in (2, 3) if asked.op == "int8_linear" else (2,):
        scale = asked.x(position)
        changes = [("is missing", torch.ones_like(scale)), ("was applied twice", scale.square())]
        for dim in range(scale.ndim):
            if scale.shape[dim] > 1:
                where = "output" if dim == 0 else "group"
                changes += [
                    (f"is that of the {where} {w}", scale.roll(k, dim))
                    for w, k in (("before", 1), ("after", -1))
                ]
                one = scale.narrow(dim, 0, 1).expand(scale.shape)
                changes.append((f"is that of the first {where}", one))
                mean = scale.mean(dim, keepdim=True).expand(scale.shape)
                changes.append((f"is the mean over every {where}", mean))
        if scale.ndim == 2 and min(scale.shape) > 1:
            changes.append(("is laid out in the other order", scale.T.reshape(scale.shape)))
        for text, other in changes:
            changed = {position: asked.like(position, other)}
            yield Guess(
                kind=CauseKind.QUANT_SCALE,
                text=f"scale {position} {text}",
                expected=asked.ask(inputs=changed),
            )


@hypothesis("int4_weight_linear")
def _nibbles(asked: Asked) -> Iterator[Guess]:
    packed = asked.inputs[1]
    assert packed is not None
    codes = packed.array().astype(np.uint8)
    low, high = codes & 15, codes >> 4
    apart = np.concatenate((low, high), -1)
    halves = apart[..., ::2] | apart[..., 1::2] << 4
    for text, other, kind in (
        ("the high nibble was read first", high | low << 4, CauseKind.NIBBLE_ORDER),
        ("low nibbles are the first half of a row", halves.astype(np.uint8), CauseKind.NIBBLE_ORDER),
        ("nibbles were read as signed", codes ^ 0x88, CauseKind.ZERO_POINT),
        ("the zero point is one lower", _shifted(codes, 1), CauseKind.ZERO_POINT),
        ("the zero point is one higher", _shifted(codes, -1), CauseKind.ZERO_POINT),
    ):
        yield Guess(kind=kind, text=text, expected=asked.ask(inputs={1: HostTensor.of(other, packed.dtype)}))
    right = asked.right[0]
    if isinstance(right, Budget):
        x, group = asked.x(0), int(asked.attrs["group"] or 1)
        scale = asked.x(2).repeat_interleave(group, -1)[:, : x.shape[-1]]
        missing = x @ scale.T
        for zero, text in (
            (8, "the zero point was not subtracted"),
            (1, "the zero point is 7"),
            (-1, "the zero point is 9"),
        ):
            value = right.value + zero * missing
            yield Guess(kind=CauseKind.ZERO_POINT, text=text, expected=only(asked, 0, replaced(right, value)))


def _shifted(
    codes: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], by: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    low, high = ((codes & 15).astype(np.int64) + by) % 16, ((codes >> 4).astype(np.int64) + by) % 16
    return (low | high << 4).astype(np.uint8)


@hypothesis("int8_linear", "int8_weight_linear")
def _codes(asked: Asked) -> Iterator[Guess]:
    w = asked.inputs[1]
    assert w is not None
    raw = w.array().astype(np.int64)
    for text, other, kind in (
        ("weights were read as unsigned, less 128", ((raw + 256) % 256) - 128, CauseKind.ZERO_POINT),
        ("weights were clipped at 4 bits", np.clip(raw, -8, 7), CauseKind.SATURATED),
        ("weights are off by a zero point of 1", np.clip(raw - 1, -128, 127), CauseKind.ZERO_POINT),
        ("weights are off by a zero point of -1", np.clip(raw + 1, -128, 127), CauseKind.ZERO_POINT),
    ):
        yield Guess(
            kind=kind,
            text=text,
            expected=asked.ask(inputs={1: HostTensor.of(other.astype(np.int8), DTYPES["i8"])}),
        )
    right = asked.right[0]
    if asked.op != "int8_linear" or not isinstance(right, Budget):
        return
    exact = asked.x(0).to(torch.float64) @ _weights(w)
    for bits in (16, 24):
        half = 2.0 ** (bits - 1)
        wrapped = torch.remainder(exact + half, 2 * half) - half
        for value, text, kind in (
            (wrapped, f"the sum wrapped at {bits} bits", CauseKind.WRAPPED),
            (exact.clamp(-half, half - 1), f"the sum was clipped at {bits} bits", CauseKind.SATURATED),
        ):
            expected = replaced(right, value * asked.x(2) * asked.x(3))
            yield Guess(kind=kind, text=text, expected=only(asked, 0, expected))


def _weights(w: HostTensor) -> Tensor:
    """Return integer weights [N, K] as float64 [K, N]."""
    return torch.from_numpy(w.array().astype(np.float64)).T
