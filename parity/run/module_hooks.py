# ruff: noqa: SLF001 - a compiled module says so nowhere else
"""Be told when modules begin and end, except inside what runs as one piece.

A compiled module is watched from outside: hooks within it would be compiled too. A scripted one takes
no hooks of its own, so torch's hooks for all modules watch it. Does not look at tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules import module as hooks

__all__ = ["Watcher", "composite_kind", "install"]


class Watcher(Protocol):
    """Who is told. What `enter` or `leave` raises leaves the module's call."""

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note that a module is about to run on these arguments."""

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """Note that it gave `output`, or None and was left by an exception."""


def composite_kind(module: nn.Module) -> str:
    """Return `scripted` or `compiled` for a module that runs as one piece, else an empty string."""
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted"
    compiled = type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None
    return "compiled" if compiled else ""


def _watched(module: nn.Module, seen: set[int]) -> Iterator[nn.Module]:
    if id(module) in seen:
        return
    seen.add(id(module))
    yield module
    if not composite_kind(module):
        for child in module.children():
            yield from _watched(child, seen)


@contextmanager
def install(model: nn.Module, watcher: Watcher) -> Iterator[None]:
    """Tell the watcher of each module of a model while the block runs."""
    handles: list[Any] = []
    scripted: set[int] = set()
    try:
        for module in _watched(model, set()):
            if isinstance(module, torch.jit.ScriptModule):
                scripted.add(id(module))
            elif module._compiled_call_impl is None:
                handles.append(module.register_forward_pre_hook(_entering(watcher), with_kwargs=True))
                handles.append(
                    module.register_forward_hook(_leaving(watcher), with_kwargs=True, always_call=True)
                )
        if scripted:
            handles += _for_all(watcher, scripted)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _entering(watcher: Watcher) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watcher.enter(module, args, kwargs)

    return hook


def _leaving(watcher: Watcher) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        watcher.leave(module, args, kwargs, output)

    return hook


def _for_all(watcher: Watcher, scripted: set[int]) -> list[Any]:
    # They are not told of keyword arguments.
    def entering(module: nn.Module, args: tuple[Any, ...]) -> None:
        if id(module) in scripted:
            watcher.enter(module, args, {})

    def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if id(module) in scripted:
            watcher.leave(module, args, {}, output)

    return [
        hooks.register_module_forward_pre_hook(entering),
        hooks.register_module_forward_hook(leaving, always_call=True),
    ]
