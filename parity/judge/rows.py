"""A large step as rows that do not depend on each other, so that some of them can be judged for all.

A row of the first output is made from the same row of some inputs and the whole of the others.
Does not choose rows nor judge them: `sampled` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from parity.case.op import Attr
from parity.case.tensor import HostTensor

__all__ = ["Divided", "Index", "divide", "of_rows"]

Index = npt.NDArray[np.int64]
_Inputs = Sequence["HostTensor | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divided:
    """A step of `count` rows; `lead` are the dimensions of the outputs that count them.

    `inputs(rows)` are the inputs of a step that makes only these rows, in this order.
    """

    count: int
    lead: tuple[int, ...]
    inputs: Callable[[Index], tuple[HostTensor | None, ...]]

    def outputs(self, outputs: Sequence[HostTensor], rows: Index) -> tuple[HostTensor, ...]:
        """Return these rows of the step's outputs."""
        return tuple(of_rows(t, len(self.lead), rows) for t in outputs)


# Dimensions of each input that belong to one row, None for an input that every row reads whole. An
# input whose leading dimensions are 1 or absent is whole too.
_ROWS: dict[str, tuple[int | None, ...]] = {
    "add": (1, 1),
    "add_rms_norm": (1, 1, None),
    "addmm": (1, 1, None),
    "block_scaled_mm": (1, None, 1, None),
    "dequantised_mm": (1, None, 1, None),
    "div": (1, 1),
    "embedding": (None, 0),
    "erf": (1,),
    "exp": (1,),
    "experts": (1, 1, 1, None, None),
    "gated": (1,),
    "gelu_erf": (1,),
    "gelu_tanh": (1,),
    "layer_norm": (1, None, None),
    "linear": (1, None, None),
    "log_softmax": (1,),
    "matmul": (1, None),
    "mul": (1, 1),
    "norm_rotate": (1, None, None, 1, 1),
    "rms_norm": (1, None),
    "rotate": (2, 1, 1),
    "route": (1, None, None),
    "routed_mm": (1, 1, None),
    "rsqrt": (1,),
    "scaled_embedding": (None, 0),
    "scaled_mm": (1, None, 1, None),
    "sigmoid": (1,),
    "silu": (1,),
    "softcap": (1,),
    "softmax": (1,),
    "swiglu": (1, 1),
    "tanh": (1,),
    "weighted_rms_norm": (1, None),
}
# The input whose leading dimensions count the rows, where that is not the first.
_LEADING = {"addmm": 1, "embedding": 1, "scaled_embedding": 1}


def divide(
    op: str, attrs: Mapping[str, Attr], inputs: _Inputs, outputs: Sequence[HostTensor]
) -> Divided | None:
    """Return a step as rows, or None where rows of this op, or of these shapes, are not independent."""
    if op == "paged_attention":
        return _queries(inputs)
    tails = _ROWS.get(op, ())
    at = _LEADING.get(op, 0)
    first = inputs[at] if tails else None
    if first is None or (op.endswith("softmax") and attrs["dim"] not in (-1, len(first.shape) - 1)):
        return None
    if op == "matmul" and (inputs[1] is None or len(inputs[1].shape) != 2):
        return None
    lead = _lead(first, tails[at])
    if not lead or any(t.shape[: len(lead)] != lead for t in outputs):
        return None
    kinds = [_is_row(t, tail, lead) for t, tail in zip(inputs, tails, strict=False)]
    if None in kinds:
        return None

    def some(rows: Index) -> tuple[HostTensor | None, ...]:
        made = [
            of_rows(t, len(lead), rows) if is_row and t is not None else t
            for t, is_row in zip(inputs, kinds, strict=True)
        ]
        match op:
            case "experts":
                return _of_experts(made)
            case "embedding" | "scaled_embedding":
                return _of_table(made)
            case _:
                return tuple(made)

    return Divided(count=math.prod(lead), lead=lead, inputs=some)


def _lead(tensor: HostTensor | None, tail: int | None) -> tuple[int, ...]:
    return () if tensor is None or tail is None else tensor.shape[: len(tensor.shape) - tail]


def _is_row(tensor: HostTensor | None, tail: int | None, lead: tuple[int, ...]) -> bool | None:
    """Whether an input has a row for each row, False where each reads all of it; None: neither."""
    if tensor is None or tail is None or math.prod(tensor.shape[: max(len(tensor.shape) - tail, 0)]) == 1:
        return False
    return True if _lead(tensor, tail) == lead else None


def of_rows(tensor: HostTensor, lead: int, rows: Index) -> HostTensor:
    """Return rows of a tensor whose first `lead` dimensions count them; all but the last become 1.

    Of a tensor with gaps the result has one too: some kernels, and so budgets, depend on that.
    """
    picked = tensor.array()[np.unravel_index(rows, tensor.shape[:lead])]
    shape = (*(1,) * (lead - 1), len(rows), *tensor.shape[lead:])
    made = HostTensor.of(np.asarray(picked).reshape(shape), tensor.dtype)
    if tensor.is_contiguous:
        return made
    storage = np.append(made.storage, made.storage[:1])
    return HostTensor(dtype=made.dtype, storage=storage, shape=made.shape, stride=made.stride)


def _of_experts(inputs: list[HostTensor | None]) -> tuple[HostTensor | None, ...]:
    """Keep only the experts that the rows chose, renumbered in their order."""
    x, weights, chosen, up, down = inputs
    assert chosen is not None and up is not None and down is not None
    numbers, place = np.unique(chosen.array(), return_inverse=True)
    if len(numbers) and (numbers[0] < 0 or numbers[-1] >= up.shape[0]):
        return tuple(inputs)
    renumbered = HostTensor.of(place.reshape(chosen.shape).astype(chosen.dtype.storage), chosen.dtype)
    few = (HostTensor.of(np.array(t.array()[numbers]), t.dtype) for t in (up, down))
    return (x, weights, renumbered, *few)


def _of_table(inputs: list[HostTensor | None]) -> tuple[HostTensor | None, ...]:
    """Keep only the rows of a table that are looked up, renumbered in their order."""
    table, ids = inputs
    assert table is not None and ids is not None
    numbers, place = np.unique(ids.array(), return_inverse=True)
    if not len(numbers) or numbers[0] < 0 or numbers[-1] >= table.shape[0]:
        return tuple(inputs)
    few = HostTensor.of(np.array(table.array()[numbers]), table.dtype)
    return few, HostTensor.of(place.reshape(ids.shape).astype(ids.dtype.storage), ids.dtype)


def _queries(inputs: _Inputs) -> Divided | None:
    """Each query as a segment of its own, over the keys of its segment up to its own."""
    q, keys, values, slots, segments = inputs
    assert q is not None and keys is not None and values is not None
    assert slots is not None and segments is not None
    count = q.shape[0]
    table, entries = segments.array().astype(np.int64), slots.array().astype(np.int64)
    owner = np.full(count, -1, np.int64)
    for number, (start, length, _) in enumerate(table):
        owner[start : start + length] = number
    owned = table[:, 1] + table[:, 2]
    first = np.cumsum(owned) - owned
    # A query that two segments claim, or none, is for the full oracle to speak of.
    if (owner < 0).any() or table[:, 1].sum() != count or first.size == 0:
        return None

    def some(rows: Index) -> tuple[HostTensor | None, ...]:
        mine = table[owner[rows]]
        context = mine[:, 2] + rows - mine[:, 0]
        read = [entries[first[o] : first[o] + n + 1] for o, n in zip(owner[rows], context, strict=True)]
        used, place = np.unique(np.concatenate(read), return_inverse=True)
        one = np.stack([np.arange(len(rows)), np.ones_like(rows), context], axis=1)
        if used[0] < 0 or used[-1] >= keys.shape[0]:
            used, place = np.arange(keys.shape[0]), np.concatenate(read)
        pools = (HostTensor.of(np.array(t.array()[used]), t.dtype) for t in (keys, values))
        return (
            of_rows(q, 1, rows),
            *pools,
            HostTensor.of(place.reshape(-1).astype(slots.dtype.storage), slots.dtype),
            HostTensor.of(one.astype(segments.dtype.storage), segments.dtype),
        )

    return Divided(count=count, lead=(count,), inputs=some)
