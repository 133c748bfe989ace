"""The attention half of a decoder layer, from norm1 to the residual sum, over pages of keys.

A plan is `context+length` of each request: `0+17` a prompt, `33+1` a token behind 33 cached ones.
"""

from parity.case.decoder import Dense, Draft, Heads, Latent, Layer, attention
from parity.case.family import FLOATS, Params, Parts, family

PLANS = ("0+1", "0+17", "16+1.33+1.5+1", "15+1.0+16.17+2", "32+17", "64+1")
HEADS = {
    "mha": Heads(heads=4, kv_heads=4, dim=8),
    "gqa": Heads(heads=4, kv_heads=2, dim=16),
    "gqa3": Heads(heads=6, kv_heads=2, dim=12),
    "mqa": Heads(heads=5, kv_heads=1, dim=8),
}


def half(p: Params, layer: Layer) -> Parts:
    """The first half of a layer on a residual stream with outlier channels."""
    draft = Draft(dtype=p.dtype, dist=p.dist, layer="L00.")
    draft.begin(p.plan)
    x = draft.input("x", p.dtype, (draft.tokens, layer.hidden), p.dist)
    attention(draft, x, layer)
    return draft.parts()


@family(
    "layers/attention",
    dtype=FLOATS,
    plan=PLANS,
    heads=tuple(HEADS),
    window=("none", "2", "7"),
    softcap=("none", "2"),
    rope=("full", "partial", "interleaved"),
    norm=("no", "yes"),
    bias=("no", "yes"),
    dist=("normal", "heavy"),
)
def heads(p: Params) -> Parts:
    """A window or mask that is off by one at its edge, a key read from another request's slot or
    before it is stored, query heads paired with the wrong key head, rotation of the wrong pairs or
    of dimensions that stay, a cap after the mask, a bias or norm of q and k that is left out."""
    of = HEADS[p.heads]
    heads = Heads(
        heads=of.heads,
        kv_heads=of.kv_heads,
        dim=of.dim,
        window=None if p.window == "none" else int(p.window),
        softcap=None if p.softcap == "none" else float(p.softcap),
        qk_norm=p.norm == "yes",
        qkv_bias=p.bias == "yes",
        out_bias=p.bias == "yes",
        rotated=of.dim // 2 if p.rope == "partial" else None,
        interleaved=p.rope == "interleaved",
    )
    return half(p, Layer(hidden=32, attention=heads, feed_forward=Dense(width=1)))


@family(
    "layers/latent",
    dtype=FLOATS,
    plan=("0+1", "0+17", "16+1.33+1.5+1", "15+1.0+16.17+2", "64+1"),
    way=("materialised", "absorbed"),
    query=("direct", "low_rank"),
    size=("16.12.8.10", "32.16.4.16"),
    dist=("normal", "heavy"),
)
def latent(p: Params) -> Parts:
    """Keys and values made of the wrong half of the projection, the shared key rotated once a head
    or not at all, a scale of the latent's width, absorbing that rounds where it must not.

    Sizes are latent, plain and rotated dimensions of a key, and those of a value.
    """
    latent, nope, rope, value = (int(n) for n in p.size.split("."))
    heads = Latent(
        heads=3,
        latent=latent,
        nope=nope,
        rope=rope,
        value=value,
        query_rank=20 if p.query == "low_rank" else None,
        absorbed=p.way == "absorbed",
        magnitude=1.25 if p.query == "low_rank" else 1.0,
    )
    return half(p, Layer(hidden=32, attention=heads, feed_forward=Dense(width=1)))
