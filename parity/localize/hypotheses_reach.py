"""A step that is too large for a full oracle, as some of its rows: those around the worst one.

The judge finds the worst row as it judges large steps; the rows beside it show what moved. Does not
make a step smaller that the judge would judge whole: `hypotheses_sample` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parity.backend.profile import Profile
from parity.case.case import Step
from parity.case.tensor import HostTensor
from parity.judge.rows import Index, divide
from parity.judge.sampled import is_large, judge_sampled

__all__ = ["Reached", "reached"]

# Rows that are looked at, fewer of an op whose rows read weights of their own, and columns of a product.
_ROWS, _FEW, _COLUMNS = 16, 2, 2048
# Elements of an input from which on not even one row can be asked about: 1 GB in float64.
_LARGEST = 1 << 27


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What of a step is looked at; `note` says so where that is not all, `origin` where it begins in the
    first output, rows counted as one dimension."""

    consumed: tuple[HostTensor | None, ...]
    got: tuple[HostTensor, ...]
    note: str = ""
    origin: tuple[int, ...] = ()


def reached(
    step: Step, consumed: Sequence[HostTensor | None], got: Sequence[HostTensor], profile: Profile
) -> Reached | None:
    """Return a step itself, or the rows around its worst one where it is large.

    None where it is large and its rows are not independent, or one of them is too large by itself.
    """
    whole = Reached(consumed=tuple(consumed), got=tuple(got))
    if not is_large(step.op, consumed, got):
        return whole
    divided = divide(step.op, step.attrs, consumed, got)
    if divided is None:
        return whole if all(t is None or t.numel < _LARGEST for t in consumed) else None
    at = _worst(step, consumed, got, profile)
    row = int(np.ravel_multi_index(at[: len(divided.lead)], divided.lead)) if at else 0
    most = _FEW if step.op == "experts" else _ROWS
    start = max(0, min(row - most // 2, divided.count - most))
    rows: Index = np.arange(start, min(start + most, divided.count))
    if step.op == "paged_attention":
        return _queries(consumed, got, row)
    inputs, outputs = list(divided.inputs(rows)), divided.outputs(got, rows)
    origin = [0] * len(got[0].shape)
    origin[len(divided.lead) - 1] = start
    note = f" ({len(rows)} of {divided.count:,} rows looked at)" if len(rows) < divided.count else ""
    if step.op == "linear" and outputs[0].shape[-1] > _COLUMNS:
        columns = outputs[0].shape[-1]
        left = max(0, min((at[-1] if at else 0) - _COLUMNS // 2, columns - _COLUMNS))
        picked, origin[-1] = slice(left, left + _COLUMNS), left
        inputs[1:] = [None if t is None else _take(t, (picked,)) for t in inputs[1:]]
        outputs = (_take(outputs[0], (*(slice(None) for _ in outputs[0].shape[1:]), picked)),)
        note = f" ({len(rows)} of {divided.count:,} rows and {_COLUMNS} of {columns:,} columns looked at)"
    if any(t is not None and t.numel >= _LARGEST for t in inputs):
        return None
    return Reached(consumed=tuple(inputs), got=outputs, note=note, origin=tuple(origin))


def _queries(consumed: Sequence[HostTensor | None], got: Sequence[HostTensor], row: int) -> Reached | None:
    """Keep queries of one segment together, so that one that sees the keys of those after it is seen to."""
    q, keys, values, slots, segments = consumed
    assert q is not None and keys is not None and values is not None
    assert slots is not None and segments is not None
    table, entries = segments.array().astype(np.int64), slots.array().astype(np.int64)
    owned = table[:, 1] + table[:, 2]
    number = int(np.flatnonzero((table[:, 0] <= row) & (row < table[:, 0] + table[:, 1]))[0])
    begin, length, context = table[number]
    start = int(max(begin, min(row - _ROWS // 2, begin + length - _ROWS)))
    rows = slice(start, min(start + _ROWS, int(begin + length)))
    count, before = rows.stop - start, int(context + start - begin)
    first = int(owned[:number].sum())
    used, place = np.unique(entries[first : first + before + count], return_inverse=True)
    if (
        used[0] < 0
        or used[-1] >= keys.shape[0]
        or len(used) * max(keys.numel // keys.shape[0], 1) >= _LARGEST
    ):
        return None
    pools = (HostTensor.of(np.array(t.array()[used]), t.dtype) for t in (keys, values))
    one = np.array([[0, count, before]])
    inputs = (
        _take(q, (rows,)),
        *pools,
        HostTensor.of(place.reshape(-1).astype(slots.dtype.storage), slots.dtype),
        HostTensor.of(one.astype(segments.dtype.storage), segments.dtype),
    )
    note = f" ({count} of {q.shape[0]:,} rows looked at)"
    return Reached(consumed=inputs, got=(_take(got[0], (rows,)),), note=note, origin=(start, 0, 0))


def _worst(
    step: Step, consumed: Sequence[HostTensor | None], got: Sequence[HostTensor], profile: Profile
) -> tuple[int, ...]:
    """Return the index of the worst element that the judge finds, of any output; empty when it finds none."""
    judged = judge_sampled(step, consumed, tuple(got), profile, key=f"{step.name}/{got[0].digest()}")
    if judged is None:
        return ()
    found = [o for o in judged[0] if o.worst_index is not None]
    worst = max(found, key=lambda o: o.worst if o.worst is not None else np.inf, default=None)
    return () if worst is None or worst.worst_index is None else worst.worst_index


def _take(tensor: HostTensor, window: tuple[slice, ...]) -> HostTensor:
    return HostTensor.of(np.ascontiguousarray(tensor.array()[window]), tensor.dtype)
