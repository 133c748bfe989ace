"""Run an operation in float64 with its result moved as an arithmetic would round it, at random.

What is no primitive is taken apart by torch's own decompositions; what has neither parts nor a model is
refused, since a tolerance for it would be invented. Does not know storage types (`monte_carlo_twins`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, ops
from torch._decomp import decomposition_table  # the one place where torch says what an op is made of
from torch.utils._python_dispatch import TorchDispatchMode

from parity.judge.monte_carlo_models import MODELS, OF_NUMBERS, function
from parity.judge.monte_carlo_names import CONSTANTS, QUIET, ROUNDED, name_of, writes
from parity.judge.monte_carlo_noise import Noise
from parity.judge.monte_carlo_parts import PARTS
from parity.judge.monte_carlo_tree import leaves, mapped

__all__ = ["Rounded", "Unmodelled"]


# Products and sums of pairs: off by a rounding of their modulus, in either part.
_OF_COMPLEX = frozenset({"add", "div", "mul", "sub"})


class Unmodelled(Exception):
    """An operation of whose errors nothing is known; the text says which, for a report."""


class Rounded(TorchDispatchMode):  # type: ignore[no-untyped-call] # its base has no annotations
    """Every operation under this mode, or called with it, gives a result off by a random rounding."""

    def __init__(self, noise: Noise) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # see above
        self.noise = noise

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        return self(func, *args, **(kwargs or {}))

    def __call__(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Return an operation's result, rounded at random. Raises Unmodelled where no model is known."""
        name = name_of(func)
        if writes(func) and name not in QUIET:
            return self._in_place(func, args, kwargs)
        if name in QUIET - CONSTANTS and not (name == "index_put" and _accumulates(args, kwargs)):
            return func(*args, **kwargs)
        noise = self.noise
        tensors = [x for x in leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(x.is_complex() for x in tensors):
            if name in _OF_COMPLEX:
                return noise.turned(func(*args, **kwargs))
            raise Unmodelled(f"no error model for {func.name()} of complex numbers")
        if not any(x.is_floating_point() for x in tensors) and name not in CONSTANTS | OF_NUMBERS:
            return mapped(noise.rounded, func(*args, **kwargs))
        args = mapped(noise.held, args)
        model = MODELS.get(name)
        if model is not None:
            return mapped(noise.in_range, model(noise, func, args, kwargs))
        if name in CONSTANTS:
            return func(*args, **kwargs)
        if name in ROUNDED:
            return mapped(lambda y: noise.in_range(noise.rounded(y, *args)), func(*args, **kwargs))
        if name in noise.ulps:
            return mapped(noise.in_range, function(noise, func, args, kwargs))
        return self._apart(func, name, args, kwargs)

    def _apart(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self:
            for parts in (PARTS.get(name), decomposition_table.get(func), func.decompose):
                made = NotImplemented if parts is None else parts(*args, **kwargs)
                if made is not NotImplemented:
                    return made
        raise Unmodelled(f"no error model for {func.name()}")

    def _in_place(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        plain = getattr(ops.aten, name_of(func), None)
        overload = getattr(plain, func._overloadname, None)  # noqa: SLF001 - there is no public way
        if overload is None or "out" in kwargs:
            raise Unmodelled(f"no error model for {func.name()}")
        return args[0].copy_(self(overload, *args, **kwargs))


def _accumulates(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(kwargs.get("accumulate", args[3] if len(args) > 3 else False))
