"""What a decoder is made of, as its code divides it: rows are tokens, heads are T x H x D."""

from parity.case.case import Role
from parity.case.family import FLOATS, LAYOUTS, Params, Parts, dims, family, fits, one, rows, tensor

DISTS = ("normal", "heavy", "small", "special")
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh")


@family(
    "ops/copy",
    dtype=(*FLOATS, "i64", "e4m3fn"),
    shape=("scalar", "1", "17x33", "3x5x64", "2x4x17x16", "0x8"),
    dist=("normal", "special", "range"),
    layout=tuple(LAYOUTS),
    allowed=lambda p: (
        fits(p.layout, dims(p.shape))
        and (p.dist == "range") == (p.dtype == "i64")
        and (p.dist != "special" or rows(dims(p.shape)) > 1)
        and not (p.dtype == "i64" and p.shape == "scalar")
    ),
)
def copy(p: Params) -> Parts:
    """Rows written to a cache that come back as others: a stride that was lost, a NaN or a minus
    zero that was cleaned up, a tail that was not written."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    return one("copy", x, result=x.shape)


@family(
    "ops/reshape",
    dtype=(*FLOATS, "i64"),
    shape=("17x64.17x4x16", "3x5x64.15x64", "4x6.24", "1.scalar", "2x3x4.4x3x2", "0x8.0x2x4"),
    layout=("contiguous", "transposed", "heads", "strided", "expanded"),
    allowed=lambda p: fits(p.layout, dims(p.shape.split(".")[0])),
)
def reshape(p: Params) -> Parts:
    """Elements in the order of memory where the tensor's own order is meant."""
    before, after = p.shape.split(".")
    x = tensor("x", p.dtype, dims(before), "range" if p.dtype == "i64" else "normal", layout=p.layout)
    return one("reshape", x, result=dims(after), shape=after)


@family(
    "ops/weighted_rms_norm",
    dtype=FLOATS,
    shape=("1x1", "3x65", "17x127", "33x257", "5x3x64", "4x1024", "0x64"),
    eps=("1e-5", "1e-6", "1e-12"),
    offset=("0", "1"),
    rounds=("first", "last"),
    dist=("normal", "heavy", "shifted", "small", "special"),
    layout=("contiguous", "heads", "strided", "offset"),
    allowed=lambda p: (
        fits(p.layout, dims(p.shape))
        and (p.dist != "special" or rows(dims(p.shape)) > 1)
        and (p.offset == "0" or p.rounds == "last")
    ),
)
def weighted_rms_norm(p: Params) -> Parts:
    """Rounded after the weight where the checkpoint was trained with it rounded before, or the other
    way round; a weight without the one that is added to it; another epsilon."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    g = tensor("g", p.dtype, x.shape[-1:], role=Role.WEIGHT)
    first = p.rounds == "first"
    return one(
        "weighted_rms_norm",
        x,
        g,
        result=x.shape,
        eps=float(p.eps),
        offset=float(p.offset),
        rounds_first=first,
    )


@family(
    "ops/rotate",
    dtype=FLOATS,
    shape=("1x1x2", "17x4x64", "33x3x128", "5x8x80", "65x2x32", "0x2x16"),
    turned=("all", "half"),
    pairs=("half", "interleaved"),
    tables=("same", "f32"),
    magnitude=("1", "1.25"),
    dist=DISTS,
    layout=("contiguous", "transposed", "strided", "offset"),
    allowed=lambda p: (
        fits(p.layout, dims(p.shape))
        and (p.dist != "special" or rows(dims(p.shape)) > 1)
        and (p.turned == "all" or dims(p.shape)[-1] > 2)
        and (p.tables == "same" or p.dtype != "f32")
    ),
)
def rotate(p: Params) -> Parts:
    """Half-split for interleaved, angles of the token before, dimensions turned that are to be kept."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    angles = (x.shape[0], x.shape[-1] // (2 if p.turned == "all" else 4))
    kind = p.dtype if p.tables == "same" else "f32"
    cos, sin = (
        tensor(part, kind, angles, "angles", part=part, magnitude=float(p.magnitude))
        for part in ("cos", "sin")
    )
    return one("rotate", x, cos, sin, result=x.shape, interleaved=p.pairs == "interleaved")


@family(
    "ops/gated",
    dtype=FLOATS,
    shape=("2", "1x2", "17x66", "33x128", "5x514", "2x9x34", "0x8"),
    activation=ACTIVATIONS,
    dist=DISTS,
    layout=("contiguous", "transposed", "strided", "offset", "expanded"),
    allowed=lambda p: fits(p.layout, dims(p.shape)) and (p.dist != "special" or rows(dims(p.shape)) > 1),
)
def gated(p: Params) -> Parts:
    """Gate and up in each other's place or interleaved, another activation."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    result = (*x.shape[:-1], x.shape[-1] // 2)
    return one("gated", x, result=result, activation=p.activation)


@family(
    "ops/softcap",
    dtype=FLOATS,
    shape=("1", "3x65", "17x127", "5x1030", "0x8"),
    cap=("5", "30", "50"),
    dist=DISTS,
    layout=("contiguous", "transposed", "strided", "offset"),
    allowed=lambda p: fits(p.layout, dims(p.shape)) and (p.dist != "special" or rows(dims(p.shape)) > 1),
)
def softcap(p: Params) -> Parts:
    """A cap that clamps instead of bending, that is left out, or that divides and does not multiply."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    return one("softcap", x, result=x.shape, cap=float(p.cap))


@family(
    "ops/scaled_embedding",
    dtype=FLOATS,
    shape=("1x1", "17x64", "300x33", "1000x128"),
    tokens=("1", "9", "130", "0"),
    scale=("1", "4.9", "45.254833995939045"),
    dist=("normal", "heavy", "special"),
    layout=("contiguous", "transposed", "strided", "offset"),
    allowed=lambda p: fits(p.layout, dims(p.shape)) and (p.dist != "special" or dims(p.shape)[0] > 1),
)
def scaled_embedding(p: Params) -> Parts:
    """A scale in float32 where the model has it in the table's type; ids cut to 8 bits; the next row."""
    table = tensor("table", p.dtype, dims(p.shape), p.dist, layout=p.layout, role=Role.WEIGHT)
    ids = tensor("ids", "i64", (int(p.tokens),), "index", high=table.shape[0])
    return one("scaled_embedding", table, ids, result=(*ids.shape, table.shape[1]), scale=float(p.scale))


# experts, top, scores, groups, top_groups, group_best, normalise, scale, with a bias for choosing
RULES = {
    "mixtral": (8, 2, "softmax", 1, 1, 1, True, 1.0, False),
    "qwen_moe": (32, 4, "softmax", 1, 1, 1, False, 1.0, False),
    "deepseek_v2": (16, 3, "softmax", 4, 2, 1, False, 16.0, False),
    "deepseek_v3": (32, 4, "sigmoid", 8, 4, 2, True, 2.5, True),
    "one": (4, 1, "sigmoid", 1, 1, 1, False, 1.0, False),
}


@family(
    "ops/route",
    dtype=FLOATS,
    shape=("1x16", "17x64", "33x128", "64x257", "0x16"),
    rule=tuple(RULES),
    wide=("no", "yes"),
    weights=("apart", "tied"),
    dist=("normal", "heavy", "small", "special"),
    allowed=lambda p: p.dist != "special" or dims(p.shape)[0] > 1,
)
def route(p: Params) -> Parts:
    """Weights that are divided by the sum of all experts, or not at all; a bias that is weighed too;
    groups ranked by another number of experts; softmax over the chosen ones; an expert twice."""
    experts, top, scores, groups, top_groups, group_best, normalise, scale, biased = RULES[p.rule]
    x = tensor("x", p.dtype, dims(p.shape), p.dist)
    tied = "expanded" if p.weights == "tied" else "contiguous"
    w = tensor("w", p.dtype, (experts, x.shape[1]), exponent=-3, layout=tied, role=Role.WEIGHT)
    bias = tensor("bias", "f32", (experts,), exponent=-3, role=Role.WEIGHT) if biased else None
    return one(
        "route",
        x,
        w,
        bias,
        result=(x.shape[0], top),
        result_dtype="f32",
        top=top,
        scores=scores,
        groups=groups,
        top_groups=top_groups,
        group_best=group_best,
        normalise=normalise,
        scale=scale,
        wide=p.wide == "yes",
    )


@family(
    "ops/experts",
    dtype=FLOATS,
    shape=("1x16x8", "17x64x24", "33x33x16", "9x128x48", "0x16x8"),
    experts=("4.2", "8.3", "3.1", "16.8"),
    activation=ACTIVATIONS,
    dist=("normal", "heavy", "small", "special"),
    allowed=lambda p: p.dist != "special" or dims(p.shape)[0] > 1,
)
def experts(p: Params) -> Parts:
    """A row that goes to the neighbour of its expert, weights of the row before, an expert whose rows
    beyond a capacity are dropped, gate and up in each other's place."""
    (n, hidden, width), (count, top) = dims(p.shape), (int(x) for x in p.experts.split("."))
    x = tensor("x", p.dtype, (n, hidden), p.dist)
    weights = tensor("weights", "f32", (n, top), "positive", exponent=-2)
    chosen = tensor("chosen", "i64", (n, top), "permutation", high=count)
    up = tensor("up", p.dtype, (count, 2 * width, hidden), exponent=-3, role=Role.WEIGHT)
    down = tensor("down", p.dtype, (count, hidden, width), exponent=-2, role=Role.WEIGHT)
    return one("experts", x, weights, chosen, up, down, result=x.shape, activation=p.activation)
