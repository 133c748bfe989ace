"""Calls of ATen operators as the kernels see them: names, arguments by name, tensors, what is written.

Does not compute.
"""

# ruff: noqa: SLF001 - an operator keeps its signature in _schema only
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from parity.backend.torch_tensor import name_of

__all__ = ["ELEMENTWISE", "MOVES", "PRODUCTS", "Call", "each", "leaves", "op_name"]

_ARITHMETIC = ("add", "sub", "rsub", "mul", "div", "addcmul", "square", "pow", "reciprocal")
_FUNCTIONS = ("exp", "exp2", "expm1", "erf", "log", "tanh", "sqrt", "rsqrt", "cos", "sin")
_ACTIVATIONS = ("sigmoid", "silu", "gelu", "relu")
_COPIES = ("clone", "copy", "_to_copy", "repeat", "constant_pad_nd", "cat", "stack", "flip", "roll")
_SELECTIONS = ("index", "index_select", "index_put", "gather", "scatter", "embedding")
_MASKED = ("where", "masked_fill", "tril", "triu")
ELEMENTWISE = frozenset((*_ARITHMETIC, *_FUNCTIONS, *_ACTIVATIONS))
MOVES = frozenset((*_COPIES, *_SELECTIONS, *_MASKED))
PRODUCTS = frozenset(("mm", "bmm", "addmm", "baddbmm", "mv", "dot", "linear", "convolution"))


def each(change: Callable[[Any], Any], value: Any) -> Any:
    """Return a value with `change` applied to what lists and tuples in it hold; torch's own is slower."""
    if isinstance(value, (list, tuple)):
        return type(value)([each(change, item) for item in value])
    return change(value)


def leaves(value: Any) -> list[Any]:
    """Return what lists and tuples in a value hold, in order."""
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


@cache
def op_name(func: torch._ops.OpOverload) -> str:
    """Return the operator's name without namespace, overload and the underscore of in-place ones."""
    name = str(func._schema.name).partition("::")[2]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


@cache
def _parameters(func: torch._ops.OpOverload) -> tuple[tuple[str, Any], ...]:
    return tuple((a.name, a.default_value if a.has_default_value() else None) for a in func._schema.arguments)


@cache
def _written(func: torch._ops.OpOverload) -> tuple[str, ...]:
    return tuple(a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write)


@dataclass(frozen=True, slots=True)
class Call:
    """One call on CPU tensors."""

    func: torch._ops.OpOverload
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The operator's short name."""
        return op_name(self.func)

    @property
    def is_view(self) -> bool:
        """Whether it moves nothing: it looks at memory in another way, or lets its tensor do so."""
        return bool(self.func.is_view) or self.relabels

    @property
    def relabels(self) -> bool:
        """Whether it changes the shape or strides of its own tensor, as `squeeze_` does."""
        return torch.Tag.inplace_view in self.func.tags

    def run(self) -> Any:
        """Run the host's own kernel."""
        return self.func(*self.args, **self.kwargs)

    def bound(self) -> dict[str, Any]:
        """Return every argument by its name, defaults included."""
        parameters = _parameters(self.func)
        values = dict(parameters)
        values.update(zip((name for name, _ in parameters), self.args, strict=False))
        return {**values, **self.kwargs}

    def tensors(self) -> list[Tensor]:
        """Return the tensors among the arguments, in order."""
        return [leaf for leaf in self.leaves() if isinstance(leaf, Tensor)]

    def leaves(self) -> list[Any]:
        """Return every argument, those of lists one by one."""
        return leaves([*self.args, *self.kwargs.values()])

    def dtypes(self) -> set[str]:
        """Return the names of the dtypes that it reads or is asked for."""
        asked = self.bound().get("dtype")
        found = {name_of(t.dtype) for t in self.tensors()}
        return found | {name_of(asked)} if isinstance(asked, torch.dtype) else found

    def written(self) -> list[Tensor]:
        """Return the tensors that it writes into, which the caller sees change."""
        bound = self.bound()
        return [leaf for name in _written(self.func) for leaf in leaves(bound[name])]

    def outs(self) -> list[Tensor]:
        """Return what was passed for results to go to, such as `out=`."""
        names = set(_written(self.func)).intersection(self.kwargs)
        return [leaf for name in names for leaf in leaves(self.kwargs[name])]

    def mapped(self, change: Callable[[Any], Any]) -> Call:
        """Return the call with `change` applied to every leaf of its arguments."""
        kwargs = {name: each(change, value) for name, value in self.kwargs.items()}
        return Call(self.func, [each(change, value) for value in self.args], kwargs)
