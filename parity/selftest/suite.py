"""Plant faults in the steps of a case, and ask every criterion what it thinks of each result.

Legitimate results are those of kernels without a fault. A planted fault that gives the same bits
as one of them is dropped; one that is within twice their envelope plus u |y| everywhere is hidden:
no criterion could tell it from rounding, element by element; the rest is real. Does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from parity.backend.torch_ops import TORCH_OPS
from parity.backend.torch_tensor import to_host, to_torch
from parity.case.case import Case
from parity.case.tensor import HostTensor
from parity.judge.budget import Budget, Expected
from parity.judge.oracle import answers, to_float64
from parity.selftest import (
    aliasing,
    attention,
    basic,
    casts,
    convolutions,
    decoder,
    divisions,
    extremes,
    functions,
    fused,
    grouped,
    indexed,
    indexing,
    moments,
    movement,
    norms,
    order,
    paged,
    pointwise,
    powers,
    products,
    ranges,
    reduced,
    reductions,
    routing,
    sampling,
    scaled,
    selecting,
    split,
    views,
)
from parity.selftest.arithmetic import PLAIN
from parity.selftest.criteria import PLAIN_PROFILE, baselines, derived
from parity.selftest.kernel import Kernel, Moves
from parity.selftest.outputs import FAULTS
from parity.selftest.problem import Outputs, Problem, problems, store

__all__ = [
    "KERNELS",
    "Kind",
    "Trial",
    "classes",
    "kernel_of",
    "right",
    "trials",
]

KERNELS: dict[str, Kernel | Moves] = {
    **products.KERNELS,
    **convolutions.KERNELS,
    **basic.KERNELS,
    **reductions.KERNELS,
    **norms.KERNELS,
    **pointwise.KERNELS,
    **attention.KERNELS,
    **movement.KERNELS,
    **indexed.KERNELS,
    **order.KERNELS,
    **casts.KERNELS,
    **decoder.KERNELS,
    **paged.KERNELS,
    **routing.KERNELS,
    **functions.KERNELS,
    **powers.KERNELS,
    **divisions.KERNELS,
    **moments.KERNELS,
    **extremes.KERNELS,
    **ranges.KERNELS,
    **indexing.KERNELS,
    **selecting.KERNELS,
    **reduced.KERNELS,
    **views.KERNELS,
    **aliasing.KERNELS,
    **sampling.KERNELS,
    **fused.KERNELS,
    **scaled.KERNELS,
    **grouped.KERNELS,
    **split.KERNELS,
}


class Kind(Enum):
    """What a result is."""

    LEGITIMATE = "legitimate"
    REAL = "real"
    HIDDEN = "hidden"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One result, what was done to it, and which criteria accept it; none is asked about a dropped one."""

    seed: int
    case: str
    family: str
    dtype: str
    dist: str
    name: str
    kind: Kind
    accepted: dict[str, bool]


def kernel_of(p: Problem) -> Kernel | Moves:
    """Return what the library knows of a problem's op."""
    if _adds(p):
        return KERNELS[f"{p.op}+"]
    wide = bool(p.inputs) and p.dtype.bits == 64 and f"{p.op}:wide" in KERNELS
    return KERNELS[f"{p.op}:wide" if wide else p.op]


def _adds(p: Problem) -> bool:
    """Whether an op that may also be exact rounds what it gives."""
    match p.op:
        case "index_put":
            return bool(p.attrs["accumulate"])
        case "scatter_reduce":
            return p.dtype.is_float and p.attrs["reduce"] in ("sum", "mean", "prod")
        case "bincount":
            return p.has(1)
        case _:
            return False


def classes() -> dict[str, set[str]]:
    """Return the planted faults of each op."""
    return {
        op: {*k.bugs, *FAULTS, *(k.arithmetics if isinstance(k, Kernel) else ())} for op, k in KERNELS.items()
    }


def right(p: Problem) -> Outputs:
    """Return one legitimate result."""
    kernel = kernel_of(p)
    if isinstance(kernel, Moves):
        return kernel.compute(p, "")
    return _stored(p, kernel.compute(p, PLAIN, ""))


def _stored(p: Problem, made: Tensor | tuple[Tensor, ...]) -> Outputs:
    """Round the results of a kernel once."""
    return tuple(store(y, p.out) for y in (made if isinstance(made, tuple) else (made,)))


def trials(case: Case, *, seed: int, judged_only: bool = False) -> Iterator[Trial]:
    """Yield every trial of every step of a case; without baselines when only the verdict is asked."""
    with torch.no_grad(), np.errstate(all="ignore"):
        for problem in problems(case, right, seed=seed):
            yield from _of_step(problem, seed=seed, judged_only=judged_only)


def _of_step(p: Problem, *, seed: int, judged_only: bool) -> Iterator[Trial]:
    asked = answers(p.op, p.inputs, p.attrs, PLAIN_PROFILE)
    expected = [answer.expected for answer in asked]
    legitimate = _legitimate(p)
    first = next(iter(legitimate.values()))
    if not any(t.numel for t in first):
        return
    # Torch refuses some of what has an answer, such as a move within memory that overlaps.
    reference = None if judged_only else _by_torch(p) or first
    dtype = p.inputs[0].dtype.name if p.inputs and p.inputs[0] else first[0].dtype.name
    envelope = _Envelope(p, expected[0], list(legitimate.values()))

    def trial(name: str, kind: Kind, outputs: Outputs) -> Trial:
        accepted: dict[str, bool] = {}
        if kind is not Kind.DROPPED:
            accepted = {"derived": derived(outputs, expected)}
            accepted |= {} if reference is None else baselines(outputs, reference)
        return Trial(
            seed=seed,
            case=p.case,
            family=p.family,
            dtype=dtype,
            dist=p.dist,
            name=name,
            kind=kind,
            accepted=accepted,
        )

    for name, outputs in legitimate.items():
        yield trial(name, Kind.LEGITIMATE, outputs)
    for name, outputs in _mutants(p, first):
        yield trial(name, envelope.kind(outputs), outputs)


def _legitimate(p: Problem) -> dict[str, Outputs]:
    """Return the distinct results of kernels without a fault, by name."""
    kernel, found = kernel_of(p), {}
    if isinstance(kernel, Moves):
        made = {way or "plain": kernel.compute(p, way) for way in kernel.ways}
    else:
        made = {how.name: _stored(p, kernel.compute(p, how, "")) for how in kernel.legitimate}
    seen: set[tuple[str, ...]] = set()
    for name, outputs in made.items():
        digests = tuple(t.digest() for t in outputs)
        if digests not in seen:
            seen.add(digests)
            found[name] = outputs
    return found


def _mutants(p: Problem, first: Outputs) -> Iterator[tuple[str, Outputs]]:
    """Yield the result of every planted fault that the op can have."""
    kernel = kernel_of(p)
    unrounded: Tensor | tuple[Tensor, ...] | None = None
    if isinstance(kernel, Moves):
        for bug in kernel.bugs:
            yield bug, kernel.compute(p, bug)
    else:
        unrounded = kernel.compute(p, PLAIN, "")
        for bug in kernel.bugs:
            yield bug, _stored(p, kernel.compute(p, PLAIN, bug))
        for name, how in kernel.arithmetics.items():
            yield name, _stored(p, kernel.compute(p, how, ""))
    before = right(p.stale) if p.stale is not None else first
    for name, fault in FAULTS.items():
        outputs = fault(p, unrounded, first, before)
        if outputs is not None:
            yield name, outputs


def _by_torch(p: Problem) -> Outputs | None:
    """Return what torch gives, which the other criteria compare with, or None where it refuses."""
    given = [None if t is None else to_torch(t, torch.device("cpu")) for t in p.inputs]
    try:
        made = TORCH_OPS[p.op](*given, **p.attrs)
    except RuntimeError:
        return None
    return tuple(to_host(t) for t in (made if isinstance(made, tuple) else (made,)))


class _Envelope:
    """How far legitimate results lie from the oracle, element by element and output by output."""

    def __init__(self, p: Problem, expected: tuple[Expected, ...], legitimate: list[Outputs]) -> None:
        self._p = p
        self._digests = {tuple(t.digest() for t in outputs) for outputs in legitimate}
        self._kernel = kernel_of(p)
        self._budgets = [e if isinstance(e, Budget) else None for e in expected]
        self._results = [[outputs[i] for outputs in legitimate] for i in range(len(expected))]

    def kind(self, outputs: Outputs) -> Kind:
        """Say what a planted fault turned out to be."""
        if tuple(t.digest() for t in outputs) in self._digests:
            return Kind.DROPPED
        if not any(self._budgets):
            legal = self._kernel.legal if isinstance(self._kernel, Moves) else None
            return Kind.DROPPED if legal is not None and legal(self._p, outputs) else Kind.REAL
        near = (_is_near(*each) for each in zip(outputs, self._budgets, self._results, strict=True))
        return Kind.HIDDEN if all(near) else Kind.REAL


def _is_near(output: HostTensor, budget: Budget | None, legitimate: list[HostTensor]) -> bool:
    """Whether no element is further off than twice what legitimate ones are; an exact output may not be."""
    if budget is None:
        return output.digest() in {t.digest() for t in legitimate}
    if output.shape != tuple(budget.value.shape):
        return False
    value, results = budget.value, [to_float64(t) for t in legitimate]
    # What is not finite is compared for being the same, and gives no room.
    errors = [(t - value).abs().nan_to_num(nan=0.0, posinf=0.0) for t in results]
    room = 2 * torch.stack(errors).amax(0) + budget.dtype.unit_roundoff * value.abs()
    got = to_float64(output)
    near = (got - value).abs() <= room
    for right_one in (value, *results):
        near |= (got == right_one) | (got.isnan() & right_one.isnan())
    return bool(near.all())
