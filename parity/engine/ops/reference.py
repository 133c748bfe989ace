"""The reference of every operation of the network: what it means, on any device and in float64.

Rows are tokens: x is [T, hidden], heads are [T, H, D]. Types follow the tensors, with the casts
that checkpoints were trained with: norms, softmax, routing and rotary angles are computed in
float32 at least and rounded once to the tensor's type. Nothing here is chosen for speed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from parity.engine.model.arch import Router
from parity.engine.model.scaled import Matrix, Scaled, dense
from parity.engine.ops.op import Cost, op
from parity.engine.run.batch import Batch, Segment

__all__ = [
    "activate",
    "add",
    "add_rms_norm",
    "attend",
    "embed",
    "experts",
    "gated",
    "latent_attend",
    "linear",
    "rms_norm",
    "rotate",
    "route",
    "softcap",
    "store",
    "visible",
    "wide",
]


def wide(x: Tensor) -> Tensor:
    """Return x in the type that sums and functions of it are computed in."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _moved(*tensors: Any) -> int:
    return sum(t.nbytes for t in tensors if isinstance(t, (Tensor, Scaled)))


def _pointwise(per_element: int) -> Any:
    return lambda x, *rest, **_: Cost(per_element * x.numel(), 2 * _moved(x) + _moved(*rest))


def _linear_cost(x: Tensor, *, w: Matrix, b: Tensor | None = None) -> Cost:
    out = x.shape[0] * w.shape[0]
    return Cost(2 * out * w.shape[1], _moved(x, w, b) + out * x.element_size())


def _seen(batch: Batch, window: int | None) -> tuple[int, int]:
    """Return how many pairs of query and key there are, and how many keys are read."""
    pairs = keys = 0
    for segment in batch.segments:
        total = segment.context + segment.length
        most = total if window is None else window
        pairs += sum(min(position + 1, most) for position in range(segment.context, total))
        keys += min(total, most + segment.length - 1)
    return pairs, keys


def _attention_cost(
    q: Tensor, *, batch: Batch, keys: Tensor, values: Tensor, window: int | None, **_: Any
) -> Cost:
    pairs, seen = _seen(batch, window)
    heads, dim, out = q.shape[1], q.shape[2], values.shape[-1]
    per_slot = (keys[0].numel() + values[0].numel()) * keys.element_size()
    return Cost(2 * pairs * heads * (dim + out), seen * per_slot + 2 * _moved(q))


def _latent_cost(q: Tensor, *, latents: Tensor, w: Matrix, nope: int, batch: Batch, **_: Any) -> Cost:
    pairs, seen = _seen(batch, None)
    heads, dim = q.shape[1], q.shape[2]
    out = w.shape[0] // heads - nope
    made = 2 * seen * w.numel()  # each head's keys and values of the latents
    return Cost(made + 2 * pairs * heads * (dim + out), _moved(q, w) + seen * _moved(latents[0]))


def _embed_cost(tokens: Tensor, *, w: Tensor, **_: Any) -> Cost:
    return Cost(0, _moved(tokens) + 2 * tokens.numel() * _moved(w[0]))


def _route_cost(x: Tensor, *, w: Tensor, **_: Any) -> Cost:
    scores = x.shape[0] * w.shape[0]
    return Cost(2 * scores * w.shape[1] + 8 * scores, _moved(x, w))


def _experts_cost(
    x: Tensor, _: Tensor, chosen: Tensor, *, up: Sequence[Matrix], down: Sequence[Matrix], **__: Any
) -> Cost:
    used = len(set(chosen.flatten().cpu().tolist()))
    per_token = 2 * (up[0].numel() + down[0].numel())
    return Cost(per_token * chosen.numel(), used * _moved(up[0], down[0]) + 2 * _moved(x))


@op(budget="exact", cost=_embed_cost)
def embed(tokens: Tensor, *, w: Tensor, scale: float) -> Tensor:
    """Rows of w [V, hidden], times scale rounded to its type."""
    rows = w[tokens]
    return rows if scale == 1.0 else rows * torch.tensor(scale, dtype=w.dtype, device=w.device)


@op(budget="sum", cost=_linear_cost)
def linear(x: Tensor, *, w: Matrix, b: Tensor | None = None) -> Tensor:
    """x w^T + b for w [out, in], dense or kept as codes."""
    return F.linear(x, dense(w, x.dtype), b)


@op(budget="norm", cost=_pointwise(4))
def rms_norm(x: Tensor, *, w: Tensor, eps: float, offset: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) times (w + offset) along the last dimension.

    Rounded to the tensor's type before the weight, as Llama was trained; with an offset, as Gemma
    was, after it.
    """
    high = wide(x)
    normal = high * torch.rsqrt(high.square().mean(-1, keepdim=True) + eps)
    if offset:
        return (normal * (wide(w) + offset)).to(x.dtype)
    return normal.to(x.dtype) * w


@op(budget="pointwise", cost=_pointwise(1))
def add(x: Tensor, y: Tensor) -> Tensor:
    """The residual sum."""
    return x + y


@op(budget="norm", cost=_pointwise(5), swallows=("add", "rms_norm"))
def add_rms_norm(x: Tensor, y: Tensor, *, w: Tensor, eps: float, offset: float) -> tuple[Tensor, Tensor]:
    """The residual sum x + y, and its norm."""
    total = add.reference(x, y)
    return total, rms_norm.reference(total, w=w, eps=eps, offset=offset)


@op(budget="rope", cost=_pointwise(6))
def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    """Rotate the first 2 R dimensions of each head of x [T, H, D] by angles given as cos, sin [T, R]."""
    size = 2 * cos.shape[-1]
    turned, kept = x[..., :size], x[..., size:]
    cos, sin = cos[:, None], sin[:, None]
    if interleaved:
        even, odd = turned[..., 0::2], turned[..., 1::2]
        pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
        made = pairs.flatten(-2)
    else:
        low, high = turned.chunk(2, dim=-1)
        made = torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)
    return torch.cat((made, kept), dim=-1) if kept.shape[-1] else made


@op(budget="exact", cost=_pointwise(0))
def store(x: Tensor, *, pool: Tensor, batch: Batch) -> None:
    """Write a row a token, [T, …], into its slot of the pool [slots, …]."""
    pool[batch.slots] = x


def visible(segment: Segment, window: int | None, device: torch.device) -> Tensor:
    """Return which keys [S] each query [L] of a segment may see, as booleans [L, S]."""
    total = segment.context + segment.length
    query = torch.arange(segment.context, total, device=device)[:, None]
    key = torch.arange(total, device=device)[None]
    seen = key <= query
    return seen if window is None else seen & (key > query - window)


def _weights(scores: Tensor, seen: Tensor, cap: float | None, to: torch.dtype) -> Tensor:
    if cap is not None:
        scores = torch.tanh(scores / cap) * cap
    return wide(scores).masked_fill(~seen, -math.inf).softmax(-1).to(to)


@op(budget="attention", cost=_attention_cost)
def attend(
    q: Tensor,
    *,
    keys: Tensor,
    values: Tensor,
    batch: Batch,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Softmax attention of q [T, H, D] over the slots of each token's own request.

    keys [slots, G, D] and values [slots, G, E] are a layer's pool; query head h reads head
    h // (H / G). Returns [T, H, E].
    """
    outputs = []
    for segment in batch.segments:
        rows = q[segment.start : segment.start + segment.length].transpose(0, 1)
        slots = segment.slots
        repeat = q.shape[1] // keys.shape[1]
        k = keys[slots].transpose(0, 1).repeat_interleave(repeat, 0)
        v = values[slots].transpose(0, 1).repeat_interleave(repeat, 0)
        p = _weights(rows @ k.transpose(1, 2) * scale, visible(segment, window, q.device), softcap, q.dtype)
        outputs.append((p @ v).transpose(0, 1))
    return torch.cat(outputs)


@op(budget="attention", cost=_latent_cost)
def latent_attend(
    q: Tensor,
    *,
    latents: Tensor,
    w: Matrix,
    nope: int,
    batch: Batch,
    scale: float,
) -> Tensor:
    """Multi-head latent attention, keys and values materialised from the latents.

    q [T, H, nope + rope]; latents [slots, latent + rope] hold the normed latent and the rotated
    shared key; w [H (nope + E), latent] makes each head's key and value of a latent.
    """
    heads, full = q.shape[1], dense(w, q.dtype)
    outputs = []
    for segment in batch.segments:
        rows = q[segment.start : segment.start + segment.length].transpose(0, 1)
        held = latents[segment.slots]
        latent, shared = held[:, : w.shape[1]], held[:, w.shape[1] :]
        made = F.linear(latent, full).view(len(held), heads, -1)
        k = torch.cat((made[..., :nope], shared[:, None].expand(-1, heads, -1)), dim=-1).transpose(0, 1)
        v = made[..., nope:].transpose(0, 1)
        p = _weights(rows @ k.transpose(1, 2) * scale, visible(segment, None, q.device), None, q.dtype)
        outputs.append((p @ v).transpose(0, 1))
    return torch.cat(outputs)


def activate(x: Tensor, kind: str) -> Tensor:
    """Return silu, gelu or its tanh form."""
    return F.silu(x) if kind == "silu" else F.gelu(x, approximate="tanh" if kind.endswith("tanh") else "none")


@op(budget="pointwise", cost=_pointwise(5))
def gated(x: Tensor, *, activation: str) -> Tensor:
    """activation(gate) times up, for x = [gate, up] along the last dimension."""
    gate, up = x.chunk(2, dim=-1)
    return activate(gate, activation) * up


@op(budget="set", cost=_route_cost)
def route(x: Tensor, *, w: Tensor, bias: Tensor | None, router: Router) -> tuple[Tensor, Tensor]:
    """Choose each token's experts: weights and ids, both [T, top]. `Router` says by which rule."""
    logits = F.linear(wide(x), wide(w)) if router.wide else wide(F.linear(x, w))
    scores = logits.sigmoid() if router.scores == "sigmoid" else logits.softmax(-1)
    ranks = scores if bias is None else scores + bias
    if router.groups > 1:
        by_group = ranks.view(len(ranks), router.groups, -1)
        best = by_group.topk(router.group_best, dim=-1).values.sum(-1)
        allowed = torch.zeros_like(best, dtype=torch.bool)
        allowed.scatter_(1, best.topk(router.top_groups, dim=-1).indices, value=True)
        ranks = by_group.masked_fill(~allowed[..., None], -math.inf).flatten(-2)
    chosen = ranks.topk(router.top, dim=-1).indices
    weights = scores.gather(-1, chosen)
    if router.normalise:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights * router.scale, chosen


@op(budget="sum", cost=_experts_cost)
def experts(
    x: Tensor,
    weights: Tensor,
    chosen: Tensor,
    *,
    up: Tensor | Sequence[Scaled],
    down: Tensor | Sequence[Scaled],
    activation: str,
) -> Tensor:
    """The weighted sum of each token's experts.

    up [E, 2 F, hidden] holds gate and up, down is [E, hidden, F], dense or kept as codes.
    """
    total = torch.zeros_like(x)
    for expert in sorted(set(chosen.flatten().cpu().tolist())):
        rows, place = torch.where(chosen == expert)
        gate, high = F.linear(x[rows], dense(up[expert], x.dtype)).chunk(2, dim=-1)
        made = F.linear(activate(gate, activation) * high, dense(down[expert], x.dtype))
        total.index_add_(0, rows, (made * weights[rows, place, None]).to(x.dtype))
    return total


@op(budget="pointwise", cost=_pointwise(3))
def softcap(x: Tensor, *, cap: float) -> Tensor:
    """cap tanh(x / cap)."""
    return torch.tanh(x / cap) * cap
