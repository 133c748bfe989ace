"""The torch device `sim`: tensors around CPU tensors, every ATen call below autograd handed to an engine.

Needs torch's hook for devices written in Python (2.11 or so, see `has_hook`); `mode` serves older
ones. One device in a process, whose engine can be exchanged. Declares no arithmetic.
"""

# ruff: noqa: SLF001 - torch's hooks for such devices have no public name
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch

from parity.backend.sim.calls import Call, each
from parity.backend.sim.kernels import Kernels

__all__ = ["Eager", "Engine", "SimTensor", "goes_to_host", "has_hook", "register", "using"]

_NAME = "sim"
_CPU = torch.device("cpu")
_RESIZES = ("resize", "resize_as", "set")


class Engine(Protocol):
    """What runs the calls on the device's tensors, now or later."""

    kernels: Kernels

    def run(self, call: Call) -> Any:
        """Return the result of a call that has device tensors or asks for some."""

    def flush(self) -> None:
        """Run what was put off."""


class SimTensor(Tensor):
    """A tensor of the device around one of the CPU.

    `elements` is None while a lazy engine has not made them; `outline` is then a tensor of torch's
    `meta` device with the same shape and strides.
    """

    elements: Tensor | None
    outline: Tensor | None

    @staticmethod
    def __new__(  # noqa: PYI034 - `Self` is not in typing before Python 3.11
        cls: type[SimTensor], elements: Tensor | None, outline: Tensor | None = None
    ) -> SimTensor:
        """Wrap elements, or the outline alone of those to come."""
        like = elements if elements is not None else outline
        assert like is not None
        made: SimTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            like.shape,
            strides=like.stride(),
            storage_offset=like.storage_offset(),
            dtype=like.dtype,
            device=torch.device(_NAME, 0),
        )
        made.elements, made.outline = elements, outline
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment] # torch's own idiom

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override] # torch gives it no types
        del tensor_contents
        return f"SimTensor({self.elements})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override] # torch declares it as if it were no classmethod
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Hand a call to the engine that is in use."""
        return _dispatch(func, args, kwargs or {})


class Eager:
    """Runs each call at once."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels

    def run(self, call: Call) -> Any:
        """Run the call on the inner tensors and wrap what is new."""
        known = {id(_inner(t)): t for t in call.tensors()}
        result = self.kernels.run(call.mapped(_inner))
        if goes_to_host(call):
            return result

        def wrapped(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            return known[id(x)] if id(x) in known else SimTensor(x)

        return each(wrapped, result)

    def flush(self) -> None:
        """Nothing is ever put off."""


def goes_to_host(call: Call) -> bool:
    """Whether the results of a call are tensors of the host."""
    device = call.kwargs.get("device")
    return device is not None and torch.device(device).type == _CPU.type


def _inner(x: Any) -> Any:
    if isinstance(x, SimTensor):
        return x.elements
    return _CPU if isinstance(x, torch.device) else x


_engines: list[Engine] = []


@contextmanager
def using(engine: Engine) -> Iterator[None]:
    """Let an engine run the device's calls inside the block."""
    _engines.append(engine)
    try:
        yield
    finally:
        _engines.pop()


def _dispatch(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    assert _engines, "no simulated chip is open"
    engine = _engines[-1]
    call = engine.kernels.asked(Call(func, args, kwargs))
    if call.name in _RESIZES:
        raise RuntimeError(
            f"aten::{call.name}: a tensor of the simulated device cannot be resized. Make a new one"
        )
    # A default device that is in force must not reach what kernels allocate for themselves.
    with torch._C.DisableTorchFunction():
        result = engine.run(call)
        if call.relabels:
            _relabel(call)
    return result


def _relabel(call: Call) -> None:
    """Change the wrapper as its elements were: torch does so for any tensor whose kernel is `meta`."""
    with no_dispatch():
        before = torch._C._meta_in_tls_dispatch_include()
        torch._C._set_meta_in_tls_dispatch_include(True)
        try:
            call.run()
        finally:
            torch._C._set_meta_in_tls_dispatch_include(before)


def has_hook() -> bool:
    """Whether this torch lets a device be written in Python, and no other has taken its place."""
    if not hasattr(torch._C, "_acc"):  # torch 2.5 to 2.10; imitating it aborts the process
        return False
    return torch._C._get_privateuse1_backend_name() in ("privateuseone", _NAME)


@cache
def register() -> torch.device:
    """Make torch know the device, once in a process, and return it."""
    from torch.utils import backend_registration

    class Module(backend_registration._DummyBackendModule):
        def is_available(self) -> bool:
            """Whether a chip is in use: else the process is free for a real accelerator."""
            return bool(_engines)

    backend_registration._setup_privateuseone_for_python_backend(_NAME, backend_module=Module())
    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call] # torch has no types
    for name in torch._C._dispatch_get_all_op_names():
        func = _factory(name)
        if func is not None:
            library.impl(name.partition("::")[2], _kernel(func), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    # Left to itself it decomposes into some 19 operations and is no longer the host's to the bit.
    attention = torch.ops.aten.scaled_dot_product_attention.default
    library.impl("scaled_dot_product_attention", _kernel(attention), "PrivateUse1")
    library.impl("scaled_dot_product_attention", _below_autograd(attention), "AutogradPrivateUse1")
    _libraries.append(library)
    return torch.device(_NAME, 0)


_libraries: list[Any] = []  # its kernels vanish with it


def _factory(name: str) -> Any:
    """Return the operator if it makes a tensor on a device from none, and has no decomposition."""
    space, _, rest = name.partition("::")
    if space != "aten" or torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd"):
        return None
    base, _, overload = rest.partition(".")
    func = getattr(getattr(torch.ops.aten, base), overload or "default")
    arguments = func._schema.arguments
    takes_tensors = any("Tensor" in str(a.type) for a in arguments)
    return func if not takes_tensors and any(a.name == "device" for a in arguments) else None


def _kernel(func: Any) -> Any:
    return lambda *args, **kwargs: _dispatch(func, args, kwargs)


def _below_autograd(func: Any) -> Any:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return func(*args, **kwargs)

    return kernel


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:  # noqa: FBT001, FBT002 - torch's
    """Copy where torch itself has taken a call apart, as it does with indices that are lists."""
    del non_blocking
    _dispatch(torch.ops.aten.copy_.default, (target, source), {})
    return target
