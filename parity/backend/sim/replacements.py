"""The operations for which a chip has a kernel of its own, by ATen name.

Each returns the result, or None where this chip declares nothing for these arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from parity.backend.arithmetic import Arithmetic
from parity.backend.sim import attention, casts
from parity.backend.sim.calls import Call
from parity.backend.sim.convolution import convolution
from parity.backend.sim.elementwise import divided, function
from parity.backend.sim.faults import Faults
from parity.backend.sim.products import product
from parity.backend.sim.rounding import stored
from parity.backend.torch_tensor import dtype_of, name_of

__all__ = ["Replacements"]

_Bound = Mapping[str, Any]
_INDEXED = ("index_put", "_index_put_impl")  # each takes its indices second


class Replacements:
    """A chip's own kernels; `arithmetic` says what they compute, `faults` what is broken in them."""

    def __init__(self, arithmetic: Arithmetic, faults: Faults) -> None:
        self._facts = arithmetic
        self._faults = faults
        self._calls = 0
        self._table: dict[str, Callable[[_Bound], Tensor | None]] = {
            "mm": lambda p: self._product(p["self"], p["mat2"]),
            "bmm": lambda p: self._product(p["self"], p["mat2"]),
            "mv": lambda p: self._squeezed(p["self"], p["vec"][:, None], -1),
            "dot": lambda p: self._squeezed(p["self"][None], p["tensor"][:, None], -1, -1),
            "addmm": lambda p: self._added(p, p["mat1"], p["mat2"]),
            "baddbmm": lambda p: self._added(p, p["batch1"], p["batch2"]),
            "convolution": self._convolution,
            "scaled_dot_product_attention": self._attention,
            "attention": self._attention,
            "div": self._division,
            "gelu": self._gelu,
            "_to_copy": lambda p: self._cast(p["self"], p["dtype"]),
            "copy": lambda p: self._cast(p["src"], p["self"].dtype),
            **{name: self._function(name) for name in arithmetic.ulps},
        }

    def run(self, call: Call) -> Any:
        """Return the chip's result of a call, None where the host's kernel serves."""
        if call.name in _INDEXED:
            return self._indexed(call)
        kernel = self._table.get(call.name)
        return None if kernel is None else kernel(call.bound())

    def _emulates(self, *operands: Tensor, prefix: str = "") -> bool:
        key = prefix + name_of(operands[0].dtype)
        same = len({t.dtype for t in operands}) == 1 and operands[0].is_floating_point()
        own = key in self._facts.products or self._faults.changes_products() or self._facts.batch is False
        return same and own

    def _multiply(self, a: Tensor, b: Tensor, prefix: str = "") -> Tensor:
        """Return a product in the accumulator's format, held in float64."""
        if self._faults.changes_products():
            a, b = self._faults.operands(a, b)
        if self._facts.batch is False and a.shape[-2] == 1:
            # A row alone takes another kernel, which starts from the other end of K.
            a, b = a.flip(-1), b.flip(-2)
        how = self._facts.products.get(prefix + name_of(a.dtype))
        if how is None:
            return torch.matmul(a, b).double()
        self._calls += 1
        return product(a, b, how, call=self._calls)

    def _product(self, a: Tensor, b: Tensor) -> Tensor | None:
        if not self._emulates(a, b):
            return None
        return stored(self._multiply(a, b), a.dtype, dtype_of(a.dtype))

    def _squeezed(self, a: Tensor, b: Tensor, *dims: int) -> Tensor | None:
        y = self._product(a, b)
        for dim in dims:
            y = y if y is None else y.squeeze(dim)
        return y

    def _added(self, p: _Bound, a: Tensor, b: Tensor) -> Tensor | None:
        if not self._emulates(a, b):
            return None
        total = p["alpha"] * self._multiply(a, b)
        # beta = 0 means that the addend is not read: a NaN in it does not count.
        if p["beta"] != 0:
            total = total + p["beta"] * p["self"].double()
        return stored(total, a.dtype, dtype_of(a.dtype))

    def _convolution(self, p: _Bound) -> Tensor | None:
        x, w = p["input"], p["weight"]
        if p["transposed"] or not self._emulates(x, w, prefix="conv."):
            return None
        y = convolution(
            x,
            w,
            p["bias"],
            stride=p["stride"],
            padding=p["padding"],
            dilation=p["dilation"],
            groups=p["groups"],
            multiply=lambda a, b: self._multiply(a, b, "conv."),
        )
        return stored(y, x.dtype, dtype_of(x.dtype))

    def _attention(self, p: _Bound) -> Tensor | None:
        q, k, v = p.get("query", p.get("q")), p.get("key", p.get("k")), p.get("value", p.get("v"))
        assert q is not None and k is not None and v is not None
        mask = attention.mask_of(q, k, p["attn_mask"], causal=p["is_causal"])
        if self._faults.is_armed("off_by_one_mask"):
            mask = attention.extended(mask)
        elif not self._emulates(q, k, v) and self._facts.masked_row == "zero":
            return None
        if self._emulates(q, k, v):
            y = attention.composed(q, k, v, mask, scale=p["scale"], multiply=self._multiply)
            y = stored(y, q.dtype, dtype_of(q.dtype))
        else:
            y = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, mask, scale=p["scale"], enable_gqa=p["enable_gqa"]
            )
        return attention.with_masked_rows(y, v, mask, row=self._facts.masked_row or "zero")

    def _division(self, p: _Bound) -> Tensor | None:
        a, b = p["self"], p["other"]
        if self._facts.division != "reciprocal" or p.get("rounding_mode") or not a.is_floating_point():
            return None
        b = b if isinstance(b, Tensor) else torch.tensor(b, dtype=a.dtype)
        return divided(a, b) if b.dtype == a.dtype else None

    def _gelu(self, p: _Bound) -> Tensor | None:
        if self._facts.gelu != "tanh" or p["approximate"] != "none":
            return None
        return torch.nn.functional.gelu(p["self"], approximate="tanh")

    def _function(self, name: str) -> Callable[[_Bound], Tensor | None]:
        def kernel(p: _Bound) -> Tensor | None:
            x = p["self"]
            return function(name, x, int(self._facts.ulps[name])) if x.dtype == torch.float32 else None

        return kernel

    def _cast(self, x: Tensor, to: torch.dtype | None) -> Tensor | None:
        flavour, beyond, eight = self._facts.fp8, self._facts.fp8_overflow, torch.float8_e4m3fn
        if to is None or flavour is None or (flavour == "e4m3fn" and beyond is None):
            return None
        if x.dtype == eight and to != eight:
            return casts.decoded(x, flavour).to(to)
        if to == eight and x.dtype != eight:
            return casts.encoded(x, flavour, beyond or "native")
        return None

    def _indexed(self, call: Call) -> Any:
        how, indices = self._facts.negative_index, call.args[1]
        integers = [i for i in indices if i is not None and i.dtype in (torch.int64, torch.int32)]
        if how == "wraps" or not any(bool((i < 0).any()) for i in integers):
            return None
        if how == "error":
            raise IndexError("sim: negative indices are out of range")
        taken = [i.clamp(min=0) if any(i is each for each in integers) else i for i in indices]
        return call.func(call.args[0], taken, *call.args[2:], **call.kwargs)
