"""Judge a large step by some of its rows, and by a look at all of it that says which ones.

Full budgets on a sixteenth of the rows: drawn from a counter, and the first, the last and those at
the edges of tiles. Which further rows are judged, all of it decides: rows that hold what is not finite;
for products those that random projections name, for the rest those furthest from a quick evaluation
on this host. That evaluation only names rows: it convicts nothing, and excuses nothing. What was not
compared one by one is counted as probed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import islice

import numpy as np
import torch

from parity.backend.profile import Profile
from parity.case.case import Step
from parity.case.draw import words
from parity.case.tensor import HostTensor
from parity.judge.budget import Budget, Expected
from parity.judge.compare import compare
from parity.judge.oracle import Answer, answers
from parity.judge.rows import Divided, Index, divide
from parity.judge.sampled_product import PRODUCTS, judge_product, product_of
from parity.judge.screen import furthest, pieces
from parity.judge.verdict import OutputJudgement, Verdict, worst

__all__ = ["LARGE", "Sampling", "is_large", "judge_sampled"]


class Sampling(Enum):
    """Which steps are judged by some of their rows."""

    LARGE = "large"
    ALWAYS = "always"
    NEVER = "never"


# Multiply-adds of a step from which on its rows are sampled: about half a second of full oracle on
# one core. Or 4 million elements of a tensor: in float64, with what bounds are made of, ten times 32 MB.
LARGE = 1 << 31
_PER_ELEMENT = 1 << 9
# One row in 16, at least 8 and at most 20: what projections and screening leave to chance does not
# grow with the number of rows.
_ONE_IN, _LEAST, _MOST = 16, 8, 20
_TILES = (16, 128)
# What moves rows of a table: all of it is compared, beside the rows of the table that are read.
_LOOKUPS = ("embedding", "scaled_embedding")


def is_large(op: str, inputs: Sequence[HostTensor | None], outputs: Sequence[HostTensor]) -> bool:
    """Whether the full oracle of a step takes more than `LARGE`, in time or in memory."""
    shapes = [() if t is None else t.shape for t in inputs]
    made = sum(t.numel for t in outputs)
    if _PER_ELEMENT * max([made, *map(math.prod, shapes)]) > LARGE:
        return True
    match op, shapes:
        case "linear" | "matmul" | "bmm", [x, *_] if x:
            work = made * x[-1]
        case "addmm" | "addbmm", [_, x, *_] if x:
            work = made * x[-1]
        case "experts", [_, weights, _, up, down]:
            work = math.prod(weights) * (math.prod(up[1:]) + math.prod(down[1:]))
        case "paged_attention" | "latent_attention", [q, keys, *_]:
            work = 2 * math.prod(q) * keys[0]
        case _:
            work = 0
    return work > LARGE


def judge_sampled(
    step: Step,
    consumed: Sequence[HostTensor | None],
    outputs: tuple[HostTensor, ...],
    profile: Profile,
    *,
    key: str,
    usual: str = "",
) -> tuple[tuple[OutputJudgement, ...], str, str] | None:
    """Return the judgement of a step by its rows, the reading that explains them, and which they are.

    `key` draws rows and signs; `usual` is the reading to try first.

    None where the full oracle must judge: rows of this op are not independent, there are too few of
    them, or there is doubt about what the judged rows do not show.
    """
    divided = divide(step.op, step.attrs, consumed, outputs)
    if divided is None or any(t.dtype.name == "f64" for t in outputs):
        return None
    whole = np.arange(divided.count)
    few = divided.count <= _LEAST or step.op in _LOOKUPS
    rows = whole if few else np.union1d(_sample(divided.count, key), _unbounded(divided, outputs))
    if step.op in PRODUCTS:
        product = product_of(step, consumed, outputs[0], divided.count, profile)
        found = None if product is None else judge_product(step, product, divided, outputs, rows, key=key)
        if found is None:
            return None
        first, rows, text = found
        return _lifted((first,), divided, outputs, rows), "", _said(rows, divided, text)
    if not few:
        screened = furthest(step, divided, outputs)
        if screened is None:
            return None
        rows = np.union1d(rows, screened)
    judged, reading = _on(step, divided, outputs, rows, profile, usual)
    text = "no others look worse to a float32 evaluation here"
    return _lifted(judged, divided, outputs, rows), reading, _said(rows, divided, text)


def _said(rows: Index, divided: Divided, rest: str) -> str:
    return f"{len(rows):,} of {divided.count:,} rows compared, {rest}" if len(rows) < divided.count else ""


def _sample(count: int, key: str) -> Index:
    """Return the rows of chance: first, last, at the edges of tiles, and drawn ones."""
    edges = [0, count - 1]
    for tile in _TILES:
        # The last tile of rows, which may be cut short, and where a second one begins.
        edges += [(count - 1) // tile * tile, min(tile, count - 1)]
    wanted = min(max(-(-count // _ONE_IN), _LEAST), _MOST)
    drawn = (words(key, "rows", 4 * wanted) % np.uint64(count)).astype(np.int64)
    rows = list(dict.fromkeys([*edges, *drawn.tolist()]))
    return np.array(sorted(rows[: max(wanted, len(set(edges)) + 2)]), dtype=np.int64)


def _unbounded(divided: Divided, outputs: Sequence[HostTensor]) -> Index:
    """Return the rows that hold an infinity or NaN."""
    found = [np.empty(0, np.int64)]
    for tensor in outputs:
        if tensor.dtype.is_float:
            for first, part in pieces(divided, tensor):
                found.append(first + (~part.isfinite().all(-1)).nonzero().reshape(-1).numpy())
    return np.unique(np.concatenate(found))


def _on(
    step: Step,
    divided: Divided,
    outputs: tuple[HostTensor, ...],
    rows: Index,
    profile: Profile,
    usual: str,
) -> tuple[tuple[OutputJudgement, ...], str]:
    """Judge these rows by the full oracle of a step that makes only them."""
    if step.op == "experts":
        return _row_by_row(step, divided, outputs, rows, profile)
    some = divided.outputs(outputs, rows)
    first: tuple[OutputJudgement, ...] = ()
    for answer in answers(step.op, divided.inputs(rows), step.attrs, profile, first=usual):
        judged = compare(some, step.outputs, answer.expected)
        if worst(o.verdict for o in judged) is Verdict.WITHIN:
            return judged, answer.reading
        first = first or judged
    return first, ""


def _row_by_row(
    step: Step, divided: Divided, outputs: tuple[HostTensor, ...], rows: Index, profile: Profile
) -> tuple[tuple[OutputJudgement, ...], str]:
    """Judge rows that read matrices of their own, one at a time: all in float64 are more than a layer.

    All rows must hold under one reading: the first that explains each, and from there on the others.
    """

    def asked(row: np.int64, start: int) -> Iterator[tuple[int, Answer]]:
        given = divided.inputs(np.array([row]))
        return islice(enumerate(answers(step.op, given, step.attrs, profile)), start, None)

    def explained(row: np.int64, start: int) -> tuple[int, Answer] | None:
        some = divided.outputs(outputs, np.array([row]))
        for place, answer in asked(row, start):
            if worst(o.verdict for o in compare(some, step.outputs, answer.expected)) is Verdict.WITHIN:
                return place, answer
        return None

    place, found = 0, [explained(row, 0) for row in rows]
    while None not in found and len({each[0] for each in found if each}) > 1:
        place = max(each[0] for each in found if each)
        found = [
            each if each and each[0] == place else explained(row, place)
            for row, each in zip(rows, found, strict=True)
        ]
    if None in found:  # some row is explained by no reading that explains the others
        found = [next(asked(row, 0)) for row in rows]
    budget = _joined([each[1].expected[0] for each in found if each])
    judged = compare(divided.outputs(outputs, rows), step.outputs, (budget,))
    first = found[0]
    within = worst(o.verdict for o in judged) is Verdict.WITHIN
    return judged, first[1].reading if first and within else ""


def _joined(parts: Sequence[Expected]) -> Budget:
    """Return the budget of rows of which each has one."""
    budgets = [part for part in parts if isinstance(part, Budget)]
    free = [torch.zeros(()) > 0 if b.free is None else b.free for b in budgets]

    def together(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat([t.expand(b.shape) for t, b in zip(tensors, budgets, strict=True)])

    return dataclasses.replace(
        budgets[0],
        value=together([b.value for b in budgets]),
        hard=together([b.hard for b in budgets]),
        sigma=together([b.sigma for b in budgets]),
        free=together(free),
    )


def _lifted(
    judged: Sequence[OutputJudgement], divided: Divided, outputs: Sequence[HostTensor], rows: Index
) -> tuple[OutputJudgement, ...]:
    """Say of whole outputs what was found of some of their rows; the rest of them counts as probed."""
    found, inner = [], len(divided.lead) - 1
    for part, tensor in zip(judged, outputs, strict=True):
        at = part.worst_index
        if at is not None:
            place = np.unravel_index(int(rows[at[inner]]), divided.lead)
            at = (*(int(i) for i in place), *at[inner + 1 :])
        probed = tensor.numel - math.prod(part.shape)
        found.append(dataclasses.replace(part, shape=tensor.shape, worst_index=at, probed=probed))
    return tuple(found)
