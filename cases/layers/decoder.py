"""Whole decoder layers of every family that the engine reads, with its traits at a small size."""

from dataclasses import replace

from parity.case.decoder import Dense, Draft, Experts, Heads, Latent, Layer, attention, feed_forward
from parity.case.family import FLOATS, Params, Parts, family

GQA = Heads(heads=4, kv_heads=2, dim=16)
MLP = Dense(width=48)
GEMMA = Dense(width=48, activation="gelu_pytorch_tanh")
LATENT = Latent(heads=4, latent=16, nope=12, rope=8, value=10, magnitude=1.125)
V2 = Experts(
    experts=8, top=3, width=16, shared=32, groups=4, top_groups=2, normalise=False, scale=1.5, wide=True
)
V3 = replace(V2, scores="sigmoid", group_best=2, bias=True, normalise=True, scale=2.5)
FAMILIES = {
    "llama": Layer(hidden=48, attention=GQA, feed_forward=MLP, eps=1e-5),
    "llama-bias": Layer(
        hidden=48,
        attention=replace(GQA, kv_heads=4, qkv_bias=True, out_bias=True, fused=False),
        feed_forward=Dense(width=48, bias=True, fused=False),
    ),
    "mistral": Layer(hidden=32, attention=replace(GQA, window=7), feed_forward=MLP),
    "qwen2": Layer(hidden=32, attention=replace(GQA, qkv_bias=True), feed_forward=MLP),
    "qwen3": Layer(hidden=32, attention=replace(GQA, dim=12, qk_norm=True), feed_forward=MLP),
    "gemma2": Layer(
        hidden=32,
        attention=replace(GQA, scale=24**-0.5, window=6, softcap=3.0),
        feed_forward=GEMMA,
        sandwich=True,
        offset=1.0,
    ),
    "gemma3": Layer(
        hidden=32,
        attention=replace(GQA, kv_heads=1, scale=24**-0.5, qk_norm=True),
        feed_forward=GEMMA,
        sandwich=True,
        offset=1.0,
    ),
    "mixtral": Layer(hidden=32, attention=GQA, feed_forward=Experts(experts=5, top=2, width=24), eps=1e-5),
    "qwen3-moe": Layer(
        hidden=32,
        attention=replace(GQA, dim=12, qk_norm=True),
        feed_forward=Experts(experts=6, top=2, width=24),
    ),
    "deepseek-v2": Layer(hidden=32, attention=LATENT, feed_forward=V2),
    "deepseek-v3": Layer(hidden=32, attention=replace(LATENT, query_rank=20, absorbed=True), feed_forward=V3),
}


@family(
    "layers/decoder",
    dtype=FLOATS,
    model=tuple(FAMILIES),
    plan=("0+17", "16+1.5+1", "15+1.0+9.12+3"),
    dist=("normal", "heavy"),
)
def decoder(p: Params) -> Parts:
    """A layer's halves wired wrongly: a norm on the wrong side of a residual sum, a trait of one
    family applied to another, a cache that one step leaves as the next does not expect it."""
    layer = FAMILIES[p.model]
    draft = Draft(dtype=p.dtype, dist=p.dist, layer="L00.")
    draft.begin(p.plan)
    x = draft.input("x", p.dtype, (draft.tokens, layer.hidden), p.dist)
    feed_forward(draft, attention(draft, x, layer), layer)
    return draft.parts()
