"""The same chips through dispatch modes, for a torch without the device hook; no device of its own.

Tensors stay on the CPU, so a step is simulated while the mode is active, and only then. Eager only.
"""

# ruff: noqa: SLF001 - see calls
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from parity.backend.sim.calls import Call
from parity.backend.sim.kernels import Kernels

__all__ = ["simulated"]

_SPACE = "parity_sim"
_SIGNATURE = (
    "attention(Tensor q, Tensor k, Tensor v, Tensor? attn_mask=None, float dropout_p=0.0, "
    "bool is_causal=False, *, float? scale=None, bool enable_gqa=False) -> Tensor"
)


@contextmanager
def simulated(kernels: Kernels) -> Iterator[None]:
    """Compute as a chip does inside the block, whatever runs on the CPU."""
    with _Functions(), _Operations(kernels):
        yield


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call] # its base has no annotations
    def __init__(self, kernels: Kernels) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # see above
        self._kernels = kernels

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():  # or a kernel's own calls would come here again
            return self._kernels.run(self._kernels.asked(Call(func, args, kwargs or {})))


class _Functions(TorchFunctionMode):
    """Keeps attention in one piece: below autograd only its parts are left."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _attention()(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@cache
def _attention() -> Callable[..., Tensor]:
    library: Any = torch.library.Library(_SPACE, "FRAGMENT")  # type: ignore[no-untyped-call] # torch has no types
    library.define(_SIGNATURE)
    library.impl("attention", torch.nn.functional.scaled_dot_product_attention, "CPU")
    _libraries.append(library)
    found: Callable[..., Tensor] = getattr(torch.ops, _SPACE).attention.default
    return found


_libraries: list[Any] = []  # its kernels vanish with it
