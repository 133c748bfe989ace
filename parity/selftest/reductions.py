"""Sums, softmax and normalization along one dimension, and what their kernels get wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from parity.selftest.arithmetic import TILE, Arithmetic, exp, nearest, prefix, total
from parity.selftest.kernel import LOW_SUMS, MIDDLE, Kernel, Moves
from parity.selftest.problem import Problem

__all__ = [
    "KERNELS",
    "POSITIONS",
    "SOFTMAX",
    "cumsum",
    "log_softmax",
    "logsumexp",
    "positions",
    "reduce_sum",
    "softmax",
    "softmax_rows",
    "unguarded",
]

# A sum's own bugs: positions that are lost, read twice, or read from the next row.
POSITIONS = ("dropped_tile", "dropped_tail", "tail_twice", "reads_past_end")


def _rows(p: Problem, how: Arithmetic) -> tuple[Tensor, int]:
    """Return the input with the dimension that is reduced last, and that dimension."""
    x = how.number(p.x(0))
    return (x.movedim(p.integer("dim"), -1), p.integer("dim")) if x.ndim else (x[None], 0)


def positions(x: Tensor, bug: str) -> Tensor:
    """Return the terms that a kernel with a bug adds up."""
    n = x.shape[-1]
    tail = n % TILE or 1
    match bug:
        case "dropped_tile":
            tile = max(1, min(TILE, n // 4))
            return torch.cat((x[..., : n // 2], x[..., n // 2 + tile :]), -1)
        case "dropped_tail":
            return x[..., : n - tail]
        case "tail_twice":
            return torch.cat((x, x[..., n - tail :]), -1)
        case "reads_past_end" if x.ndim > 1 and n:
            flat = x.reshape(x.shape[:-1].numel(), n)
            return torch.cat((flat, flat.roll(-1, 0)[:, :1]), -1).reshape(*x.shape[:-1], n + 1)
    return x


def reduce_sum(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """Sum or mean over dim."""
    x, dim = _rows(p, how)
    n = x.shape[-1]
    y = total(positions(x, bug), how)
    if p.op == "mean":
        match bug:
            case "padding_counted":
                n += -n % TILE or TILE
            case "n_minus_1":
                n = max(n - 1, 1)
            case "sum_rounded" if p.out.bits == 16:
                y = nearest(y, p.out.name)
        y = y * (1 / n) if how.reciprocal and n else y / n
    if p.attrs["keepdim"] and p.x(0).ndim:
        return y.unsqueeze(-1).movedim(-1, dim)
    return y if p.x(0).ndim else y.reshape(())


def _reduced(p: Problem) -> list[int]:
    shape = list(p.x(0).shape)
    shape[p.integer("dim")] = 1
    if not p.attrs["keepdim"]:
        del shape[p.integer("dim")]
    return shape


def cumsum(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """Running sum along dim."""
    x, dim = _rows(p, how)
    y = prefix(x, how)
    match bug:
        case "exclusive":
            y = torch.nn.functional.pad(y[..., :-1], (1, 0))
        case "reversed":
            y = prefix(x.flip(-1), how).flip(-1)
        case "carry_lost":
            start = torch.arange(x.shape[-1]) // 32 * 32
            before = torch.where(start > 0, y[..., (start - 1).clamp(min=0)], 0.0)
            y = y - before
        case "carry_of_block_before_last":
            start = torch.arange(x.shape[-1]) // 32 * 32
            before = torch.where(
                start > 32, y[..., (start - 1).clamp(min=0)] - y[..., (start - 33).clamp(min=0)], 0.0
            )
            y = y - before
        case "carry_rounded":
            start = torch.arange(x.shape[-1]) // 32 * 32
            before = torch.where(start > 0, y[..., (start - 1).clamp(min=0)], 0.0)
            y = (y - before) + nearest(before, "bf16")
    return y.movedim(-1, dim) if p.x(0).ndim else y.reshape(())


def _exponentials(x: Tensor, how: Arithmetic, bug: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return (max, e^(x - max), their sum), all with the last dimension kept."""
    top = x.amax(-1, keepdim=True)
    match bug:
        case "max_not_subtracted":
            top = unguarded(x, top, torch.zeros_like(top))
        case "max_of_first_half":
            top = unguarded(x, top, x[..., : -(-x.shape[-1] // 2)].amax(-1, keepdim=True))
        case "nan_swallowed_by_max":
            top = x.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).amax(-1, keepdim=True)
    base = torch.where(top == -torch.inf, 0.0, top)
    e = _exp(how.mid(x - base), how, bug)
    if bug == "denominator_padded":
        filled = torch.nn.functional.pad(x, (0, -x.shape[-1] % TILE or TILE))
        return base, e, total(_exp(filled - base, how, bug), how)[..., None]
    if how.online and not bug:
        return base, e, _running(x, base, how)
    return base, e, total(positions(how.mid(e), bug), how)[..., None]


def unguarded(x: Tensor, top: Tensor, other: Tensor) -> Tensor:
    """Return what a kernel subtracts that takes another number for the maximum, where that shows.

    Where every exponential stays within float32's range, another number is another way to the
    same result and no fault.
    """
    sums = (x - torch.where(other == -torch.inf, 0.0, other)).exp().sum(-1, keepdim=True)
    return torch.where(sums.isfinite() & (sums > 2.0**-100), top, other)


def _exp(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    match bug:
        case "base_2":
            return torch.exp2(x)
        case "exp_by_table":
            # Linear between 256 points of 2^f: 2^-18 of the result.
            scaled = x * 1.4426950408889634
            whole = scaled.floor()
            step = ((scaled - whole) * 256).floor() / 256
            slope = (torch.exp2(step + 1 / 256) - torch.exp2(step)) * 256
            return torch.where(
                x.isfinite(),
                (torch.exp2(step) + slope * (scaled - whole - step)) * torch.exp2(whole),
                x.exp(),
            )
        case "exp_bf16":
            return nearest(x.exp(), "bf16")
        case _:
            return exp(x, how)


def _running(x: Tensor, base: Tensor, how: Arithmetic) -> Tensor:
    """Sum e^(x - max) in tiles, with the maximum so far, rescaling what is summed already."""
    top = torch.full_like(base, -torch.inf)
    partial = torch.zeros_like(base)
    for tile in torch.split(x, 64, -1):
        new = torch.maximum(top, tile.amax(-1, keepdim=True))
        shift = torch.where(new == -torch.inf, 0.0, new)
        scale = torch.where(top == -torch.inf, 0.0, exp(top - shift, how))
        partial = partial * scale + total(exp(tile - shift, how), how)[..., None]
        top = new
    # A row of nothing but -inf keeps 0, its first maximum.
    return partial


def softmax(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """e^(x - max) / sum along dim."""
    x, dim = _rows(p, how)
    if bug == "neighbour_dimension" and x.ndim > 1:
        return softmax_rows(x.transpose(-1, -2), how, "").transpose(-1, -2).movedim(-1, dim)
    y = softmax_rows(x, how, bug)
    return y.movedim(-1, dim) if p.x(0).ndim else y.reshape(())


def softmax_rows(x: Tensor, how: Arithmetic, bug: str) -> Tensor:
    """Softmax of the last dimension."""
    _, e, denominator = _exponentials(x, how, bug)
    y = how.divide(how.mid(e), how.mid(denominator))
    if bug == "masked_row_zero":
        return torch.where((x == -torch.inf).all(-1, keepdim=True), 0.0, y)
    return y


def log_softmax(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """x - max - log(sum)."""
    x, dim = _rows(p, how)
    base, e, denominator = _exponentials(x, how, bug)
    match bug:
        case "log_of_softmax":
            # It shows where a probability is no longer a normal number.
            y = torch.where(
                e < 2.0**-126 * denominator, (e / denominator).log(), (x - base) - denominator.log()
            )
        case "base_2_logarithm":
            y = (x - base) - denominator.log2()
        case "masked_row_zero":
            y = torch.where(
                (x == -torch.inf).all(-1, keepdim=True), -torch.inf, (x - base) - how.off(denominator.log())
            )
        case _ if how.reciprocal:
            y = x - (base + how.off(denominator.log()))
        case _:
            y = (x - base) - how.mid(how.off(denominator.log()))
    return y.movedim(-1, dim) if p.x(0).ndim else y.reshape(())


def logsumexp(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """max + log(sum e^(x - max)); of nothing, -inf."""
    x, dim = _rows(p, how)
    if not x.shape[-1]:
        return total(x, how).log().reshape(_reduced(p))
    base, _, denominator = _exponentials(x, how, bug)
    log = denominator.log2() if bug == "base_2_logarithm" else how.off(denominator.log())
    y = torch.where(x.amax(-1, keepdim=True) == torch.inf, torch.inf, base + how.mid(log))
    if bug == "masked_row_nan":
        y = torch.where((x == -torch.inf).all(-1, keepdim=True), torch.nan, y)
    if p.attrs["keepdim"] and p.x(0).ndim:
        return y.movedim(-1, dim)
    return y[..., 0] if p.x(0).ndim else y.reshape(())


SOFTMAX = (
    "max_not_subtracted",
    "max_of_first_half",
    "nan_swallowed_by_max",
    "denominator_padded",
    "base_2",
    "exp_by_table",
    "exp_bf16",
    *POSITIONS,
)


KERNELS: dict[str, Kernel | Moves] = {
    "sum": Kernel(compute=reduce_sum, bugs=POSITIONS, arithmetics=LOW_SUMS),
    "mean": Kernel(
        compute=reduce_sum,
        bugs=(*POSITIONS, "padding_counted", "n_minus_1", "sum_rounded"),
        arithmetics=LOW_SUMS,
    ),
    "cumsum": Kernel(
        compute=cumsum,
        bugs=("exclusive", "reversed", "carry_lost", "carry_of_block_before_last", "carry_rounded"),
        arithmetics={name: LOW_SUMS[name] for name in ("accumulate_bf16", "accumulate_f16")},
    ),
    "softmax": Kernel(
        compute=softmax,
        bugs=(*SOFTMAX, "neighbour_dimension", "masked_row_zero"),
        arithmetics={**LOW_SUMS, **MIDDLE},
    ),
    "log_softmax": Kernel(
        compute=log_softmax,
        bugs=(*SOFTMAX, "log_of_softmax", "base_2_logarithm", "masked_row_zero"),
        arithmetics={**LOW_SUMS, **MIDDLE},
    ),
    "logsumexp": Kernel(
        compute=logsumexp,
        bugs=(*SOFTMAX, "base_2_logarithm", "masked_row_nan"),
        arithmetics={**LOW_SUMS, **MIDDLE},
    ),
}
