"""How an operation is declared, chosen and bound: once, when a network is built, never per call.

A reference is the specification: pure torch, any device, float64 too. An implementation is a
rewrite of it for one kind of device. `Binder` gives the network closures; with a wrap each one is
handed out first, without one a closure is the implementation itself, so recording that is off
costs nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from parity.errors import UsageError, near_miss

__all__ = ["OPS", "Binder", "Call", "Cost", "Implementation", "Op", "Wrap", "op"]

_Function = Callable[..., Any]
# wrap(site, op, function, bound) returns what takes the function's place; `bound` are its weights
# and attributes by name.
Wrap = Callable[[str, "Op", _Function, Mapping[str, Any]], _Function]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call needs: floating-point operations, and bytes moved to or from memory."""

    flops: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Call:
    """What an op is called with: a step's tensors by position, the rest by name."""

    arguments: tuple[Any, ...]
    options: Mapping[str, Any]


# Yields calls of about `size` tokens, in float32, that together reach every branch of the op.
_Inputs = Callable[[torch.Generator, int], Iterator[Call]]


def _no_inputs(_: torch.Generator, __: int) -> Iterator[Call]:
    return iter(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """A rewrite of an op for a device type; `when` looks at what is bound, not at tensors."""

    device: str
    function: _Function
    when: Callable[[Mapping[str, Any]], bool] = lambda _: True


@dataclass(slots=True)
class Op:
    """One operation; `swallows` names the ops that a fused one stands for, in their order."""

    name: str
    reference: _Function
    budget: str
    cost: Callable[..., Cost]
    swallows: tuple[str, ...] = ()
    implementations: list[Implementation] = field(default_factory=list)
    inputs: _Inputs = _no_inputs

    def drawn(self, inputs: _Inputs) -> _Inputs:
        """Register the generator of this op's inputs."""
        self.inputs = inputs
        return inputs

    def impl(
        self, device: str, *, when: Callable[[Mapping[str, Any]], bool] = lambda _: True
    ) -> Callable[[_Function], _Function]:
        """Register a rewrite for a device type; the latest that applies is taken."""

        def register(function: _Function) -> _Function:
            self.implementations.append(Implementation(device=device, function=function, when=when))
            return function

        return register

    def choose(self, device: str, bound: Mapping[str, Any]) -> _Function:
        """Return the implementation for a device type, the reference where there is none."""
        fitting = (i for i in reversed(self.implementations) if i.device == device and i.when(bound))
        return next((i.function for i in fitting), self.reference)


OPS: dict[str, Op] = {}


def op(*, budget: str, cost: Callable[..., Cost], swallows: Iterable[str] = ()) -> Callable[[_Function], Op]:
    """Declare the decorated function as the reference of the op of its name.

    `budget` is the class of NUMERICS by which its results are judged; `cost` takes the arguments of
    a call.
    """

    def declare(function: _Function) -> Op:
        made = Op(
            name=function.__name__, reference=function, budget=budget, cost=cost, swallows=tuple(swallows)
        )
        OPS[made.name] = made
        return made

    return declare


class Binder:
    """Binds ops to sites for one device.

    `force` holds op names or sites that keep their reference, or `*` for all: to tell whether a
    rewrite is at fault. `sites` lists what was bound, in the order of the network.
    """

    def __init__(self, device: str, *, force: Iterable[str] = (), wrap: Wrap | None = None) -> None:
        self._device = device
        self._force = frozenset(force)
        self._wrap = wrap
        self.sites: list[tuple[str, str]] = []

    def bind(self, site: str, name: str, **bound: Any) -> _Function:
        """Return the closure that runs op `name` at `site`, its weights and attributes bound."""
        found = OPS[name]
        forced = {"*", name, site} & self._force
        function = found.reference if forced else found.choose(self._device, bound)
        self.sites.append((site, name))
        closure = functools.partial(function, **bound) if bound else function
        return self._wrap(site, found, closure, bound) if self._wrap else closure

    def fuse(self, sites: Sequence[str], name: str, **bound: Any) -> _Function | None:
        """Return the fused op `name` for neighbouring sites, or None where they stay apart.

        They do where this device has no rewrite of it, and where somebody wants one of them: by
        `force`, or by a wrap, which is to see each site.
        """
        found = OPS[name]
        if self._wrap or {"*", name, *found.swallows, *sites} & self._force:
            return None
        function = found.choose(self._device, bound)
        if function is found.reference:
            return None
        self.sites.append(("+".join(sites), name))
        return functools.partial(function, **bound)

    def check(self) -> None:
        """Raise UsageError for a name in `force` that is no op and no site of what was bound."""
        known = {"*", *OPS, *(site for site, _ in self.sites)}
        for name in sorted(self._force - known):
            raise UsageError(f"force='{name}': no op and no site of this network{near_miss(name, known)}")
