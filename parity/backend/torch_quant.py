"""Quantised linear layers as models write them in torch.

On the CPU, torch's packed-weight kernels are used where shape and dtype are legal for them;
elsewhere weights are dequantised and multiplied in float32, which is what those kernels do too,
and the result is rounded once. Scales hold one number per row (or one for all), in any shape.
Does not quantise.
"""

# ruff: noqa: SLF001 - torch gives its quantised kernels no public name
from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from parity.backend.torch_tensor import torch_dtype
from parity.case.dtype import dtype

__all__ = [
    "int4_weight_linear",
    "int4_weight_linear_plain",
    "int8_linear",
    "int8_linear_plain",
    "int8_weight_linear",
    "int8_weight_linear_plain",
]

_PACKED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_ALIGNMENT_BYTES = 64


def int8_linear(x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, *, out: str) -> Tensor:
    """Sum in int32, exactly; then scale in float32: by the row of x, by the row of w."""
    rows = x.reshape(-1, x.shape[-1])
    total = torch._int_mm(rows, w.t()) if _int_mm_is_legal(rows, w) else rows.int() @ w.int().t()
    return _scaled(total, x, x_scale, w_scale, out)


def int8_linear_plain(x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, *, out: str) -> Tensor:
    """The same in operations that any compiler knows."""
    total = x.reshape(-1, x.shape[-1]).int() @ w.int().t()
    return _scaled(total, x, x_scale, w_scale, out)


def _scaled(total: Tensor, x: Tensor, x_scale: Tensor, w_scale: Tensor, out: str) -> Tensor:
    scaled = total.float() * x_scale.float().reshape(-1, 1) * w_scale.float().reshape(1, -1)
    return scaled.to(torch_dtype(dtype(out))).reshape(*x.shape[:-1], total.shape[-1])


def _int_mm_is_legal(x: Tensor, w: Tensor) -> bool:
    # CUDA's kernel wants more than 16 rows and sizes in multiples of 8; the CPU's takes any.
    return x.device.type == "cpu" or (x.shape[0] > 16 and x.shape[1] % 8 == 0 and w.shape[0] % 8 == 0)


def int8_weight_linear(x: Tensor, w: Tensor, scale: Tensor) -> Tensor:
    """Multiply by int8 weights with one scale per row, by the packed kernel where it is legal.

    The kernel checks nothing: it loads 16 elements at a time from aligned addresses, so another K
    gives garbage or a segmentation fault (torch 2.13 on AVX-512, bf16, K = 1027 and K = 8).
    """
    if not (_is_packed(x) and x.shape[-1] % 16 == 0 and w.shape[0] % 4 == 0):
        return int8_weight_linear_plain(x, w, scale)
    per_row = scale.reshape(-1).expand(w.shape[0]).to(x.dtype)
    y = torch._weight_int8pack_mm(_aligned(x.reshape(-1, x.shape[-1])), _aligned(w), _aligned(per_row))
    return y.reshape(*x.shape[:-1], w.shape[0])


def int8_weight_linear_plain(x: Tensor, w: Tensor, scale: Tensor) -> Tensor:
    """The same in operations that any compiler knows."""
    dequantised = w.float() * scale.float().reshape(-1, 1)
    return F.linear(x.float(), dequantised).to(x.dtype)


def int4_weight_linear(x: Tensor, w: Tensor, scale: Tensor, *, group: int) -> Tensor:
    """Multiply by 4-bit weights, by the packed kernel where it is legal.

    w is uint8 [N, K/2] with the low nibble first, scale is [N, K/group]. The kernel dequantises
    in float32 (measured: bf16 results equal the rounded exact ones).
    """
    size, rows = x.shape[-1], w.shape[0]
    known = hasattr(torch, "_weight_int4pack_mm_for_cpu") and group in (32, 64, 128, 256)
    if not (known and _is_packed(x) and rows % 16 == 0):
        return int4_weight_linear_plain(x, w, scale, group=group)
    packed = torch._convert_weight_to_int4pack_for_cpu(_nibbles(w).int(), 1)
    per_group = scale.reshape(rows, size // group).t().to(x.dtype)
    scale_and_zero = torch.stack((per_group, torch.zeros_like(per_group)), dim=-1)
    y = torch._weight_int4pack_mm_for_cpu(_aligned(x.reshape(-1, size)), packed, group, scale_and_zero)
    return y.reshape(*x.shape[:-1], rows)


def int4_weight_linear_plain(x: Tensor, w: Tensor, scale: Tensor, *, group: int) -> Tensor:
    """The same in operations that any compiler knows."""
    per_group = scale.float().reshape(w.shape[0], -1)
    dequantised = (_nibbles(w).float() - 8) * per_group.repeat_interleave(group, dim=-1)
    return F.linear(x.float(), dequantised).to(x.dtype)


def _nibbles(w: Tensor) -> Tensor:
    return torch.stack((w & 15, w >> 4), dim=-1).flatten(-2)


def _is_packed(x: Tensor) -> bool:
    # A compiler cannot trace where a tensor lies, which the packed kernels care about.
    return x.device.type == "cpu" and x.dtype in _PACKED_DTYPES and not torch.compiler.is_compiling()


def _aligned(x: Tensor) -> Tensor:
    x = x.contiguous()
    # An empty tensor calls itself contiguous whatever its strides, which the kernels look at.
    is_ready = x.numel() and not x.data_ptr() % _ALIGNMENT_BYTES
    return x if is_ready else x.clone(memory_format=torch.contiguous_format)
