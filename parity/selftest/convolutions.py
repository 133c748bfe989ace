"""Convolutions as products over unfolded windows, and what their kernels get wrong."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, unfold

from parity.selftest.arithmetic import Arithmetic, nearest
from parity.selftest.kernel import LOW_SUMS, Kernel, Moves
from parity.selftest.problem import Problem
from parity.selftest.products import CONTRACTION, product

__all__ = [
    "KERNELS",
    "convolution",
]


def convolution(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """sum of w x over the channels of a group and the taps, + bias."""
    x, w = how.number(p.x(0)), how.number(p.x(1))
    if p.op == "conv1d":
        x, w = x[:, :, None], w[:, :, None]
    groups, (out, _, height, width) = p.integer("groups"), w.shape
    w = _taps(w, bug)
    x = _channels(x, groups, bug)
    windows = unfold(
        _padded(p, x, width, bug), (height, width), p.integer("dilation"), 0, p.integer("stride")
    )
    windows = windows.reshape(len(windows), groups, windows.shape[1] // groups, windows.shape[-1])
    y = product(p, w.reshape(groups, out // groups, -1), windows, how, bug).flatten(1, 2)
    y = _biased(p, y, how, bug)
    return (
        y
        if p.op == "conv1d"
        else y.reshape(*y.shape[:-1], _rows(p, height), y.shape[-1] // max(_rows(p, height), 1))
    )


def _taps(w: Tensor, bug: str) -> Tensor:
    match bug:
        case "taps_reversed":
            return w.flip(-1, -2)
        case "height_and_width_exchanged" if w.shape[-1] == w.shape[-2]:
            return w.transpose(-1, -2)
        case "last_tap_dropped":
            kept = torch.ones(w.shape[-1])
            kept[-1] = 0
            return w * kept
        case "weight_of_next_channel":
            return w.roll(1, 0)
        case _:
            return w


def _channels(x: Tensor, groups: int, bug: str) -> Tensor:
    match bug:
        case "group_of_next":
            return x.roll(x.shape[1] // groups, 1)
        case "first_group_for_all":
            return x[:, : x.shape[1] // groups].repeat(1, groups, 1, 1)
        case "channels_last_read_as_first":
            return x.movedim(1, -1).reshape(x.shape)
        case _:
            return x


def _padded(p: Problem, x: Tensor, width: int, bug: str) -> Tensor:
    both = p.integer("padding")
    edges = [both] * 4 if p.op == "conv2d" else [both, both, 0, 0]
    if p.attrs.get("causal"):
        edges = [p.integer("dilation") * (width - 1), 0, 0, 0]
    if bug == "shifted_by_one" and edges[0]:
        edges[0], edges[1] = edges[0] - 1, edges[1] + 1
    return pad(x, edges, mode="replicate" if bug == "padding_replicated" else "constant")


def _rows(p: Problem, taps: int) -> int:
    height = p.x(0).shape[2] + 2 * p.integer("padding")
    return (height - p.integer("dilation") * (taps - 1) - 1) // p.integer("stride") + 1


def _biased(p: Problem, y: Tensor, how: Arithmetic, bug: str) -> Tensor:
    if not p.has(2) or bug == "bias_omitted":
        return y
    bias = how.number(p.x(2))
    match bug:
        case "bias_twice":
            bias = bias + bias
        case "bias_of_next_channel":
            bias = bias.roll(1)
        case "product_rounded" if p.out.bits == 16:
            y = nearest(y, p.out.name)
    return y + bias[:, None]


_BUGS = (
    *CONTRACTION,
    "taps_reversed",
    "last_tap_dropped",
    "weight_of_next_channel",
    "group_of_next",
    "first_group_for_all",
    "channels_last_read_as_first",
    "shifted_by_one",
    "padding_replicated",
    "bias_omitted",
    "bias_twice",
    "bias_of_next_channel",
    "product_rounded",
)

KERNELS: dict[str, Kernel | Moves] = {
    "conv1d": Kernel(compute=convolution, bugs=_BUGS, arithmetics=LOW_SUMS),
    "conv2d": Kernel(compute=convolution, bugs=(*_BUGS, "height_and_width_exchanged"), arithmetics=LOW_SUMS),
}
