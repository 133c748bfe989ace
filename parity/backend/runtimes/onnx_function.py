"""How functions, divisions, moments and ranges of the op table are written in ONNX.

What has no ONNX op and only compositions that cancel (expm1, log1p) is left out, so that it is
unsupported. Imports no SDK.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from parity.backend.runtimes.onnx_graph import Argument, Graph, Value
from parity.backend.runtimes.onnx_shared import ranked, rope, wide
from parity.case.dtype import DTYPES, dtype

__all__ = ["FUNCTION_OPS"]

_I64 = DTYPES["i64"]


def _relu_squared(g: Graph, x: Argument) -> str:
    kept = g("Relu", x)
    return g("Mul", kept, kept)


def _pow_scalar(g: Graph, x: Argument, *, exponent: float) -> str:
    return g("Pow", x, g.constant(exponent, x.dtype))


def _floor_divide(g: Graph, a: Argument, b: Argument) -> str:
    if a.dtype.is_float:
        return g("Floor", g("Div", a, b))
    # Div truncates integers; what Mod leaves has the divisor's sign.
    return g("Div", g("Sub", a, g("Mod", a, b)), b)


def _trunc_divide(g: Graph, a: Argument, b: Argument) -> str:
    quotient = g("Div", a, b)
    if not a.dtype.is_float:
        return quotient
    negative = g("Less", quotient, g.constant(0.0, a.dtype))
    return g("Where", negative, g("Ceil", quotient), g("Floor", quotient))


def _remainder(g: Graph, a: Argument, b: Argument) -> str:
    if not a.dtype.is_float:
        return g("Mod", a, b)
    # fmod has the dividend's sign.
    rest, zero = g("Mod", a, b, fmod=1), g.constant(0.0, a.dtype)
    other = g("Xor", g("Less", rest, zero), g("Less", b, zero))
    away = g("And", other, g("Not", g("Equal", rest, zero)))
    return g("Where", away, g("Add", rest, b), rest)


def _var(g: Graph, x: Argument, *, dim: int, keepdim: bool, correction: int) -> str:
    apart = g("Sub", x, g("ReduceMean", x, g.ints(dim), keepdims=1))
    total = g("ReduceSum", g("Mul", apart, apart), g.ints(dim), keepdims=int(keepdim))
    return g("Div", total, g.constant(max(x.shape[dim] - correction, 0), x.dtype))


def _group_norm(
    g: Graph,
    x: Argument,
    gain: Argument | None = None,
    bias: Argument | None = None,
    *,
    groups: int,
    eps: float,
) -> str:
    channels = x.shape[1]
    scale = g.constant(np.ones(channels), x.dtype) if gain is None else gain
    offset = g.constant(np.zeros(channels), x.dtype) if bias is None else bias
    return g("GroupNormalization", x, scale, offset, num_groups=groups, epsilon=float(eps))


def _extreme(op: str) -> Callable[..., str]:
    return ranked(lambda g, x, *, dim, keepdim: g(op, x, g.ints(dim), keepdims=int(keepdim)))


def _first(*, largest: bool) -> Callable[..., tuple[str, ...]]:
    def first(g: Graph, x: Argument, *, dim: int, keepdim: bool) -> tuple[str, ...]:
        found = g.several("TopK", x, g.ints(1), count=2, axis=dim, largest=int(largest))
        return found if keepdim else tuple(g("Squeeze", y, g.ints(dim)) for y in found)

    return ranked(first)


def _argsort(g: Graph, x: Argument, *, dim: int, descending: bool, stable: bool) -> str:
    del stable
    return g.several("TopK", x, g.ints(x.shape[dim]), count=2, axis=dim, largest=int(descending))[1]


def _arange(g: Graph, *, start: float, end: float, step: float, out: str) -> str:
    return g("Range", *(g.constant(n, dtype(out)) for n in (start, end, step)))


def _linspace(g: Graph, *, start: float, end: float, steps: int, out: str) -> Value:
    """Counted from the nearer end, which it so hits, as torch does."""
    to = dtype(out)
    high = wide(to)
    first, last, spaces = (g.constant(n, high) for n in (start, end, max(steps - 1, 1)))
    step = g("Div", g("Sub", last, first), spaces)
    from_start = g("Range", *(g.constant(np.int64(n), _I64) for n in (0, steps, 1)))
    from_end = g("Sub", g.constant(np.int64(steps - 1), _I64), from_start)
    up, down = (g("Mul", g("Cast", n, to=high), step) for n in (from_start, from_end))
    nearer = g("LessOrEqual", from_start, from_end)
    y = g("Where", nearer, g("Add", first, up), g("Sub", last, down))
    return y if high == to else g.cast(y, to)


def _cumprod(g: Graph, x: Argument, *, dim: int) -> str:
    g.opset = 26
    return g("CumProd", x, g.constant(np.int64(dim), _I64))


def _one_hot(g: Graph, ids: Argument, *, classes: int) -> str:
    # Its indices have a dimension at least.
    made = g("OneHot", ids if ids.shape else g.reshape(ids, 1), g.ints(classes), g.ints(0, 1))
    return made if ids.shape else g.reshape(made, classes)


def _tril_indices(g: Graph, *, rows: int, columns: int, offset: int) -> str:
    ones = g.constant(np.ones((rows, columns), np.int64), _I64)
    return g("NonZero", g("Trilu", ones, g.constant(np.int64(offset), _I64), upper=0))


def _meshgrid(g: Graph, a: Argument, b: Argument, *, indexing: str) -> tuple[str, ...]:
    rows, columns = a.shape[0], b.shape[0]
    if indexing == "xy":
        across, down = g.reshape(a, 1, rows), g.reshape(b, columns, 1)
        return tuple(g("Expand", each, g.ints(columns, rows)) for each in (across, down))
    down, across = g.reshape(a, rows, 1), g.reshape(b, 1, columns)
    return tuple(g("Expand", each, g.ints(rows, columns)) for each in (down, across))


def _rope_partial(
    g: Graph, x: Argument, positions: Argument, *, base: float, interleaved: bool, turned: int
) -> str:
    axis, size = len(x.shape) - 1, x.shape[-1]
    part = replace(x, name=g.cut(x, axis, 0, turned), shape=(*x.shape[:-1], turned))
    rotated: Value = rope(g, part, positions, base=base, interleaved=interleaved)
    return g("Concat", rotated, g.cut(x, axis, turned, size), axis=-1)


FUNCTION_OPS: dict[str, Callable[..., Any]] = {
    "sqrt": lambda g, x: g("Sqrt", x),
    "reciprocal": lambda g, x: g("Reciprocal", x),
    "relu_squared": _relu_squared,
    "softplus": lambda g, x: g("Softplus", x),
    "log": lambda g, x: g("Log", x),
    "sin": lambda g, x: g("Sin", x),
    "cos": lambda g, x: g("Cos", x),
    "pow": lambda g, a, b: g("Pow", a, b),
    "pow_scalar": _pow_scalar,
    "sub": lambda g, a, b: g("Sub", a, b),
    "floor_divide": _floor_divide,
    "trunc_divide": _trunc_divide,
    "remainder": _remainder,
    "var": ranked(_var),
    "norm": _extreme("ReduceL2"),
    "group_norm": _group_norm,
    "amax": _extreme("ReduceMax"),
    "amin": _extreme("ReduceMin"),
    "max": _first(largest=True),
    "min": _first(largest=False),
    "argsort": ranked(_argsort),
    "arange": _arange,
    "linspace": _linspace,
    "cumprod": ranked(_cumprod),
    "one_hot": _one_hot,
    "tril_indices": _tril_indices,
    "meshgrid": _meshgrid,
    "rope_partial": _rope_partial,
}
