"""Cut a departing step to the smallest inputs on which it still departs, by asking the backend.

Halves of each dimension are tried, then three quarters, until nothing smaller departs. Does not know
what belongs together (`dims`) nor how to ask (`trial`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from parity.case.tensor import HostTensor
from parity.judge.verdict import Verdict
from parity.localize.dims import Dim, cut, dims_of
from parity.localize.trial import Ran, Trial, Trials

__all__ = ["Shrunk", "shrink"]

_MOST = 400  # trials of one step
_MOST_LOST = 12  # where each trial that departs costs a process
_LOST = (Verdict.CRASHED, Verdict.TIMED_OUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """The smallest step that still departs, after `trials`; `ran` is what the backend made of it."""

    ran: Ran
    trials: int


def shrink(ran: Ran, trials: Trials) -> Shrunk:
    """Return the smallest step with the verdict of `ran`, itself where nothing smaller has it."""
    left = _MOST_LOST if ran.judgement.verdict in _LOST else _MOST
    asked = 0
    best, shrinks = ran, True
    while shrinks and asked < left:
        shrinks = False
        for candidates in _rounds(best.trial):
            asked += len(candidates)
            found = next((r for r in trials.run(candidates) if _still(r, ran)), None)
            if found is not None:
                best, shrinks = found, True
                break
            if asked >= left:
                break
    return Shrunk(ran=best, trials=asked)


def _still(found: Ran, ran: Ran) -> bool:
    return found.judgement.verdict is ran.judgement.verdict


def _rounds(trial: Trial) -> Iterator[list[Trial]]:
    """Yield groups of smaller steps, those first that leave out most."""
    special = _SPECIAL.get(trial.record.op)
    if special is not None:
        yield from ([smaller] for smaller in special(trial) if smaller.numel < trial.numel)
    dims = dims_of(trial)
    for dim in dims:
        yield [cut(trial, dim, a, b) for a, b in _windows(dim, dim.size // 2)]
    for dim in dims:
        if dim.size > 3:
            yield [cut(trial, dim, a, b) for a, b in _windows(dim, dim.size - dim.size // 4)]


def _windows(dim: Dim, length: int) -> list[tuple[int, int]]:
    """Return the first and the last `length` units of a dimension."""
    length = max(length, dim.least)
    return [(0, length), (dim.size - length, dim.size)] if length < dim.size else []


def _used_rows(trial: Trial) -> Iterator[Trial]:
    """Yield the lookup with a table of only the rows that are looked up."""
    table, ids = trial.consumed[0], trial.consumed[1]
    assert table is not None and ids is not None
    used, numbers = np.unique(ids.array(), return_inverse=True)
    if 0 < len(used) < table.shape[0] and int(used.min()) >= 0:
        renumbered = numbers.reshape(ids.shape).astype(ids.dtype.storage)
        yield trial.on(
            {
                0: HostTensor.of(np.take(table.array(), used, axis=0), table.dtype),
                1: HostTensor.of(renumbered, ids.dtype),
            }
        )


def _one_segment(trial: Trial) -> Iterator[Trial]:
    """Yield attention over pages with one request, with its last or first query, and only its slots."""
    pools = {"paged_attention": (1, 2), "latent_attention": (1,)}[trial.record.op]
    q, slots, segments = trial.consumed[0], trial.consumed[-2], trial.consumed[-1]
    assert q is not None and slots is not None and segments is not None
    rows, first = segments.array().astype(np.int64), 0
    for start, length, context in rows.tolist():
        owned = slots.array()[first : first + context + length]
        first += context + length
        for begin, end in dict.fromkeys([(0, length), (0, 1), (length - 1, length)]):
            if end - begin == length and len(rows) == 1:
                kept = owned
            else:
                kept = owned[: context + end]
            if length:
                yield _requested(
                    trial, pools, kept, rows=(start + begin, start + end), context=context + begin
                )


def _requested(
    trial: Trial,
    pools: tuple[int, ...],
    slots: npt.NDArray[np.generic],
    *,
    rows: tuple[int, int],
    context: int,
) -> Trial:
    q, old_slots, segments = trial.consumed[0], trial.consumed[-2], trial.consumed[-1]
    assert q is not None and old_slots is not None and segments is not None
    used, numbers = np.unique(slots, return_inverse=True)
    count = len(trial.consumed)
    changed = {
        0: HostTensor.of(q.array()[rows[0] : rows[1]], q.dtype),
        count - 2: HostTensor.of(numbers.reshape(-1).astype(np.int64), old_slots.dtype),
        count - 1: HostTensor.of(np.array([[0, rows[1] - rows[0], context]], np.int64), segments.dtype),
    }
    for pool in pools:
        held = trial.consumed[pool]
        assert held is not None
        changed[pool] = HostTensor.of(np.take(held.array(), used, axis=0), held.dtype)
    return trial.on(changed)


_SPECIAL = {
    "embedding": _used_rows,
    "latent_attention": _one_segment,
    "paged_attention": _one_segment,
    "scaled_embedding": _used_rows,
}
