"""Scaled, grouped and routed products as models write them in torch.

torch's own kernel is used where torch has one; what it does not take is said by torch itself, as
`unsupported`. Without one, groups and experts are looped over, which reads their numbers on the host; a
compiler must not, and computes every group for every row, then takes each row's own.
"""

# ruff: noqa: SLF001 - torch gives these kernels no public name in all versions
from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from parity.backend.base import Unsupported
from parity.backend.torch_tensor import torch_dtype
from parity.case.dtype import dtype

__all__ = [
    "block_scaled_mm",
    "block_scaled_mm_plain",
    "dequantised_mm",
    "grouped_mm",
    "grouped_mm_plain",
    "routed_mm",
    "scaled_mm",
    "scaled_mm_plain",
]

_ALIGNMENT_BYTES = 16
_GROUPED = {"cpu": (torch.float32, torch.bfloat16, torch.float16), "cuda": (torch.bfloat16,)}


def scaled_mm(x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, *, out: str) -> Tensor:
    """Multiply by torch's scaled kernel, which takes one scale for both or one for each row of both.

    It takes no empty operand (torch 2.13, CPU: `max(): Expected reduction dim`).
    """
    if not x.numel() or not w.numel():
        return scaled_mm_plain(x, w, x_scale, w_scale, out=out)
    if x.device.type == "cuda" and (x.shape[1] % 16 or w.shape[0] % 16):
        raise Unsupported(f"torch._scaled_mm takes multiples of 16, not K={x.shape[1]}, N={w.shape[0]}")
    if x_scale.numel() > 1 or w_scale.numel() > 1:
        x_scale = x_scale.reshape(-1, 1).expand(x.shape[0], 1).contiguous()
        w_scale = w_scale.reshape(1, -1).expand(1, w.shape[0]).contiguous()
    else:
        x_scale, w_scale = x_scale.reshape(()), w_scale.reshape(())
    return torch._scaled_mm(
        x.contiguous(),
        w.contiguous().t(),
        scale_a=x_scale,
        scale_b=w_scale,
        out_dtype=torch_dtype(dtype(out)),
    )


def scaled_mm_plain(x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, *, out: str) -> Tensor:
    """The same in operations that any compiler knows."""
    y = F.linear(x.float(), w.float()) * x_scale * w_scale.reshape(1, -1)
    return y.to(torch_dtype(dtype(out)))


def dequantised_mm(x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, *, out: str) -> Tensor:
    """Scale in float32, round to the type of the result, multiply in it."""
    to = torch_dtype(dtype(out))
    return F.linear((x.float() * x_scale).to(to), (w.float() * w_scale).to(to))


def block_scaled_mm(
    x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, *, block: int, block_rows: int, out: str
) -> Tensor:
    """Add up one float32 product for each block of K, scaled in float32."""
    if x_scale.dtype == torch.uint8 and hasattr(torch, "float8_e8m0fnu"):  # since torch 2.7
        x_scale, w_scale = (t.view(torch.float8_e8m0fnu).float() for t in (x_scale, w_scale))
    return block_scaled_mm_plain(x, w, x_scale, w_scale, block=block, block_rows=block_rows, out=out)


def block_scaled_mm_plain(
    x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, *, block: int, block_rows: int, out: str
) -> Tensor:
    """The same in operations that any compiler knows."""
    of_rows, of_columns = _scales(x_scale), _scales(w_scale)
    of_columns = of_columns.repeat_interleave(block_rows, dim=0)[: w.shape[0]]
    y = torch.zeros(x.shape[0], w.shape[0], dtype=torch.float32, device=x.device)
    for number in range(x.shape[1] // block):
        here = slice(number * block, (number + 1) * block)
        part = F.linear(x[:, here].float(), w[:, here].float())
        y = y + part * of_rows[:, number, None] * of_columns[None, :, number]
    return y.to(torch_dtype(dtype(out)))


def _scales(scale: Tensor) -> Tensor:
    if scale.dtype != torch.uint8:
        return scale
    powers = [2.0 ** (code - 127) for code in range(255)]
    return torch.tensor([*powers, math.nan], dtype=torch.float32, device=scale.device)[scale.long()]


def grouped_mm(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Multiply by torch's grouped kernel where it is legal; it leaves rows that no group owns unwritten."""
    if torch.compiler.is_compiling() or not _takes_groups(x, w):
        return grouped_mm_plain(x, w, ends)
    y = torch._grouped_mm(x.contiguous(), w.contiguous(), offs=ends)
    owned = torch.arange(x.shape[0], device=x.device) < ends[-1]
    return torch.where(owned[:, None], y, torch.zeros_like(y))


def _takes_groups(x: Tensor, w: Tensor) -> bool:
    known = hasattr(torch, "_grouped_mm") and x.dtype in _GROUPED.get(x.device.type, ())
    aligned = all(n * x.element_size() % _ALIGNMENT_BYTES == 0 for n in w.shape[1:])
    return known and aligned and x.numel() > 0


def grouped_mm_plain(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Multiply the rows of each group."""
    if torch.compiler.is_compiling():
        return _grouped_without_a_loop(x, w, ends)
    y, start = x.new_zeros(x.shape[0], w.shape[2]), 0
    for group, end in enumerate(ends.cpu().tolist()):
        y[start:end] = x[start:end] @ w[group]
        start = end
    return y


def _grouped_without_a_loop(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Multiply every row with every matrix: shapes that do not vary, as a compiler wants them."""
    rows = torch.arange(x.shape[0], device=x.device)
    group = (rows[:, None] >= ends[None, :]).sum(-1)  # the number of groups that end before it
    every = torch.matmul(x[None], w).permute(1, 0, 2)  # [T, G, N]
    at = group.clamp(max=w.shape[0] - 1)[:, None, None].expand(-1, 1, w.shape[2])
    own = torch.gather(every, 1, at)[:, 0]
    return torch.where((group < w.shape[0])[:, None], own, torch.zeros_like(own))


def routed_mm(x: Tensor, chosen: Tensor, w: Tensor) -> Tensor:
    """Multiply the rows of each expert that some row chose."""
    if torch.compiler.is_compiling():
        return _routed_without_a_loop(x, chosen, w)
    y = x.new_zeros(*chosen.shape, w.shape[1])
    for expert in sorted(set(chosen.flatten().cpu().tolist())):
        rows, place = torch.where(chosen == expert)
        y[rows, place] = F.linear(x[rows], w[expert])
    return y


def _routed_without_a_loop(x: Tensor, chosen: Tensor, w: Tensor) -> Tensor:
    """Multiply every row with every expert, as above."""
    every = torch.matmul(x[None], w.transpose(1, 2)).permute(1, 0, 2)  # [T, E, N]
    return torch.gather(every, 1, chosen[..., None].expand(-1, -1, w.shape[1]))
