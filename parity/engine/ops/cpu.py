"""Rewrites for a CPU: the same formulas in fewer and larger kernels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from parity.engine.ops import reference
from parity.engine.run.batch import Batch, Decodes, Segment

__all__ = ["attend_together", "rms_norm"]

# Queries of a block: of 512 on a 2-core Zen 4 half as long as torch's fused kernel in bf16, 3/4 in f32.
_BLOCK = 128


@reference.rms_norm.impl("cpu", when=lambda bound: not bound["offset"])
def rms_norm(x: Tensor, *, w: Tensor, eps: float, offset: float) -> Tensor:
    """torch's own norm, which does not round before the weight: given none, the weight comes after."""
    del offset
    return F.rms_norm(reference.wide(x), x.shape[-1:], None, eps).to(x.dtype) * w


@reference.attend.impl("cpu", when=lambda bound: bound["softcap"] is None)
def attend_together(
    q: Tensor,
    *,
    keys: Tensor,
    values: Tensor,
    batch: Batch,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Single tokens together as one batched product, longer segments in blocks of queries."""
    del softcap
    decodes = batch.decodes
    if decodes is not None and len(decodes.rows) == len(q):
        return _decode(q, keys, values, decodes, scale, window)
    made = q.new_empty((*q.shape[:2], values.shape[-1]))
    if decodes is not None:
        made[decodes.rows] = _decode(q[decodes.rows], keys, values, decodes, scale, window)
    for segment in batch.segments:
        if decodes is None or segment.length > 1:
            end = segment.start + segment.length
            made[segment.start : end] = _segment(q[segment.start : end], keys, values, segment, scale, window)
    return made


def _decode(
    q: Tensor, keys: Tensor, values: Tensor, decodes: Decodes, scale: float, window: int | None
) -> Tensor:
    """Two batched products over keys gathered once, by head, so that neither copies them again."""
    batch, heads, dim = q.shape
    count, groups = decodes.slots.shape[1], keys.shape[1]
    hidden = ~decodes.seen
    if window is not None:
        place = torch.arange(count, device=q.device)
        hidden |= place < (decodes.lengths - window)[:, None]
    rows = (decodes.slots[:, None] * groups + torch.arange(groups, device=q.device)[:, None]).flatten()
    k, v = (_rows(pool.flatten(0, 1), rows).view(batch * groups, count, -1) for pool in (keys, values))
    scores = torch.bmm(q.reshape(batch * groups, -1, dim), k.transpose(1, 2)).view(batch, heads, count)
    # The softmax of a narrow type is computed in float32 and rounded once, as in the reference.
    weights = (scores * scale).masked_fill_(hidden[:, None], -math.inf).softmax(-1)
    return torch.bmm(weights.view(batch * groups, -1, count), v).view(batch, heads, -1)


def _segment(
    q: Tensor, keys: Tensor, values: Tensor, segment: Segment, scale: float, window: int | None
) -> Tensor:
    """Queries in blocks, each over the keys that any of it sees: what nobody sees is not computed.

    A whole prompt goes to torch's fused kernel where that has threads to share it out to.
    """
    if segment.length == 1:
        return _single(q, keys, values, segment, scale, window)
    k, v = (_rows(pool, segment.slots).transpose(0, 1) for pool in (keys, values))  # [G, S, D]
    if segment.context == 0 and (window is None or segment.length <= window) and torch.get_num_threads() > 1:
        # On two threads a third faster than blocks, on one a third slower.
        rows = q.transpose(0, 1)[None]
        whole = F.scaled_dot_product_attention(
            rows, k[None], v[None], is_causal=True, scale=scale, enable_gqa=True
        )
        return whole[0].transpose(0, 1)
    groups, heads = len(k), q.shape[1]
    made = q.new_empty((segment.length, heads, v.shape[-1]))
    for start in range(0, segment.length, _BLOCK):
        end = min(start + _BLOCK, segment.length)
        first = 0 if window is None else max(0, segment.context + start - window + 1)
        last = segment.context + end
        rows = q[start:end].transpose(0, 1).reshape(groups, -1, q.shape[-1])
        scores = torch.bmm(rows, k[:, first:last].transpose(1, 2)).view(heads, end - start, -1)
        hidden = _hidden(segment.context + start, last, first, window, q.device)
        weights = (scores * scale).masked_fill_(hidden, -math.inf).softmax(-1)
        context = torch.bmm(weights.view(groups, -1, last - first), v[:, first:last])
        made[start:end] = context.view(heads, end - start, -1).transpose(0, 1)
    return made


def _hidden(start: int, last: int, first: int, window: int | None, device: torch.device) -> Tensor:
    """Return which of the keys first to last the queries start to last may not see."""
    query = torch.arange(start, last, device=device)[:, None]
    key = torch.arange(first, last, device=device)
    hidden = key > query
    return hidden if window is None else hidden | (key <= query - window)


def _single(
    q: Tensor, keys: Tensor, values: Tensor, segment: Segment, scale: float, window: int | None
) -> Tensor:
    """One token sees all that is in its window: no mask, and a group's heads are rows of one product."""
    slots = segment.slots if window is None else segment.slots[-window:]
    k, v = (_rows(pool, slots).transpose(0, 1)[None] for pool in (keys, values))
    rows = q.reshape(1, keys.shape[1], -1, q.shape[-1])
    made = F.scaled_dot_product_attention(rows, k, v, scale=scale)
    return made.reshape(1, q.shape[1], -1)


def _rows(pool: Tensor, slots: Tensor) -> Tensor:
    # index_select copies rows whole; indexing by a tensor took five times as long, element by element.
    return pool.index_select(0, slots)
