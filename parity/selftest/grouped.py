"""Products of groups of rows and of routed rows, and what their kernels get wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from parity.selftest.arithmetic import TILE, Arithmetic
from parity.selftest.kernel import LOW_SUMS, Kernel
from parity.selftest.problem import Problem
from parity.selftest.products import CONTRACTION, product

__all__ = ["KERNELS", "grouped_mm", "routed_mm"]


def grouped_mm(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """x[t] @ w[g] for the group that owns row t; 0 for a row that none does."""
    x, w = how.number(p.x(0)), how.number(p.x(1))
    ends, number = _ends(p.x(2).tolist(), rows=x.shape[0], bug=bug)
    y, start = torch.zeros(x.shape[0], w.shape[2], dtype=x.dtype), 0
    for end, group in zip(ends, number, strict=True):
        stop = start + (end - start) // TILE * TILE if bug == "rows_beyond_tiles_dropped" else end
        own = w[group].T if bug == "weights_transposed" and w.shape[1] == w.shape[2] else w[group]
        y[start:stop] = product(p, x[start:stop], own, how, bug)
        start = end
    if bug == "last_group_owns_the_rest" and len(ends):
        y[start:] = product(p, x[start:], w[-1], how, "")
    elif bug == "rows_in_no_group_copied" and start:
        y[start:] = y[start - 1]
    return y


def _ends(ends: list[int], *, rows: int, bug: str) -> tuple[list[int], list[int]]:
    """Return where groups end and whose weights they are multiplied with."""
    number = list(range(len(ends)))
    match bug:
        case "end_one_more":
            ends = [min(end + 1, rows) for end in ends]
        case "end_one_less":
            ends = [max(end - 1, 0) for end in ends]
        case "next_group":
            number = number[1:] + number[:1]
        case "empty_group_skipped":
            # Groups that have rows are counted, and their count taken for their number.
            kept = [end for before, end in zip([0, *ends], ends, strict=False) if end > before]
            return kept, list(range(len(kept)))
        case "first_group_for_all":
            number = [0] * len(number)
        case "ends_as_sizes":
            at, sums = 0, []
            for end in ends:
                at = min(at + end, rows)
                sums.append(at)
            return sums, number
    return ends, number


def routed_mm(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """x[t] @ w[chosen[t, j]].T."""
    x, chosen, w = how.number(p.x(0)), p.x(1), how.number(p.x(2))
    match bug:
        case "next_expert":
            chosen = (chosen + 1) % w.shape[0]
        case "experts_of_row_before":
            chosen = chosen.roll(1, 0)
        case "experts_sorted":
            chosen = chosen.sort(-1).values
        case "first_choice_for_all":
            chosen = chosen[:, :1].expand_as(chosen)
        case "row_before":
            x = x.roll(1, 0)
    y = torch.zeros(*chosen.shape, w.shape[1], dtype=x.dtype)
    for expert in sorted(set(chosen.flatten().tolist())):
        rows, place = torch.where(chosen == expert)
        if bug == "rows_beyond_capacity_dropped":
            most = max(len(rows) // 2, 1)
            rows, place = rows[:most], place[:most]
        y[rows, place] = product(p, x[rows], w[expert].T, how, bug)
    return y


KERNELS = {
    "grouped_mm": Kernel(
        compute=grouped_mm,
        bugs=(
            *CONTRACTION,
            "end_one_more",
            "end_one_less",
            "next_group",
            "empty_group_skipped",
            "first_group_for_all",
            "ends_as_sizes",
            "rows_beyond_tiles_dropped",
            "weights_transposed",
            "last_group_owns_the_rest",
            "rows_in_no_group_copied",
        ),
        arithmetics=LOW_SUMS,
    ),
    "routed_mm": Kernel(
        compute=routed_mm,
        bugs=(
            *CONTRACTION,
            "next_expert",
            "experts_of_row_before",
            "experts_sorted",
            "first_choice_for_all",
            "row_before",
            "rows_beyond_capacity_dropped",
        ),
        arithmetics=LOW_SUMS,
    ),
}
