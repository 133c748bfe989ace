"""Layers of the trained model that ships with the cases, its weights as they are stored."""

from parity.case.decoder import Checkpoint, Dense, Draft, Heads, Layer, attention, feed_forward
from parity.case.family import FLOATS, Params, Parts, family

VOCAB, LAST = 1024, 5
LAYER = Layer(
    hidden=192,
    attention=Heads(heads=6, kv_heads=2, dim=32, fused=False),
    feed_forward=Dense(width=512, fused=False),
    eps=1e-5,
)
SITES = {
    "norm1": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "norm2": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
TINY = Checkpoint(
    file="tiny-llama/model.safetensors",
    digest="sha256:d65b67cdb2caf3b61ac53e27b457f3d2c49a2c028ce83391cbf7a7708eeb08c8",
    stored="bf16",
    names={
        "embed.weight": "model.embed_tokens.weight",
        "norm.weight": "model.norm.weight",
        **{
            f"L{number:02}.{site}.weight": f"model.layers.{number}.{name}.weight"
            for number in range(LAST + 1)
            for site, name in SITES.items()
        },
    },
)


@family("layers/trained", dtype=FLOATS, layer=("0", "2", "5"), run=("prefill", "decode"))
def trained(p: Params) -> Parts:
    """What random weights do not show: outlier channels of a trained stream, attention that falls on
    the first token, margins between tokens.

    Layer 0 reads the embedding, layer 5 goes on to the scores. A decode is a second pass, over the
    keys that the first one stored.
    """
    draft = Draft(dtype=p.dtype, checkpoint=TINY, slots=7)
    number = int(p.layer)
    for run, plan in enumerate(("0+2", "2+1") if p.run == "decode" else ("0+3",)):
        draft.begin(plan, run=f"s{run}." if p.run == "decode" else "")
        draft.layer = ""
        x = _stream(draft, number)
        draft.layer = f"L{number:02}."
        x = feed_forward(draft, attention(draft, x, LAYER), LAYER)
        draft.layer = ""
        if number == LAST:
            embed = draft.weight("embed.weight", (VOCAB, LAYER.hidden))
            draft.step(
                "linear", draft.norm("norm", x, LAYER.hidden, eps=1e-5, offset=0.0), embed, name="head"
            )
    return draft.parts()


def _stream(draft: Draft, number: int) -> str:
    """What reaches a layer: embedded tokens, or values with outlier channels."""
    if number:
        return draft.input(f"{draft.run}x", draft.dtype, (draft.tokens, LAYER.hidden), "heavy", exponent=-3)
    tokens = draft.input(f"{draft.run}tokens", "i64", (draft.tokens,), "index", high=VOCAB)
    table = draft.weight("embed.weight", (VOCAB, LAYER.hidden))
    return draft.step("scaled_embedding", table, tokens, name="embed", scale=1.0)
