"""How each op of the op table is written in ONNX: standard ops of opset 23, as few as there are.

A function takes the graph, then the op's arguments in order, None where absent; attributes arrive as
keywords. What the op table computes wider than its tensors is cast there and back. The ops of a
decoder stand in `onnx_decoder`, functions, indexing and views in files of their own. Imports no SDK.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from parity.backend.runtimes.onnx_decoder import DECODER_OPS
from parity.backend.runtimes.onnx_function import FUNCTION_OPS
from parity.backend.runtimes.onnx_graph import CONTRIB, Argument, Graph, Value
from parity.backend.runtimes.onnx_indexing import INDEXING_OPS, as_large_as
from parity.backend.runtimes.onnx_product import PRODUCT_OPS
from parity.backend.runtimes.onnx_shared import band, ranked, rope, silu, wide
from parity.backend.runtimes.onnx_views import VIEW_OPS
from parity.case.dtype import DTYPES, dtype

__all__ = ["ONNX_OPS"]


def _plain(op: str) -> Callable[..., str]:
    """An op that ONNX has under another name, without attributes."""
    return lambda g, *arguments: g(op, *arguments)


def _linear(g: Graph, x: Argument, w: Argument, bias: Argument | None = None) -> str:
    if len(x.shape) == 2:
        return g("Gemm", x, w, *(() if bias is None else (bias,)), transB=1)
    y = g("MatMul", x, g("Transpose", w, perm=(1, 0)))
    return y if bias is None else g("Add", y, bias)


def _addmm(g: Graph, c: Argument, a: Argument, b: Argument, *, alpha: float, beta: float) -> str:
    return g("Gemm", a, b, c, alpha=float(alpha), beta=float(beta))


def _conv(
    g: Graph,
    x: Argument,
    w: Argument,
    bias: Argument | None = None,
    *,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    causal: bool = False,
) -> str:
    dims = len(w.shape) - 2
    pads = (dilation * (w.shape[-1] - 1), 0) if causal else (padding,) * (2 * dims)
    inputs = (x, w) if bias is None else (x, w, bias)
    return g("Conv", *inputs, strides=(stride,) * dims, pads=pads, dilations=(dilation,) * dims, group=groups)


def _reduce(op: str) -> Callable[..., str]:
    return ranked(lambda g, x, *, dim, keepdim: g(op, x, g.ints(dim), keepdims=int(keepdim)))


def _along(op: str) -> Callable[..., str]:
    return ranked(lambda g, x, *, dim: g(op, x, axis=dim))


def _cumsum(g: Graph, x: Argument, *, dim: int) -> str:
    return g("CumSum", x, g.constant(np.int64(dim), DTYPES["i64"]))


def _gain(g: Graph, x: Argument, gain: Argument | None) -> Value:
    return g.constant(np.ones(x.shape[-1]), x.dtype) if gain is None else gain


def _rms_norm(g: Graph, x: Argument, gain: Argument | None = None, *, eps: float) -> str:
    return g("RMSNormalization", x, _gain(g, x, gain), epsilon=float(eps))


def _layer_norm(
    g: Graph, x: Argument, gain: Argument | None = None, bias: Argument | None = None, *, eps: float
) -> str:
    rest = () if bias is None else (bias,)
    return g("LayerNormalization", x, _gain(g, x, gain), *rest, epsilon=float(eps))


def _swiglu(g: Graph, gate: Argument, up: Argument) -> Value:
    high = wide(gate.dtype)
    return g.cast(g("Mul", silu(g, g.cast(gate, high)), g.cast(up, high)), gate.dtype)


def _attention(
    g: Graph,
    q: Argument,
    k: Argument,
    v: Argument,
    mask: Argument | None = None,
    *,
    causal: bool,
    window: int | None,
    scale: float | None,
) -> str:
    """One `Attention`, whose is_causal aligns first query and first key, so it serves equal lengths."""
    rows, keys = q.shape[-2], k.shape[-2]
    aligned = causal and window is None and mask is None and rows == keys
    seen: Value | None = mask
    if not aligned and (causal or window is not None):
        shown = g.constant(band(rows, keys, causal=causal, window=window), DTYPES["bool"])
        if mask is None:
            seen = shown
        elif mask.dtype.name == "bool":
            seen = g("And", mask, shown)
        else:
            seen = g("Where", shown, mask, g.constant(-np.inf, mask.dtype))
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    return g(
        "Attention", q, k, v, *(() if seen is None else (seen,)), is_causal=int(aligned), scale=float(factor)
    )


def _index_put(g: Graph, x: Argument, index: Argument, values: Argument, *, accumulate: bool) -> str:
    at = g("Unsqueeze", index, g.ints(-1))
    return g("ScatterND", x, at, values, reduction="add" if accumulate else "none")


def _scatter_add(g: Graph, x: Argument, index: Argument, src: Argument, *, dim: int) -> str:
    return g("ScatterElements", x, index, as_large_as(g, src, index), axis=dim, reduction="add")


def _triangle(*, upper: bool) -> Callable[..., str]:
    def triangle(g: Graph, x: Argument, *, diagonal: int) -> str:
        return g("Trilu", x, g.constant(np.int64(diagonal), DTYPES["i64"]), upper=int(upper))

    return triangle


def _triu_indices(g: Graph, *, rows: int, columns: int, offset: int) -> str:
    ones = g.constant(np.ones((rows, columns), np.int64), DTYPES["i64"])
    return g("NonZero", g("Trilu", ones, g.constant(np.int64(offset), DTYPES["i64"]), upper=1))


def _topk(g: Graph, x: Argument, *, k: int, dim: int, largest: bool) -> tuple[str, ...]:
    return g.several("TopK", x, g.ints(k), count=2, axis=dim, largest=int(largest), sorted=1)


def _sort(g: Graph, x: Argument, *, dim: int, descending: bool, stable: bool) -> tuple[str, ...]:
    """`TopK` of all elements, which ONNX defines to be stable."""
    del stable
    return _topk(g, x, k=x.shape[dim], dim=dim, largest=descending)


def _argmax(g: Graph, x: Argument, *, dim: int, keepdim: bool) -> str:
    return g("ArgMax", x, axis=dim, keepdims=int(keepdim))


def _int8_linear(
    g: Graph, x: Argument, w: Argument, x_scale: Argument, w_scale: Argument, *, out: str
) -> Value:
    total = g("Cast", g("MatMulInteger", x, g("Transpose", w, perm=(1, 0))), to=DTYPES["f32"])
    by_row = g("Mul", total, g.reshape(g.cast(x_scale, DTYPES["f32"]), -1, 1))
    scaled = g("Mul", by_row, g.reshape(g.cast(w_scale, DTYPES["f32"]), 1, -1))
    return g.cast(scaled, dtype(out)) if out != "f32" else scaled


def _int8_weight_linear(g: Graph, x: Argument, w: Argument, scale: Argument) -> Value:
    high = wide(x.dtype)
    per_row = g.reshape(g.cast(scale, high), -1)
    dense = g("DequantizeLinear", w, per_row, axis=0)
    y = g("Gemm", g.cast(x, high), dense, transB=1)
    return y if high == x.dtype else g.cast(y, x.dtype)


def _int4_weight_linear(g: Graph, x: Argument, w: Argument, scale: Argument, *, group: int) -> str:
    """The runtime's own op, whose packing and zero point of 8 are the op table's; level 1 is float32."""
    n, k = w.shape[0], x.shape[-1]
    packed = g.reshape(w, n, k // group, group // 2)
    facts = {"K": k, "N": n, "bits": 4, "block_size": group, "accuracy_level": 1}
    return g("MatMulNBits", x, packed, scale, domain=CONTRIB, **facts)


ONNX_OPS: dict[str, Callable[..., Any]] = {
    "matmul": _plain("MatMul"),
    "bmm": _plain("MatMul"),
    "linear": _linear,
    "addmm": _addmm,
    "conv1d": _conv,
    "conv2d": _conv,
    "sum": _reduce("ReduceSum"),
    "mean": _reduce("ReduceMean"),
    "cumsum": ranked(_cumsum),
    "logsumexp": _reduce("ReduceLogSumExp"),
    "softmax": _along("Softmax"),
    "log_softmax": _along("LogSoftmax"),
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "add": _plain("Add"),
    "mul": _plain("Mul"),
    "div": _plain("Div"),
    "erf": _plain("Erf"),
    "rsqrt": lambda g, x: g("Reciprocal", g("Sqrt", x)),
    "exp": _plain("Exp"),
    "sigmoid": _plain("Sigmoid"),
    "tanh": _plain("Tanh"),
    "silu": silu,
    "gelu_erf": lambda g, x: g("Gelu", x),
    "gelu_tanh": lambda g, x: g("Gelu", x, approximate="tanh"),
    "swiglu": _swiglu,
    "attention": _attention,
    "rope": rope,
    "embedding": lambda g, table, ids: g("Gather", table, ids),
    "gather": lambda g, x, index, *, dim: g("GatherElements", x, index, axis=dim),
    "index": lambda g, x, index: g("Gather", x, index),
    "index_put": _index_put,
    "scatter_add": _scatter_add,
    "where": _plain("Where"),
    "cat": lambda g, *tensors, dim: g("Concat", *tensors, axis=dim),
    "tril": _triangle(upper=False),
    "triu": _triangle(upper=True),
    "triu_indices": _triu_indices,
    "topk": ranked(_topk),
    "argmax": ranked(_argmax),
    "sort": ranked(_sort),
    "cast": lambda g, x, *, to: g("Cast", x, to=dtype(to)),
    "int8_linear": _int8_linear,
    "int8_weight_linear": _int8_weight_linear,
    "int4_weight_linear": _int4_weight_linear,
    **DECODER_OPS,
    **FUNCTION_OPS,
    **INDEXING_OPS,
    **PRODUCT_OPS,
    **VIEW_OPS,
}
