"""The derived tolerance of one output: a hard bound and an expected sigma for every element.

Symbols, as in the classes that use this: u is a unit roundoff, n the terms of a sum, S the sum of
their magnitudes, q of their squares, s of the terms themselves. Sources: Higham and Mary, SISC 41
(2019) A2815, for the hard bound; Higham and Mary 2020 (mu sqrt(n) u + u) for what is expected.
Does not evaluate oracles (`classes`) nor compare (`compare`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from parity.backend.profile import Accumulator, Profile, Rounding
from parity.case.dtype import DType, nearest
from parity.case.dtype import dtype as named
from parity.case.op import Attr
from parity.case.tensor import HostTensor

__all__ = [
    "FALSE_ALARM",
    "RMS_ROUNDING",
    "Budget",
    "Exact",
    "Expected",
    "Question",
    "SetValued",
    "coherent",
    "growth",
    "pile_up",
    "rounded",
    "sum_error",
]

# rms of one round-to-nearest error in units of u, for a log-uniform significand:
# sqrt(3 / (8 ln 2) / 3).
RMS_ROUNDING = 0.42
# Probability that a legitimate tensor leaves its probabilistic bound, by union over its elements.
FALSE_ALARM = 1e-6
# Largest errors in last places where a profile names none (`Question.ulps`).
_ULPS = {"cos": 4.0, "div": 0.0, "erf": 16.0, "exp": 2.0, "expm1": 3.0, "log": 3.0, "log1p": 2.0}
_ULPS |= {"pow": 16.0, "rsqrt": 2.0, "sin": 4.0, "sqrt": 0.0, "tanh": 5.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a class function is asked: one step on exact inputs, under a declared profile.

    `inputs` are float64 for float tensors (exact), else integer or bool tensors; `raw` the same
    as host tensors; both follow the op's argument order, None where absent. `stored` names what is
    rounded to the first input's type on the way (`classes.computed`).
    """

    op: str
    inputs: tuple[Tensor | None, ...]
    raw: tuple[HostTensor | None, ...]
    attrs: Mapping[str, Attr]
    profile: Profile
    stored: frozenset[str] = frozenset()

    @property
    def x(self) -> Tensor:
        """The first input."""
        assert self.inputs[0] is not None
        return self.inputs[0]

    @property
    def dtype(self) -> DType:
        """The first input's dtype, which decides what the profile declares for the step."""
        assert self.raw[0] is not None
        return self.raw[0].dtype

    def integer(self, name: str) -> int:
        """Return an integer attribute; the op table has checked its type."""
        value = self.attrs[name]
        assert isinstance(value, int)
        return value

    def number(self, name: str) -> float:
        """Return a numeric attribute."""
        value = self.attrs[name]
        assert isinstance(value, (int, float))
        return float(value)

    @property
    def accumulator(self) -> Accumulator:
        """What sums are kept in for this op and dtype.

        Fact `accumulates_in` (value: a dtype name) replaces the profile's default.
        """
        declared = self.profile.fact("accumulates_in", op=self.op, dtype=self.dtype)
        return Accumulator(dtype=named(declared.value)) if declared else self.profile.accumulator

    def ulps(self, function: str) -> float:
        """Return the largest error of a function in last places of the accumulator.

        The profile's, else that of the OpenCL full profile (OpenCL C specification, "Relative error
        as ULPs"); exp is held to 2, which every library that we know keeps, and div and sqrt to 0:
        IEEE 754 rounds them correctly.
        """
        return self.profile.ulps.get(function, _ULPS[function])

    def flushed(self) -> float:
        """Return the absolute error of exponentials near underflow, 0 where nothing is declared.

        `exp_flushes` names the largest result that becomes zero; without a value, and for a profile
        that flushes subnormals, it is the accumulator's smallest normal.
        """
        declared = self.profile.fact("exp_flushes", op=self.op, dtype=self.dtype)
        if declared and declared.value:
            return float(declared.value)
        return self.accumulator.dtype.min_normal if declared or self.profile.flush_subnormals else 0.0

    def offset(self) -> float:
        """Return the absolute error of a sigmoid that is made as 1/2 + r(x), 0 where none is declared.

        The sum cancels for negative x, so what r errs by stays. Fact `sigmoid_offset` names it.
        """
        declared = self.profile.fact("sigmoid_offset", op=self.op, dtype=self.dtype)
        return float(declared.value) if declared else 0.0

    def unit_of(self, fact: str) -> float:
        """Return the unit roundoff of the dtype that a declared fact names, 0 when not declared."""
        declared = self.profile.fact(fact, op=self.op, dtype=self.dtype)
        return named(declared.value).unit_roundoff if declared else 0.0

    def least_of(self, fact: str) -> float:
        """Return the smallest positive value of the dtype that a declared fact names, 0 when not declared."""
        declared = self.profile.fact(fact, op=self.op, dtype=self.dtype)
        return named(declared.value).min_subnormal if declared else 0.0

    def declares(self, fact: str) -> bool:
        """Whether the profile declares a fact for this op and dtype."""
        return self.profile.fact(fact, op=self.op, dtype=self.dtype) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A rounded result: `value` in float64, error before the last rounding at most `hard`, about `sigma`.

    `roundings` counts roundings to the output dtype. `independent` is the number of elements that
    are rounded independently of each other, `floor` an absolute error beneath the output's own
    smallest step. `free` marks elements where any value is legal (an overflow that depends on
    order); `nan_ok` those where NaN is as legal as the value.
    """

    dtype: DType
    value: Tensor
    hard: Tensor
    sigma: Tensor
    roundings: int = 1
    independent: int | None = None
    free: Tensor | None = None
    nan_ok: Tensor | None = None
    flush: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return tuple(self.value.shape)

    def total(self) -> tuple[Tensor, Tensor]:
        """Return (B, sigma) per element with the output's own rounding and smallest step added.

        B = H + r u |y| (1 + u) + eta;  sigma^2 = h^2 + r (0.42 u |y|)^2 + (0.3 eta)^2, eta the
        smallest subnormal of the output, or its smallest normal where subnormals are flushed.
        """
        u, eta = self.dtype.unit_roundoff, self.dtype.min_subnormal
        if self.flush:
            eta = self.dtype.min_normal
        magnitude = self.value.abs()
        bound = self.hard + self.roundings * u * (1 + u) * magnitude + eta
        variance = self.sigma.square() + self.roundings * (RMS_ROUNDING * u * magnitude).square()
        return bound, (variance + (0.3 * eta) ** 2).sqrt()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """A result that must equal `bits` to the bit, except where `free`.

    `alternatives` are further legal results, element by element. With `any_nan`, a NaN may have
    any payload.
    """

    bits: HostTensor
    alternatives: tuple[HostTensor, ...] = ()
    free: Tensor | None = None
    any_nan: bool = False

    @property
    def dtype(self) -> DType:
        """Dtype of the output."""
        return self.bits.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return self.bits.shape


@dataclass(frozen=True, slots=True, kw_only=True)
class SetValued:
    """A result of which several are right: `wrong(outputs)` marks the elements of this output that
    belong to none, given all outputs of the step as host tensors of the right dtype and shape. Where
    the rest of a step decides what this output should be, `budget(outputs)` is its budget then."""

    dtype: DType
    shape: tuple[int, ...]
    wrong: Callable[[tuple[HostTensor, ...]], npt.NDArray[np.bool_]] = field(repr=False)
    rule: str = ""
    budget: Callable[[tuple[HostTensor, ...]], Budget] | None = field(default=None, repr=False)


Expected = Budget | Exact | SetValued


def rounded(x: Tensor, to: DType) -> Tensor:
    """Return float64 values rounded to nearest even in a narrower type, by our own encoder."""
    return torch.from_numpy(nearest(x.numpy(), to))


def growth(terms: Tensor | float, *, outputs: int, equal: Tensor | None = None) -> Tensor:
    """Return c(n) = min(n, lambda sqrt n) + 2, lambda = sqrt(2 ln(2 N / 1e-6)) over N outputs.

    n is the deterministic bound on the accumulated roundings of a sum, lambda sqrt(n) the one
    that all N outputs keep with probability 1 - 1e-6. Where terms are `equal` their roundings are
    not random: n alone holds. One term is not added to anything: 0.
    """
    n = torch.as_tensor(terms, dtype=torch.float64)
    lam = math.sqrt(2 * math.log(2 * max(outputs, 1) / FALSE_ALARM))
    random = torch.minimum(n, lam * n.sqrt())
    most = random if equal is None else torch.where(equal, n, random)
    return torch.where(n > 1, most + 2, 0.0)


def sum_error(
    *,
    terms: Tensor | float,
    magnitude: Tensor,
    squares: Tensor,
    total: Tensor,
    outputs: int,
    accumulator: Accumulator,
    exact_terms: bool,
) -> tuple[Tensor, Tensor]:
    """Return (H, h^2) of a sum of n terms in any order, each term rounded once unless exact.

    H = (c(n) [+1]) u S;  h^2 = (0.42 u)^2 (n (q/6 + s^2/3) + s^2 [+ q]). A block accumulator adds
    `block` terms exactly before it rounds: n becomes ceil(n / block). One that rounds to zero
    errs with one sign: H += 2 n u S, and h^2 += (n u)^2 (s^2/4 + q/3), the square of the expected
    sum of partial sums. Equal terms are rounded alike, again and again: h^2 += `coherent`.
    """
    u = accumulator.unit
    n = torch.ceil(torch.as_tensor(terms, dtype=torch.float64) / accumulator.block)
    inexact = 0.0 if exact_terms else 1.0
    equal = _are_equal(terms=n, squares=squares, total=total, unit=u)
    hard = (growth(n, outputs=outputs, equal=equal) + inexact) * u * magnitude
    added = torch.where(n > 1, n * (squares / 6 + total.square() / 3) + total.square(), 0.0)
    variance = (RMS_ROUNDING * u) ** 2 * (added + inexact * squares)
    variance = variance + coherent(terms=n, squares=squares, total=total, unit=u)
    if accumulator.rounding is Rounding.TO_ZERO:
        hard = hard + 2 * n * u * magnitude
        variance = variance + (n * u) ** 2 * (total.square() / 4 + squares / 3)
    return hard, variance


def coherent(*, terms: Tensor | float, squares: Tensor, total: Tensor, unit: float) -> Tensor:
    """Return (0.15 u n s)^2 where all terms of a sum are equal to within the roundings, else 0.

    Terms that differ by less than the last place of the partial sums lose the same bits each
    time, so the errors add up instead of averaging out: n q - s^2 <= (2 u n)^2 s^2. While the
    partial sums stay in one binade they all lose e, uniform within half a last place; s = f 2^b
    gives the variance (u n s)^2 / 3 (((f - 1) / f^2)^2 + 1 / (15 f^4)), at most 0.022 (u n s)^2,
    and no error beyond u n s / 3.
    """
    n = torch.as_tensor(terms, dtype=torch.float64)
    equal = _are_equal(terms=n, squares=squares, total=total, unit=unit)
    return torch.where(equal, (0.15 * unit * n * total).square(), 0.0)


def pile_up(*, terms: Tensor | float, squares: Tensor, total: Tensor, unit: float) -> tuple[Tensor, Tensor]:
    """Return where the roundings of a sum pile up, and the variance that this adds."""
    return (
        _are_equal(terms=terms, squares=squares, total=total, unit=unit),
        coherent(terms=terms, squares=squares, total=total, unit=unit),
    )


def _are_equal(*, terms: Tensor | float, squares: Tensor, total: Tensor, unit: float) -> Tensor:
    """Mark sums of more than two terms that differ by less than the last place of their partial sums."""
    n = torch.as_tensor(terms, dtype=torch.float64)
    return (n * squares - total.square() <= (2 * unit * n * total).square() * 1.01) & (n > 2)
