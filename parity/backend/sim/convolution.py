"""Convolution as one matrix product per group, for chips that declare how it reads its operands.

Any number of spatial dimensions. Does not transpose.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["convolution"]


def convolution(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    multiply: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Return x [B, C, …] convolved with w [F, C / groups, …]; the bias is added in the sum's precision."""
    sizes = tuple(w.shape[2:])
    x = torch.nn.functional.pad(x, [p for each in reversed(padding) for p in (each, each)])
    out = tuple(
        (length - d * (k - 1) - 1) // s + 1
        for length, k, s, d in zip(x.shape[2:], sizes, stride, dilation, strict=True)
    )
    taps = []
    for at in itertools.product(*(range(size) for size in sizes)):
        window = x
        for dim, (start, d, s, length) in enumerate(zip(at, dilation, stride, out, strict=True)):
            window = window.narrow(dim + 2, start * d, (length - 1) * s + 1 if length else 0)
            window = window[(slice(None),) * (dim + 2) + (slice(None, None, s),)]
        taps.append(window.reshape(x.shape[0], groups, x.shape[1] // groups, -1))
    # Channel, then place, as the weights lie: K = C / groups * taps.
    columns = torch.stack(taps, dim=3).flatten(2, 3)
    rows = w.reshape(groups, w.shape[0] // groups, math.prod(w.shape[1:]))
    y = multiply(rows, columns)
    y = y.reshape(x.shape[0], w.shape[0], *out)
    return y if bias is None else y + bias.double().reshape(-1, *[1] * len(sizes))
