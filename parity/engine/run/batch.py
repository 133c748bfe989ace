"""A step's tokens: one flat list, whatever phase each request is in.

Decode is a segment of one token, a prefill chunk one of several, a resumed request a chunk over
prompt and generated tokens. Does not decide who runs; `sched` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

__all__ = ["Batch", "Decodes", "Run", "Segment", "flatten"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A request's part of a step: `tokens` at positions from `context` on; `slots` of all positions so far.

    `logits` counts the tokens at the end whose next-token scores are wanted.
    """

    tokens: Sequence[int]
    context: int
    slots: Sequence[int]
    logits: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Rows `start` to `start + length` belong to one request, whose first `context` tokens are cached.

    `slots`, int64 [context + length], are where the keys of its positions lie.
    """

    start: int
    length: int
    context: int
    slots: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Decodes:
    """The segments of one token, side by side: the row of each, [B], and their slots, [B, S].

    Shorter ones are padded by their own first slot; `seen`, [B, S], says what is not padding.
    `lengths` [B] counts the positions of each, itself included.
    """

    rows: torch.Tensor
    slots: torch.Tensor
    seen: torch.Tensor
    lengths: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """int64 tensors of one step: tokens, positions and the slot written, [T]; rows with logits, [R].

    `decodes` repeats the segments of one token in another form, None where there are not two.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    rows: torch.Tensor
    segments: tuple[Segment, ...]
    decodes: Decodes | None


def flatten(runs: Sequence[Run], *, device: torch.device) -> Batch:
    """Lay runs behind each other. Raises ValueError where slots and tokens do not fit together."""
    tokens: list[int] = []
    positions: list[int] = []
    written: list[int] = []
    rows: list[int] = []
    segments: list[Segment] = []
    for run in runs:
        length = len(run.tokens)
        if not length or len(run.slots) != run.context + length or not 0 <= run.logits <= length:
            raise ValueError(
                f"{length} tokens after {run.context} need as many slots in all, got {len(run.slots)}"
            )
        segments.append(
            Segment(
                start=len(tokens),
                length=length,
                context=run.context,
                slots=torch.tensor(run.slots, dtype=torch.int64, device=device),
            )
        )
        positions += range(run.context, run.context + length)
        written += run.slots[run.context :]
        tokens += run.tokens
        rows += range(len(tokens) - run.logits, len(tokens))
    made = (torch.tensor(x, dtype=torch.int64, device=device) for x in (tokens, positions, written, rows))
    return Batch(
        **dict(zip(("tokens", "positions", "slots", "rows"), made, strict=True)),
        segments=tuple(segments),
        decodes=_decodes(segments, device),
    )


def _decodes(segments: Sequence[Segment], device: torch.device) -> Decodes | None:
    single = [s for s in segments if s.length == 1]
    if len(single) < 2:
        return None
    lengths = torch.tensor([s.context + 1 for s in single], device=device)
    slots = pad_sequence([s.slots for s in single], batch_first=True, padding_value=-1)
    return Decodes(
        rows=torch.tensor([s.start for s in single], device=device),
        slots=torch.where(slots < 0, slots[:, :1], slots),
        seen=slots >= 0,
        lengths=lengths,
    )
