"""Attention as a chip composes it from its own products, and what becomes of rows that see no key.

Shapes as in `torch.nn.functional.scaled_dot_product_attention`. Does not decide when it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["composed", "extended", "mask_of", "with_masked_rows"]

_Multiply = Callable[[Tensor, Tensor], Tensor]


def mask_of(q: Tensor, k: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor | None:
    """Return the mask as one tensor: torch's is_causal aligns the first query with the first key."""
    if not causal:
        return mask
    return torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()


def extended(mask: Tensor | None) -> Tensor | None:
    """Return a mask that shows each query one key more, after those that it sees."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        return mask | torch.nn.functional.pad(mask[..., :-1], (1, 0))
    return torch.maximum(mask, torch.nn.functional.pad(mask[..., :-1], (1, 0), value=float("-inf")))


def composed(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scale: float | None, multiply: _Multiply
) -> Tensor:
    """Return attention by two products, softmax in float32, weights stored in the dtype of v."""
    k, v = _heads(k, q), _heads(v, q)
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = multiply(q, k.transpose(-1, -2)).float() * factor
    if mask is not None:
        hidden = ~mask if mask.dtype == torch.bool else None
        scores = scores.masked_fill(hidden, float("-inf")) if hidden is not None else scores + mask.float()
    weights = torch.softmax(scores, dim=-1)
    # A row that sees nothing is decided by `with_masked_rows`; NaN would only pass through a product.
    weights = weights.masked_fill(_sees_nothing(mask), 0.0)
    return multiply(weights.to(v.dtype), v)


def _heads(x: Tensor, q: Tensor) -> Tensor:
    groups = q.shape[-3] // x.shape[-3] if x.dim() > 2 and x.shape[-3] else 1
    return x.repeat_interleave(groups, dim=-3) if groups > 1 else x


def _sees_nothing(mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.zeros((), dtype=torch.bool)
    hidden = ~mask if mask.dtype == torch.bool else mask == float("-inf")
    return hidden.all(dim=-1, keepdim=True)


def with_masked_rows(y: Tensor, v: Tensor, mask: Tensor | None, *, row: str) -> Tensor:
    """Return y with the rows that see no key as the chip makes them: `nan`, `zero` or `mean` of v."""
    if mask is None:
        return y
    empty = _sees_nothing(mask)
    if row == "mean":
        mean = _heads(v, y).float().mean(dim=-2, keepdim=True).to(y.dtype)
        return torch.where(empty, mean, y)
    return y.masked_fill(empty, float("nan") if row == "nan" else 0.0)
