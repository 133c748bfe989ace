"""Attention as a whole and in parts, on the same inputs, written B x H x G x T x S x D as in `attention`."""

from parity.case.family import FLOATS, Params, Parts, dims, family, parts, step, tensor


@family(
    "ops/attention_split",
    dtype=FLOATS,
    shape=("1x2x2x17x17x64", "2x6x2x33x33x32", "1x8x1x16x48x16", "1x4x2x1x257x64", "1x3x3x65x65x16"),
    along=("heads", "queries", "keys"),
    parts=("2", "3", "7"),
    mask=("none", "causal", "window", "padding", "left_padding", "empty_rows"),
    dist=("normal", "heavy", "positive", "special"),
    allowed=lambda p: p.dist != "special" or dims(p.shape)[3] > 1,
)
def attention_split(p: Params) -> Parts:
    """Parts along keys that are added without their maxima, or weighed alike; a part that is left out;
    parts of heads beside another part's keys; queries that count from the start of their part; a part
    that some query sees nothing of, which must add nothing and not NaN."""
    b, h, g, t, s, d = dims(p.shape)
    q = tensor("q", p.dtype, (b, h, t, d), p.dist)
    k = tensor("k", p.dtype, (b, g, s, d))
    v = tensor("v", p.dtype, (b, g, s, d), "positive" if p.dist == "positive" else "normal")
    pattern = p.mask in ("padding", "left_padding", "empty_rows")
    masks = (tensor("mask", "bool", (b, 1, t, s), "mask", pattern=p.mask),) if pattern else ()
    attrs = {
        "causal": p.mask in ("causal", "window"),
        "window": 9 if p.mask == "window" else None,
        "scale": None,
    }
    given = (q, k, v, *masks)
    return parts(
        given,
        step("attention", *given, outputs="whole", **attrs),
        step("split_attention", *given, outputs="split", along=p.along, parts=int(p.parts), **attrs),
    )
