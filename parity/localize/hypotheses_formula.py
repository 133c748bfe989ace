"""Another formula: an attribute or an operand is not the asked one."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from parity.case.op import Attr
from parity.judge.budget import Budget, Exact
from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import Asked, Guess, hypothesis, valued
from parity.localize.hypotheses_rounding import nearest

__all__ = []

_K = CauseKind


_BASES = (1e3, 1e4, 5e4, 1e5, 5e5, 1e6, 5e6, 1e7)


_EPSILONS = (0.0, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


# Values that other models, or a careless port, have for an attribute. Booleans are turned over.
_ATTRIBUTES: dict[tuple[str, str], tuple[CauseKind, tuple[Attr, ...]]] = {
    ("rms_norm", "eps"): (_K.EPSILON, _EPSILONS),
    ("layer_norm", "eps"): (_K.EPSILON, _EPSILONS),
    ("weighted_rms_norm", "eps"): (_K.EPSILON, _EPSILONS),
    ("add_rms_norm", "eps"): (_K.EPSILON, _EPSILONS),
    ("norm_rotate", "eps"): (_K.EPSILON, _EPSILONS),
    ("weighted_rms_norm", "offset"): (_K.NORM_WEIGHT, (0.0, 1.0)),
    ("weighted_rms_norm", "rounds_first"): (_K.ROUNDING_ORDER, (True, False)),
    ("rope", "base"): (_K.ROPE_BASE, _BASES),
    ("rope", "interleaved"): (_K.ROPE_LAYOUT, (True, False)),
    ("rotate", "interleaved"): (_K.ROPE_LAYOUT, (True, False)),
    ("softcap", "cap"): (_K.SOFTCAP, (15.0, 20.0, 30.0, 50.0)),
    ("scaled_embedding", "scale"): (_K.EMBEDDING_SCALE, (1.0,)),
    ("cumsum", "dim"): (_K.ATTRIBUTE, (0, 1, 2)),
    ("softmax", "dim"): (_K.ATTRIBUTE, (0, 1, 2, 3)),
    ("log_softmax", "dim"): (_K.ATTRIBUTE, (0, 1, 2, 3)),
    ("addmm", "alpha"): (_K.ATTRIBUTE, (0.0, 1.0)),
    ("addmm", "beta"): (_K.ATTRIBUTE, (0.0, 1.0)),
    ("conv1d", "causal"): (_K.MASK, (True, False)),
    ("topk", "largest"): (_K.ORDER, (True, False)),
    ("sort", "descending"): (_K.ORDER, (True, False)),
    ("tril", "diagonal"): (_K.MASK, (-2, -1, 0, 1, 2)),
    ("triu", "diagonal"): (_K.MASK, (-2, -1, 0, 1, 2)),
    ("route", "scores"): (_K.ROUTING, ("softmax", "sigmoid")),
    ("route", "normalise"): (_K.ROUTING, (True, False)),
    ("route", "groups"): (_K.ROUTING, (1,)),
    ("route", "group_best"): (_K.ROUTING, (1, 2)),
    ("route", "scale"): (_K.ROUTING, (1.0,)),
}


@hypothesis()
def _attributes(asked: Asked) -> Iterator[Guess]:
    for (op, name), (kind, values) in _ATTRIBUTES.items():
        if op != asked.op:
            continue
        for value in values:
            if name == "dim" and isinstance(value, int) and value >= len(asked.got[0].shape):
                continue
            if value != asked.attrs.get(name):
                text = f"{name} is {_shown(value)}, not {_shown(asked.attrs.get(name))}"
                yield Guess(kind=kind, text=text, expected=asked.ask(attrs={name: value}))


def _shown(value: Attr) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@hypothesis("add", "mul", "div")
def _operands(asked: Asked) -> Iterator[Guess]:
    a, b = asked.x(0).to(torch.float64), asked.x(1).to(torch.float64)
    shape = asked.got[0].shape
    a, b = a.expand(shape), b.expand(shape)
    values = {
        "add": (
            ("the second operand is missing", a), ("the first operand is missing", b),
            ("the second operand was subtracted", a - b), ("the first operand was added twice", 2 * a + b),
            ("the second operand was added twice", a + 2 * b), ("only the second operand, twice", 2 * b),
            ("only the first operand, twice", 2 * a), ("multiplied instead of added", a * b),
        ),
        "mul": (
            ("the second operand is missing", a), ("the first operand is missing", b),
            ("added instead of multiplied", a + b), ("the first operand was squared", a * a),
            ("the second operand was applied twice", a * b * b), ("divided instead of multiplied", a / b),
        ),
        "div": (
            ("the operands are exchanged", b / a), ("multiplied instead of divided", a * b),
            ("the quotient was rounded down", (a / b).floor()), ("the divisor is missing", a),
        ),
    }[asked.op]  # fmt: skip
    combine: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "add": operator.add, "mul": operator.mul, "div": operator.truediv,
    }  # fmt: skip
    moved = combine[asked.op]
    made = list(values)
    for dim in range(b.ndim):
        for step in (1, -1):
            name = (
                "rows" if dim == 0 and b.ndim > 1 else "columns" if dim == b.ndim - 1 else f"dimension {dim}"
            )
            made.append((f"{name} of the second operand are moved by {step}", moved(a, b.roll(step, dim))))
            made.append((f"{name} of the first operand are moved by {step}", moved(a.roll(step, dim), b)))
    for text, value in made:
        yield valued(asked, _K.OPERAND, text, value)


@hypothesis("softcap")
def _softcaps(asked: Asked) -> Iterator[Guess]:
    x, cap = asked.x(0), float(asked.attrs["cap"] or 1)
    if asked.inputs[0] is not None:
        same = Exact(bits=asked.inputs[0].contiguous(), any_nan=True)
        yield Guess(kind=_K.SOFTCAP, text="the cap was not applied", expected=(same,), most=True)
    for text, value in (
        ("the cap clips instead of bending", x.clamp(-cap, cap)),
        ("the result was not multiplied by the cap", torch.tanh(x / cap)),
        ("the argument was not divided by the cap", cap * torch.tanh(x)),
    ):
        yield valued(asked, _K.SOFTCAP, text, value)


@hypothesis("scaled_embedding")
def _embedding_scale(asked: Asked) -> Iterator[Guess]:
    rows, scale = asked.x(0)[asked.x(1)], float(asked.attrs["scale"] or 1)
    kept = asked.inputs[0]
    assert kept is not None
    options = [
        ("the scale is missing", rows),
        ("the scale was applied twice", rows * scale * scale),
        ("rows were divided by the scale", rows / scale),
        ("the scale is its square", rows * scale * scale),
        ("the scale is the root of the number of columns", rows * math.sqrt(rows.shape[-1])),
        ("the scale was not rounded to the table's type", rows * scale),
        (
            "the scale was rounded to bf16",
            rows * float(nearest(torch.tensor([scale], dtype=torch.float64), "bf16")),
        ),
    ]
    for text, value in options:
        yield valued(asked, _K.EMBEDDING_SCALE, text, value)


@hypothesis("sum", "mean", "cumsum", "logsumexp")
def _reductions(asked: Asked) -> Iterator[Guess]:
    x, dim = asked.x(0), int(asked.attrs["dim"] or 0)
    right = asked.right[0]
    if not isinstance(right, Budget):
        return
    y, n = right.value, x.shape[dim] if x.ndim else 1
    made: list[tuple[CauseKind, str, Tensor]] = []
    if asked.op == "mean":
        made += [
            (_K.MEAN, f"divided by {k}, not {n}", y * n / k)
            for k in sorted({n - 1, n + 1, 1, 1 << (n - 1).bit_length()} - {0, n})
        ]
    if asked.op == "sum":
        made.append((_K.MEAN, "divided by the number of terms", y / n))
    if asked.op == "cumsum":
        made.append((_K.OFF_BY_ONE, "each sum is without its own term", y - x))
        made.append((_K.REVERSED, "summed from the other end", x.flip(dim).cumsum(dim).flip(dim)))
        made += [
            (_K.TILE_EDGE, f"the sum starts anew every {t} terms", _restarted(x, dim, t))
            for t in (8, 16, 32, 64, 128, 256)
            if t < n
        ]
    if asked.op == "logsumexp":
        e = x.exp().sum(dim, keepdim=bool(asked.attrs["keepdim"]))
        made.append(
            (_K.NON_FINITE, "the maximum was not subtracted", torch.where(e > 3.4e38, torch.inf, e.log()))
        )
        made.append((_K.NOT_APPLIED, "the logarithm is missing", e))
    for kind, text, value in made:
        yield valued(asked, kind, text, value)


def _restarted(x: Tensor, dim: int, tile: int) -> Tensor:
    return torch.cat(
        [
            x.narrow(dim, start, min(tile, x.shape[dim] - start)).cumsum(dim)
            for start in range(0, x.shape[dim], tile)
        ],
        dim,
    )
