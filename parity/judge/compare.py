"""Hold the outputs of one step against what they may be. Every check here can fail; none raises.

Order: dtype and shape, then the non-finite pattern, then the three tests of NUMERICS.md 1.2.
Returns every output's judgement; `judge` decides what follows.
"""

from __future__ import annotations

import dataclasses
from typing import assert_never

import numpy as np
import numpy.typing as npt

from parity.case.tensor import HostTensor
from parity.judge.budget import Budget, Exact, Expected, SetValued
from parity.judge.limits import hold
from parity.judge.oracle import to_float64
from parity.judge.verdict import OutputJudgement, Verdict

__all__ = ["compare"]


def compare(
    outputs: tuple[HostTensor, ...], names: tuple[str, ...], expected: tuple[Expected, ...]
) -> tuple[OutputJudgement, ...]:
    """Judge each output of one step; a wrong dtype, shape or number of outputs exceeds."""
    if len(outputs) != len(expected):
        note = f"gave {len(outputs)} outputs, expected {len(expected)}"
        return tuple(_refused(name, t, note) for name, t in zip(names, outputs, strict=False))
    wrong = [_form(t, e) for t, e in zip(outputs, expected, strict=True)]
    results = []
    for name, tensor, wanted, note in zip(names, outputs, expected, wrong, strict=True):
        if note:
            results.append(_refused(name, tensor, note))
        elif isinstance(wanted, SetValued) and any(wrong):
            results.append(_refused(name, tensor, "another output of this step has the wrong form"))
        else:
            results.append(_judge_output(name, tensor, wanted, outputs))
    return tuple(results)


def _form(tensor: HostTensor, wanted: Expected) -> str:
    if tensor.dtype is not wanted.dtype:
        return f"dtype is {tensor.dtype}, expected {wanted.dtype}"
    if tensor.shape != tuple(wanted.shape):
        return f"shape is {list(tensor.shape)}, expected {list(wanted.shape)}"
    return ""


def _refused(name: str, tensor: HostTensor, note: str) -> OutputJudgement:
    return OutputJudgement(
        name=name,
        dtype=tensor.dtype.name,
        shape=tensor.shape,
        verdict=Verdict.EXCEEDS,
        elements=0,
        note=note,
    )


def _judge_output(
    name: str, tensor: HostTensor, wanted: Expected, outputs: tuple[HostTensor, ...]
) -> OutputJudgement:
    match wanted:
        case Budget():
            return _against_budget(name, tensor, wanted)
        case Exact():
            return _against_bits(name, tensor, wanted)
        case SetValued() if wanted.budget is not None:
            return _against_budget(name, tensor, wanted.budget(outputs))
        case SetValued():
            bad = np.asarray(wanted.wrong(outputs)).reshape(tensor.shape)
            return _by_mask(name, tensor, bad, note=wanted.rule)
        case _:
            assert_never(wanted)


def _against_bits(name: str, tensor: HostTensor, wanted: Exact) -> OutputJudgement:
    got = _raw(tensor)
    bad = np.ones(tensor.shape, np.bool_)
    for legal in (wanted.bits, *wanted.alternatives):
        bad &= got != _raw(legal)
    if wanted.any_nan:
        nan = to_float64(tensor).isnan().numpy()
        may = [to_float64(t).isnan().numpy() for t in (wanted.bits, *wanted.alternatives)]
        bad &= ~(nan & np.logical_or.reduce(may))
    free = np.zeros(tensor.shape, np.bool_) if wanted.free is None else wanted.free.numpy()
    judged = _by_mask(name, tensor, bad & ~free, note="must be equal to the bit", free=int(free.sum()))
    return judged if judged.worst_index is None else _with_values(judged, tensor, wanted.bits)


def _raw(tensor: HostTensor) -> npt.NDArray[np.unsignedinteger]:
    array = np.asarray(tensor.array(), order="C")
    return array.reshape(-1).view(f"u{array.dtype.itemsize}").reshape(tensor.shape)


def _by_mask(
    name: str, tensor: HostTensor, bad: npt.NDArray[np.bool_], *, note: str, free: int = 0
) -> OutputJudgement:
    count = int(bad.sum())
    first = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape)) if count else None
    return OutputJudgement(
        name=name,
        dtype=tensor.dtype.name,
        shape=tensor.shape,
        verdict=Verdict.EXCEEDS if count else Verdict.WITHIN,
        elements=tensor.numel - free,
        free=free,
        worst_index=first,
        note=f"{count:,} of {tensor.numel:,} elements wrong: {note}" if count else "",
    )


def _with_values(judged: OutputJudgement, tensor: HostTensor, legal: HostTensor) -> OutputJudgement:
    at = judged.worst_index
    assert at is not None
    return dataclasses.replace(judged, oracle=float(to_float64(legal)[at]), got=float(to_float64(tensor)[at]))


def _against_budget(name: str, tensor: HostTensor, budget: Budget) -> OutputJudgement:
    result = hold(to_float64(tensor), budget)
    at = result.worst_index
    return OutputJudgement(
        name=name,
        dtype=tensor.dtype.name,
        shape=tensor.shape,
        verdict=Verdict.EXCEEDS if result.failures else Verdict.WITHIN,
        elements=tensor.numel - result.free,
        free=result.free,
        worst=result.worst,
        worst_index=at,
        oracle=float(budget.value[at]) if at is not None else None,
        got=float(to_float64(tensor)[at]) if at is not None else None,
        rms=result.rms,
        rms_limit=result.rms_limit,
        flips=result.flips,
        flips_limit=result.flips_limit,
        note="; ".join(result.failures),
    )
