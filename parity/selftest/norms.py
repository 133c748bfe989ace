"""RMS and layer normalization over the last dimension, and what their kernels get wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from parity.selftest.arithmetic import TILE, Arithmetic, nearest, total
from parity.selftest.kernel import LOW_SUMS, MIDDLE, Kernel, Moves
from parity.selftest.problem import Problem

__all__ = [
    "COMMON",
    "KERNELS",
    "OTHER_EPS",
    "layer_norm",
    "mean_of",
    "rms_norm",
    "rsqrt",
    "welford",
]

# What a port writes where the case says another epsilon.
OTHER_EPS = {"eps_1e-3": 1e-3, "eps_1e-5": 1e-5, "eps_1e-6": 1e-6, "eps_omitted": 0.0}


def _eps(p: Problem, bug: str) -> float:
    return OTHER_EPS.get(bug, p.number("eps"))


def mean_of(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """Mean over the last dimension, kept."""
    n, terms = x.shape[-1], x
    match bug:
        case "dropped_tail":
            terms = x[..., : n - (n % TILE or 1)]
        case "dropped_tile":
            terms = torch.cat((x[..., : n // 2], x[..., n // 2 + max(1, min(TILE, n // 4)) :]), -1)
        case "padding_counted":
            n += -n % TILE or TILE
        case "n_minus_1":
            n = max(n - 1, 1)
    y = total(terms, how)[..., None]
    return y * (1 / n) if how.reciprocal else y / n


def rsqrt(x: Tensor, how: Arithmetic) -> Tensor:
    """Return 1 / sqrt(x) as an arithmetic has it: at once, or by a division."""
    return how.off(x.rsqrt() if how.reciprocal else 1 / x.sqrt())


def _gain(p: Problem, number: int, how: Arithmetic, bug: str) -> Tensor | None:
    if not p.has(number) or bug == "gain_omitted":
        return None
    g = how.number(p.x(number))
    match bug:
        case "gain_of_next_channel":
            return g.roll(1)
        case "gain_plus_1":
            return g + 1
        case _:
            return g


def rms_norm(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """x / sqrt(mean(x^2) + eps) g."""
    x = how.number(p.x(0))
    squares = how.mid(x * x)
    mean = how.mid(mean_of(squares, how, bug))
    match bug:
        case "eps_outside_root":
            r = 1 / (mean.sqrt() + p.number("eps"))
        case "mean_subtracted":
            r = rsqrt(mean_of((x - mean_of(x, how, "")) ** 2, how, "") + p.number("eps"), how)
        case _:
            r = rsqrt(mean + _eps(p, bug), how)
    g = _gain(p, 1, how, bug)
    if bug == "rsqrt_12_bits":
        r = nearest(r, "tf32")
    if g is None:
        return x * r
    if bug == "normalized_rounded" and p.out.bits == 16:
        return nearest(x * r, p.out.name) * g
    return x * (r * g) if how.exp2 else how.mid(x * r) * g


def layer_norm(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """(x - mean) / sqrt(var + eps) g + b."""
    x = how.number(p.x(0))
    mu = how.mid(mean_of(x, how, bug if bug in {"dropped_tail", "dropped_tile", "padding_counted"} else ""))
    d = how.mid(x - mu)
    match bug:
        case "one_pass_variance":
            var = mean_of(x * x, how, "") - mu * mu
        case "mean_bf16":
            d = x - nearest(mu, "bf16")
            var = mean_of(d * d, how, "")
        case _ if how.name == "permuted":
            var, mu = welford(x)
            d = x - mu
        case _:
            var = mean_of(how.mid(d * d), how, bug)
    match bug:
        case "eps_outside_root":
            r = 1 / (var.sqrt() + p.number("eps"))
        case _:
            r = rsqrt(var + _eps(p, bug), how)
    y = (x if bug == "mean_not_subtracted" else d) * r
    g, b = _gain(p, 1, how, bug), how.number(p.x(2)) if p.has(2) else None
    match bug:
        case "rsqrt_12_bits":
            y = d * nearest(r, "tf32")
        case "normalized_rounded" if p.out.bits == 16:
            y = nearest(y, p.out.name)
        case "bias_omitted":
            b = None
        case "bias_twice" if b is not None:
            b = b + b
        case "bias_of_next_channel" if b is not None:
            b = b.roll(1)
    y = how.mid(y)
    y = y if g is None else y * g
    return y if b is None else y + b


def welford(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean updated element by element."""
    mean, squares = torch.zeros(x.shape[:-1]), torch.zeros(x.shape[:-1])
    for i, value in enumerate(x.unbind(-1), 1):
        delta = value - mean
        mean = mean + delta / i
        squares = squares + delta * (value - mean)
    return (squares / x.shape[-1])[..., None], mean[..., None]


COMMON = (
    *OTHER_EPS,
    "eps_outside_root",
    "padding_counted",
    "n_minus_1",
    "dropped_tail",
    "dropped_tile",
    "normalized_rounded",
    "rsqrt_12_bits",
    "gain_omitted",
    "gain_of_next_channel",
)

KERNELS: dict[str, Kernel | Moves] = {
    "rms_norm": Kernel(
        compute=rms_norm,
        bugs=(*COMMON, "mean_subtracted", "gain_plus_1"),
        arithmetics={**LOW_SUMS, **MIDDLE},
    ),
    "layer_norm": Kernel(
        compute=layer_norm,
        bugs=(
            *COMMON,
            "one_pass_variance",
            "mean_bf16",
            "mean_not_subtracted",
            "bias_omitted",
            "bias_twice",
            "bias_of_next_channel",
        ),
        arithmetics={**LOW_SUMS, **MIDDLE},
    ),
}
