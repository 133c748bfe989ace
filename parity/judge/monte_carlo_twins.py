"""Run a call of torch on the types that it has, with a float64 twin beside every tensor.

The call itself decides what it does; its twins, which alias each other as the tensors do, say what
that gives in exact arithmetic, or under random rounding. What a tensor's type cannot hold is stored
with half a last place of noise, as one rounding to nearest has on average. Does not compare.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from parity.backend.torch_tensor import dtype_of
from parity.judge.monte_carlo_mode import Rounded, Unmodelled
from parity.judge.monte_carlo_names import COMPARES, CONSTANTS, CUTS, MOVES, ORDERS, QUIET, name_of, writes
from parity.judge.monte_carlo_noise import is_float, stored
from parity.judge.monte_carlo_tree import leaves, mapped

__all__ = ["Ran", "Result", "run"]

# Moves an element by less than any type of an input could show.
_TIE, _LEAST = 2.0**-50, 2.0**-1000


class Result(NamedTuple):
    """One output: float64 (before it was stored), integer or bool values, and the type it has."""

    values: Tensor
    dtype: torch.dtype


class Ran(NamedTuple):
    """A call's outputs; whether it only moved elements, and whether it put some in order."""

    results: tuple[Result, ...]
    moves_only: bool
    orders: bool


class _Kept(NamedTuple):
    real: Tensor  # held, so that its id stays its own
    twin: Tensor
    bare: Tensor | None  # the twin before it was stored, where storing it rounds


class _Twins(TorchDispatchMode):  # type: ignore[no-untyped-call] # its base has no annotations
    """Without `rounding` it computes exactly; types of a larger unit than its own round when stored."""

    def __init__(
        self, rounding: Rounded | None, draw: torch.Generator | None, *, by: float, numbers: bool
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # see above
        self._rounding, self._draw, self._by, self._numbers = rounding, draw, by, numbers
        self._unit = rounding.noise.unit if rounding is not None else 0.0
        self._kept: dict[int, _Kept] = {}
        self.moves_only, self.orders = True, False

    def admit(self, real: Tensor, twin: Tensor, bare: Tensor | None = None) -> None:
        """Put a twin beside a tensor."""
        self._kept[id(real)] = _Kept(real, twin, bare)

    def result(self, real: Tensor) -> Result:
        """Return what a tensor's twin held before it was stored."""
        kept = self._of(real)
        return Result(kept.twin if kept.bare is None else kept.bare, real.dtype)

    def _of(self, real: Tensor) -> _Kept:
        if id(real) not in self._kept:
            self.admit(real, _widened(real))
        return self._kept[id(real)]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags and _draws(func, args, kwargs):
            raise Unmodelled(f"{func.name()} is random")
        given = [self._of(x) for x in leaves((args, kwargs)) if isinstance(x, Tensor)]
        coarsest = max((_unit(k.real) for k in given), default=0.0)
        name = name_of(func)
        self.moves_only &= name in MOVES
        self.orders |= name in ORDERS
        if name in CONSTANTS:
            return mapped(self._constant, func(*args, **kwargs))
        twin_args = mapped(lambda x: self._twin(x) if isinstance(x, Tensor) else _wide(x), args)
        twin_kwargs = mapped(lambda x: self._of(x).twin if isinstance(x, Tensor) else _wide(x), kwargs)
        if given and (name in COMPARES or (name in CUTS and self._by > 1) or self._numbers):
            twin_args = (twin_args[0], *(_held(x, given[0].real) for x in twin_args[1:2]), *twin_args[2:])
        real = _on_its_types(func, args, kwargs)
        twin = self._evaluate(func, twin_args, twin_kwargs, real)
        bare = (
            self._moved_bare(func, args, kwargs)
            if name in QUIET and any(k.bare is not None for k in given)
            else None
        )
        self._match(
            real, twin, bare, moved=name in QUIET and bool(given), coarsest=coarsest, in_place=writes(func)
        )
        return real

    def _twin(self, real: Tensor) -> Tensor:
        """Return a tensor's twin; a float64 one of no dimensions is a number that torch wrapped."""
        twin = self._of(real).twin
        if self._rounding is None or real.dtype is not torch.float64 or real.dim():
            return twin
        return torch.tensor(self._rounding.noise.held(float(twin)), dtype=torch.float64)

    def _constant(self, real: Any) -> Any:
        if isinstance(real, Tensor):
            self._of(real)
        return real

    def _evaluate(self, func: Any, args: Any, kwargs: Any, real: Any) -> Any:
        floats = any(_is_inexact(x) for x in leaves(real))
        if floats and not any(_is_inexact(x) for x in leaves((args, kwargs))):
            # What integers give as floats is computed in float64, not in torch's default type.
            args = mapped(lambda x: x.to(torch.float64) if isinstance(x, Tensor) else x, args)
        rounding = self._rounding
        return _viewed(func, args, kwargs, func if rounding is None else functools.partial(rounding, func))

    def _moved_bare(self, func: Any, args: Any, kwargs: Any) -> Any:
        def bare(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return _wide(x)
            kept = self._of(x)
            return kept.twin if kept.bare is None else kept.bare

        return _viewed(func, mapped(bare, args), mapped(bare, kwargs), func)

    def _match(
        self, real: Any, twin: Any, bare: Any, *, moved: bool, coarsest: float, in_place: bool
    ) -> None:
        reals, twins = leaves(real), leaves(twin)
        bares = [None] * len(reals) if bare is None else leaves(bare)
        for r, t, b in zip(reals, twins, bares, strict=True):
            if not isinstance(r, Tensor):
                continue
            if r.shape != t.shape:
                raise Unmodelled("how many elements it gives depends on rounding")
            rounds = is_float(r) and self._unit < _unit(r) and not (moved and _unit(r) <= coarsest)
            if in_place:
                b = t.clone() if rounds else None  # noqa: PLW2901 - what was moved in place has no other twin
                if rounds and self._draw is not None:
                    t.copy_(stored(t, dtype_of(r.dtype), self._draw, by=self._by))
                self.admit(r, self._of(r).twin, b)
            elif rounds:
                held = t if self._draw is None else stored(t, dtype_of(r.dtype), self._draw, by=self._by)
                self.admit(r, held, t)
            else:
                self.admit(r, t, b)


def _viewed(func: Any, args: Any, kwargs: Any, evaluate: Callable[..., Any]) -> Any:
    try:
        return evaluate(*args, **kwargs)
    except RuntimeError:
        if name_of(func) not in ("view", "_unsafe_view"):
            raise
        return args[0].reshape(args[1])  # a twin may lie otherwise in memory


def _is_inexact(x: Any) -> bool:
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())


def _draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation that can be random is: dropout with probability 0 is not."""
    for place, argument in enumerate(func._schema.arguments):  # noqa: SLF001 - there is no public way
        if argument.name == "dropout_p":
            given = args[place] if place < len(args) else kwargs.get("dropout_p", argument.default_value)
            return bool(given)
    return True


def _on_its_types(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation; of a type that the CPU has no kernel for, only which type comes out is wanted."""
    try:
        return func(*args, **kwargs)
    except (NotImplementedError, RuntimeError) as error:
        if "not implemented for" not in str(error) or writes(func):
            raise
    floats = [x for x in leaves((args, kwargs)) if is_float(x)]
    kind = functools.reduce(torch.promote_types, (x.dtype for x in floats))
    args, kwargs = mapped(lambda x: x.float() if is_float(x) else x, (args, kwargs))
    return mapped(lambda x: x.to(kind) if is_float(x) else x, func(*args, **kwargs))


def _held(x: Any, by: Tensor) -> Any:
    return float(torch.tensor(x, dtype=by.dtype)) if isinstance(x, float) and by.is_floating_point() else x


def _wide(x: Any) -> Any:
    if isinstance(x, torch.dtype) and x.is_complex:
        return torch.complex128
    return torch.float64 if isinstance(x, torch.dtype) and x.is_floating_point else x


def _widened(real: Tensor) -> Tensor:
    if real.is_complex():
        return real.to(torch.complex128)
    return real.to(torch.float64) if real.is_floating_point() else real.clone()


def _unit(x: Tensor) -> float:
    return dtype_of(x.dtype).unit_roundoff if x.is_floating_point() else 0.0


def run(
    call: Callable[..., Any],
    inputs: Sequence[Tensor],
    *,
    rounding: Rounded | None = None,
    draw: torch.Generator | None = None,
    by: float = 0.0,
    numbers: bool = False,
) -> Ran:
    """Return a call's outputs in float64: exact without `rounding`, else rounded `by` times as much.

    With `numbers` each number that follows a tensor is read in the tensor's type.
    With `by` 0 only the inputs are moved, by less than any type of theirs could show: ties break at random.
    Raises Unmodelled where the errors of an operation are not known.
    """
    twins = _Twins(rounding if by else None, draw if by else None, by=by, numbers=numbers)
    given = [x.clone() for x in inputs]
    for x in given:
        twin = _widened(x)
        if draw is not None and not by and x.is_floating_point():
            noise = torch.rand(x.shape, generator=draw, dtype=torch.float64) - 0.5
            twin = twin + noise * (_TIE * twin.abs() + _LEAST)
        twins.admit(x, twin)
    with torch.no_grad(), twins:
        made = call(*given)
    results = tuple(twins.result(x) for x in leaves(made) if isinstance(x, Tensor))
    return Ran(results, twins.moves_only, twins.orders)
