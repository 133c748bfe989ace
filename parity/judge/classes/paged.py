"""Attention of the segments of a step over keys and values in slots, and over latents.

Each segment is judged on its own slots, in blocks of queries; slots that it does not name never
enter.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.errors import GoldenError
from parity.judge.budget import Budget, Expected, Question
from parity.judge.classes.attended import Attended, Chain, Heads, attend

__all__ = ["Segment", "of_segments", "paged_attention", "segments", "side_by_side", "single_tokens"]

# Scores that are judged at once: each takes about 150 bytes in the formulas.
_BLOCK = 1 << 21

# T query tokens, S keys, H query heads, G key heads, r = H / G, D and E their sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Rows of queries, the slots of its keys in order, and -inf [rows, S] where a key is hidden."""

    rows: slice
    slots: Tensor
    bias: Tensor


def segments(q: Question, *, pool: int, window: int | None) -> Iterator[Segment]:
    """Yield the segments of inputs 3 and 4 in blocks of queries.

    Raises GoldenError where rows, slots and segments do not fit together.
    """
    slots, table = q.inputs[3], q.inputs[4]
    assert slots is not None and table is not None
    heads = q.x.shape[1]
    _check(q, slots, table, pool=pool)
    first = 0
    for start, length, context in table.tolist():
        total = context + length
        key = torch.arange(total)
        step = max(1, _BLOCK // max(heads * total, 1))
        for begin in range(0, length, step):
            end = min(begin + step, length)
            query = torch.arange(context + begin, context + end)[:, None]
            hidden = key > query
            if window is not None:
                hidden |= key <= query - window
            yield Segment(
                rows=slice(start + begin, start + end),
                slots=slots[first : first + total].to(torch.int64),
                bias=torch.zeros(hidden.shape, dtype=torch.float64).masked_fill(hidden, -torch.inf),
            )
        first += total


def _check(q: Question, slots: Tensor, table: Tensor, *, pool: int) -> None:
    """Raise GoldenError unless segments own rows and slots that exist, and each row at most once."""
    rows, found = q.x.shape[0], table.tolist()
    owned = sorted((start, start + length) for start, length, _ in found)
    apart = all(a[1] <= b[0] for a, b in itertools.pairwise(owned))
    inside = all(0 <= a <= b <= rows for a, b in owned) and all(c >= 0 for _, _, c in found)
    if not (apart and inside and sum(length + context for _, length, context in found) == len(slots)):
        raise GoldenError(
            f"{q.op}: segments {found[:4]} do not fit {rows} rows and {len(slots)} slots. Record it again"
        )
    if len(slots) and (int(slots.min()) < 0 or int(slots.max()) >= pool):
        raise GoldenError(
            f"{q.op}: slots {int(slots.min())} to {int(slots.max())} of a pool of {pool}. Record it again"
        )


def of_segments(
    q: Question, *, pool: int, window: int | None, width: int, each: Callable[[Segment], Attended]
) -> Budget:
    """Return the budget of y [T, H, width] whose blocks `each` judges; rows of no segment are free."""
    shape = (*q.x.shape[:2], width)
    value, hard, variance = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    free, nan_ok = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for segment in segments(q, pool=pool, window=window):
        made = each(segment)
        value[segment.rows], hard[segment.rows] = made.value, made.hard
        variance[segment.rows], free[segment.rows] = made.variance, made.free
        nan_ok[segment.rows] = made.nan_ok
    return Budget(
        dtype=q.dtype,
        value=value,
        hard=hard,
        sigma=variance.sqrt(),
        independent=max(q.x.shape[:2].numel(), 1),
        free=free,
        nan_ok=nan_ok,
    )


def paged_attention(q: Question) -> tuple[Expected, ...]:
    """y = softmax(softcap(scale q k^T)) v of each segment, by the rule of `attended`."""
    keys, values = q.inputs[1], q.inputs[2]
    assert keys is not None and values is not None
    cap = None if q.attrs["softcap"] is None else q.number("softcap")
    window = None if q.attrs["window"] is None else q.integer("window")
    stored, outputs = Chain(cap=cap), max(q.x.numel(), 1)
    groups, width = keys.shape[1], values.shape[-1]

    def each(segment: Segment) -> Attended:
        query = q.x[segment.rows]
        length, heads = query.shape[:2]
        # A group's heads are rows of one product: [G, r T, D], so that no key is copied.
        folded = query.reshape(length, groups, heads // groups, -1).permute(1, 2, 0, 3).flatten(1, 2)
        given = Heads(
            query=folded,
            key=keys[segment.slots].transpose(0, 1),
            value=values[segment.slots].transpose(0, 1),
            bias=segment.bias.repeat(heads // groups, 1),
            scale=q.number("scale"),
            filled=True,
        )
        return _unfolded(attend(q, given, stored, outputs=outputs), length, width)

    return (of_segments(q, pool=len(keys), window=window, width=width, each=each),)


def _unfolded(made: Attended, length: int, width: int) -> Attended:
    """From [G, r T, E] back to [T, H, E]."""

    def back(t: Tensor) -> Tensor:
        t = t.expand(*t.shape[:2], width)
        return t.reshape(len(t), -1, length, width).permute(2, 0, 1, 3).flatten(1, 2)

    return Attended(
        value=back(made.value),
        hard=back(made.hard),
        variance=back(made.variance),
        free=back(made.free),
        nan_ok=back(made.nan_ok),
        weights=made.weights,
    )


def single_tokens(q: Question) -> Tensor | None:
    """Return which rows [T] are single tokens, None where a step has not both these and longer segments."""
    if q.op not in ("paged_attention", "latent_attention") or q.inputs[4] is None:
        return None
    rows = torch.zeros(len(q.x), dtype=torch.bool)
    table = q.inputs[4].tolist()
    for start, length, _ in table:
        rows[start : start + length] = length == 1
    return rows if bool(rows.any()) and not bool(rows.all()) else None


def side_by_side(one: Budget, other: Budget, *, rows: Tensor) -> Budget:
    """Return the budget that is `one` in `rows` [T] and `other` elsewhere."""
    at = rows.view(-1, *([1] * (one.value.dim() - 1)))

    def mask(part: Tensor | None) -> Tensor:
        return torch.zeros((), dtype=torch.bool) if part is None else part

    return dataclasses.replace(
        one,
        value=torch.where(at, one.value, other.value),
        hard=torch.where(at, one.hard, other.hard),
        sigma=torch.where(at, one.sigma, other.sigma),
        free=torch.where(at, mask(one.free), mask(other.free)),
        nan_ok=torch.where(at, mask(one.nan_ok), mask(other.nan_ok)),
    )
