"""What each output of one step may be, as tensors and numbers that a file can hold.

The same oracle and budgets as the verdict's, written out: whoever reads them needs no parity. Does
not judge; `judge.compare` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from parity.backend.profile import Profile
from parity.case.case import Step
from parity.case.dtype import DType, dtype
from parity.case.tensor import HostTensor
from parity.judge.budget import Budget, Exact, Expected, SetValued, rounded
from parity.judge.called import expected_call, is_call
from parity.judge.limits import hold, wrong_pattern
from parity.judge.oracle import answers

__all__ = ["FINITE", "FREE", "MINUS", "NAN", "PLUS", "Expectation", "expectations"]

# What an element may be, added up; a free one is not compared.
FINITE, PLUS, MINUS, NAN, FREE = 1, 2, 4, 8, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """One output. `kind` is `budget`, `exact` or `set`; `tensors` by role have the output's shape.

    budget  value, bound, sigma f64, legal u8 (`FINITE` …); of 16 bits rounded once also low, high and
            nearest f64, the results that the bound allows; rms_limit and flips_limit in `limits`
    exact   bits, bits2 … which are as right, free bool; `any_nan` in `limits` when a NaN may be any
    set     nothing: which answers are right depends on all outputs
    """

    dtype: DType
    shape: tuple[int, ...]
    kind: str
    tensors: Mapping[str, HostTensor] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)


def expectations(
    step: Step, consumed: Sequence[HostTensor | None], profile: Profile
) -> tuple[Expectation, ...]:
    """Return what a step may give on exactly these inputs, by the first reading of them.

    Raises `judge.monte_carlo.Unjudgeable` where nothing can be said of a call of torch.
    """
    if is_call(step.op):
        expected = next(expected_call(step, consumed, profile))
    else:
        expected = next(iter(answers(step.op, consumed, step.attrs, profile))).expected
    # The oracle meets infinities and NaN by design.
    with np.errstate(all="ignore"):
        return tuple(_written(wanted) for wanted in expected)


def _written(wanted: Expected) -> Expectation:
    shape = tuple(wanted.shape)
    match wanted:
        case Budget():
            return _budget(wanted, shape)
        case Exact():
            legal = {
                f"bits{n or ''}": t.contiguous() for n, t in enumerate((wanted.bits, *wanted.alternatives))
            }
            if wanted.free is not None:
                legal["free"] = HostTensor.of(
                    wanted.free.expand(shape).numpy().astype(np.bool_), dtype("bool")
                )
            return Expectation(
                dtype=wanted.dtype,
                shape=shape,
                kind="exact",
                tensors=legal,
                limits={"any_nan": 1.0} if wanted.any_nan else {},
            )
        case SetValued():
            return Expectation(dtype=wanted.dtype, shape=shape, kind="set")
        case _:
            assert_never(wanted)


def _budget(wanted: Budget, shape: tuple[int, ...]) -> Expectation:
    value = wanted.value
    # A formula that is not finite at a finite value gives no room at all, as in `limits.hold`.
    bound, sigma = (
        torch.where(t.isfinite(), t, wanted.dtype.min_subnormal).expand(shape) for t in wanted.total()
    )
    right = rounded(value, wanted.dtype) if wanted.dtype.bits <= 32 else value
    held = hold(right, wanted)
    limits = {"rms_limit": held.rms_limit}
    tensors = {"value": value, "bound": bound, "sigma": sigma}
    if held.flips_limit is not None:
        limits["flips_limit"] = held.flips_limit
        hard = wanted.hard.expand(shape)
        hard = torch.where(hard.isfinite(), hard, 0.0)
        tensors |= {
            "low": rounded(value - hard, wanted.dtype),
            "high": rounded(value + hard, wanted.dtype),
            "nearest": rounded(value, wanted.dtype),
        }
        if wanted.flush:
            # Where a small result may be zero instead, the interval reaches to it.
            small = value.abs() < wanted.dtype.min_normal
            tensors["low"] = torch.where(small, tensors["low"].clamp(max=0.0), tensors["low"])
            tensors["high"] = torch.where(small, tensors["high"].clamp(min=0.0), tensors["high"])
    stored = {name: HostTensor.of(t.contiguous().numpy(), dtype("f64")) for name, t in tensors.items()}
    stored["legal"] = HostTensor.of(_legal(wanted, shape), dtype("u8"))
    return Expectation(dtype=wanted.dtype, shape=shape, kind="budget", tensors=stored, limits=limits)


def _legal(wanted: Budget, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    value = wanted.value.reshape(-1)

    def may_be(got: Tensor) -> Tensor:
        return ~wrong_pattern(got, value, wanted)

    finite = torch.where(value.isfinite(), value, 0.0).clamp(
        -wanted.dtype.max_finite, wanted.dtype.max_finite
    )
    code = may_be(finite).to(torch.uint8) * FINITE
    for what, mark in ((torch.inf, PLUS), (-torch.inf, MINUS), (torch.nan, NAN)):
        code += may_be(torch.full_like(value, what)).to(torch.uint8) * mark
    if wanted.free is not None:
        code += wanted.free.expand(shape).reshape(-1).to(torch.uint8) * FREE
    return code.reshape(shape).numpy()
