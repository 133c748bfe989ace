"""Parts of operations that torch does not take apart itself, in torch's own words. Computes nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["PARTS"]


def _cdist(a: Tensor, b: Tensor, p: float, compute_mode: int | None) -> Tensor:
    del compute_mode
    apart = a.unsqueeze(-2) - b.unsqueeze(-3)
    if p not in (0, 1, 2, torch.inf):  # also of one dimension, where a norm would be the distance itself
        total: Tensor = apart.abs().pow(p).sum(-1)
        return total.pow(1 / p)
    far: Tensor = torch.linalg.vector_norm(apart, p, dim=-1)
    return far


def _entr(x: Tensor) -> Tensor:
    return torch.where(
        x > 0, -x * torch.log(x), torch.where(x == 0, 0.0 * x, -torch.inf * torch.ones_like(x))
    )


def _logcumsumexp(x: Tensor, dim: int) -> Tensor:
    if not x.dim():
        return x
    rows = x.unbind(dim)
    made = [rows[0]]
    for row in rows[1:]:
        made.append(torch.logaddexp(made[-1], row))
    return torch.stack(made, dim)


def _flash(q: Tensor, k: Tensor, v: Tensor, *given: Any, **rest: Any) -> Any:
    is_causal = rest.get("is_causal", given[1] if len(given) > 1 else False)
    mask, scale = rest.get("attn_mask"), rest.get("scale")
    scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask
    return torch.softmax(scores, -1) @ v, torch.logsumexp(scores, -1)


def _addbmm(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    total: Tensor = beta * c + alpha * torch.bmm(a, b).sum(0)
    return total


def _variance(
    x: Tensor, *given: Any, correction: float | None = None, keepdim: bool = False, **_: Any
) -> Any:
    """Two passes, for each of the ways in which torch's overloads say how much is taken off the count."""
    dims, less = None, 1.0 if correction is None else float(correction)
    for value in given[:2]:
        if isinstance(value, (int, float)):
            less = float(value)
        else:
            dims = value
    if len(given) > 2:
        keepdim = bool(given[2])
    dims = list(range(x.dim())) if dims is None or not len(dims) else list(dims)
    count = x.numel() / max(x.sum(dims).numel(), 1)
    apart = x - x.sum(dims, keepdim=True) / count
    total: Tensor = (apart * apart).sum(dims, keepdim=keepdim) / max(count - less, 0.0)
    return total


def _batch_norm(
    x: Tensor, w: Tensor | None, b: Tensor | None, mean: Tensor | None, var: Tensor | None, *rest: Any
) -> Any:
    """Scale and shift folded into one product and one sum: devices do either, and this loses more."""
    training, _, eps = rest[:3]
    none = x.new_zeros((0,))
    if training:
        if mean is not None:
            return NotImplemented  # it writes to its running statistics
        dims = [0, *range(2, x.dim())]
        count = x.numel() / max(x.shape[1], 1)
        mean = x.sum(dims) / count
        apart = x - mean.reshape(1, -1, *[1] * (x.dim() - 2))
        var = (apart * apart).sum(dims) / count
    assert mean is not None
    assert var is not None
    inverse = torch.rsqrt(var + eps)
    scale = inverse if w is None else inverse * w
    shift = -mean * scale if b is None else b - mean * scale
    scale, shift = (t.reshape(1, -1, *[1] * (x.dim() - 2)) for t in (scale, shift))
    return x * scale + shift, mean if training else none, inverse if training else none


def _polar(size: Tensor, angle: Tensor) -> Tensor:
    return torch.complex(size * torch.cos(angle), size * torch.sin(angle))


PARTS: Mapping[str, Callable[..., Any]] = {
    "_cdist_forward": _cdist,
    "_scaled_dot_product_flash_attention_for_cpu": _flash,
    "addbmm": _addbmm,
    "logcumsumexp": _logcumsumexp,
    "native_batch_norm": _batch_norm,
    "polar": _polar,
    "special_entr": _entr,
    "var": _variance,
}
