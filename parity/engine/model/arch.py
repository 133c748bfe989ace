"""A network as data: what each layer is and how wide. `config` reads it; no family has code of its own."""

from __future__ import annotations

from dataclasses import dataclass

from parity.engine.model.rope import Rope

__all__ = ["MLA", "Arch", "Attention", "FeedForward", "Layer", "Router"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MLA:
    """Multi-head latent attention: keys and values are low-rank projections of one latent a token.

    `query_rank` is None where queries are projected directly. A head's key is `nope` dimensions out
    of the latent and `rope` shared, rotated ones.
    """

    query_rank: int | None
    latent: int
    nope: int
    rope: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One layer's attention; `window` is how many positions back a query sees, itself included."""

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    scale: float
    rope: Rope
    window: int | None = None
    softcap: float | None = None
    qk_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mla: MLA | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """How tokens choose experts.

    `scores` is `softmax` or `sigmoid`. Of `groups` groups only the best `top_groups` may be chosen
    from, a group counting its `group_best` best experts. `bias` says that a correction is added for
    choosing, not for weighing. Weights are divided by their sum where `normalise`, then scaled.
    """

    experts: int
    top: int
    scores: str = "softmax"
    groups: int = 1
    top_groups: int = 1
    group_best: int = 1
    bias: bool = False
    normalise: bool = True
    scale: float = 1.0
    wide: bool = False  # the router's product is computed in float32 at least


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForward:
    """Gated feed-forward of `width`; with a router, of each expert, beside `shared` width for all."""

    width: int
    activation: str
    bias: bool = False
    router: Router | None = None
    shared: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One decoder layer; `sandwich` has a norm after attention and after the feed-forward too."""

    attention: Attention
    feed_forward: FeedForward
    sandwich: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """A decoder. `norm_offset` is added to each norm's weight, `embed_scale` multiplies embeddings."""

    family: str
    vocab: int
    hidden: int
    layers: tuple[Layer, ...]
    eps: float
    max_positions: int
    tied: bool
    names: str  # key of `weights.NAMES`
    norm_offset: float = 0.0
    embed_scale: float = 1.0
    logit_softcap: float | None = None
