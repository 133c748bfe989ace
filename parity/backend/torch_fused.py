"""Ops that kernels fuse, as model code writes them in torch: one call after another.

Each call stores its result in the type of the tensors; norms compute in float32 inside. Does not fuse
anything: `triton_kernels` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from parity.backend.torch_decoder import DECODER_OPS

__all__ = ["FUSED_OPS"]


def _add_rms_norm(x: Tensor, residual: Tensor, g: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """Return x + residual and its norm times g."""
    total = x + residual
    return total, F.rms_norm(total, total.shape[-1:], g, eps)


def _norm_rotate(
    qkv: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    heads: int,
    kv_heads: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return q [T, H, D] and k [T, G, D], normalised by head and turned, and v [T, G, D] as it is."""
    by_head = qkv.reshape(len(qkv), heads + 2 * kv_heads, 2 * cos.shape[-1])
    q, k = by_head[:, :heads], by_head[:, heads : heads + kv_heads]
    q, k = (F.rms_norm(t, t.shape[-1:], w, eps) for t, w in ((q, q_weight), (k, k_weight)))
    turn = DECODER_OPS["rotate"]
    return (
        turn(q, cos, sin, interleaved=False),
        turn(k, cos, sin, interleaved=False),
        by_head[:, heads + kv_heads :].clone(),
    )


def _hstu_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, scale: float, length: int
) -> Tensor:
    """Causal attention whose weights are silu(scale q k^T + bias) / length; [T, H, E] like v."""
    scores = q.transpose(0, 1) @ k.permute(1, 2, 0) * scale
    if bias is not None:
        scores = scores + bias
    weights = (F.silu(scores) / length).tril()
    return (weights @ v.transpose(0, 1)).transpose(0, 1).contiguous()


FUSED_OPS: dict[str, Callable[..., Any]] = {
    "add_rms_norm": _add_rms_norm,
    "hstu_attention": _hstu_attention,
    "norm_rotate": _norm_rotate,
}
