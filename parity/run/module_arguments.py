"""The arguments of a torch call, read by parameter name, and what a rule may demand of them.

A rule ends, and its call stays a `torch:` step, as soon as one demand is not met. Does not know any rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from parity.case.op import Attr

__all__ = ["Arguments", "Canonical", "OtherwiseError", "constant", "floats", "only", "same", "trimmed", "two"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canonical:
    """An op of the table on these tensors; some are views or constants that the call only implied."""

    op: str
    inputs: tuple[Tensor | None, ...]
    attrs: Mapping[str, Attr] = field(default_factory=dict)


class OtherwiseError(Exception):
    """The call is more or something else than its canonical op."""


def only(condition: object) -> None:
    """End the rule unless this holds."""
    if not condition:
        raise OtherwiseError


class Arguments:
    """The arguments of a call, and what it gave."""

    def __init__(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], results: Sequence[Tensor]
    ) -> None:
        self.name, self.args, self.kwargs = name, args, kwargs
        self.results, self.y = results, results[0]

    @property
    def is_functional(self) -> bool:
        """Whether it is of torch.nn.functional, whose parameters are other ones."""
        return self.name.startswith("nn.functional.")

    def named(self, names: str, **defaults: Any) -> list[Any]:
        """Return arguments in the order of `names`; one that is not there or not known ends the rule."""
        wanted = names.split()
        kwargs = {{"self": "input", "axis": "dim"}.get(k, k): v for k, v in self.kwargs.items()}
        kwargs.pop("out", None)
        only(len(self.args) <= len(wanted) and set(kwargs) <= set(wanted))
        held = {**defaults, **dict(zip(wanted, self.args, strict=False)), **kwargs}
        only(set(held) >= set(wanted))
        return [held[name] for name in wanted]


def floats(*tensors: Any) -> None:
    """End the rule unless these are tensors of one real float type."""
    only(all(isinstance(t, Tensor) and t.is_floating_point() for t in tensors))
    only(len({t.dtype for t in tensors}) == 1)


def constant(value: Any, like: Tensor, *, exact: bool = True) -> Tensor:
    """Return a number as a tensor of no dimensions; end the rule where the type of `like` changes it.

    A float32 or wider tensor's scalar is that type's nearest one on every device; a narrower one's may
    be used at float32, so it must fit: `exact`.
    """
    only(isinstance(value, (int, float)) and not isinstance(value, bool) and like.dtype is not torch.bool)
    only(like.is_floating_point() or isinstance(value, int))
    try:
        made = torch.tensor(value, dtype=like.dtype)
    except (RuntimeError, OverflowError, TypeError):
        raise OtherwiseError from None
    keeps = made.item() == value or value != value  # noqa: PLR0124 - a NaN is kept
    rounds = like.dtype in (torch.float32, torch.float64) and bool(made.isfinite())
    only(keeps or (rounds and not exact))
    return made


def two(a: Any, b: Any, y: Tensor, *, ints: bool) -> tuple[Tensor, Tensor]:
    """Return both operands as tensors of the type of the result."""
    only(isinstance(a, Tensor) or isinstance(b, Tensor))
    if not isinstance(a, Tensor):
        a = constant(a, b, exact=False)
    if not isinstance(b, Tensor):
        b = constant(b, a, exact=False)
    only(a.dtype == b.dtype == y.dtype and a.dtype is not torch.bool)
    only(a.is_floating_point() or (ints and not a.is_complex()))
    return a, b


def same(*tensors: Tensor) -> None:
    """End the rule unless these are tensors of one type."""
    only(all(isinstance(t, Tensor) for t in tensors) and len({t.dtype for t in tensors}) == 1)


def trimmed(*inputs: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return the inputs without absent ones at the end."""
    while inputs and inputs[-1] is None:
        inputs = inputs[:-1]
    return inputs
