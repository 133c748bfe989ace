"""Which rows of a large result look worst: a float32 evaluation of all of it on this host.

It names rows and says nothing of them. Does not judge; `sampled` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from parity.backend.torch_ops import PLAIN_OPS
from parity.backend.torch_tensor import to_torch
from parity.case.case import Step
from parity.case.op import Attr
from parity.case.tensor import HostTensor
from parity.judge.rows import Divided, Index

__all__ = ["furthest", "pieces"]

# Rows that are named, by each of two measures.
_NAMED = 8
# Elements that are looked at in one go.
_PIECE = 1 << 20
_HOST = torch.device("cpu")


def furthest(step: Step, divided: Divided, outputs: tuple[HostTensor, ...]) -> Index | None:
    """Return the rows of the first output furthest from what is computed here, by two measures.

    In last places, and beside the rest of the row: an element that is wrong is far off by one of them.
    None where the result does not have the form that is computed here.
    """
    if not outputs[0].dtype.is_float:
        return np.empty(0, np.int64)
    unit, far = outputs[0].dtype.unit_roundoff, []
    for first, got in pieces(divided, outputs[0]):
        rows = np.arange(first, first + len(got))
        quick = _quick(step.op, divided.inputs(rows), step.attrs).reshape(len(rows), -1)
        if quick.shape != got.shape:
            return None
        size = quick.square().mean(-1, keepdim=True).sqrt() + 1e-38
        off = (got.float() - quick).abs_().nan_to_num(nan=0.0, posinf=0.0)
        places = off / (unit * (quick.abs() + size / 64))
        far.append(torch.stack((places.amax(-1), (off / size).amax(-1))))
    best = [m.argsort(descending=True)[:_NAMED].numpy() for m in torch.cat(far, dim=1)]
    return np.unique(np.concatenate(best))


def pieces(divided: Divided, tensor: HostTensor) -> Iterator[tuple[int, Tensor]]:
    """Yield a tensor in pieces of rows, each row one dimension, with the number of the first row."""
    each = max(_PIECE * divided.count // max(tensor.numel, 1), 1)
    for first in range(0, divided.count, each):
        rows = np.arange(first, min(first + each, divided.count))
        (some,) = divided.outputs([tensor], rows)
        yield first, to_torch(some, _HOST).reshape(len(rows), -1)


def _quick(op: str, inputs: Sequence[HostTensor | None], attrs: Mapping[str, Attr]) -> Tensor:
    if op == "experts":
        return _experts(inputs, attrs)
    made = PLAIN_OPS[op](*(None if t is None else _wide(t) for t in inputs), **attrs)
    first: Tensor = made[0] if isinstance(made, tuple) else made
    return first


def _wide(tensor: HostTensor) -> Tensor:
    made = to_torch(tensor, _HOST)
    return made.float() if made.is_floating_point() else made


def _experts(inputs: Sequence[HostTensor | None], attrs: Mapping[str, Attr]) -> Tensor:
    """One expert at a time: all of them in float32 may be more memory than a layer."""
    x, weights, chosen, up, down = inputs
    assert x is not None and weights is not None and chosen is not None
    assert up is not None and down is not None
    rows_of, shares, numbers = _wide(x), _wide(weights), _wide(chosen)
    total = torch.zeros_like(rows_of)
    for expert in range(up.shape[0]):
        rows, place = torch.where(numbers == expert)
        if not len(rows):
            continue
        one = (HostTensor.of(np.array(t.array()[expert : expert + 1]), t.dtype) for t in (up, down))
        first = torch.zeros(len(rows), 1, dtype=torch.int64)
        made = PLAIN_OPS["experts"](
            rows_of[rows], shares[rows, place, None], first, *map(_wide, one), **attrs
        )
        total.index_add_(0, rows, made)
    return total
