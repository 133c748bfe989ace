"""Decoder layers as steps of the op table: what a family of models is, as data for case files.

Attention over pages, absorbed or materialised latent attention, dense and expert feed-forward,
norms before and after. Sites, shapes and order are those of the engine's network. Does not draw
values (`inputs`) nor hold a family's own numbers: case files do.
"""

from __future__ import annotations

from dataclasses import dataclass

from parity.case.decoder_attention import Heads, Latent, attend, attend_latent
from parity.case.decoder_mlp import Dense, Experts, dense, experts
from parity.case.draft import Checkpoint, Draft

__all__ = ["Checkpoint", "Dense", "Draft", "Experts", "Heads", "Latent", "Layer", "attention", "feed_forward"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One decoder layer of `hidden` width; `sandwich` has a norm after each half too."""

    hidden: int
    attention: Heads | Latent
    feed_forward: Dense | Experts
    sandwich: bool = False
    eps: float = 1e-6
    offset: float = 0.0


def attention(draft: Draft, x: str, layer: Layer) -> str:
    """Add the first half of a layer, from norm1 to the residual sum, and return that."""
    normal = _norm(draft, "norm1", x, layer)
    match layer.attention:
        case Latent() as latent:
            made = attend_latent(draft, normal, latent, hidden=layer.hidden, eps=layer.eps)
        case Heads() as heads:
            made = attend(draft, normal, heads, hidden=layer.hidden, eps=layer.eps, offset=layer.offset)
    made = _norm(draft, "attn_post", made, layer) if layer.sandwich else made
    return draft.step("add", x, made, name="res1")


def feed_forward(draft: Draft, x: str, layer: Layer) -> str:
    """Add the second half of a layer, from norm2 to the residual sum, and return that."""
    normal = _norm(draft, "norm2", x, layer)
    match layer.feed_forward:
        case Experts() as some:
            made = experts(draft, normal, some, hidden=layer.hidden)
        case Dense() as one:
            made = dense(draft, normal, one, hidden=layer.hidden)
    made = _norm(draft, "ffn_post", made, layer) if layer.sandwich else made
    return draft.step("add", x, made, name="res2")


def _norm(draft: Draft, name: str, x: str, layer: Layer) -> str:
    return draft.norm(name, x, layer.hidden, eps=layer.eps, offset=layer.offset)
