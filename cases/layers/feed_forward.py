"""The feed-forward half of a decoder layer, from norm2 to the residual sum."""

from parity.case.decoder import Dense, Draft, Experts, Heads, Layer, feed_forward
from parity.case.family import FLOATS, Params, Parts, family

HEADS = Heads(heads=1, kv_heads=1, dim=2)


def half(p: Params, layer: Layer) -> Parts:
    """The second half of a layer on as many tokens as the case says."""
    draft = Draft(dtype=p.dtype, dist=p.dist, layer="L00.")
    draft.begin(f"0+{p.tokens}")
    x = draft.input("x", p.dtype, (draft.tokens, layer.hidden), p.dist)
    feed_forward(draft, x, layer)
    return draft.parts()


@family(
    "layers/mlp",
    dtype=FLOATS,
    tokens=("1", "16", "17", "33"),
    activation=("silu", "gelu", "gelu_pytorch_tanh"),
    size=("32x48", "48x17"),
    bias=("no", "yes"),
    norms=("plain", "sandwich"),
    dist=("normal", "heavy"),
)
def mlp(p: Params) -> Parts:
    """Gate and up taken for each other, one gelu for the other, a norm's weight without its offset
    or rounded before it, a bias that is lost, a residual sum that skips the second norm."""
    hidden, width = (int(n) for n in p.size.split("x"))
    dense = Dense(width=width, activation=p.activation, bias=p.bias == "yes")
    sandwich = p.norms == "sandwich"
    layer = Layer(
        hidden=hidden, attention=HEADS, feed_forward=dense, sandwich=sandwich, offset=float(sandwich)
    )
    return half(p, layer)


ROUTERS = {
    "softmax": {"experts": 6, "top": 2},
    "weights": {"experts": 6, "top": 3, "normalise": False, "scale": 1.5, "wide": True},
    "groups": {"experts": 8, "top": 3, "groups": 4, "top_groups": 2, "normalise": False, "wide": True},
    "sigmoid": {
        "experts": 8,
        "top": 3,
        "scores": "sigmoid",
        "groups": 4,
        "top_groups": 2,
        "group_best": 2,
        "bias": True,
        "scale": 2.5,
        "wide": True,
    },
}


@family(
    "layers/moe",
    dtype=FLOATS,
    tokens=("1", "17", "33"),
    router=tuple(ROUTERS),
    ties=("no", "yes"),
    shared=("no", "yes"),
    activation=("silu", "gelu"),
    dist=("normal", "heavy"),
)
def moe(p: Params) -> Parts:
    """Experts chosen by the scores before the bias or weighed by those with it, groups that do not
    restrict, weights that do not sum to one, an expert that no token chose, a choice among equals
    that takes one expert twice."""
    some = Experts(
        width=24,
        activation=p.activation,
        shared=32 if p.shared == "yes" else 0,
        twins=p.ties == "yes",
        **ROUTERS[p.router],
    )
    return half(p, Layer(hidden=32, attention=HEADS, feed_forward=some))
