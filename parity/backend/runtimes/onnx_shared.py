"""What several groups of ops have in common when they are written in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from parity.backend.base import Unsupported
from parity.backend.runtimes.onnx_graph import Argument, Graph, Value
from parity.case.dtype import DTYPES, DType
from parity.case.tensor import HostTensor

__all__ = ["band", "ranked", "rope", "silu", "wide", "zeros"]


def wide(of: DType) -> DType:
    """Return the type that a formula is computed in which is wider than its tensors: float32 at least."""
    return of if of.name == "f64" else DTYPES["f32"]


def zeros(g: Graph, shape: Value, of: DType) -> str:
    """Return zeros of a shape that an int64 vector holds."""
    return g("ConstantOfShape", shape, value=HostTensor.of(np.zeros(1, of.storage), of))


def band(rows: int, keys: int, *, causal: bool, window: int | None) -> npt.NDArray[np.bool_]:
    """Return bool [rows, keys]: which keys each query sees, the last of which sees the last key."""
    query = np.arange(rows)[:, None] + (keys - rows)
    key = np.arange(keys)[None]
    seen = key <= query if causal else np.ones((rows, keys), bool)
    return seen if window is None else seen & (key > query - window)


def silu(g: Graph, x: Value) -> str:
    """x sigmoid(x)."""
    return g("Mul", x, g("Sigmoid", x))


def ranked(op: Callable[..., Any]) -> Callable[..., Any]:
    """Let an op along a dimension take a scalar, which has none in ONNX: as one element, and back."""

    def lifted(g: Graph, x: Argument, **attrs: Any) -> Any:
        if x.shape:
            return op(g, x, **attrs)
        made = op(g, Argument(g.reshape(x, 1), x.dtype, (1,)), **attrs)
        return tuple(g.reshape(y) for y in made) if isinstance(made, tuple) else g.reshape(made)

    return lifted


def rope(g: Graph, x: Argument, positions: Argument, *, base: float, interleaved: bool) -> Value:
    """Return x turned by angles that are made in float32, in one `RotaryEmbedding` over [B, H, T, D]."""
    high, size = wide(x.dtype), x.shape[-1]
    inverse = g.constant(1 / base ** (np.arange(0, size, 2) / size), high)
    places = positions.shape if len(positions.shape) > 1 else (1, *positions.shape)
    angle = g("Mul", g.reshape(g.cast(positions, high), *places, 1), inverse)
    heads = x.shape if len(x.shape) == 4 and places[0] == x.shape[0] else _as_heads(x, places)
    turned = g(
        "RotaryEmbedding",
        g.reshape(g.cast(x, high), *heads) if heads != x.shape else g.cast(x, high),
        g("Cos", angle),
        g("Sin", angle),
        interleaved=int(interleaved),
    )
    return g.cast(g.reshape(turned, *x.shape) if heads != x.shape else turned, x.dtype)


def _as_heads(x: Argument, places: tuple[int, ...]) -> tuple[int, ...]:
    if places[0] != 1:
        raise Unsupported(f"RotaryEmbedding takes [B, H, T, D], got {list(x.shape)}")
    return (1, int(np.prod(x.shape[:-2])), *x.shape[-2:])
