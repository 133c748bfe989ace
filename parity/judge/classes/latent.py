"""Latent attention: keys and values are products of stored latents, made before or never.

A composition of `product` and `attended` in one of two orders.
"""

from __future__ import annotations

import torch
from torch import Tensor

from parity.case.dtype import DTYPES
from parity.judge.budget import RMS_ROUNDING, Expected, Question, growth
from parity.judge.classes.attended import Attended, Chain, Heads, attend
from parity.judge.classes.computed import Computed, keep
from parity.judge.classes.paged import Segment, of_segments
from parity.judge.classes.sums import product

__all__ = ["latent_attention"]

# T query tokens, S keys, H heads, N nope, R rope, L latent, E value size


def latent_attention(q: Question) -> tuple[Expected, ...]:
    """y = softmax(scale q k^T) v, [k_nope, v] = latent w^T per head, k_rope shared.

    Materialised: dk, dv = H(product), then the rule of `attended`. Absorbed: q' = q_nope w_k,
    dq' = H(product), over the latents themselves; z = p latent, and y = z w_v^T adds
    c(S) u (p |latent|) |w_v| and the error of that product.
    """
    w = q.inputs[2]
    latents = q.inputs[1]
    assert w is not None and latents is not None
    of_heads = w.reshape(q.x.shape[1], -1, w.shape[1])
    how = _absorbed if q.attrs["absorbed"] else _materialised

    def each(segment: Segment) -> Attended:
        # [T, H, N + R] as [H, T, N + R]
        made = how(q, segment, q.x[segment.rows].transpose(0, 1), latents[segment.slots], of_heads)
        return _by_row(made)

    width = of_heads.shape[1] - q.integer("nope")
    return (of_segments(q, pool=len(latents), window=None, width=width, each=each),)


def _by_row(made: Attended) -> Attended:
    """From [H, T, E] to [T, H, E]."""
    shape = made.value.shape
    return Attended(
        value=made.value.transpose(0, 1),
        hard=made.hard.transpose(0, 1),
        variance=made.variance.transpose(0, 1),
        free=made.free.expand(shape).transpose(0, 1),
        nan_ok=made.nan_ok.expand(shape).transpose(0, 1),
        weights=made.weights,
    )


def _made(q: Question, a: Tensor, b: Tensor) -> tuple[Computed, Tensor]:
    """Return a @ b as what q and k are made of, and where it may overflow."""
    value, hard, variance, free = product(q, a, b, dtype=q.dtype)
    made = keep(q, Computed(value=value, hard=hard, variance=variance), "operand")
    return made, free | (made.hard == torch.inf)


def _joined(made: Computed, exact: Tensor) -> Computed:
    """Return a computed tensor with exact columns behind it."""
    nothing = torch.zeros_like(exact)
    return Computed(
        value=torch.cat((made.value, exact), -1),
        hard=torch.cat((made.hard, nothing), -1),
        variance=torch.cat((made.variance, nothing), -1),
    )


def _columns(made: Computed, which: slice) -> Computed:
    return Computed(
        value=made.value[..., which], hard=made.hard[..., which], variance=made.variance[..., which]
    )


def _materialised(q: Question, segment: Segment, query: Tensor, held: Tensor, w: Tensor) -> Attended:
    """w [H, N + E, L], held [S, L + R]."""
    nope, latent = q.integer("nope"), w.shape[-1]
    made, over = _made(q, held[:, :latent], w.transpose(-1, -2))  # [H, S, N + E]
    key = _joined(_columns(made, slice(nope)), held[:, latent:].expand(len(w), -1, -1))
    value = _columns(made, slice(nope, None))
    heads = Heads(
        query=query,
        key=key.value,
        value=value.value,
        bias=segment.bias,
        scale=q.number("scale"),
        filled=True,
        of_key=key,
        of_value=value,
    )
    found = attend(q, heads, Chain(), outputs=max(q.x.numel(), 1))
    return _freed(found, over.any(-1)[:, None, :].expand(found.weights.shape), segment)


def _freed(made: Attended, over: Tensor, segment: Segment) -> Attended:
    """Free the rows that see a key of which a part may overflow, [H, T, S]."""
    row = (over & (segment.bias > -torch.inf)).any(-1, keepdim=True)
    return Attended(
        value=made.value,
        hard=made.hard,
        variance=made.variance,
        free=(made.free | row) & ~made.value.isnan(),
        nan_ok=made.nan_ok,
        weights=made.weights,
    )


def _absorbed(q: Question, segment: Segment, query: Tensor, held: Tensor, w: Tensor) -> Attended:
    """Scores over latents. Unless z is stored, the values of the rule are those that w would make."""
    nope, latent = q.integer("nope"), w.shape[-1]
    small, w_v = held[:, :latent].expand(len(w), -1, -1), w[:, nope:].transpose(-1, -2)
    turned, over = _made(q, query[..., :nope], w[:, :nope])
    both = _joined(turned, query[..., nope:])
    mixed = "mixed" in q.stored
    heads = Heads(
        query=both.value,
        key=held.expand(len(w), -1, -1),
        value=small if mixed else small @ w_v,
        bias=segment.bias,
        scale=q.number("scale"),
        filled=True,
        of_query=both,
    )
    found = attend(q, heads, Chain(), outputs=max(q.x.numel(), 1))
    made = _weighed(q, found, w_v) if mixed else _of_sums(q, found, small, w_v)
    return Attended(
        value=made.value,
        hard=made.hard,
        variance=made.variance,
        free=(found.free.any(-1, keepdim=True) | over.any(-1, keepdim=True)) & ~made.value.isnan(),
        nan_ok=found.nan_ok.any(-1, keepdim=True),
        weights=found.weights,
    )


def _weighed(q: Question, found: Attended, w_v: Tensor) -> Computed:
    """z w_v of a z that is stored, [H, T, E]."""
    z = keep(q, Computed(value=found.value, hard=found.hard, variance=found.variance), "mixed")
    value, hard, variance, _ = product(q, z.value, w_v, dtype=q.dtype)
    return Computed(
        value=value, hard=hard + z.hard @ w_v.abs(), variance=variance + z.variance @ w_v.square()
    )


def _of_sums(q: Question, found: Attended, small: Tensor, w_v: Tensor) -> Computed:
    """What was found over the values, with the errors of the sums z = p latent and of z w_v."""
    u, p, small = q.accumulator.unit, found.weights.nan_to_num(), small.nan_to_num()
    z, S = p @ small, p.shape[-1]
    _, hard, variance, _ = product(q, z, w_v, dtype=DTYPES["f32"])
    own = growth(S, outputs=max(q.x.numel(), 1)) * u * (p @ small.abs())
    squares = (RMS_ROUNDING * u) ** 2 * S * (p.square() @ small.square() / 6 + z.square() / 3)
    return Computed(
        value=found.value,
        hard=found.hard + hard + own @ w_v.abs(),
        variance=found.variance + variance + squares @ w_v.square(),
    )
