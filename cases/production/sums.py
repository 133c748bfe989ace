"""Steps of the sizes that models have: sums of 4,096 to 28,672 terms, rows of a vocabulary, long caches.

Enough rows and columns that a test over them has power, few enough that every sum can be formed in
every order, as the self-test does.
"""

from parity.case.case import Role
from parity.case.family import FLOATS, Params, Parts, dims, family, one, tensor

DISTS = ("normal", "heavy", "positive", "cancel")


@family(
    "production/matmul",
    large=True,
    dtype=FLOATS,
    shape=("16x4096x64", "16x14336x32", "16x28672x16"),
    dist=DISTS,
)
def matmul(p: Params) -> Parts:
    """A tail of K that is left out of a long sum, an accumulator that is short for it."""
    m, k, n = dims(p.shape)
    a = tensor("a", p.dtype, (m, k), p.dist)
    partner = {"cancel": "paired", "positive": "positive"}.get(p.dist, "normal")
    if p.dist == "cancel":
        return one("matmul", a, tensor("b", p.dtype, (k, n), partner, axis=-2))
    return one("matmul", a, tensor("b", p.dtype, (k, n), partner))


@family(
    "production/int4_weight_linear",
    large=True,
    dtype=FLOATS,
    shape=("16x14336x16",),
    dist=("normal", "heavy", "positive"),
)
def int4_weight_linear(p: Params) -> Parts:
    """Scales that slip by a group somewhere in a hundred of them."""
    t, k, n = dims(p.shape)
    w = tensor("w", "u8", (n, k // 2), "bits", role=Role.WEIGHT)
    scale = tensor("scale", p.dtype, (n, k // 128), "positive", role=Role.WEIGHT, exponent=-4)
    return one("int4_weight_linear", tensor("x", p.dtype, (t, k), p.dist), w, scale, group=128)


@family("production/sum", large=True, dtype=FLOATS, shape=("32x32768",), dist=DISTS)
def sum_(p: Params) -> Parts:
    """A sum over a whole activation."""
    return one("sum", tensor("x", p.dtype, dims(p.shape), p.dist), dim=-1, keepdim=False)


@family(
    "production/rms_norm",
    large=True,
    dtype=FLOATS,
    shape=("16x8192",),
    dist=("normal", "heavy", "shifted", "small"),
)
def rms_norm(p: Params) -> Parts:
    """The width of a large model."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist)
    return one("rms_norm", x, tensor("g", p.dtype, x.shape[-1:], role=Role.WEIGHT), eps=1e-6)


@family(
    "production/layer_norm",
    large=True,
    dtype=FLOATS,
    shape=("16x8192",),
    dist=("normal", "heavy", "shifted", "small"),
)
def layer_norm(p: Params) -> Parts:
    """The width of a large model."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist)
    g, b = (tensor(name, p.dtype, x.shape[-1:], role=Role.WEIGHT) for name in ("g", "b"))
    return one("layer_norm", x, g, b, eps=1e-5)


@family(
    "production/softmax",
    large=True,
    dtype=FLOATS,
    shape=("8x32768",),
    dist=("normal", "heavy", "shifted", "masked"),
)
def softmax(p: Params) -> Parts:
    """Scores of a long context, or logits."""
    return one("softmax", tensor("x", p.dtype, dims(p.shape), p.dist), dim=-1)


@family(
    "production/log_softmax",
    large=True,
    dtype=FLOATS,
    shape=("8x32768",),
    dist=("normal", "heavy", "shifted"),
)
def log_softmax(p: Params) -> Parts:
    """Logits of a vocabulary."""
    return one("log_softmax", tensor("x", p.dtype, dims(p.shape), p.dist), dim=-1)


@family(
    "production/attention",
    large=True,
    dtype=FLOATS,
    keys=("4096", "8192"),
    dist=("normal", "heavy", "positive", "small"),
)
def attention(p: Params) -> Parts:
    """A few queries at the end of a long cache."""
    q = tensor("q", p.dtype, (1, 4, 4, 64), p.dist)
    cache = (1, 2, int(p.keys), 64)
    k = tensor("k", p.dtype, cache, p.dist if p.dist in {"positive", "small"} else "normal")
    v = tensor("v", p.dtype, cache)
    return one("attention", q, k, v, causal=True, window=None, scale=None)
