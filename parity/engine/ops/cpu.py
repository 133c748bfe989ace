"""Rewrites for a CPU: the same formulas in fewer and larger kernels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from parity.engine.ops import reference
from parity.engine.run.batch import Batch, Decodes, Segment

__all__ = ["attend_together", "rms_norm"]


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
    """Single tokens together as one batched product, longer segments by torch's fused kernel."""
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
    batch, heads, _ = q.shape
    seen = decodes.seen
    if window is not None:
        place = torch.arange(seen.shape[1], device=q.device)
        seen = seen & (place >= (decodes.lengths - window)[:, None])
    k, v = keys[decodes.slots], values[decodes.slots]  # [B, S, G, D]
    grouped = q.reshape(batch, k.shape[2], -1, q.shape[-1])
    scores = (grouped @ k.permute(0, 2, 3, 1)) * scale  # [B, G, H / G, S]
    scores = reference.wide(scores).masked_fill(~seen[:, None, None], -math.inf)
    return (scores.softmax(-1).to(q.dtype) @ v.transpose(1, 2)).reshape(batch, heads, -1)


def _segment(
    q: Tensor, keys: Tensor, values: Tensor, segment: Segment, scale: float, window: int | None
) -> Tensor:
    k, v = (pool[segment.slots].transpose(0, 1)[None] for pool in (keys, values))
    total = segment.context + segment.length
    whole = window is None or total <= window
    causal = whole and segment.context == 0 and segment.length > 1
    masked = not causal and not (whole and segment.length == 1)
    mask = reference.visible(segment, window, q.device) if masked else None
    rows = q.transpose(0, 1)[None]
    made = F.scaled_dot_product_attention(
        rows, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=True
    )
    return made[0].transpose(0, 1)
