"""Which calls of torch are a canonical product, sum, norm, function of one element or attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from parity.case.op import Attr
from parity.run.module_arguments import Arguments, Canonical, floats, only, trimmed, two

__all__ = ["MATH"]


def _add(a: Arguments) -> Canonical:
    x, other, alpha = a.named("input other alpha", alpha=1)
    only(alpha == 1)
    return Canonical(op="add", inputs=two(x, other, a.y, ints=True))


def _sub(a: Arguments) -> Canonical:
    """Subtracting a number is adding its negative; a tensor's negative is nothing that the call consumed."""
    x, other, alpha = a.named("input other alpha", alpha=1)
    only(
        alpha == 1
        and isinstance(other, (int, float))
        and not isinstance(other, bool)
        and a.y.is_floating_point()
    )
    return Canonical(op="add", inputs=two(x, -float(other), a.y, ints=False))


def _mul(a: Arguments) -> Canonical:
    x, other = a.named("input other")
    return Canonical(op="mul", inputs=two(x, other, a.y, ints=True))


def _div(a: Arguments) -> Canonical:
    """A scalar, or a host's tensor, may be multiplied by its reciprocal: the same for powers of two only."""
    x, other, mode = a.named("input other rounding_mode", rounding_mode=None)
    only(mode is None and isinstance(x, Tensor))
    if isinstance(other, (int, float)) and not isinstance(other, bool):
        only(other != 0 and abs(torch.frexp(torch.tensor(float(other)))[0].item()) == 0.5)
    else:
        only(isinstance(other, Tensor) and other.device == x.device)
    return Canonical(op="div", inputs=two(x, other, a.y, ints=False))


def _unary(op: str) -> Callable[[Arguments], Canonical]:
    def rule(a: Arguments) -> Canonical:
        (x, _) = a.named("input inplace", inplace=False)
        floats(x, a.y)
        return Canonical(op=op, inputs=(x,))

    return rule


def _gelu(a: Arguments) -> Canonical:
    x, approximate = a.named("input approximate", approximate="none")
    floats(x, a.y)
    return Canonical(op="gelu_tanh" if approximate == "tanh" else "gelu_erf", inputs=(x,))


def _matmul(a: Arguments) -> Canonical:
    x, other = a.named("input other") if "mat2" not in a.kwargs else a.named("input mat2")
    floats(x, other, a.y)
    only(min(x.ndim, other.ndim) >= 2)
    return Canonical(op="matmul", inputs=(x, other))


def _rmatmul(a: Arguments) -> Canonical:
    x, other = a.named("input other")
    floats(x, other, a.y)
    only(min(x.ndim, other.ndim) >= 2)
    return Canonical(op="matmul", inputs=(other, x))


def _bmm(a: Arguments) -> Canonical:
    x, other = a.named("input mat2")
    floats(x, other, a.y)
    return Canonical(op="bmm", inputs=(x, other))


def _addmm(a: Arguments) -> Canonical:
    c, x, other, beta, alpha = a.named("input mat1 mat2 beta alpha", beta=1, alpha=1)
    floats(c, x, other, a.y)
    return Canonical(op="addmm", inputs=(c, x, other), attrs={"alpha": alpha, "beta": beta})


def _linear(a: Arguments) -> Canonical:
    x, w, bias = a.named("input weight bias", bias=None)
    floats(x, w, a.y, *([] if bias is None else [bias]))
    only(w.ndim == 2 and x.ndim >= 1)
    return Canonical(op="linear", inputs=(x, w) if bias is None else (x, w, bias))


def _conv(op: str, dims: int) -> Callable[[Arguments], Canonical]:
    def one(value: Any) -> int:
        values = {value} if isinstance(value, int) else set(value)
        only(len(values) == 1 and all(type(v) is int for v in values))
        return int(values.pop())

    def rule(a: Arguments) -> Canonical:
        names = "input weight bias stride padding dilation groups"
        x, w, bias, *rest = a.named(names, bias=None, stride=1, padding=0, dilation=1, groups=1)
        floats(x, w, a.y, *([] if bias is None else [bias]))
        only(x.ndim == dims + 2 and not any(isinstance(r, str) for r in rest))
        stride, padding, dilation, groups = map(one, rest)
        attrs: dict[str, Attr] = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
        }
        attrs |= {"causal": False} if dims == 1 else {}
        return Canonical(op=op, inputs=(x, w) if bias is None else (x, w, bias), attrs=attrs)

    return rule


def _softmax(op: str) -> Callable[[Arguments], Canonical]:
    def rule(a: Arguments) -> Canonical:
        if a.is_functional:
            x, dim, _, dtype = a.named("input dim _stacklevel dtype", _stacklevel=3, dtype=None)
        else:
            x, dim, dtype = a.named("input dim dtype", dtype=None)
        floats(x, a.y)
        only(type(dim) is int and dtype in (None, x.dtype))
        return Canonical(op=op, inputs=(x,), attrs={"dim": dim})

    return rule


def _reduce(op: str) -> Callable[[Arguments], Canonical]:
    def rule(a: Arguments) -> Canonical:
        x, dim, keepdim, dtype = a.named("input dim keepdim dtype", keepdim=False, dtype=None)
        floats(x, a.y)
        only(dtype in (None, x.dtype))
        dims = (dim,) if type(dim) is int else tuple(dim or ())
        only(len(dims) == 1)
        return Canonical(op=op, inputs=(x,), attrs={"dim": dims[0], "keepdim": bool(keepdim)})

    return rule


def _cumsum(a: Arguments) -> Canonical:
    x, dim, dtype = a.named("input dim dtype", dtype=None)
    floats(x, a.y)
    only(dtype in (None, x.dtype))
    return Canonical(op="cumsum", inputs=(x,), attrs={"dim": dim})


def _lastonly(x: Tensor, shape: Any) -> None:
    only(isinstance(shape, (tuple, list, torch.Size)) and tuple(shape) == tuple(x.shape[-1:]) and x.ndim)


def _layer_norm(a: Arguments) -> Canonical:
    names = "input normalized_shape weight bias eps cudnn_enable"
    x, shape, g, b, eps, _ = a.named(names, weight=None, bias=None, eps=1e-5, cudnn_enable=True)
    floats(x, a.y, *(t for t in (g, b) if t is not None))
    _lastonly(x, shape)
    return Canonical(op="layer_norm", inputs=trimmed(x, g, b), attrs={"eps": float(eps)})


def _rms_norm(a: Arguments) -> Canonical:
    x, shape, g, eps = a.named("input normalized_shape weight eps", weight=None, eps=None)
    floats(x, a.y, *([] if g is None else [g]))
    _lastonly(x, shape)
    only(eps is not None)
    return Canonical(op="rms_norm", inputs=trimmed(x, g), attrs={"eps": float(eps)})


def _attention(a: Arguments) -> Canonical:
    """torch aligns is_causal with the first key, the table with the last: the same for equal lengths only."""
    names = "query key value attn_mask dropout_p is_causal scale enable_gqa"
    q, k, v, mask, dropout, causal, scale, _ = a.named(
        names, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    )
    floats(q, k, v, a.y)
    only(q.ndim == k.ndim == v.ndim == 4 and not dropout and q.shape[0] == k.shape[0] == v.shape[0])
    only(k.shape[1] == v.shape[1] and q.shape[1] % k.shape[1] == 0 and k.shape[2] == v.shape[2])
    only(not causal or q.shape[2] == k.shape[2])
    only(mask is None or mask.dtype in (torch.bool, q.dtype))
    attrs: dict[str, Attr] = {
        "causal": bool(causal),
        "window": None,
        "scale": None if scale is None else float(scale),
    }
    return Canonical(op="attention", inputs=trimmed(q, k, v, mask), attrs=attrs)


MATH: Mapping[str, Callable[[Arguments], Canonical]] = {
    "add": _add,
    "addmm": _addmm,
    "bmm": _bmm,
    "conv1d": _conv("conv1d", 1),
    "conv2d": _conv("conv2d", 2),
    "cumsum": _cumsum,
    "div": _div,
    "erf": _unary("erf"),
    "exp": _unary("exp"),
    "gelu": _gelu,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "log_softmax": _softmax("log_softmax"),
    "logsumexp": _reduce("logsumexp"),
    "matmul": _matmul,
    "mean": _reduce("mean"),
    "mul": _mul,
    "rmatmul": _rmatmul,
    "rms_norm": _rms_norm,
    "rsqrt": _unary("rsqrt"),
    "scaled_dot_product_attention": _attention,
    "sigmoid": _unary("sigmoid"),
    "silu": _unary("silu"),
    "softmax": _softmax("softmax"),
    "sub": _sub,
    "sum": _reduce("sum"),
    "tanh": _unary("tanh"),
}
