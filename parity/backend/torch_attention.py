"""Attention and rotary positions as models write them in torch.

q is [..., H, S_q, D], k and v [..., H_kv, S_kv, D]. Queries are aligned to the end of the keys.
A row that sees no key at all is zero in torch's CPU kernels since 2.5 and NaN in its composed
ones before; which one is right is for the judge to say. Parts along keys are composed, in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

__all__ = ["attention", "rope", "split_attention", "wide"]


def wide(x: Tensor) -> Tensor:
    """Return x in float32, or as it is where it is wider."""
    return x if x.dtype == torch.float64 else x.float()


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool,
    window: int | None,
    scale: float | None,
) -> Tensor:
    """Return softmax(scale q k^T + mask) v; True in a boolean mask means that a key is seen."""
    # torch's is_causal aligns the first query with the first key, so it serves equal lengths only.
    is_causal = causal and window is None and mask is None and q.shape[-2] == k.shape[-2]
    if not is_causal and (causal or window is not None):
        mask = _both(mask, _band(q, k, causal=causal, window=window))
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=q.shape[-3] != k.shape[-3]
    )


def _band(q: Tensor, k: Tensor, *, causal: bool, window: int | None) -> Tensor:
    query = torch.arange(q.shape[-2], device=q.device)[:, None] + (k.shape[-2] - q.shape[-2])
    key = torch.arange(k.shape[-2], device=q.device)
    last_seen = query if causal else query.new_full((), k.shape[-2])
    seen = (key <= last_seen).expand(q.shape[-2], -1)
    return seen if window is None else seen & (key > query - window)


def _both(mask: Tensor | None, seen: Tensor) -> Tensor:
    if mask is None:
        return seen
    if mask.dtype == torch.bool:
        return mask & seen
    return mask.masked_fill(~seen, float("-inf"))


def split_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool,
    window: int | None,
    scale: float | None,
    along: str,
    parts: int,
) -> Tensor:
    """Return `attention`, computed for one part of the heads, of the queries or of the keys at a time."""
    if causal or window is not None:
        mask = _both(mask, _band(q, k, causal=causal, window=window))
    if mask is not None:
        mask = mask.expand(*q.shape[:-1], k.shape[-2])
    if along == "keys":
        return _merged(q, k, v, mask, scale=scale, parts=parts)
    dim = -3 if along == "heads" else -2
    each = q.shape[-3] // k.shape[-3]
    made, start = [], 0
    for size in _sizes(q.shape[dim], parts):
        here = torch.arange(start, start + size, device=q.device)
        start += size
        keys, values = (k, v) if along == "queries" else (t.index_select(-3, here // each) for t in (k, v))
        seen = None if mask is None else mask.index_select(dim, here)
        part = q.index_select(dim, here)
        gqa = part.shape[-3] != keys.shape[-3]
        made.append(
            F.scaled_dot_product_attention(part, keys, values, attn_mask=seen, scale=scale, enable_gqa=gqa)
        )
    return torch.cat(made, dim=dim)


def _merged(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scale: float | None, parts: int
) -> Tensor:
    """Give each part of the keys a maximum and sums of its own, then rescale them to the common maximum."""
    each, factor = q.shape[-3] // k.shape[-3], q.shape[-1] ** -0.5 if scale is None else scale
    keys, values = (wide(t).repeat_interleave(each, dim=-3) for t in (k, v))
    tops, sums, products = [], [], []
    start = 0
    for size in _sizes(k.shape[-2], parts):
        here = slice(start, start + size)
        start += size
        scores = wide(q) @ keys[..., here, :].transpose(-1, -2) * factor
        if mask is not None:
            scores = scores + _added(mask[..., here], scores)
        top = scores.amax(-1, keepdim=True)
        weights = torch.exp(scores - _finite(top))
        tops.append(top)
        sums.append(weights.sum(-1, keepdim=True))
        products.append(weights @ values[..., here, :])
    held = torch.stack(tops)
    scales = torch.exp(held - _finite(held.amax(0)))
    total = (torch.stack(sums) * scales).sum(0)
    y = (torch.stack(products) * scales).sum(0)
    # As torch's own kernels since 2.5, a query without any key gives 0.
    return (y / total.masked_fill(total == 0, 1.0)).to(q.dtype)


def _added(mask: Tensor, scores: Tensor) -> Tensor:
    """Return what torch's attention adds for a mask: a NaN of a hidden key stays one."""
    if mask.dtype != torch.bool:
        return wide(mask)
    return torch.zeros_like(scores).masked_fill(~mask, float("-inf"))


def _sizes(count: int, parts: int) -> list[int]:
    """Split a count as `tensor_split` does, without empty parts."""
    each, longer = divmod(count, parts)
    return [each + 1] * longer + [each] * (parts - longer if each else 0)


def _finite(top: Tensor) -> Tensor:
    """Return a maximum with 0 where nothing was seen."""
    return top.masked_fill(top == float("-inf"), 0.0)


def rope(x: Tensor, positions: Tensor, *, base: float, interleaved: bool) -> Tensor:
    """Rotate pairs of the last dimension: (i, i + D/2), or (2i, 2i + 1) when interleaved.

    x is [..., S, D]; positions are [S], or [B, S] for x [B, H, S, D]. Tables and rotation are in
    float32, as model code keeps them whatever the dtype of x.
    """
    size = x.shape[-1]
    table = wide(x).dtype
    inverse = 1.0 / base ** (torch.arange(0, size, 2, dtype=table, device=x.device) / size)
    angle = positions.to(table)[..., None] * inverse
    if positions.dim() > 1 and angle.dim() < x.dim():
        angle = angle.unsqueeze(-3)
    cos, sin = angle.cos(), angle.sin()
    if interleaved:
        first, second = wide(x)[..., ::2], wide(x)[..., 1::2]
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)
    else:
        first, second = wide(x).chunk(2, dim=-1)
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)
