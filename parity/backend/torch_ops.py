"""How each op of the op table is written in torch, as model code writes it.

Attributes arrive as keywords. Does not choose kernels: what torch dispatches to is what is
under test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from parity.backend.torch_attention import attention, rope, split_attention, wide
from parity.backend.torch_decoder import DECODER_OPS
from parity.backend.torch_function import FUNCTION_OPS
from parity.backend.torch_fused import FUSED_OPS
from parity.backend.torch_indexing import INDEXING_OPS, written_index
from parity.backend.torch_product import (
    block_scaled_mm,
    block_scaled_mm_plain,
    dequantised_mm,
    grouped_mm,
    grouped_mm_plain,
    routed_mm,
    scaled_mm,
    scaled_mm_plain,
)
from parity.backend.torch_quant import (
    int4_weight_linear,
    int4_weight_linear_plain,
    int8_linear,
    int8_linear_plain,
    int8_weight_linear,
    int8_weight_linear_plain,
)
from parity.backend.torch_tensor import torch_dtype
from parity.case.dtype import dtype

__all__ = ["PLAIN_OPS", "TORCH_OPS"]


def _rms_norm(x: Tensor, g: Tensor | None = None, *, eps: float) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], g, eps)


def _layer_norm(x: Tensor, g: Tensor | None = None, b: Tensor | None = None, *, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], g, b, eps)


def _conv1d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    causal: bool,
) -> Tensor:
    if not causal:
        return F.conv1d(x, w, bias, stride, padding, dilation, groups)
    # As state-space models write it: pad both ends, keep what no later element reaches.
    y = F.conv1d(x, w, bias, stride, dilation * (w.shape[-1] - 1), dilation, groups)
    return y[..., : -(-x.shape[-1] // stride)]


def _conv2d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
) -> Tensor:
    return F.conv2d(x, w, bias, stride, padding, dilation, groups)


def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(wide(gate)).mul(wide(up)).to(gate.dtype)


def _index_put(x: Tensor, index: Tensor, values: Tensor, *, accumulate: bool) -> Tensor:
    return x.index_put((index,), values, accumulate=accumulate)


def _cat(*tensors: Tensor, dim: int) -> Tensor:
    return torch.cat(tensors, dim=dim)


def _slice(x: Tensor, *, index: str) -> Tensor:
    return x[written_index(index)]


def _slice_assign(x: Tensor, values: Tensor, *, index: str) -> Tensor:
    y = x.clone()
    y[written_index(index)] = values
    return y


def _triu_indices(*, rows: int, columns: int, offset: int) -> Tensor:
    return torch.triu_indices(rows, columns, offset)


def _topk(x: Tensor, *, k: int, dim: int, largest: bool) -> tuple[Tensor, ...]:
    return tuple(torch.topk(x, k, dim=dim, largest=largest, sorted=True))


def _sort(x: Tensor, *, dim: int, descending: bool, stable: bool) -> tuple[Tensor, ...]:
    return tuple(torch.sort(x, dim=dim, descending=descending, stable=stable))


def _cast(x: Tensor, *, to: str) -> Tensor:
    return x.to(torch_dtype(dtype(to)))


TORCH_OPS: dict[str, Callable[..., Any]] = {
    "matmul": torch.matmul,
    "bmm": torch.bmm,
    "linear": F.linear,
    "addmm": torch.addmm,
    "conv1d": _conv1d,
    "conv2d": _conv2d,
    "sum": torch.sum,
    "mean": torch.mean,
    "cumsum": torch.cumsum,
    "logsumexp": torch.logsumexp,
    "softmax": F.softmax,
    "log_softmax": F.log_softmax,
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "add": torch.add,
    "mul": torch.mul,
    "div": torch.div,
    "erf": torch.erf,
    "rsqrt": torch.rsqrt,
    "exp": torch.exp,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "gelu_erf": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "swiglu": _swiglu,
    "attention": attention,
    "rope": rope,
    "embedding": lambda table, ids: F.embedding(ids, table),
    "gather": lambda x, index, *, dim: torch.gather(x, dim, index),
    "index": lambda x, index: x[index],
    "index_put": _index_put,
    "scatter_add": lambda x, index, src, *, dim: torch.scatter_add(x, dim, index, src),
    "where": torch.where,
    "cat": _cat,
    "slice": _slice,
    "slice_assign": _slice_assign,
    "tril": torch.tril,
    "triu": torch.triu,
    "triu_indices": _triu_indices,
    "topk": _topk,
    "argmax": torch.argmax,
    "sort": _sort,
    "cast": _cast,
    "int8_linear": int8_linear,
    "int8_weight_linear": int8_weight_linear,
    "int4_weight_linear": int4_weight_linear,
    "scaled_mm": scaled_mm,
    "dequantised_mm": dequantised_mm,
    "block_scaled_mm": block_scaled_mm,
    "grouped_mm": grouped_mm,
    "routed_mm": routed_mm,
    "split_attention": split_attention,
    **DECODER_OPS,
    **FUNCTION_OPS,
    **FUSED_OPS,
    **INDEXING_OPS,
}

# The same without kernels that exist on one device only, for a compiler to another one.
PLAIN_OPS: dict[str, Callable[..., Any]] = {
    **TORCH_OPS,
    "int8_linear": int8_linear_plain,
    "int8_weight_linear": int8_weight_linear_plain,
    "int4_weight_linear": int4_weight_linear_plain,
    "scaled_mm": scaled_mm_plain,
    "block_scaled_mm": block_scaled_mm_plain,
    "grouped_mm": grouped_mm_plain,
}
