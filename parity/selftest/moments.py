"""Variance, 2-norm, group normalization and running products, and what their kernels get wrong."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parity.selftest.arithmetic import TILE, Arithmetic, nearest, total
from parity.selftest.kernel import LOW_SUMS, MIDDLE, Kernel, Moves
from parity.selftest.norms import OTHER_EPS, mean_of, rsqrt, welford
from parity.selftest.problem import Problem
from parity.selftest.reductions import POSITIONS, positions

__all__ = ["KERNELS", "cumprod", "group_norm", "norm", "var"]


def _rows(p: Problem, how: Arithmetic) -> Tensor:
    """Return the input with the dimension that is reduced last."""
    x = how.number(p.x(0))
    return x.movedim(p.integer("dim"), -1)


def _reduced(p: Problem, y: Tensor) -> Tensor:
    return y.unsqueeze(p.integer("dim")) if p.attrs["keepdim"] else y


def var(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """sum (x - mean)^2 / (n - correction)."""
    x, correction = _rows(p, how), p.integer("correction")
    if bug in POSITIONS:
        x = positions(x, bug)
    n = x.shape[-1]
    divisor = max(n - (1 - correction if bug == "other_correction" else correction), 0)
    mean = how.mid(total(x, how)[..., None] / n)
    match bug:
        case "one_pass":
            # Around 0 it is another way to the same result, and no fault.
            around = mean[..., 0].square() < x.var(-1, correction=0)
            y = (total(x * x, how) - n * mean[..., 0] * mean[..., 0]) / divisor
            y = torch.where(around, total((x - mean) ** 2, how) / divisor, y)
        case "mean_bf16":
            y = total((x - nearest(mean, "bf16")) ** 2, how) / divisor
        case "mean_omitted":
            y = total(x * x, how) / divisor
        case "root_taken":
            y = var(p, how, "").sqrt()
            return y
        case "padding_counted":
            y = total((x - mean) ** 2, how) / (divisor + (-n % TILE or TILE))
        case "squared_in_16_bits":
            y = total(nearest((x - mean) ** 2, "bf16"), how) / divisor
        case _ if how.name == "permuted":
            y = welford(x)[0][..., 0] * (n / divisor)
        case _:
            d = how.mid(x - mean)
            y = total(how.mid(d * d), how) / divisor
    return _reduced(p, y)


def norm(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """sqrt(sum x^2)."""
    x = _rows(p, how)
    if bug in POSITIONS:
        x = positions(x, bug)
    match bug:
        case "root_omitted":
            y = total(x * x, how)
        case "sum_of_magnitudes":
            y = total(x.abs(), how)
        case "largest":
            y = x.abs().amax(-1) if x.shape[-1] else total(x, how)
        case "squares_f16":
            y = total(nearest(x * x, "f16"), how).sqrt()
        case "squares_bf16":
            y = total(nearest(x * x, "bf16"), how).sqrt()
        case "mean_of_squares":
            y = (total(x * x, how) / max(x.shape[-1], 1)).sqrt()
        case "with_epsilon":
            y = (total(x * x, how) + 1e-6).sqrt()
        case "fast_root":
            y = nearest(total(x * x, how).sqrt(), "tf32")
        case _ if how.online and x.shape[-1] and not how.wide:
            # Scaled by a power of two near the largest, as BLAS does.
            top = x.abs().amax(-1, keepdim=True)
            top = torch.where(
                top.isfinite() & (top > 0), torch.exp2(top.log2().floor().clamp(-126, 126)), 1.0
            )
            y = total((x / top) ** 2, how).sqrt() * top[..., 0]
        case _:
            y = how.off(total(how.mid(x * x), how).sqrt())
    return _reduced(p, y)


def group_norm(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """(x - mean) / sqrt(var + eps) g + b over groups of channels."""
    x, groups = how.number(p.x(0)), p.integer("groups")
    batch, channels = x.shape[:2]
    match bug:
        case "one_group":
            groups = 1
        case "each_channel_alone":
            groups = channels
    dealt = bug == "channels_in_turn"
    given = x.reshape(batch, channels // groups, groups, -1).transpose(1, 2) if dealt else x
    rows = given.reshape(batch, groups, -1)
    mean = how.mid(mean_of(rows, how, bug if bug in {"dropped_tail", "padding_counted"} else ""))
    d = how.mid(rows - mean)
    match bug:
        case "one_pass_variance":
            spread = mean_of(rows * rows, how, "") - mean * mean
        case "mean_bf16":
            d = rows - nearest(mean, "bf16")
            spread = mean_of(d * d, how, "")
        case _:
            spread = mean_of(how.mid(d * d), how, bug)
    r = rsqrt(spread + OTHER_EPS.get(bug, p.number("eps")), how)
    if bug == "rsqrt_12_bits":
        r = nearest(r, "tf32")

    def back(t: Tensor) -> Tensor:
        t = t.expand_as(rows)
        t = t.reshape(batch, groups, channels // groups, -1).transpose(1, 2) if dealt else t
        return t.reshape(x.shape)

    g, b = _affine(p, how, bug, channels, x.ndim)
    if how.fused or how.exp2:
        # Folded into one factor and one addend for a channel.
        scale = back(r) * g
        return x * scale + (b - back(mean) * scale)
    return how.mid(back(d * r)) * g + b


def _affine(p: Problem, how: Arithmetic, bug: str, channels: int, ndim: int) -> tuple[Tensor, Tensor]:
    g = how.number(p.x(1)) if p.has(1) else torch.ones(channels)
    b = how.number(p.x(2)) if p.has(2) else torch.zeros(channels)
    match bug:
        case "gain_omitted":
            g = torch.ones_like(g)
        case "bias_omitted":
            b = torch.zeros_like(b)
        case "gain_of_next_channel":
            g = g.roll(1)
        case "gain_of_place_in_group":
            size = channels // p.integer("groups")
            g = g[:size].repeat(p.integer("groups"))
    shape = (channels, *[1] * (ndim - 2))
    return g.reshape(shape), b.reshape(shape)


def cumprod(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """Running product along dim."""
    x, dim = _rows(p, how), p.integer("dim")
    y = _products(x, how)
    ones = torch.ones_like(y[..., :1])
    match bug:
        case "exclusive":
            y = torch.cat((ones, y[..., :-1]), -1)
        case "reversed":
            y = _products(x.flip(-1), how).flip(-1)
        case "sums":
            y = x.cumsum(-1)
        case "by_logarithms":
            y = x.abs().log().cumsum(-1).exp()
        case "rounded_each_bf16" | "rounded_each_f16":
            y = _rounded(x, bug[-4:].strip("_"))
        case "carry_lost":
            y = torch.cat([_products(part, how) for part in torch.split(x, 8, -1)], -1) if x.numel() else y
        case "ends_at_0":
            y = torch.where(y.abs() < 2.0**-20, 0.0, y)
    return y.movedim(-1, dim)


def _products(x: Tensor, how: Arithmetic) -> Tensor:
    if how.wide:
        return x.cumprod(-1)
    if how.order in {"pairwise", "lanes8"}:
        step, n = 1, x.shape[-1]
        while step < n:
            shifted = torch.nn.functional.pad(x[..., :-step], (step, 0), value=1.0)
            x, step = x * shifted, 2 * step
        return x
    with np.errstate(all="ignore"):
        return torch.from_numpy(np.multiply.accumulate(how.mid(x).numpy(), axis=-1, dtype=np.float32))


def _rounded(x: Tensor, name: str) -> Tensor:
    """Round after each product."""
    made, partial = [], torch.ones_like(x[..., 0])
    for each in x.unbind(-1):
        partial = nearest(partial * each, name)
        made.append(partial)
    return torch.stack(made, -1) if made else x


_NORM = (
    *OTHER_EPS,
    *("padding_counted", "dropped_tail", "n_minus_1", "rsqrt_12_bits", "mean_bf16", "one_pass_variance"),
    *("one_group", "each_channel_alone", "channels_in_turn", "gain_of_place_in_group"),
    *("gain_omitted", "bias_omitted", "gain_of_next_channel"),
)

KERNELS: dict[str, Kernel | Moves] = {
    "var": Kernel(
        compute=var,
        bugs=(
            *POSITIONS,
            *("one_pass", "mean_bf16", "mean_omitted", "root_taken", "padding_counted", "other_correction"),
            "squared_in_16_bits",
        ),
        arithmetics=LOW_SUMS,
    ),
    "norm": Kernel(
        compute=norm,
        bugs=(
            *POSITIONS,
            *("root_omitted", "sum_of_magnitudes", "largest", "squares_f16", "squares_bf16"),
            *("mean_of_squares", "with_epsilon", "fast_root"),
        ),
        arithmetics=LOW_SUMS,
    ),
    "group_norm": Kernel(compute=group_norm, bugs=_NORM, arithmetics={**LOW_SUMS, **MIDDLE}),
    "cumprod": Kernel(
        compute=cumprod,
        bugs=(
            *("exclusive", "reversed", "sums", "by_logarithms", "rounded_each_bf16", "rounded_each_f16"),
            *("carry_lost", "ends_at_0"),
        ),
        arithmetics=MIDDLE,
    ),
}
