"""What torch really executed for one step: every ATen operation below autograd.

Operations that only view, copy or convert count as moved, unless nothing else ran. Says what was
dispatched, not which kernel was chosen inside.
"""

# ruff: noqa: SLF001 - an operator keeps its name in _schema only
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.backend.base import Node, Witness
from parity.backend.torch_tensor import name_of

__all__ = ["NOTHING_RAN", "Trace", "tensors"]

NOTHING_RAN = "identity"  # a step whose results are its inputs, such as a cast to the type that is there

_MOVES = frozenset(
    f"aten::{name}" for name in ("_to_copy", "_unsafe_view", "clone", "copy_", "detach", "lift_fresh")
)
_PRODUCTS = frozenset(
    f"aten::{name}"
    for name in (
        "_scaled_dot_product_flash_attention_for_cpu",
        "addbmm",
        "addmm",
        "addmv",
        "baddbmm",
        "bmm",
        "convolution",
        "dot",
        "linear",
        "mm",
        "mv",
    )
)


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call] # its base has no annotations
    """Active while a step runs; `reduced` is what float32 products may be rounded to, if anything."""

    def __init__(self, device: torch.device, *, reduced: str | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # its base has no annotations
        self._device = device
        self._reduced = reduced
        self._calls: list[tuple[Any, torch.device, torch.dtype]] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = tensors(result)
        if outputs:
            inexact = (t for t in (*outputs, *tensors(args)) if t.is_floating_point() or t.is_complex())
            deciding = next(inexact, outputs[0])
            # Complex numbers are pairs of a real type.
            kind = deciding.dtype.to_real() if deciding.is_complex() else deciding.dtype
            self._calls.append((func, outputs[0].device, kind))
        return result

    def witness(self, outputs: tuple[torch.Tensor, ...]) -> Witness:
        """Return the evidence; `outputs` stand for a step that dispatched nothing."""
        executed: list[Node] = []
        moved: list[Node] = []
        host: list[Node] = []
        for func, device, dtype in self._calls:
            node = self._node(func._schema.name, device, dtype)
            if device.type != self._device.type:
                # Whole numbers that the host reads to know what comes next are not computed there.
                reads = func._schema.name == "aten::_to_copy" and not dtype.is_floating_point
                (moved if reads else host).append(node)
            else:
                (moved if func.is_view or func._schema.name in _MOVES else executed).append(node)
        if not executed and not host:
            executed, moved = moved, []
        if not executed and not host:  # such as a cast to the dtype that it already has
            executed = [self._node(NOTHING_RAN, t.device, t.dtype) for t in outputs]
        return Witness(executed=tuple(executed), moved=tuple(moved), host=tuple(host))

    def _node(self, name: str, device: torch.device, dtype: torch.dtype) -> Node:
        precision = name_of(dtype)
        if precision == "f32" and self._reduced and name in _PRODUCTS:
            precision = self._reduced
        return Node(kind=name, device=str(device), precision=precision)


def tensors(value: Any) -> tuple[torch.Tensor, ...]:
    """Return the tensors of a value that is one or holds some, in order."""
    if isinstance(value, torch.Tensor):
        return (value,)
    if isinstance(value, (tuple, list)):
        return tuple(t for item in value for t in tensors(item))
    return ()
