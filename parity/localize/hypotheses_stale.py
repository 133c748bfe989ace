"""What an earlier call or another step had left: whole results, single rows of one, inputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch

from parity.case.tensor import HostTensor
from parity.judge.budget import Budget, Exact, Expected
from parity.judge.oracle import to_float64
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import Asked, Guess, hypothesis, only

__all__ = []

# Earlier tensors that are tried in the place of each input.
_STALE = 8
# Elements of earlier tensors among whose rows a row is looked for.
_SEARCHED = 1 << 24


@hypothesis()
def _stale(asked: Asked) -> Iterator[Guess]:
    for i, right in enumerate(asked.right):
        for name, tensor in asked.earlier.items():
            if tensor.dtype is not right.dtype:
                continue
            left = _left_over(tensor, right)
            if left is not None:
                text = f"holds what '{name}' held"
                yield Guess(kind=CauseKind.STALE, text=text, expected=only(asked, i, left))


@hypothesis()
def _stale_inputs(asked: Asked) -> Iterator[Guess]:
    """An input was read as it was at an earlier call, or as another step had left it."""
    for n, tensor in enumerate(asked.inputs):
        alike = [
            (name, t)
            for name, t in asked.earlier.items()
            if tensor is not None and (t.dtype, t.shape) == (tensor.dtype, tensor.shape)
        ]
        for name, other in alike[:_STALE]:
            if other.digest() != tensor.digest():  # type: ignore[union-attr]  # alike is empty where it is None
                text = f"input {n} was read as '{name}'"
                yield Guess(kind=CauseKind.STALE, text=text, expected=asked.ask(inputs={n: other}))


def _left_over(tensor: HostTensor, right: Expected) -> Expected | None:
    """Return an earlier tensor as an answer to the bit: of the same shape, or its first rows."""
    shape = tuple(right.shape)
    if tensor.shape != shape:
        same_rows = len(tensor.shape) == len(shape) > 0 and tensor.shape[1:] == shape[1:]
        if not same_rows or tensor.shape[0] < shape[0]:
            return None
        tensor = HostTensor.of(tensor.array()[: shape[0]], tensor.dtype)
    return Exact(bits=tensor.contiguous(), any_nan=True)


@hypothesis()
def _stale_rows(asked: Asked) -> Iterator[Guess]:
    """Rows that fail and that stand, to the bit, in some row of an earlier tensor."""
    for i, right in enumerate(asked.right):
        wrong = _wrong_rows(asked.got[i], right)
        if not wrong:
            continue
        wanted = dict(zip(_rows(asked.got[i], wrong), wrong, strict=True))
        found, searched = _sources(asked, i, set(wanted))
        places = {wanted[row]: source for row, source in found.items()}
        # Rows that stand where they stood are a part of that tensor, which is said elsewhere.
        if all(row == at for row, (_, at) in places.items()):
            continue
        rows = [row for row in wrong if row in places]
        name, at = places[rows[0]]
        more = f" and {len(rows) - 1} more rows are left over" if len(rows) > 1 else ""
        text = f"row {rows[0]} holds what '{name}' held in row {at}{more}"
        expected = _kept(right, asked.got[i], rows)
        # Rows that follow each other there are one copy.
        copies = [r for r in rows if places.get(r - 1) != (places[r][0], places[r][1] - 1)]
        cost = len(copies) * math.log(max(searched, 2))
        yield Guess(kind=CauseKind.STALE, text=text, expected=only(asked, i, expected), cost=cost)


def _wrong_rows(got: HostTensor, right: Expected) -> list[int]:
    """Return the rows of the first dimension in which an element is not right."""
    if not got.shape or not got.numel or not isinstance(right, Budget | Exact):
        return []
    if isinstance(right, Exact):
        pairs = zip(_rows(got), _rows(right.bits), strict=True)
        return [n for n, (given, wanted) in enumerate(pairs) if given != wanted]
    room = right.hard + 2 * right.dtype.unit_roundoff * right.value.abs()
    wrong = ~((to_float64(got) - right.value).abs() <= room)
    return [n for n, is_wrong in enumerate(wrong.reshape(len(wrong), -1).any(1).tolist()) if is_wrong]


def _rows(tensor: HostTensor, which: list[int] | None = None) -> list[bytes]:
    array = np.ascontiguousarray(tensor.array())
    return [array[n].tobytes() for n in (range(len(array)) if which is None else which)]


def _sources(asked: Asked, output: int, wanted: set[bytes]) -> tuple[dict[bytes, tuple[str, int]], int]:
    """Return where each row of `wanted` stands first, and how many rows were looked at."""
    got, found, searched = asked.got[output], dict[bytes, tuple[str, int]](), 0
    elements = 0
    for name, tensor in asked.earlier.items():
        if tensor.dtype is not got.dtype or not tensor.shape or tensor.shape[1:] != got.shape[1:]:
            continue
        elements += tensor.numel
        if elements > _SEARCHED:
            break
        for at, row in enumerate(_rows(tensor)):
            if row in wanted:
                found.setdefault(row, (name, at))
        searched += tensor.shape[0]
    return found, searched


def _kept(right: Expected, got: HostTensor, rows: list[int]) -> Expected:
    """Return the right answer with some rows as they were given."""
    picked = torch.tensor(rows)
    if isinstance(right, Budget):
        shape = right.value.shape
        value, hard, sigma = (t.expand(shape).clone() for t in (right.value, right.hard, right.sigma))
        value[picked], hard[picked], sigma[picked] = to_float64(got)[picked], 0.0, 0.0
        return dataclasses.replace(right, value=value, hard=hard, sigma=sigma, free=None, nan_ok=None)
    assert isinstance(right, Exact)
    bits = np.array(right.bits.array())
    bits[rows] = got.array()[rows]
    return Exact(bits=HostTensor.of(bits, right.dtype), any_nan=right.any_nan)
