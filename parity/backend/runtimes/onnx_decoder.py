"""The ops of a decoder in ONNX: segments and experts as masks, since a graph has no loop to unroll.

As in `torch_decoder` under a compiler: what is masked must be finite. Attention is one `Attention`
over [1, H, T, D]; capped scores too, which that op caps before it masks. Imports no SDK.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from parity.backend.runtimes.onnx_graph import Argument, Graph, Value
from parity.backend.runtimes.onnx_shared import silu, wide
from parity.case.dtype import DTYPES
from parity.case.family import dims

__all__ = ["DECODER_OPS"]

_I64, _F32 = DTYPES["i64"], DTYPES["f32"]


def _reshape(g: Graph, x: Argument, *, shape: str) -> str:
    return g.reshape(x, *dims(shape))


def _weighted_rms_norm(
    g: Graph, x: Argument, gain: Argument, *, eps: float, offset: float, rounds_first: bool
) -> Value:
    high = x.dtype if rounds_first else wide(x.dtype)
    weight = g.cast(gain, high)
    if offset:
        weight = g("Add", weight, g.constant(offset, high))
    if rounds_first:
        ones = g.constant(np.ones(x.shape[-1]), x.dtype)
        return g("Mul", g("RMSNormalization", x, ones, epsilon=float(eps)), weight)
    y = g("RMSNormalization", g.cast(x, high), weight, epsilon=float(eps))
    return y if high == x.dtype else g.cast(y, x.dtype)


def _rotate(g: Graph, x: Argument, cos: Argument, sin: Argument, *, interleaved: bool) -> Value:
    """`RotaryEmbedding` over x [T, H, D] as [1, T, H D]."""
    high = wide(x.dtype)
    tokens, heads, size = x.shape
    turned = 2 * cos.shape[-1]
    y = g(
        "RotaryEmbedding",
        g.reshape(g.cast(x, high), 1, tokens, heads * size),
        *(g.reshape(g.cast(t, high), 1, tokens, cos.shape[-1]) for t in (cos, sin)),
        interleaved=int(interleaved),
        num_heads=heads,
        rotary_embedding_dim=turned if turned != size else 0,
    )
    y = g.reshape(y, *x.shape)
    return y if high == x.dtype else g.cast(y, x.dtype)


def _activate(g: Graph, x: Value, kind: str) -> str:
    if kind == "silu":
        return silu(g, x)
    return g("Gelu", x, approximate="tanh" if kind.endswith("tanh") else "none")


def _gated(g: Graph, x: Value, *, activation: str) -> str:
    gate, up = g.several("Split", x, count=2, axis=-1, num_outputs=2)
    return g("Mul", _activate(g, gate, activation), up)


def _softcap(g: Graph, x: Argument, *, cap: float) -> str:
    limit = g.constant(cap, x.dtype)
    return g("Mul", g("Tanh", g("Div", x, limit)), limit)


def _scaled_embedding(g: Graph, table: Argument, ids: Argument, *, scale: float) -> str:
    rows = g("Gather", table, ids)
    return rows if scale == 1.0 else g("Mul", rows, g.constant(scale, table.dtype))


def _seen(g: Graph, rows: int, slots: Argument, segments: Argument, window: int | None) -> str:
    """Return bool [T, S]: which held keys each query sees. A key of another segment is never seen."""
    start, length, context = g.several(  # each [1, n]
        "Split", g("Transpose", segments, perm=(1, 0)), count=3, axis=0, num_outputs=3
    )
    owned = g("Add", context, length)
    first = g("Sub", g("CumSum", owned, g.constant(np.int64(1), _I64)), owned)
    row, entry = (g.constant(np.arange(n)[:, None], _I64) for n in (rows, slots.shape[0]))
    mine = g("And", g("GreaterOrEqual", row, start), g("Less", row, g("Add", start, length)))  # [T, n]
    theirs = g("And", g("GreaterOrEqual", entry, first), g("Less", entry, g("Add", first, owned)))  # [S, n]
    is_mine, is_theirs = (g("Cast", each, to=_I64) for each in (mine, theirs))
    position = g("Mul", is_mine, g("Add", g("Sub", row, start), context))
    position = g("ReduceSum", position, g.ints(1), keepdims=1)  # [T, 1]
    place = g("ReduceSum", g("Mul", is_theirs, g("Sub", entry, first)), g.ints(1), keepdims=0)  # [S]
    same = g("MatMul", is_mine, g("Transpose", is_theirs, perm=(1, 0)))
    back = g("Sub", position, place)
    none = g.constant(np.int64(0), _I64)
    seen = g("And", g("Greater", same, none), g("GreaterOrEqual", back, none))
    return seen if window is None else g("And", seen, g("Less", back, g.constant(np.int64(window), _I64)))


def _heads(g: Graph, x: Value) -> str:
    """[T, H, D] as [1, H, T, D]."""
    return g("Unsqueeze", g("Transpose", x, perm=(1, 0, 2)), g.ints(0))


def _tokens(g: Graph, x: Value) -> str:
    """[1, H, T, D] as [T, H, D]."""
    return g("Transpose", g("Squeeze", x, g.ints(0)), perm=(1, 0, 2))


def _paged_attention(
    g: Graph,
    q: Argument,
    keys: Argument,
    values: Argument,
    slots: Argument,
    segments: Argument,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> str:
    seen = _seen(g, q.shape[0], slots, segments, window)
    k, v = (_heads(g, g("Gather", pool, slots)) for pool in (keys, values))
    # No cap is 0.
    return _tokens(
        g, g("Attention", _heads(g, q), k, v, seen, scale=float(scale), softcap=float(softcap or 0))
    )


def _latent_attention(
    g: Graph,
    q: Argument,
    latents: Argument,
    w: Argument,
    slots: Argument,
    segments: Argument,
    *,
    nope: int,
    scale: float,
    absorbed: bool,
) -> str:
    heads, latent = q.shape[1], w.shape[1]
    size, turned = w.shape[0] // heads, latents.shape[1] - latent
    seen = _seen(g, q.shape[0], slots, segments, None)
    found = g("Gather", latents, slots)  # [S, L + rope]
    small, shared = g.cut(found, 1, 0, latent), g.cut(found, 1, latent, latent + turned)
    mine = g("Transpose", q, perm=(1, 0, 2))  # [H, T, nope + rope]
    if not absorbed:
        made = g.reshape(g("Gemm", small, w, transB=1), slots.shape[0], heads, size)
        made = g("Transpose", made, perm=(1, 0, 2))  # [H, S, nope + E]
        spread = g("Expand", shared, g.ints(heads, slots.shape[0], turned))
        k, v = g("Concat", g.cut(made, 2, 0, nope), spread, axis=-1), g.cut(made, 2, nope, size)
        return _tokens(g, _attend(g, mine, k, v, seen, scale))
    of_heads = g.reshape(w, heads, size, latent)
    inner = g("MatMul", g.cut(mine, 2, 0, nope), g.cut(of_heads, 1, 0, nope))  # [H, T, L]
    both = g("Concat", inner, g.cut(mine, 2, nope, nope + turned), axis=-1)
    key, value = (g("Unsqueeze", t, g.ints(0)) for t in (found, small))
    sums = _attend(g, both, key, value, seen, scale)  # [1, H, T, L]
    by_value = g("Transpose", g.cut(of_heads, 1, nope, size), perm=(0, 2, 1))  # [H, L, E]
    return _tokens(g, g("MatMul", sums, by_value))


def _attend(g: Graph, q: str, k: str, v: str, seen: str, scale: float) -> str:
    """Return [1, H, T, E] of q [H, T, D], k [G, S, D] and v [G, S, E]."""
    batched = (g("Unsqueeze", t, g.ints(0)) for t in (q, k, v))
    return g("Attention", *batched, seen, scale=float(scale))


def _route(
    g: Graph,
    x: Argument,
    w: Argument,
    bias: Argument | None = None,
    *,
    top: int,
    scores: str,
    groups: int,
    top_groups: int,
    group_best: int,
    normalise: bool,
    scale: float,
    wide: bool,
) -> tuple[Value, str]:
    logits: Value
    high = _wide(x.dtype)
    if wide or high == x.dtype:
        logits = g("Gemm", g.cast(x, high), g.cast(w, high), transB=1)
    else:
        logits = g.cast(g("Gemm", x, w, transB=1), high)
    found = g("Sigmoid", logits) if scores == "sigmoid" else g("Softmax", logits, axis=-1)
    ranks = found if bias is None else g("Add", found, g.cast(bias, high))
    if groups > 1:
        experts = w.shape[0]
        by_group = g.reshape(ranks, x.shape[0], groups, experts // groups)
        best, _ = g.several("TopK", by_group, g.ints(group_best), count=2, axis=-1)
        _, chosen_groups = g.several(
            "TopK", g("ReduceSum", best, g.ints(-1), keepdims=0), g.ints(top_groups), count=2, axis=-1
        )
        none = g.constant(np.zeros((x.shape[0], groups), np.int64), _I64)
        ones = g.constant(np.ones((x.shape[0], top_groups), np.int64), _I64)
        allowed = g("Cast", g("ScatterElements", none, chosen_groups, ones, axis=1), to=DTYPES["bool"])
        kept = g("Where", g("Unsqueeze", allowed, g.ints(-1)), by_group, g.constant(-np.inf, high))
        ranks = g.reshape(kept, x.shape[0], experts)
    _, chosen = g.several("TopK", ranks, g.ints(top), count=2, axis=-1)
    weights = g("GatherElements", found, chosen, axis=-1)
    if normalise:
        weights = g("Div", weights, g("ReduceSum", weights, g.ints(-1), keepdims=1))
    return (weights if scale == 1.0 else g("Mul", weights, g.constant(scale, high))), chosen


_wide = wide  # an attribute of `route` has the name of the function


def _experts(
    g: Graph,
    x: Argument,
    weights: Argument,
    chosen: Argument,
    up: Argument,
    down: Argument,
    *,
    activation: str,
) -> str:
    """All experts of all rows at once [E, T, K]; what a row did not choose is replaced by zero."""
    each = g("Unsqueeze", x, g.ints(0))
    inner = _gated(g, g("MatMul", each, g("Transpose", up, perm=(0, 2, 1))), activation=activation)
    made: Value = g("MatMul", inner, g("Transpose", down, perm=(0, 2, 1)))
    number = g.constant(np.arange(up.shape[0])[:, None, None], _I64)
    hit = g("Equal", g("Unsqueeze", chosen, g.ints(0)), number)  # [E, T, top]
    zero = g.constant(0.0, weights.dtype)
    weight = g("ReduceSum", g("Where", hit, weights, zero), g.ints(-1), keepdims=1)
    if weights.dtype != x.dtype:
        made = g.cast(made, weights.dtype)
    terms: Value = g("Mul", made, weight)
    if weights.dtype != x.dtype:
        terms = g.cast(terms, x.dtype)
    counts = g("ReduceSum", g("Cast", hit, to=_I64), g.ints(-1), keepdims=1)
    own = g("Where", g("Cast", counts, to=DTYPES["bool"]), terms, g.constant(0.0, x.dtype))
    return g("ReduceSum", own, g.ints(0), keepdims=0)


DECODER_OPS: dict[str, Callable[..., Any]] = {
    "copy": lambda g, x: g("Identity", x),
    "experts": _experts,
    "gated": _gated,
    "latent_attention": _latent_attention,
    "paged_attention": _paged_attention,
    "reshape": _reshape,
    "rotate": _rotate,
    "route": _route,
    "scaled_embedding": _scaled_embedding,
    "softcap": _softcap,
    "weighted_rms_norm": _weighted_rms_norm,
}
