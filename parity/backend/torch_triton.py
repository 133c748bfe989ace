"""Run steps by our Triton kernels: a launch for each, its evidence, and what mode `triton` needs.

Importing this imports Triton, and with it the choice between interpreter and compiler. An op without a
kernel is unsupported. Does not hold kernels; `triton_kernels` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.backend import triton_kernels as kernels
from parity.backend.base import Node, Unsupported, Witness
from parity.backend.torch_eager import as_tuple
from parity.backend.torch_tensor import dtype_of
from parity.backend.torch_witness import NOTHING_RAN
from parity.case.case import Step
from parity.case.dtype import DType

__all__ = ["TRITON_OPS", "Launches", "is_interpreted", "properties", "run_fused"]

_KINDS = (torch.float32, torch.bfloat16, torch.float16)
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_BLOCK = 1024


class Launches:
    """What one step launches, and the copies that it makes of strided tensors, in order."""

    def __init__(self) -> None:
        self.executed: list[Node] = []
        self.moved: list[Node] = []

    def __call__(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        """Launch a kernel unless its grid is empty, and note the types of its tensors."""
        if not all(grid):
            return
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        types = [dtype_of(t.dtype) for t in tensors]
        kind = f"triton:{kernel.fn.__name__}({', '.join(t.name for t in types)})"
        # Infinities and NaN are computed with on purpose, of which numpy warns in the interpreter.
        with np.errstate(all="ignore"):
            kernel[grid](*arguments, **constants)
        node = Node(kind=kind, device=str(tensors[0].device), precision=_coarsest(types))
        self.executed.append(node)

    def dense(self, x: Tensor) -> Tensor:
        """Return x in row-major memory, copied where it is not."""
        if x.is_contiguous():
            return x
        node = Node(kind="aten::clone", device=str(x.device), precision=dtype_of(x.dtype).name)
        self.moved.append(node)
        return x.contiguous()

    def witness(self, outputs: Sequence[Tensor]) -> Witness:
        """Return the evidence; of a result without elements nothing is launched."""
        executed = list(self.executed)
        if not executed and not any(t.numel() for t in outputs):
            executed = [
                Node(kind=NOTHING_RAN, device=str(t.device), precision=dtype_of(t.dtype).name)
                for t in outputs
            ]
        return Witness(executed=tuple(executed), moved=tuple(self.moved))


def _coarsest(types: Sequence[DType]) -> str:
    """Return the float type with the fewest bits of significand, or the widest of others."""
    floats = [t for t in types if t.is_float]
    if floats:
        return max(floats, key=lambda t: t.unit_roundoff).name
    return max(types, key=lambda t: t.bits).name


def _power(n: int, least: int = 1) -> int:
    """Return the smallest power of two that is not below n: the length of a block."""
    return max(1 << (n - 1).bit_length() if n > 1 else 1, least)


def _add_rms_norm(
    launch: Launches, x: Tensor, residual: Tensor, g: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    x, residual, g = (launch.dense(t) for t in (x, residual, g))
    total, y, columns = torch.empty_like(x), torch.empty_like(x), x.shape[-1]
    rows = x.numel() // max(columns, 1)
    launch(kernels.add_rms_norm, (rows,), x, residual, g, total, y, columns, eps, BLOCK=_power(columns))
    return total, y


def _rms_norm(launch: Launches, x: Tensor, g: Tensor | None = None, *, eps: float) -> Tensor:
    x, columns = launch.dense(x), x.shape[-1]
    y, weight = torch.empty_like(x), x if g is None else launch.dense(g)
    rows, has_g = x.numel() // max(columns, 1), g is not None
    launch(kernels.rms_norm, (rows,), x, weight, y, columns, eps, HAS_G=has_g, BLOCK=_power(columns))
    return y


def _softmax(launch: Launches, x: Tensor, *, dim: int) -> Tensor:
    x = launch.dense(x)
    y, size = torch.empty_like(x), x.shape[dim] if x.dim() else 1
    inner = math.prod(x.shape[dim % x.dim() + 1 :]) if x.dim() else 1
    launch(kernels.softmax, (x.numel() // max(size, 1),), x, y, size, inner, BLOCK=_power(size))
    return y


def _swiglu(launch: Launches, gate: Tensor, up: Tensor) -> Tensor:
    gate, up = launch.dense(gate), launch.dense(up)
    y, size = torch.empty_like(gate), gate.numel()
    grid = (1 if size else 0, -(-size // _BLOCK))
    launch(kernels.gated, grid, gate, up, y, size, size, 0, KIND="silu", BLOCK=_BLOCK)
    return y


def _gated(launch: Launches, x: Tensor, *, activation: str) -> Tensor:
    x, columns = launch.dense(x), x.shape[-1] // 2
    y = x.new_empty((*x.shape[:-1], columns))
    block = min(_BLOCK, _power(columns))
    grid = (y.numel() // max(columns, 1), -(-columns // block))
    launch(kernels.gated, grid, x, x, y, columns, 2 * columns, columns, KIND=activation, BLOCK=block)
    return y


def _norm_rotate(
    launch: Launches, *inputs: Tensor, heads: int, kv_heads: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    qkv, q_weight, k_weight, cos, sin = (launch.dense(t) for t in inputs)
    tokens, half = cos.shape
    q, k, v = (qkv.new_empty((tokens, n, 2 * half)) for n in (heads, kv_heads, kv_heads))
    grid = (tokens, heads + 2 * kv_heads)
    tensors = (qkv, q_weight, k_weight, cos, sin, q, k, v)
    launch(kernels.norm_rotate, grid, *tensors, eps, H=heads, G=kv_heads, HALF=half, BLOCK=_power(half))
    return q, k, v


def _hstu_attention(
    launch: Launches,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    *,
    scale: float,
    length: int,
) -> Tensor:
    q, k, v, added = (launch.dense(t) for t in (q, k, v, q if bias is None else bias))
    (tokens, heads, size), values = q.shape, v.shape[-1]
    y, rows = torch.empty_like(v), 32
    launch(
        kernels.hstu_attention, (-(-tokens // rows), heads), q, k, v, added, y, tokens, scale, length,
        H=heads, D=size, E=values, HAS_BIAS=bias is not None,
        # A product of blocks has at least 16 on each side on every chip.
        ROWS=rows, KEYS=32, BLOCK_D=_power(size, 16), BLOCK_E=_power(values, 16),
    )  # fmt: skip
    return y


def _cat(launch: Launches, *tensors: Tensor, dim: int) -> Tensor:
    """Join what an empty result is joined with, bit for bit."""
    parts = [launch.dense(t).view(_BITS[t.element_size()]) for t in tensors]
    dim %= tensors[0].dim()
    shape = list(tensors[0].shape)
    shape[dim] = sum(t.shape[dim] for t in tensors)
    y = parts[0].new_empty(shape)
    inner, offset = math.prod(shape[dim + 1 :]), 0
    for part in parts:
        run = part.shape[dim] * inner
        grid = (-(-part.numel() // _BLOCK),)
        launch(kernels.join, grid, part, y, part.numel(), run, shape[dim] * inner, offset, BLOCK=_BLOCK)
        offset += run
    return y.view(tensors[0].dtype)


TRITON_OPS: Mapping[str, Callable[..., Any]] = {
    "add_rms_norm": _add_rms_norm,
    "cat": _cat,
    "gated": _gated,
    "hstu_attention": _hstu_attention,
    "norm_rotate": _norm_rotate,
    "rms_norm": _rms_norm,
    "softmax": _softmax,
    "swiglu": _swiglu,
}


def run_fused(step: Step, inputs: Sequence[Tensor | None]) -> tuple[tuple[Tensor, ...], Witness]:
    """Run one step by its kernel. Raises Unsupported for an op, or types, that no kernel is written for."""
    if step.op not in TRITON_OPS:
        raise Unsupported(f"op '{step.op}' has no Triton kernel")
    other = [t for t in inputs if t is not None and t.dtype not in _KINDS]
    if other and step.op != "cat":
        name = dtype_of(other[0].dtype).name
        raise Unsupported(f"the Triton kernel of '{step.op}' takes f32, bf16 and f16, not {name}")
    launches = Launches()
    with torch.no_grad():
        outputs = as_tuple(TRITON_OPS[step.op](launches, *inputs, **step.attrs))
    return outputs, launches.witness(outputs)


def is_interpreted() -> bool:
    """Whether Triton was loaded to interpret kernels, as numpy operations on this host."""
    return type(kernels.rms_norm).__name__ == "InterpretedFunction"


def properties() -> dict[str, str]:
    """Return Triton's version, and whether kernels are compiled or run by its interpreter."""
    return {
        "triton": kernels.version(),
        "triton.kernels": "interpreted" if is_interpreted() else "compiled",
    }
