"""Convolutions: each output is a sum of K = (channels of a group) x (taps) products, as in a matmul.

The oracle gathers the windows by index and multiplies matrices; it calls no convolution. Winograd
and FFT algorithms are no sums of these products in any order: their larger error must be declared.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from parity.judge.budget import Budget, Expected, Question
from parity.judge.classes.sums import product, with_addend

__all__ = ["conv1d", "conv2d"]


def conv1d(q: Question) -> tuple[Expected, ...]:
    """y = sum over C / groups x K of w x, + bias: the matmul rule, then one addition
    u (|y - bias| + |y|). causal keeps what reads no later element."""
    dilation = q.integer("dilation")
    assert q.inputs[1] is not None
    before, after = (q.integer("padding"),) * 2
    if q.attrs["causal"]:
        before, after = dilation * (q.inputs[1].shape[-1] - 1), 0
    return (_convolution(q, (before, after)),)


def conv2d(q: Question) -> tuple[Expected, ...]:
    """y = sum over C / groups x R x S of w x, + bias: the matmul rule, then one addition
    u (|y - bias| + |y|)."""
    return (_convolution(q, (q.integer("padding"),) * 4),)


def _convolution(q: Question, padding: tuple[int, ...]) -> Budget:
    x, w, bias = (*q.inputs, None)[:3]
    assert x is not None and w is not None
    groups, outputs = q.integer("groups"), w.shape[0]
    windows, sizes = _windows(q, pad(x, padding), w.shape[2:])
    weights = w.reshape(groups, outputs // groups, -1)
    value, hard, variance, free = product(q, weights, windows, dtype=q.dtype)
    padded, _ = _windows(q, pad(torch.zeros_like(x), padding, value=1.0), w.shape[2:])
    # A kernel may skip the zeros around x, so whether an infinite weight meets one is open.
    meets = (~weights.isfinite()).to(torch.float64) @ padded > 0
    shape = (x.shape[0], outputs, *sizes)
    value, hard, variance, free = (t.reshape(shape) for t in (value, hard, variance, free | meets))
    middle = q.unit_of("product_rounded")
    addend = None if bias is None else bias.reshape(-1, *(1 for _ in sizes))
    return with_addend(q, value, hard, variance, free, addend, middle=middle)


def _windows(q: Question, x: Tensor, taps: tuple[int, ...]) -> tuple[Tensor, list[int]]:
    """Return what each output reads, [N, groups, K, outputs of a channel], and their extents."""
    stride, dilation, groups = (q.integer(name) for name in ("stride", "dilation", "groups"))
    count, channels, *extents = x.shape
    sizes = []
    for axis, (extent, tap) in enumerate(zip(extents, taps, strict=True)):
        size = (extent - dilation * (tap - 1) - 1) // stride + 1
        at = stride * torch.arange(size) + dilation * torch.arange(tap)[:, None]
        # Each extent becomes two, taps before outputs: those of earlier axes stand before it.
        read = x.movedim(2 + 2 * axis, -1)[..., at]
        x = read.movedim((-2, -1), (2 + 2 * axis, 3 + 2 * axis))
        sizes.append(size)
    rank = len(taps)
    order = (0, 1, *range(2, 2 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2))
    fan = channels // groups * math.prod(taps)
    return x.permute(order).reshape(count, groups, fan, math.prod(sizes)), sizes
