"""Right values in the wrong place: moved, mirrored, transposed, repeated or never written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from parity.judge.budget import Budget, Exact, Expected
from parity.judge.oracle import to_float64
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import (
    Asked,
    Guess,
    changed,
    host,
    hypothesis,
    only,
    values_of,
)

__all__ = []

_Move = Callable[[Tensor], Tensor]
# A step to another row, a head or a tile of the usual sizes.
_SHIFTS = (1, 2, 3, 4, 8, 16, 32, 64, 128)
_HEADS = (2, 3, 4, 6, 8, 12, 16, 32, 64, 128)
# Rows and columns are matched one with another up to this many.
_MATCHED = 2048
# Ops whose missing effect has a name of its own.
_NAMED = (
    "add", "copy", "div", "gelu_erf", "gelu_tanh", "mul", "sigmoid", "silu", "softcap", "tanh",
)  # fmt: skip


def _named(dim: int, ndim: int) -> str:
    return "rows" if dim == 0 and ndim > 1 else "columns" if dim == ndim - 1 else f"dimension {dim}"


def _guesses(asked: Asked, kind: CauseKind, text: str, move: _Move, *, most: bool = True) -> Iterator[Guess]:
    for i, right in enumerate(asked.right):
        moved = changed(right, move)
        if moved is not None:
            yield Guess(kind=kind, text=text, expected=only(asked, i, moved), most=most)


def _shapes(asked: Asked) -> set[tuple[int, ...]]:
    return {tuple(e.shape) for e in asked.right if values_of(e) is not None and len(e.shape) > 0}


@hypothesis(whole=True)
def _moved(asked: Asked) -> Iterator[Guess]:
    for shape in _shapes(asked):
        for dim, n in enumerate(shape):
            name = _named(dim, len(shape))
            for step in (s for k in (*_SHIFTS, n // 2) for s in (k, -k) if 0 < k < n):
                text = f"{name} moved by {step}"
                kind = CauseKind.HALVES if 2 * abs(step) == n > 2 else CauseKind.ROLL
                text = f"the halves of {name} are swapped" if kind is CauseKind.HALVES else text
                yield from _guesses(asked, kind, text, _roll(step, dim))
            if n > 2:
                yield from _guesses(asked, CauseKind.REVERSED, f"{name} in reverse order", _flip(dim))


def _roll(step: int, dim: int) -> _Move:
    return lambda x: x.roll(step, dim)


def _flip(dim: int) -> _Move:
    return lambda x: x.flip(dim)


@hypothesis(whole=True)
def _interleaved(asked: Asked) -> Iterator[Guess]:
    for shape in _shapes(asked):
        for dim, n in enumerate(shape):
            if n % 2 or n < 4:
                continue
            name, order = _named(dim, len(shape)), torch.arange(n)
            apart = torch.cat((order[::2], order[1::2]))
            together = torch.stack((order[: n // 2], order[n // 2 :]), 1).reshape(-1)
            pairs = order.reshape(-1, 2).flip(1).reshape(-1)
            for text, picked in (
                (f"{name}: halves interleaved", together),
                (f"{name}: even and odd ones apart", apart),
                (f"{name}: neighbours exchanged", pairs),
            ):
                yield from _guesses(asked, CauseKind.HALVES, text, _pick(picked, dim))


def _pick(order: Tensor, dim: int) -> _Move:
    return lambda x: x.index_select(dim, order)


@hypothesis(whole=True)
def _transposed(asked: Asked) -> Iterator[Guess]:
    """Two neighbouring dimensions, or a last one read as heads and their size, in the other order."""
    for shape in _shapes(asked):
        for dim in range(len(shape) - 1):
            if shape[dim] > 1 and shape[dim + 1] > 1:
                of_heads = len(shape) > 2 and dim == len(shape) - 2
                kind = CauseKind.HEAD_LAYOUT if of_heads else CauseKind.TRANSPOSED
                text = f"dimensions {dim} and {dim + 1} swapped in memory"
                yield from _guesses(asked, kind, text, _swap(dim, shape))
        if len(shape) > 1 and shape[-1] == shape[-2] > 1:
            kind = CauseKind.TRANSPOSED
            yield from _guesses(asked, kind, "the last two dimensions swapped", lambda x: x.transpose(-1, -2))
        for heads in (h for h in _HEADS if h < shape[-1] and shape[-1] % h == 0):
            text = (
                f"columns read as [{shape[-1] // heads}, {heads}] instead of [{heads}, {shape[-1] // heads}]"
            )
            yield from _guesses(asked, CauseKind.HEAD_LAYOUT, text, _split(heads))


def _swap(dim: int, shape: tuple[int, ...]) -> _Move:
    return lambda x: x.transpose(dim, dim + 1).reshape(shape)


def _split(heads: int) -> _Move:
    return lambda x: x.reshape(*x.shape[:-1], heads, -1).transpose(-1, -2).reshape(x.shape)


@hypothesis(whole=True)
def _matched(asked: Asked) -> Iterator[Guess]:
    """Rows, heads or columns that hold what belongs into another one."""
    for i, right in enumerate(asked.right):
        value = values_of(right)
        if value is None or value.ndim < 2 or value.dtype is not torch.float64:
            continue
        got = to_float64(asked.got[i])
        for dim in range(value.ndim):
            source = _sources(value, got, dim)
            if source is None:
                continue
            wrong = source != torch.arange(len(source))
            count, name = int(wrong.sum()), _named(dim, value.ndim)
            again = len(set(source.tolist())) < len(source)
            first = int(wrong.nonzero()[0])
            text = (
                f"{count} of {len(source)} {name} hold another one's content, {first} that of {source[first]}"
            )
            kind = CauseKind.REPEATED if again else CauseKind.PERMUTED
            moved = changed(right, _pick(source, dim))
            cost = count * 2 * math.log(len(source))
            yield Guess(kind=kind, text=text, expected=only(asked, i, moved), cost=cost)


def _sources(value: Tensor, got: Tensor, dim: int) -> Tensor | None:
    """Return for each index of a dimension the one whose values lie nearest, None when all are their own."""
    n = value.shape[dim]
    if not 1 < n <= _MATCHED or value.numel() < 4 * n:
        return None
    wanted = value.movedim(dim, 0).reshape(n, -1).nan_to_num(0.0, 0.0, 0.0)
    given = got.movedim(dim, 0).reshape(n, -1).nan_to_num(0.0, 0.0, 0.0)
    distance = torch.cdist(given, wanted)
    own = distance.diagonal()
    nearest, source = distance.min(1)
    source = torch.where(nearest < 0.1 * own, source, torch.arange(n))
    return source if bool((source != torch.arange(n)).any()) else None


@hypothesis()
def _unwritten(asked: Asked) -> Iterator[Guess]:
    for i, right in enumerate(asked.right):
        value = values_of(right)
        if value is None or not value.numel():
            continue
        zeros = _constant(right, torch.zeros_like(value))
        yield Guess(kind=CauseKind.ZEROED, text="zero", expected=only(asked, i, zeros), cost=2.0)
        got = to_float64(asked.got[i])
        other = got[(got != value) & (got != 0) & got.isfinite()]
        if not other.numel():
            continue
        common = float(other.mode().values)
        if int((other == common).sum()) > 1:
            filled = _constant(right, torch.full_like(value, common))
            text = f"one and the same value, {common:.6g}"
            yield Guess(kind=CauseKind.CONSTANT, text=text, expected=only(asked, i, filled), cost=12.0)


def _constant(right: Expected, values: Tensor) -> Expected:
    zero = torch.zeros((), dtype=torch.float64)
    if isinstance(right, Budget):
        return Budget(dtype=right.dtype, value=values, hard=zero.expand(values.shape), sigma=zero)
    return Exact(bits=host(values, right.dtype))


@hypothesis()
def _unapplied(asked: Asked) -> Iterator[Guess]:
    """The step gave back one of its inputs."""
    if asked.op in _NAMED:
        return
    for i, right in enumerate(asked.right):
        for n, tensor in enumerate(asked.inputs):
            if tensor is None or tensor.dtype is not right.dtype or tensor.shape != tuple(right.shape):
                continue
            if isinstance(right, Exact) and tensor.digest() == right.bits.digest():
                continue
            text = f"input {n} came back unchanged"
            expected = Exact(bits=tensor.contiguous(), any_nan=True)
            yield Guess(kind=CauseKind.NOT_APPLIED, text=text, expected=only(asked, i, expected), most=True)


@hypothesis()
def _tile(asked: Asked) -> Iterator[Guess]:
    """Whatever is wrong is confined to whole tiles, or to a ragged end."""
    for i, right in enumerate(asked.right):
        if values_of(right) is not None:
            text = "wrong by no rule that was found, but only"
            yield Guess(
                kind=CauseKind.TILE_EDGE, text=text, expected=only(asked, i, right), region=True, whole=True
            )
