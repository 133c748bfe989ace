"""What is written through a view or far away, and what kernels and compilers make of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.backend.indexing import Index, parse_index
from parity.case.dtype import Kind, decode
from parity.selftest.indexing import like
from parity.selftest.kernel import Kernel, Moves
from parity.selftest.problem import Outputs, Problem
from parity.selftest.views import back, elements

__all__ = ["KERNELS", "far_rows", "negate_view", "only_nan_differ", "slice_move"]


def slice_move(p: Problem, bug: str) -> Outputs:
    """x[target] = x[source] as x was; `in_order` copies one element after the other, `rows` one row."""
    y = p.raw(0)
    before = y.copy()
    target, source = (y[parse_index(str(p.attrs[name]))] for name in ("target", "source"))
    match bug:
        case "in_order":
            for i in np.ndindex(target.shape):
                target[i] = source[i]
        case "from_the_end":
            for i in reversed(list(np.ndindex(target.shape))):
                target[i] = source[i]
        case "by_lanes":
            # 16 elements are read before they are written: at the seams they are another's.
            flat = list(np.ndindex(target.shape))
            for start in range(0, len(flat), 16):
                held = [source[i] for i in flat[start : start + 16]]
                for i, value in zip(flat[start : start + 16], held, strict=True):
                    target[i] = value
        case "written_to_copy":
            return like(p, before)
        case "swapped":
            source[...] = before[parse_index(str(p.attrs["target"]))]
        case _:
            target[...] = before[parse_index(str(p.attrs["source"]))]
    return like(p, y)


def negate_view(p: Problem, bug: str) -> Outputs:
    """x of which a view was negated in place."""
    y = elements(p)
    before = y.clone()
    base = y.mT if bool(p.attrs["swapped"]) != (bug == "not_swapped") else y
    view = base[_clipped(str(p.attrs["index"]), tuple(base.shape))]
    if bug == "written_to_copy":
        return back(p, before)
    if bug == "negated_everywhere":
        view = y
    if p.dtype.is_float:
        sign = torch.tensor(-(1 << (p.dtype.bits - 1)), dtype=y.dtype)
        view.bitwise_and_(~sign) if bug == "absolute" else view.bitwise_xor_(sign)
        if bug == "nan_kept":
            return _nan_as_before(p, y, before)
    elif p.dtype.kind is Kind.BOOL:
        view.bitwise_xor_(1)
    else:
        view.copy_(~view if bug == "complement" else -view)
    if bug == "one_later":
        y = y.roll(1, -1)
    if bug == "view_returned_last":
        y[..., -1] = before[..., -1]
    return back(p, y)


def only_nan_differ(p: Problem, outputs: Outputs) -> bool:
    """Whether outputs are right but for the sign and payload of NaN in the view."""
    code = f"u{p.raw(0).dtype.itemsize}"
    right, got, x = (
        np.ascontiguousarray(a).view(code)
        for a in (negate_view(p, "")[0].array(), outputs[0].array(), p.raw(0))
    )
    if not p.dtype.is_float:
        return np.array_equal(right, got)
    # What was negated changed; a NaN is none of another kind.
    nan = np.isnan(decode(got, p.dtype)) & np.isnan(decode(x, p.dtype)) & (right != x)
    return bool(((right == got) | nan).all())


def _nan_as_before(p: Problem, y: Tensor, before: Tensor) -> Outputs:
    """Right as well: the sign of a NaN is nobody's business."""
    nan = torch.from_numpy(p.x(0).isnan().numpy())
    return back(p, torch.where(nan, before, y))


def _clipped(index: str, shape: tuple[int, ...]) -> tuple[Index, ...]:
    """Return an index that a transposed shape may be too short for, as near as it goes."""
    parsed = parse_index(index)
    if parsed and isinstance(parsed[0], int) and parsed[0] >= shape[0]:
        return (shape[0] - 1, *parsed[1:])
    return parsed


def far_rows(p: Problem, bug: str) -> Outputs:
    """Rows at far addresses, kept by address; a bug cuts addresses to fewer bits."""
    x, step = p.raw(0), p.integer("step")
    columns = x.shape[1]
    first, border = p.integer("first"), p.integer("back") * columns
    memory: dict[int, Any] = {}

    def address(row: int, column: int, *, cut: bool) -> int:
        number: int = (first + row * step) * columns + column
        return number % border if cut else number

    written, read = bug in ("wraps", "write_wraps"), bug in ("wraps", "read_wraps")
    for i, j in np.ndindex(x.shape):
        memory[address(i, j, cut=written)] = x[i, j]
    nothing = np.zeros((), x.dtype)[()]
    found, before = np.zeros_like(x), np.zeros_like(x)
    for i, j in np.ndindex(x.shape):
        before[i, j] = memory.get(address(i, j, cut=False) - border, nothing)
        at = address(0, 0, cut=False) if bug == "clamped" else address(i, j, cut=read)
        found[i, j] = memory.get(at, nothing)
    return like(p, np.concatenate((found, before)))


KERNELS: dict[str, Kernel | Moves] = {
    "slice_move": Moves(
        compute=slice_move, bugs=("in_order", "from_the_end", "by_lanes", "written_to_copy", "swapped")
    ),
    "negate_view": Moves(
        compute=negate_view,
        bugs=(
            *("written_to_copy", "negated_everywhere", "absolute", "complement", "not_swapped", "one_later"),
            "view_returned_last",
        ),
        ways=("", "nan_kept"),
        legal=only_nan_differ,
    ),
    "far_rows": Moves(compute=far_rows, bugs=("wraps", "write_wraps", "read_wraps", "clamped")),
}
