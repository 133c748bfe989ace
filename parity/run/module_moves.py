"""Which calls of torch are a canonical lookup, movement, selection, order or conversion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from parity.backend.base import Unsupported
from parity.backend.torch_tensor import dtype_of
from parity.case.op import Attr
from parity.run.module_arguments import Arguments, Canonical, OtherwiseError, constant, floats, only, same

__all__ = ["MOVES"]


def _embedding(a: Arguments) -> Canonical:
    names = "input weight padding_idx max_norm norm_type scale_grad_by_freq sparse"
    ids, table, _, most, *_ = a.named(
        names, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False
    )
    only(most is None and table.dtype == a.y.dtype and table.ndim == 2)
    return Canonical(op="embedding", inputs=(table, ids))


def _is_index(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.int64


def _gather(a: Arguments) -> Canonical:
    x, dim, index, _ = a.named("input dim index sparse_grad", sparse_grad=False)
    same(x, a.y)
    only(x.ndim == index.ndim > 0)
    return Canonical(op="gather", inputs=(x, index), attrs={"dim": dim})


def _scatter_add(a: Arguments) -> Canonical:
    x, dim, index, src = a.named("input dim index src")
    floats(x, src, a.y)
    only(x.ndim == index.ndim == src.ndim > 0)
    return Canonical(op="scatter_add", inputs=(x, index, src), attrs={"dim": dim})


def _getitem(a: Arguments) -> Canonical:
    x, index = a.named("input index")
    index = index[0] if isinstance(index, tuple) and len(index) == 1 else index
    only(_is_index(index) and x.ndim)
    return Canonical(op="index", inputs=(x, index))


def _index_select(a: Arguments) -> Canonical:
    x, dim, index = a.named("input dim index")
    only(x.ndim and dim % x.ndim == 0 and _is_index(index) and index.ndim == 1)
    return Canonical(op="index", inputs=(x, index))


def _rows(x: Tensor, index: Any, values: Any, *, accumulate: bool) -> Canonical:
    same(x, values)
    only(_is_index(index) and index.ndim == 1 and tuple(values.shape) == (len(index), *x.shape[1:]))
    only(x.is_floating_point() or not accumulate)
    return Canonical(op="index_put", inputs=(x, index, values), attrs={"accumulate": accumulate})


def _index_put(a: Arguments) -> Canonical:
    x, indices, values, accumulate = a.named("input indices values accumulate", accumulate=False)
    only(len(indices) == 1)
    return _rows(x, indices[0], values, accumulate=bool(accumulate))


def _index_add(a: Arguments) -> Canonical:
    x, dim, index, source, alpha = a.named("input dim index source alpha", alpha=1)
    only(x.ndim and dim % x.ndim == 0 and alpha == 1)
    return _rows(x, index, source, accumulate=True)


def _index_copy(a: Arguments) -> Canonical:
    x, dim, index, source = a.named("input dim index source")
    only(x.ndim and dim % x.ndim == 0)
    return _rows(x, index, source, accumulate=False)


def _where(a: Arguments) -> Canonical:
    condition, x, other = a.named("condition input other")
    if a.name.startswith("Tensor."):  # x.where(condition, other)
        condition, x = x, condition
    only(condition.dtype == torch.bool)
    x = x if isinstance(x, Tensor) else constant(x, a.y)
    other = other if isinstance(other, Tensor) else constant(other, a.y)
    same(x, other, a.y)
    return Canonical(op="where", inputs=(condition, x, other))


def _masked_fill(a: Arguments) -> Canonical:
    x, mask, value = a.named("input mask value")
    same(x, a.y)
    only(mask.dtype == torch.bool and x.shape == a.y.shape)
    value = value if isinstance(value, Tensor) else constant(value, x)
    same(x, value)
    return Canonical(op="where", inputs=(mask, value, x))


def _cat(a: Arguments) -> Canonical:
    tensors, dim = a.named("tensors dim", dim=0)
    same(*tensors, a.y)
    # A tensor of shape [0] joins anything, by an old rule of torch alone.
    only(len({t.ndim for t in tensors}) == 1)
    return Canonical(op="cat", inputs=tuple(tensors), attrs={"dim": dim})


def _stack(a: Arguments) -> Canonical:
    tensors, dim = a.named("tensors dim", dim=0)
    same(*tensors, a.y)
    return Canonical(op="cat", inputs=tuple(t.unsqueeze(dim) for t in tensors), attrs={"dim": dim})


def _triangle(op: str) -> Callable[[Arguments], Canonical]:
    def rule(a: Arguments) -> Canonical:
        x, diagonal = a.named("input diagonal", diagonal=0)
        only(x.ndim >= 2)
        return Canonical(op=op, inputs=(x,), attrs={"diagonal": diagonal})

    return rule


def _topk(a: Arguments) -> Canonical:
    x, k, dim, largest, is_sorted = a.named("input k dim largest sorted", dim=-1, largest=True, sorted=True)
    only(is_sorted and x.ndim and x.dtype is not torch.bool)
    return Canonical(op="topk", inputs=(x,), attrs={"k": int(k), "dim": dim, "largest": bool(largest)})


def _argmax(a: Arguments) -> Canonical:
    x, dim, keepdim = a.named("input dim keepdim", dim=None, keepdim=False)
    only(dim is not None and x.ndim)
    return Canonical(op="argmax", inputs=(x,), attrs={"dim": dim, "keepdim": bool(keepdim)})


def _sort(a: Arguments) -> Canonical:
    x, dim, descending, stable = a.named(
        "input dim descending stable", dim=-1, descending=False, stable=False
    )
    only(x.ndim and x.dtype is not torch.bool and isinstance(descending, bool))
    attrs: dict[str, Attr] = {"dim": dim, "descending": descending, "stable": bool(stable)}
    return Canonical(op="sort", inputs=(x,), attrs=attrs)


def _moved(x: Tensor, y: Tensor) -> Canonical:
    """Return the copy or the conversion that made `y` of `x`."""
    only(x.shape == y.shape and not x.is_complex() and not y.is_complex())
    if x.dtype == y.dtype:
        return Canonical(op="copy", inputs=(x,))
    try:
        return Canonical(op="cast", inputs=(x,), attrs={"to": dtype_of(y.dtype).name})
    except Unsupported:
        raise OtherwiseError from None


def _to(a: Arguments) -> Canonical:
    return _moved(a.args[0], a.y)


def _copy(a: Arguments) -> Canonical:
    x, source, _ = a.named("input src non_blocking", non_blocking=False)
    return _moved(source.expand_as(x), a.y)


def _reshape(a: Arguments) -> Canonical:
    x = a.args[0]
    only(isinstance(x, Tensor) and x.numel() == a.y.numel() and a.y.ndim > 0)
    same(x, a.y)
    return Canonical(op="reshape", inputs=(x,), attrs={"shape": "x".join(map(str, a.y.shape))})


def _setitem(a: Arguments) -> Canonical:
    x, index, values = a.named("input index values")
    if isinstance(index, Tensor):
        only(isinstance(values, Tensor))
        return _rows(x, index, values, accumulate=False)
    values = values if isinstance(values, Tensor) else constant(values, x)
    same(x, values)
    items = index if isinstance(index, tuple) else (index,)
    text = ", ".join(map(_index_text, items))
    return Canonical(op="slice_assign", inputs=(x, values), attrs={"index": f"x[{text}]"})


def _index_text(item: Any) -> str:
    if item is Ellipsis:
        return "..."
    if item is None or type(item) is int:
        return str(item)
    only(isinstance(item, slice))
    parts = (item.start, item.stop, item.step)
    only(all(part is None or type(part) is int for part in parts))
    text = ":".join("" if part is None else str(part) for part in parts)
    return text.removesuffix(":") if item.step is None else text


_CASTS = ("to", "type", "float", "half", "bfloat16", "double", "int", "long", "short", "char", "byte", "bool")
MOVES: Mapping[str, Callable[[Arguments], Canonical]] = {
    "argmax": _argmax,
    "cat": _cat,
    "clone": _to,
    "contiguous": _to,
    "copy": _copy,
    "deepcopy": _to,
    "embedding": _embedding,
    "gather": _gather,
    "getitem": _getitem,
    "index_add": _index_add,
    "index_copy": _index_copy,
    "index_put": _index_put,
    "index_select": _index_select,
    "masked_fill": _masked_fill,
    "reshape": _reshape,
    "scatter_add": _scatter_add,
    "setitem": _setitem,
    "sort": _sort,
    "stack": _stack,
    "topk": _topk,
    "tril": _triangle("tril"),
    "triu": _triangle("triu"),
    "where": _where,
    **dict.fromkeys(_CASTS, _to),
}
