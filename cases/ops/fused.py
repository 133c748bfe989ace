"""What kernels fuse and model code writes as several calls."""

from parity.case.case import Role
from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, rows, tensor


@family(
    "ops/add_rms_norm",
    dtype=FLOATS,
    shape=("1x1", "3x65", "17x127", "33x257", "5x3x64", "4x1024", "0x64"),
    eps=("1e-5", "1e-6"),
    residual=("apart", "cancelling", "large"),
    dist=("normal", "heavy", "shifted", "small", "special"),
    layout=("contiguous", "heads", "strided", "offset"),
    allowed=lambda p: fits(p.layout, dims(p.shape)) and (p.dist != "special" or rows(dims(p.shape)) > 1),
)
def add_rms_norm(p: Params) -> Parts:
    """A residual that the norm does not see, a sum that is not stored or not rounded, an epsilon outside
    the root, padding of the last tile counted in the mean."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    exponent = {"apart": 0, "cancelling": -9, "large": 6}[p.residual]
    residual = tensor("residual", p.dtype, x.shape, "normal", exponent=exponent)
    g = tensor("g", p.dtype, x.shape[-1:], role=Role.WEIGHT)
    return one("add_rms_norm", x, residual, g, result=x.shape, eps=float(p.eps))


# tokens, heads of q, heads of k and v, their size
@family(
    "ops/norm_rotate",
    dtype=FLOATS,
    shape=("1x1x1x2", "3x4x4x16", "17x4x2x64", "5x3x1x80", "9x8x2x128", "0x2x1x16"),
    eps=("1e-5", "1e-6"),
    tables=("same", "f32"),
    dist=("normal", "heavy", "small", "special"),
    layout=("contiguous", "transposed", "strided", "offset"),
    allowed=lambda p: (
        (p.tables == "same" or p.dtype != "f32")
        and fits(p.layout, dims(p.shape)[:2])
        and (p.dist != "special" or dims(p.shape)[0] > 1)
    ),
)
def norm_rotate(p: Params) -> Parts:
    """The weight of k for q, a norm over all heads at once, a rotation before the norm, halves in each
    other's place, angles of the token before, a value that is normalised or turned too."""
    tokens, heads, kv_heads, size = dims(p.shape)
    qkv = tensor("qkv", p.dtype, (tokens, (heads + 2 * kv_heads) * size), p.dist, layout=p.layout)
    weights = [tensor(name, p.dtype, (size,), role=Role.WEIGHT) for name in ("q_weight", "k_weight")]
    kind = p.dtype if p.tables == "same" else "f32"
    tables = [tensor(part, kind, (tokens, size // 2), "angles", part=part) for part in ("cos", "sin")]
    return one(
        "norm_rotate",
        qkv,
        *weights,
        *tables,
        result=(tokens, heads, size),
        heads=heads,
        kv_heads=kv_heads,
        eps=float(p.eps),
    )


# tokens, heads, their size, size of values
@family(
    "ops/hstu_attention",
    dtype=FLOATS,
    shape=("1x1x1x1", "3x2x16x16", "17x4x32x32", "33x2x64x32", "65x1x16x64", "96x2x32x32", "0x2x16x16"),
    bias=("no", "yes"),
    scale=("1", "0.125"),
    length=("tokens", "200"),
    dist=("normal", "heavy", "small", "special"),
    layout=("contiguous", "transposed", "strided", "offset"),
    allowed=lambda p: (
        fits(p.layout, dims(p.shape)[:3])
        and (p.dist != "special" or dims(p.shape)[0] > 1)
        and not (p.shape[0] == "0" and p.length == "tokens")
    ),
)
def hstu_attention(p: Params) -> Parts:
    """A softmax or another activation for silu, weights that are not divided by the length, a token that
    sees the next one or not itself, also in the last tile; a bias of another head or left out."""
    tokens, heads, size, values = dims(p.shape)
    q = tensor("q", p.dtype, (tokens, heads, size), p.dist, layout=p.layout)
    # Every token reads the keys before it: special ones would leave nothing to compare.
    others = "normal" if p.dist == "special" else p.dist
    k = tensor("k", p.dtype, q.shape, others)
    v = tensor("v", p.dtype, (tokens, heads, values), others)
    bias = tensor("bias", p.dtype, (heads, tokens, tokens)) if p.bias == "yes" else None
    length = tokens if p.length == "tokens" else int(p.length)
    return one(
        "hstu_attention",
        q,
        k,
        v,
        bias,
        result=v.shape,
        scale=float(p.scale),
        length=length,
    )
