"""The ops of a decoder as models write them in torch: heads are [T, H, D], keys and values lie in slots.

Norms, softmax and routing are computed in float32 at least, the rest in the type of the tensors.
Segments and experts are looped over, which reads their numbers on the host. A compiler must not, and
gets the same as one masked product; there what is masked must be finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from parity.backend.torch_attention import wide
from parity.case.family import dims

__all__ = ["DECODER_OPS"]


# An attribute of `route` has the name of the function.
_wide = wide


def _copy(x: Tensor) -> Tensor:
    """Return x in memory of its own, row-major."""
    return x.clone(memory_format=torch.contiguous_format)


def _reshape(x: Tensor, *, shape: str) -> Tensor:
    """Return the elements of x, in row-major order, as a tensor of another shape."""
    return x.reshape(dims(shape)).clone()


def _weighted_rms_norm(x: Tensor, g: Tensor, *, eps: float, offset: float, rounds_first: bool) -> Tensor:
    """x / sqrt(mean(x^2) + eps) (g + offset), rounded before the weight as well if rounds_first."""
    high = wide(x)
    normal = high * torch.rsqrt(high.square().mean(-1, keepdim=True) + eps)
    if rounds_first:
        return normal.to(x.dtype) * (g + offset if offset else g)
    return (normal * (wide(g) + offset)).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    """Rotate the first 2 R dimensions of each head by angles given as cos and sin [T, R]."""
    size = 2 * cos.shape[-1]
    turned, kept = x[..., :size], x[..., size:]
    cos, sin = cos[:, None], sin[:, None]
    if interleaved:
        even, odd = turned[..., 0::2], turned[..., 1::2]
        made = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    else:
        low, high = turned.chunk(2, dim=-1)
        made = torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)
    return torch.cat((made.to(x.dtype), kept), dim=-1)


def _activate(x: Tensor, kind: str) -> Tensor:
    return F.silu(x) if kind == "silu" else F.gelu(x, approximate="tanh" if kind.endswith("tanh") else "none")


def _gated(x: Tensor, *, activation: str) -> Tensor:
    """activation(gate) times up, for x = [gate, up] along the last dimension."""
    gate, up = x.chunk(2, dim=-1)
    return _activate(gate, activation) * up


def _softcap(x: Tensor, *, cap: float) -> Tensor:
    """cap tanh(x / cap)."""
    return torch.tanh(x / cap) * cap


def _scaled_embedding(table: Tensor, ids: Tensor, *, scale: float) -> Tensor:
    """Rows of the table, times scale rounded to its type."""
    rows = F.embedding(ids, table)
    return rows if scale == 1.0 else rows * torch.tensor(scale, dtype=table.dtype, device=table.device)


def _segments(segments: Tensor, slots: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield each segment's rows, the slots of its keys, and how far back [L, S] each key lies."""
    first = 0
    for start, length, context in segments.cpu().tolist():
        total = context + length
        query = torch.arange(context, total, device=slots.device)
        back = query[:, None] - torch.arange(total, device=slots.device)
        yield slice(start, start + length), slots[first : first + total], back
        first += total


def _joined(segments: Tensor, slots: Tensor, rows: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield all segments as one; a key of another segment lies ahead of the query."""
    start, length, context = segments.unbind(-1)
    owned = context + length
    first = owned.cumsum(0) - owned
    row = torch.arange(rows, device=slots.device)[:, None]
    mine = (row >= start) & (row < start + length)  # [T, n]
    entry = torch.arange(len(slots), device=slots.device)[:, None]
    theirs = (entry >= first) & (entry < first + owned)  # [S, n]
    position = (mine * (row - start + context)).sum(-1)
    place = (theirs * (entry - first)).sum(-1)
    same = mine.long() @ theirs.long().T > 0
    yield slice(0, rows), slots, torch.where(same, position[:, None] - place, -1)


def _attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float, cap: float | None) -> Tensor:
    """Return [L, H, E] of q [L, H, D] over k [S, H, D] and v [S, H, E], seen [L, S]."""
    scores = q.transpose(0, 1) @ k.permute(1, 2, 0) * scale
    if cap is not None:
        scores = _softcap(scores, cap=cap)
    p = wide(scores).masked_fill(~seen, float("-inf")).softmax(-1).to(q.dtype)
    return (p @ v.transpose(0, 1)).transpose(0, 1)


def _parts(q: Tensor, slots: Tensor, segments: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    return _joined(segments, slots, len(q)) if torch.compiler.is_compiling() else _segments(segments, slots)


def _paged_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    segments: Tensor,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Causal attention of each segment's queries over the slots of its own keys and values."""
    y = q.new_zeros((*q.shape[:2], values.shape[-1]))
    repeat = q.shape[1] // keys.shape[1]
    for rows, held, back in _parts(q, slots, segments):
        k, v = (pool[held].repeat_interleave(repeat, 1) for pool in (keys, values))
        seen = back >= 0 if window is None else (back >= 0) & (back < window)
        y[rows] = _attend(q[rows], k, v, seen, scale, softcap)
    return y


def _latent_attention(
    q: Tensor,
    latents: Tensor,
    w: Tensor,
    slots: Tensor,
    segments: Tensor,
    *,
    nope: int,
    scale: float,
    absorbed: bool,
) -> Tensor:
    """Attention over keys and values made of latents; absorbed: over the latents themselves."""
    heads, latent = q.shape[1], w.shape[1]
    of_heads = w.reshape(heads, -1, latent)  # [H, nope + E, latent]
    y = q.new_zeros((*q.shape[:2], of_heads.shape[1] - nope))
    for rows, held, back in _parts(q, slots, segments):
        mine, found, seen = q[rows], latents[held], back >= 0
        small, shared = found[:, None, :latent], found[:, None, latent:].expand(-1, heads, -1)
        if absorbed:
            turned = torch.einsum("thn,hnl->thl", mine[..., :nope], of_heads[:, :nope])
            both = torch.cat((turned, mine[..., nope:]), -1)
            k = torch.cat((small.expand(-1, heads, -1), shared), -1)
            sums = _attend(both, k, small.expand(-1, heads, -1), seen, scale, None)
            y[rows] = torch.einsum("thl,hel->the", sums, of_heads[:, nope:])
        else:
            made = F.linear(small[:, 0], w).view(len(found), *of_heads.shape[:2])
            k = torch.cat((made[..., :nope], shared), -1)
            y[rows] = _attend(mine, k, made[..., nope:], seen, scale, None)
    return y


def _route(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    top: int,
    scores: str,
    groups: int,
    top_groups: int,
    group_best: int,
    normalise: bool,
    scale: float,
    wide: bool,
) -> tuple[Tensor, Tensor]:
    """Return the weights of each row's experts, at least float32, and their numbers."""
    logits = F.linear(_wide(x), _wide(w)) if wide else _wide(F.linear(x, w))
    found = logits.sigmoid() if scores == "sigmoid" else logits.softmax(-1)
    ranks = found if bias is None else found + bias
    if groups > 1:
        by_group = ranks.view(len(ranks), groups, ranks.shape[-1] // groups)
        best = by_group.topk(group_best, dim=-1).values.sum(-1)
        chosen_groups = best.topk(top_groups, dim=-1).indices
        allowed = torch.zeros_like(best).scatter(1, chosen_groups, 1.0) > 0
        ranks = by_group.masked_fill(~allowed[..., None], float("-inf")).flatten(-2)
    chosen = ranks.topk(top, dim=-1).indices
    weights = found.gather(-1, chosen)
    if normalise:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights * scale, chosen


def _experts(
    x: Tensor, weights: Tensor, chosen: Tensor, up: Tensor, down: Tensor, *, activation: str
) -> Tensor:
    """The weighted sum of each row's experts, added in the type of x."""
    if torch.compiler.is_compiling():
        return _experts_masked(x, weights, chosen, up, down, activation)
    y = torch.zeros_like(x)
    for expert in sorted(set(chosen.flatten().cpu().tolist())):
        rows, place = torch.where(chosen == expert)
        made = F.linear(_gated(F.linear(x[rows], up[expert]), activation=activation), down[expert])
        y.index_add_(0, rows, (made * weights[rows, place, None]).to(x.dtype))
    return y


def _experts_masked(
    x: Tensor, weights: Tensor, chosen: Tensor, up: Tensor, down: Tensor, activation: str
) -> Tensor:
    y = torch.zeros_like(x)
    for expert in range(len(up)):
        made = F.linear(_gated(F.linear(x, up[expert]), activation=activation), down[expert])
        weight = (weights * (chosen == expert)).sum(-1, keepdim=True)
        y = y + (made * weight).to(x.dtype)
    return y


DECODER_OPS: dict[str, Callable[..., Any]] = {
    "copy": _copy,
    "experts": _experts,
    "gated": _gated,
    "latent_attention": _latent_attention,
    "paged_attention": _paged_attention,
    "reshape": _reshape,
    "rotate": _rotate,
    "route": _route,
    "scaled_embedding": _scaled_embedding,
    "softcap": _softcap,
    "weighted_rms_norm": _weighted_rms_norm,
}
