"""Attention, written B x H x G x T x S x D: G key heads, T queries at the end of S keys."""

from parity.case.case import TensorSpec
from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, parts, step, tensor

LAYOUTS = ("contiguous", "heads", "transposed", "strided", "offset", "expanded")


def lies(layout: str, shape: tuple[int, ...]) -> bool:
    """What is expanded is batch or heads: no model repeats one token."""
    return fits(layout, shape[:2] if layout == "expanded" else shape)


def operands(p: Params, shape: tuple[int, ...]) -> tuple[TensorSpec, TensorSpec, TensorSpec]:
    """q of the distribution under test, k and v beside it; each in the layout if it fits."""
    b, h, g, t, s, d = shape

    def lay(shape: tuple[int, ...]) -> str:
        return p.layout if lies(p.layout, shape) else "contiguous"

    q = tensor("q", p.dtype, (b, h, t, d), p.dist, layout=lay((b, h, t, d)))
    k = tensor(
        "k", p.dtype, (b, g, s, d), "small" if p.dist == "small" else "normal", layout=lay((b, g, s, d))
    )
    v = tensor(
        "v", p.dtype, (b, g, s, d), "positive" if p.dist == "positive" else "normal", layout=lay((b, g, s, d))
    )
    return q, k, v


def window_of(p: Params) -> int | None:
    return None if p.window == "none" else int(p.window)


@family(
    "ops/attention",
    dtype=FLOATS,
    shape=(
        "1x1x1x1x1x8",
        "1x2x2x17x17x64",
        "2x4x2x33x33x32",
        "1x8x1x16x16x128",
        "1x3x3x65x65x16",
        "1x2x1x31x129x64",
        "1x2x2x127x127x80",
        "1x1x1x257x257x40",
    ),
    causal=("no", "yes"),
    window=("none", "1", "16"),
    scale=("default", "0.5"),
    dist=("normal", "heavy", "positive", "small", "special"),
    layout=LAYOUTS,
    allowed=lambda p: (
        (p.causal == "yes" or p.window == "none")
        and (p.dist != "special" or dims(p.shape)[3] > 1)
        and lies(p.layout, dims(p.shape))
    ),
)
def attention(p: Params) -> Parts:
    """A causal mask or window that is off by one or aligned to the first key, key heads paired with
    the wrong query heads, a scale that is lost, a denominator in low precision."""
    q, k, v = operands(p, dims(p.shape))
    scale = None if p.scale == "default" else float(p.scale)
    return one("attention", q, k, v, causal=p.causal == "yes", window=window_of(p), scale=scale)


@family(
    "ops/attention_mask",
    dtype=FLOATS,
    shape=("1x1x1x1x7x8", "2x2x2x17x17x16", "1x4x2x33x65x32", "3x2x1x16x128x64", "2x2x2x63x63x32"),
    mask=("bool", "dropped", "add_inf", "add_min"),
    pattern=("causal", "padding", "left_padding", "random", "empty_rows", "alibi"),
    span=("shared", "batch", "full"),
    dist=("normal", "heavy", "special"),
    layout=("contiguous", "heads"),
    allowed=lambda p: not (p.pattern == "alibi" and p.mask in ("bool", "dropped")),
)
def attention_mask(p: Params) -> Parts:
    """A mask of the other polarity, one that is not broadcast, -inf that makes NaN, the finite
    minimum of the dtype that overflows, a query without any key that reads garbage.

    `dropped` is True where a key is not seen; model code turns it into an added mask with `where`.
    """
    b, h, _, t, s, _ = shape = dims(p.shape)
    span = {"shared": (t, s), "batch": (b, 1, t, s), "full": (b, h, t, s)}[p.span]
    q, k, v = operands(p, shape)
    drop = "min" if p.mask == "add_min" else "-inf"
    if p.mask == "dropped":
        hidden = tensor("hidden", "bool", span, "mask", pattern=p.pattern, invert=True)
        minus = tensor("minus", p.dtype, (), "constant", value=drop)
        zero = tensor("zero", p.dtype, (), "constant", value=0)
        select = step("where", hidden, minus, zero, outputs="mask")
        attend = step("attention", q, k, v, "mask", causal=False, window=None, scale=None)
        return parts((q, k, v, hidden, minus, zero), select, attend)
    if p.mask == "bool":
        mask = tensor("mask", "bool", span, "mask", pattern=p.pattern)
    elif p.pattern == "alibi":
        mask = tensor("mask", p.dtype, span, "alibi", drop=drop)
    else:
        mask = tensor("mask", p.dtype, span, "mask", pattern=p.pattern, drop=drop)
    return one("attention", q, k, v, mask, causal=False, window=None, scale=None)


@family(
    "ops/attention_decode",
    dtype=FLOATS,
    keys=("1", "511", "512", "513", "600"),
    heads=("4.4", "8.2", "6.1"),
    size=("64", "128"),
    causal=("no", "yes"),
    window=("none", "128"),
    padded=("no", "yes"),
    dist=("normal", "heavy", "positive", "special"),
    layout=("contiguous", "heads", "offset"),
    allowed=lambda p: p.causal == "yes" or p.window == "none",
)
def attention_decode(p: Params) -> Parts:
    """One query against a cache: the newest key left out, a block edge at 512, padding after the
    last key that is read, a causal mask that shows the one query only the first key."""
    heads, groups = (int(n) for n in p.heads.split("."))
    keys = int(p.keys)
    q, k, v = operands(p, (2, heads, groups, 1, keys, int(p.size)))
    mask = tensor("mask", "bool", (2, 1, 1, keys), "mask", pattern="padding") if p.padded == "yes" else None
    return one("attention", q, k, v, mask, causal=p.causal == "yes", window=window_of(p), scale=None)
