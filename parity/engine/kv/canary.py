"""A canary: beside the keys of every slot, who wrote them, for which position and token.

Written by the same op and through the same slots as keys are, and looked at before a step reads
them, so that a stale page, a wrong slot or a page given back too early is named where it happens
and not guessed from a text. Off it does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from parity.engine.ops.op import OPS
from parity.engine.run.batch import Batch, Segment
from parity.engine.sched.request import Request
from parity.engine.sched.scheduler import Planned

__all__ = ["Canary"]

_EMPTY = -1


class Canary:
    """int32 (request, position, token) of each of `slots` slots, in pages of `size`."""

    def __init__(self, slots: int, size: int, *, device: torch.device) -> None:
        self._size = size
        self._store = OPS["store"].choose(device.type, {})
        self._marks = torch.full((slots, 3), _EMPTY, dtype=torch.int32, device=device)

    def step(self, batch: Batch, planned: Sequence[Planned]) -> None:
        """Mark what this step writes. Raises AssertionError for a slot that it would read and must not."""
        rows = [
            (part.request.id, part.run.context + number, token)
            for part in planned
            for number, token in enumerate(part.run.tokens)
        ]
        marks = torch.tensor(rows, dtype=torch.int32, device=self._marks.device)
        self._store(marks, pool=self._marks, batch=batch)
        for part, segment in zip(planned, batch.segments, strict=True):
            self._verify(part.request, segment)

    def _verify(self, request: Request, segment: Segment) -> None:
        slots = segment.slots.tolist()
        pages = set(request.held.pages)
        tokens = request.tokens[: len(slots)]
        found = self._marks[segment.slots].tolist()
        for position, (slot, token, mark) in enumerate(zip(slots, tokens, found, strict=True)):
            where = f"request {request.id}, position {position}: slot {slot}"
            if slot // self._size not in pages:
                raise AssertionError(f"{where} lies in page {slot // self._size}, which it does not hold")
            # What the prefix cache gave was written by another; its place and token must be the same.
            writer = mark[0] if position < request.cached and mark[0] != _EMPTY else request.id
            if mark != [writer, position, token]:
                raise AssertionError(f"{where} should hold token {token}, but holds {_said(*mark)}")


def _said(request: int, position: int, token: int) -> str:
    if request == _EMPTY:
        return "nothing that was ever written"
    return f"token {token} of request {request}, position {position}"
