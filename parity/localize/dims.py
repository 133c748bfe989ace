"""Which dimensions of an op's inputs belong together, so that a step can be cut to a smaller one.

A cut step is a step of its own, judged on its own inputs: nothing of it has to agree with the whole.
An op that is not here is not cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.case.op import Attr
from parity.case.tensor import HostTensor
from parity.localize.trial import Trial

__all__ = ["Axis", "Dim", "cut", "dims_of"]

_Shapes = Sequence["tuple[int, ...] | None"]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of input `at`; each of the dimension's units is `factor` elements, in `blocks` equal parts."""

    at: int
    axis: int
    factor: int = 1
    blocks: int = 1


@dataclass(frozen=True, slots=True)
class Dim:
    """Axes of inputs that have one length, of `size` units, and never get shorter than `least`."""

    name: str
    size: int
    axes: tuple[Axis, ...]
    least: int = 1


def dims_of(trial: Trial) -> list[Dim]:
    """Return the dimensions that a step can be cut in, those of independent results first."""
    shapes = [None if t is None else t.shape for t in trial.consumed]
    make = _OPS.get(trial.record.op)
    found = make(shapes, trial.record.attrs) if make else []
    return [dim for dim in found if dim.size > dim.least]


def cut(trial: Trial, dim: Dim, start: int, stop: int) -> Trial:
    """Return the step on units start to stop of a dimension."""
    changed: dict[int, HostTensor] = {}
    for axis in dim.axes:
        tensor = changed.get(axis.at, trial.consumed[axis.at])
        assert tensor is not None
        block = tensor.shape[axis.axis] // axis.blocks
        wanted = np.concatenate(
            [
                np.arange(b * block + start * axis.factor, b * block + stop * axis.factor)
                for b in range(axis.blocks)
            ]
        )
        changed[axis.at] = HostTensor.of(np.take(tensor.array(), wanted, axis=axis.axis), tensor.dtype)
    return trial.on(changed)


def _dim(name: str, shapes: _Shapes, *axes: Axis, least: int = 1) -> Dim:
    """Return a dimension of the axes whose input is present and long enough to have it."""
    here = [a for a in axes if shapes[a.at : a.at + 1] and shapes[a.at] is not None]
    first = here[0]
    shape = shapes[first.at]
    assert shape is not None
    size = shape[first.axis] // first.factor // first.blocks

    def has(axis: Axis) -> bool:
        lengths = shapes[axis.at] or ()
        position = axis.axis + len(lengths) if axis.axis < 0 else axis.axis
        return 0 <= position < len(lengths) and lengths[position] == size * axis.factor * axis.blocks

    return Dim(name=name, size=size, axes=tuple(a for a in here if has(a)), least=least)


def _leading(shapes: _Shapes, *, but: int = 1, at: int = 0) -> list[Dim]:
    shape = shapes[at] or ()
    return [_dim(f"dim {i}", shapes, Axis(at, i)) for i in range(max(len(shape) - but, 0))]


def _every(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    shape = shapes[0] or ()
    found = []
    for i in range(len(shape)):
        # A selection of k needs as many to choose from.
        dim, k = attrs.get("dim"), attrs.get("k")
        is_chosen = isinstance(dim, int) and dim % len(shape) == i and isinstance(k, int)
        found.append(_dim(f"dim {i}", shapes, Axis(0, i), least=int(k or 1) if is_chosen else 1))
    return found


def _joined(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    rank, dim = len(shapes[0] or ()), attrs.get("dim")
    if not rank or not isinstance(dim, int):
        return []
    along = dim % rank
    shared = [[Axis(i, d) for i in range(len(shapes))] for d in range(rank) if d != along]
    apart = [[Axis(i, along)] for i in range(len(shapes))]
    return [_dim(f"dim {axes[0].axis}", shapes, *axes) for axes in (*shared, *apart)]


def _broadcast(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    del attrs
    most = max(len(s) for s in shapes if s is not None)
    found = []
    for back in range(most, 0, -1):
        axes = [
            Axis(i, -back) for i, s in enumerate(shapes) if s is not None and len(s) >= back and s[-back] > 1
        ]
        found += [_dim(f"dim {most - back}", shapes, *axes)] if axes else []
    return found


def _normed(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    del attrs
    scales = [Axis(i, -1) for i in range(1, len(shapes))]
    return [*_leading(shapes), _dim("K", shapes, Axis(0, -1), *scales)]


def _linear(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    del attrs
    columns = _dim("N", shapes, Axis(1, 0), Axis(2, 0))
    return [*_leading(shapes), columns, _dim("K", shapes, Axis(0, -1), Axis(1, -1))]


def _matmul(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    del attrs
    a, b = shapes[0] or (), shapes[1] or ()
    if min(len(a), len(b)) < 2:
        return []
    shared = range(3, min(len(a), len(b)) + 1)
    batches = [_dim(f"batch {-i}", shapes, Axis(0, -i), Axis(1, -i)) for i in shared if a[-i] == b[-i]]
    rows, columns = _dim("M", shapes, Axis(0, -2)), _dim("N", shapes, Axis(1, -1))
    return [*batches, rows, columns, _dim("K", shapes, Axis(0, -1), Axis(1, -2))]


def _addmm(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    del attrs
    rows = _dim("M", shapes, Axis(1, 0), *([Axis(0, 0)] if len(shapes[0] or ()) == 2 else []))
    return [rows, _dim("N", shapes, Axis(2, 1), Axis(0, -1)), _dim("K", shapes, Axis(1, 1), Axis(2, 0))]


def _convolution(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    batch = _dim("N", shapes, Axis(0, 0))
    return [batch, _dim("O", shapes, Axis(1, 0), Axis(2, 0))] if attrs.get("groups") == 1 else [batch]


def _attention(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    del attrs
    q, k = shapes[0] or (), shapes[1] or ()
    if len(q) != 4 or len(k) != 4:
        return []
    group = q[1] // max(k[1], 1)
    heads = (Axis(1, 1), Axis(2, 1), Axis(0, 1, group), *([Axis(3, -3, group)] if len(shapes) > 3 else []))
    mask = [[Axis(3, i)] if len(shapes) > 3 and shapes[3] is not None else [] for i in (-4, -2, -1)]
    return [
        _dim("batch", shapes, Axis(0, 0), Axis(1, 0), Axis(2, 0), *mask[0]),
        _dim("heads", shapes, *heads),
        _dim("T", shapes, Axis(0, 2), *mask[1]),
        _dim("E", shapes, Axis(2, 3)),
        _dim("S", shapes, Axis(1, 2), Axis(2, 2), *mask[2], least=q[2]),
        _dim("D", shapes, Axis(0, 3), Axis(1, 3)),
    ]


def _rope(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    del attrs
    return [*_leading(shapes, but=2), _dim("T", shapes, Axis(0, -2), Axis(1, -1))]


def _rotate(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    del attrs
    return [_dim("T", shapes, Axis(0, 0), Axis(1, 0), Axis(2, 0)), _dim("H", shapes, Axis(0, 1))]


def _looked_up(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    del attrs
    return [*_leading(shapes, but=0, at=1), _dim("K", shapes, Axis(0, -1))]


def _gated(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    del attrs
    return [*_leading(shapes), _dim("F", shapes, Axis(0, -1, 1, 2))]


def _paged(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    del attrs
    q, keys = shapes[0] or (1, 1, 1), shapes[1] or (1, 1, 1)
    heads = Axis(1, 1), Axis(2, 1), Axis(0, 1, q[1] // max(keys[1], 1))
    return [
        _dim("heads", shapes, *heads),
        _dim("E", shapes, Axis(2, 2)),
        _dim("D", shapes, Axis(0, 2), Axis(1, 2)),
    ]


def _route(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    del attrs
    return [_dim("T", shapes, Axis(0, 0)), _dim("K", shapes, Axis(0, -1), Axis(1, -1))]


def _experts(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    del attrs
    return [
        _dim("T", shapes, Axis(0, 0), Axis(1, 0), Axis(2, 0)),
        _dim("F", shapes, Axis(4, 2), Axis(3, 1, 1, 2)),
        _dim("K", shapes, Axis(0, 1), Axis(3, 2), Axis(4, 1)),
    ]


def _quantized(shapes: _Shapes, attrs: Mapping[str, Attr]) -> list[Dim]:
    rows = _leading(shapes)
    if "out" in attrs:  # int8_linear, whose rows and columns have scales
        rows = [_dim("T", shapes, Axis(0, 0), Axis(2, 0))]
        columns = _dim("N", shapes, Axis(1, 0), Axis(3, 0))
    else:
        columns = _dim("N", shapes, Axis(1, 0), Axis(2, 0))
    inner = [] if "group" in attrs else [_dim("K", shapes, Axis(0, -1), Axis(1, -1))]
    return [*rows, columns, *inner]


_Make = Callable[[_Shapes, Mapping[str, Attr]], "list[Dim]"]
_OPS: dict[str, _Make] = {
    **dict.fromkeys(
        (
            *("argmax", "cast", "copy", "cumsum", "erf", "exp", "gelu_erf", "gelu_tanh", "log_softmax"),
            *("logsumexp", "mean", "rsqrt", "sigmoid", "silu", "softcap", "softmax", "sort", "sum"),
            *("tanh", "topk", "tril", "triu"),
            *("amax", "amin", "argsort", "cos", "cumprod", "expm1", "log", "log1p", "max", "min", "norm"),
            *("pow_scalar", "reciprocal", "relu_squared", "sin", "softplus", "sqrt", "var"),
        ),
        _every,
    ),
    **dict.fromkeys(
        (
            *("add", "div", "floor_divide", "mul", "pow", "remainder", "sub", "swiglu"),
            *("trunc_divide", "where"),
        ),
        _broadcast,
    ),
    **dict.fromkeys(("layer_norm", "rms_norm", "weighted_rms_norm"), _normed),
    **dict.fromkeys(("bmm", "matmul"), _matmul),
    **dict.fromkeys(("conv1d", "conv2d"), _convolution),
    **dict.fromkeys(("embedding", "scaled_embedding"), _looked_up),
    **dict.fromkeys(("int4_weight_linear", "int8_linear", "int8_weight_linear"), _quantized),
    "addmm": _addmm,
    "attention": _attention,
    "cat": _joined,
    "experts": _experts,
    "gated": _gated,
    "linear": _linear,
    "paged_attention": _paged,
    "rope": _rope,
    "rotate": _rotate,
    "route": _route,
}
