"""Scaled, grouped and routed products and attention in parts, in ONNX.

ONNX has no product of 8-bit floats: they are converted to float32, where their products are exact. Groups and
experts are computed for every row and each row takes its own. Imports no SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from parity.backend.runtimes.onnx_graph import Argument, Graph, Value
from parity.backend.runtimes.onnx_shared import band, wide
from parity.case.dtype import DTYPES, dtype

__all__ = ["PRODUCT_OPS"]

_I64, _F32, _BOOL = DTYPES["i64"], DTYPES["f32"], DTYPES["bool"]


def _scaled_mm(
    g: Graph, x: Argument, w: Argument, x_scale: Argument, w_scale: Argument, *, out: str
) -> Value:
    y = g("Gemm", g.cast(x, _F32), g.cast(w, _F32), transB=1)
    by_row = g("Mul", y, x_scale)
    scaled = g("Mul", by_row, g.reshape(w_scale, 1, -1))
    return scaled if out == "f32" else g.cast(scaled, dtype(out))


def _dequantised_mm(
    g: Graph, x: Argument, w: Argument, x_scale: Argument, w_scale: Argument, *, out: str
) -> str:
    operands = [g("Mul", g.cast(t, _F32), s) for t, s in ((x, x_scale), (w, w_scale))]
    if out != "f32":
        operands = [g("Cast", t, to=dtype(out)) for t in operands]
    return g("Gemm", *operands, transB=1)


def _block_scaled_mm(
    g: Graph,
    x: Argument,
    w: Argument,
    x_scale: Argument,
    w_scale: Argument,
    *,
    block: int,
    block_rows: int,
    out: str,
) -> Value:
    by_row, by_column = _scale(g, x_scale), _scale(g, w_scale)
    if block_rows > 1:
        by_column = g("Gather", by_column, g.ints(*(n // block_rows for n in range(w.shape[0]))), axis=0)
    by_column = g("Transpose", by_column, perm=(1, 0))  # [blocks, N]
    left, right = g.cast(x, _F32), g.cast(w, _F32)
    y = ""
    for number in range(x.shape[1] // block):
        ends = number * block, (number + 1) * block
        part = g("Gemm", g.cut(left, 1, *ends), g.cut(right, 1, *ends), transB=1)
        part = g("Mul", part, g.cut(by_row, 1, number, number + 1))
        part = g("Mul", part, g.cut(by_column, 0, number, number + 1))
        y = g("Add", y, part) if y else part
    return y if out == "f32" else g.cast(y, dtype(out))


def _scale(g: Graph, scale: Argument) -> Value:
    """Return scales in float32; a byte stands for a power of two, which is looked up."""
    if scale.dtype.is_float:
        return scale
    powers = np.append(np.exp2(np.arange(255.0) - 127), np.nan)
    return g("Gather", g.constant(powers, _F32), g("Cast", scale, to=_I64))


def _grouped_mm(g: Graph, x: Argument, w: Argument, ends: Argument) -> str:
    groups, columns = w.shape[0], w.shape[2]
    every = g("MatMul", g("Unsqueeze", x, g.ints(0)), w)  # [G, T, N]
    row = g.constant(np.arange(x.shape[0])[:, None], _I64)
    after = g("GreaterOrEqual", row, g("Cast", ends, to=_I64))  # [T, G]
    group = g("ReduceSum", g("Cast", after, to=_I64), g.ints(-1), keepdims=1)  # [T, 1]
    own = _taken(g, every, g("Min", group, g.constant(np.int64(groups - 1), _I64)), columns)
    y = g.reshape(own, x.shape[0], columns)
    if not x.shape[0]:
        return y  # the CPU provider's Where does not broadcast [0, 1] to [0, N]
    owned = g("Less", group, g.constant(np.int64(groups), _I64))
    return g("Where", owned, y, g.constant(0.0, x.dtype))


def _routed_mm(g: Graph, x: Argument, chosen: Argument, w: Argument) -> str:
    every = g("MatMul", g("Unsqueeze", x, g.ints(0)), g("Transpose", w, perm=(0, 2, 1)))  # [E, T, N]
    return _taken(g, every, chosen, w.shape[1])


def _taken(g: Graph, every: str, numbers: Value, columns: int) -> str:
    """Return [T, n, N]: of every [G, T, N] the products that numbers [T, n] name."""
    at = g("Expand", g("Unsqueeze", numbers, g.ints(-1)), g.ints(1, 1, columns))
    return g("GatherElements", g("Transpose", every, perm=(1, 0, 2)), at, axis=1)


def _split_attention(
    g: Graph,
    q: Argument,
    k: Argument,
    v: Argument,
    mask: Argument | None = None,
    *,
    causal: bool,
    window: int | None,
    scale: float | None,
    along: str,
    parts: int,
) -> Value:
    (_, heads, rows, size), (_, of_keys, keys, _) = q.shape, k.shape
    seen: Value | None = mask
    if causal or window is not None:
        shown = band(rows, keys, causal=causal, window=window)[None, None]
        seen = g.constant(shown, _BOOL) if mask is None else g("And", mask, g.constant(shown, _BOOL))
    factor = float(size**-0.5 if scale is None else scale)
    own = [head // (heads // of_keys) for head in range(heads)]
    if along == "keys":
        wider = [g.cast(t, wide(q.dtype)) for t in (q, k, v)]
        wider[1:] = [g("Gather", t, g.ints(*own), axis=1) for t in wider[1:]]
        y: Value = _merged(g, wider, seen, factor, _parts(keys, parts), of=wide(q.dtype).name)
        return y if wide(q.dtype) == q.dtype else g.cast(y, q.dtype)
    axis = 1 if along == "heads" else 2
    several = mask is not None and mask.shape[1] > 1
    made = []
    for start, end in _parts(q.shape[axis], parts):
        held: list[Value] = [k, v]
        if along == "heads":
            held = [g("Gather", t, g.ints(*own[start:end]), axis=1) for t in held]
        part = seen
        if part is not None and (along == "queries" or several):
            part = g.cut(part, axis, start, end)
        given = (g.cut(q, axis, start, end), *held, *(() if part is None else (part,)))
        made.append(g("Attention", *given, scale=factor))
    return g("Concat", *made, axis=axis)


def _parts(count: int, parts: int) -> Iterator[tuple[int, int]]:
    """Yield where parts of a count start and end, the longer ones first; none of them is empty."""
    each, longer = divmod(count, parts)
    sizes = [each + 1] * longer + [each] * (parts - longer if each else 0)
    return pairwise(accumulate(sizes, initial=0))


def _merged(
    g: Graph,
    operands: list[Value],
    seen: Value | None,
    factor: float,
    parts: Iterator[tuple[int, int]],
    *,
    of: str,
) -> str:
    """Return attention over keys of which each part has a maximum and sums of its own."""
    to = dtype(of)
    zero, away, (q, k, v) = g.constant(0.0, to), g.constant(-np.inf, to), operands
    tops, sums, products = [], [], []

    def known(top: str) -> str:
        return g("Where", g("Equal", top, away), zero, top)

    for start, end in parts:
        keys = g("Transpose", g.cut(k, 2, start, end), perm=(0, 1, 3, 2))
        scores = g("Mul", g("MatMul", q, keys), g.constant(factor, to))
        if seen is not None:
            scores = g("Add", scores, g("Where", g.cut(seen, 3, start, end), zero, away))
        top = g("ReduceMax", scores, g.ints(-1), keepdims=1)
        weights = g("Exp", g("Sub", scores, known(top)))
        tops.append(top)
        sums.append(g("ReduceSum", weights, g.ints(-1), keepdims=1))
        products.append(g("MatMul", weights, g.cut(v, 2, start, end)))
    top = known(g("Max", *tops))
    scales = [g("Exp", g("Sub", each, top)) for each in tops]
    product, total = (
        g("Sum", *(g("Mul", t, s) for t, s in zip(terms, scales, strict=True))) for terms in (products, sums)
    )
    return g("Div", product, g("Where", g("Equal", total, zero), g.constant(1.0, to), total))


PRODUCT_OPS: dict[str, Callable[..., Any]] = {
    "block_scaled_mm": _block_scaled_mm,
    "dequantised_mm": _dequantised_mm,
    "grouped_mm": _grouped_mm,
    "routed_mm": _routed_mm,
    "scaled_mm": _scaled_mm,
    "split_attention": _split_attention,
}
