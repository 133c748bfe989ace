"""What a hypothesis is given, what it may guess, and the table in which it stands.

A hypothesis is a small function that is shown a step whose result departs and yields guesses: what
the outputs would be if one particular thing had gone wrong. A new one is one decorated function in a
`hypotheses_*` file. Does not weigh guesses: `hypotheses_fit` does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap

import numpy as np
import torch
from torch import Tensor

from parity.backend.profile import Profile
from parity.case.dtype import DType, encode
from parity.case.op import Attr
from parity.case.tensor import HostTensor
from parity.judge.budget import RMS_ROUNDING, Budget, Exact, Expected, SetValued
from parity.judge.oracle import answers, to_float64
from parity.localize.cause import CauseKind

__all__ = [
    "HYPOTHESES",
    "PLAIN",
    "Asked",
    "Entry",
    "Guess",
    "Hypothesis",
    "changed",
    "float_outputs",
    "floats",
    "host",
    "hypothesis",
    "only",
    "price",
    "repaired",
    "replaced",
    "resolved",
    "valued",
    "values_of",
]

# What a guess costs before it explains anything, in nats: about the number of guesses there are.
PLAIN = 5.0
# The part of a result that a right guess explains at least, however intermediates were stored.
_SOME = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A step, what it consumed and gave, and the right answer; `exact` are the inputs' values.

    `earlier` are tensors of other steps or of previous calls, by a name that a report may print.
    `again` evaluates a call of torch, for which there is no formula to alter, on other inputs.
    """

    op: str
    attrs: Mapping[str, Attr]
    inputs: tuple[HostTensor | None, ...]
    got: tuple[HostTensor, ...]
    profile: Profile
    right: tuple[Expected, ...]
    earlier: Mapping[str, HostTensor] = field(default_factory=dict)
    again: Callable[[tuple[HostTensor | None, ...]], tuple[Tensor, ...]] | None = None

    def x(self, number: int) -> Tensor:
        """Return an input's exact values: float64, integer or bool."""
        tensor = self.inputs[number]
        assert tensor is not None
        return to_float64(tensor)

    def has(self, number: int) -> bool:
        """Whether an optional input is there."""
        return number < len(self.inputs) and self.inputs[number] is not None

    def like(self, number: int, values: Tensor) -> HostTensor:
        """Return values in the dtype of an input, rounded to nearest."""
        tensor = self.inputs[number]
        assert tensor is not None
        return host(values, tensor.dtype)

    def ask(
        self,
        *,
        op: str = "",
        inputs: Mapping[int, HostTensor | None] | None = None,
        attrs: Mapping[str, Attr] | None = None,
        profile: Profile | None = None,
    ) -> tuple[Expected, ...]:
        """Return what the judge's own oracle gives for a step that differs in what is named.

        Where intermediates may be stored in several ways, in the way that allows most of what was given.
        Raises ValueError for a call of torch that differs in more than its inputs, and where an answer is
        a set that other inputs of NaN or infinity leave open: any result would belong to it.
        """
        changes = inputs or {}
        everything = tuple(changes.get(i, t) for i, t in enumerate(self.inputs))
        if self.again is not None:
            if op or attrs or profile:
                raise ValueError(f"{self.op} is known by its call alone")
            made = [replaced(r, v) for r, v in zip(self.right, self.again(everything), strict=True)]
            return tuple(e for e in made if e is not None)
        ways = answers(op or self.op, everything, {**self.attrs, **(attrs or {})}, profile or self.profile)
        first = resolved(next(ways).expected, self.got)
        if any(isinstance(e, SetValued) for e in first) and any(starmap(self._loses, changes.items())):
            raise ValueError("numbers that are no longer finite have no order")
        # What is stored otherwise is about a step off: of what is right, a narrow type still shows some.
        is_narrow = all(t.dtype.bits <= 16 for t in self.got)
        if is_narrow and self._allowed(first) < _SOME * sum(t.numel for t in self.got):
            return first
        return max((first, *(resolved(way.expected, self.got) for way in ways)), key=self._allowed)

    def _allowed(self, expected: tuple[Expected, ...]) -> int:
        """Return how many elements of what was given an answer allows."""
        return sum(int(_near(e, t, self.got).sum()) for e, t in zip(expected, self.got, strict=True))

    def _loses(self, number: int, tensor: HostTensor | None) -> bool:
        """Whether an input that is finite would not be as `tensor`."""
        if tensor is None or not self.has(number) or bool(to_float64(tensor).isfinite().all()):
            return False
        return bool(self.x(number).isfinite().all())


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """What the outputs would be if `text` were true; None for an output that it says nothing of.

    `cost` is the price of its free parameters in nats, so that a guess which was fitted to the
    result must explain more. One that is `whole` cannot hold for a few scattered elements, `most` not
    for less than half of them. Of a `region` nothing but the place is claimed, of `noise` only how
    far off results may be.
    """

    kind: CauseKind
    text: str
    expected: tuple[Expected | None, ...]
    cost: float = 0.0
    whole: bool = False
    most: bool = False
    region: bool = False
    noise: bool = False


Hypothesis = Callable[[Asked], Iterator[Guess]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A hypothesis with the ops that it is for, none meaning all; `whole` ones need the whole outputs."""

    ops: tuple[str, ...]
    function: Hypothesis
    whole: bool


HYPOTHESES: list[Entry] = []


def hypothesis(*ops: str, whole: bool = False) -> Callable[[Hypothesis], Hypothesis]:
    """Enter the decorated function into the table for these ops, or for all."""

    def enter(function: Hypothesis) -> Hypothesis:
        HYPOTHESES.append(Entry(ops=ops, function=function, whole=whole))
        return function

    return enter


def resolved(expected: tuple[Expected, ...], got: tuple[HostTensor, ...]) -> tuple[Expected, ...]:
    """Return answers in which a set that has a budget for the other outputs as given is that budget."""
    return tuple(e.budget(got) if isinstance(e, SetValued) and e.budget is not None else e for e in expected)


def _near(expected: Expected, given: HostTensor, outputs: tuple[HostTensor, ...]) -> Tensor:
    """Return which elements an answer allows, by its hard bound and one rounding."""
    if tuple(expected.shape) != given.shape:  # a question about another number of results
        return torch.zeros(0)
    if isinstance(expected, SetValued):
        return torch.from_numpy(np.asarray(~expected.wrong(outputs)))  # of one element, numpy gives a scalar
    value = to_float64(expected.bits) if isinstance(expected, Exact) else expected.value
    hard = expected.hard if isinstance(expected, Budget) else 0.0
    return (to_float64(given) - value).abs() <= hard + expected.dtype.unit_roundoff * value.abs()


def host(values: Tensor, to: DType) -> HostTensor:
    """Return float64, integer or bool values as a host tensor, rounded once to nearest even."""
    if to.is_float:
        codes = encode(values.to(torch.float64).contiguous().numpy(), to)
        return HostTensor.of(codes.view(to.storage), to)
    return HostTensor.of(values.numpy().astype(to.storage), to)


def values_of(expected: Expected) -> Tensor | None:
    """Return the value of every element of a right answer, None where several answers are right."""
    if isinstance(expected, Budget):
        return expected.value
    return to_float64(expected.bits) if isinstance(expected, Exact) else None


def changed(expected: Expected, move: Callable[[Tensor], Tensor]) -> Expected | None:
    """Return an answer whose elements, with their bounds, are moved to other places."""
    if isinstance(expected, Budget):
        parts = (t.expand(expected.value.shape) for t in (expected.hard, expected.sigma))
        hard, sigma = (move(t) for t in parts)
        return dataclasses.replace(
            expected, value=move(expected.value), hard=hard, sigma=sigma, free=None, nan_ok=None
        )
    if isinstance(expected, Exact):
        indices = torch.arange(expected.bits.numel).reshape(expected.shape)
        flat = np.asarray(expected.bits.array(), order="C").reshape(-1)
        moved = flat[move(indices).reshape(-1).numpy()].reshape(expected.shape)
        return Exact(bits=HostTensor.of(moved, expected.dtype), any_nan=expected.any_nan)
    return None


def replaced(
    expected: Expected, value: Tensor, *, factor: Tensor | float | None = None, exact: bool = False
) -> Expected | None:
    """Return an answer of other values; its bounds are those of the right one times `factor`.

    Without a factor they grow as values usually do, and are the part of the new values that they were at
    least of the old.
    Where the right answer is exact, the other may be rounded once more on its way, unless it is
    `exact` too.
    """
    if isinstance(expected, Budget):
        parts = (expected.hard.expand(value.shape), expected.sigma.expand(value.shape))
        if factor is None:
            usual = _quantile(value / expected.value, 0.5).clamp(1 / 64, 64)
            least = (_quantile(t / expected.value, 0.05) for t in parts)
            hard, sigma = (
                torch.maximum(t * usual, p * value.abs()) for t, p in zip(parts, least, strict=True)
            )
        else:
            size = factor.abs() if isinstance(factor, Tensor) else abs(factor)
            hard, sigma = ((t * size).expand(value.shape) for t in parts)
        return dataclasses.replace(expected, value=value, hard=hard, sigma=sigma, free=None, nan_ok=None)
    if isinstance(expected, Exact) and expected.dtype.is_float and not exact:
        hard = expected.dtype.unit_roundoff * value.abs()
        return Budget(dtype=expected.dtype, value=value, hard=hard, sigma=RMS_ROUNDING * hard)
    if isinstance(expected, Exact):
        return Exact(bits=host(value, expected.dtype), any_nan=expected.any_nan)
    return None


def _quantile(ratio: Tensor, share: float) -> Tensor:
    """Return a quantile of the magnitudes of what is finite, 0 where nothing is."""
    sizes = ratio[ratio.isfinite()].abs().sort().values
    return sizes[int(share * (len(sizes) - 1))] if len(sizes) else torch.zeros((), dtype=torch.float64)


def only(asked: Asked, output: int, expected: Expected | None) -> tuple[Expected | None, ...]:
    """Return a guess about one output alone."""
    return tuple(expected if i == output else None for i in range(len(asked.right)))


def floats(asked: Asked) -> Sequence[int]:
    """Return the positions of inputs that hold floats."""
    return [i for i, t in enumerate(asked.inputs) if t is not None and t.dtype.is_float]


def float_outputs(asked: Asked) -> Iterator[tuple[int, Expected, Tensor, Tensor]]:
    """Yield (position, right answer, its value, what was given) of each output of floats."""
    for i, right in enumerate(asked.right):
        value = values_of(right)
        if value is not None and value.numel() and value.dtype is torch.float64:
            yield i, right, value, to_float64(asked.got[i])


def valued(asked: Asked, kind: CauseKind, text: str, value: Tensor, *, cost: float = 0.0) -> Guess:
    """Return the guess that the first output is another value, as exact as the right one."""
    return Guess(kind=kind, text=text, expected=only(asked, 0, replaced(asked.right[0], value)), cost=cost)


def repaired(
    asked: Asked,
    kind: CauseKind,
    text: str,
    repair: Callable[[tuple[HostTensor, ...]], tuple[HostTensor, ...]],
) -> Guess:
    """Return the guess that the outputs are right once `repair` has undone the fault.

    For answers out of a set, which cannot be moved themselves.
    """

    def held(right: SetValued) -> SetValued:
        return dataclasses.replace(right, wrong=lambda out: right.wrong(repair(out)))

    expected = tuple(held(r) if isinstance(r, SetValued) else None for r in asked.right)
    return Guess(kind=kind, text=text, expected=expected)


def price(u: float) -> float:
    """Return the nats of a factor that is given to the precision of an output with roundoff u."""
    return -math.log(u) / 2 + 6
