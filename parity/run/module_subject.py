"""Record a case whose subject is a torch module: under hooks, and once more with nothing in between.

Options of a `module` (its case has no inputs: the callable brings them):

    target  package.module:callable, see `run.module_target`
    dtype   what floats of model and inputs are made to be; without it they stay as they are
    depth   op (every call of a torch function, the default) or module

A module that gives other results on the same inputs, by hidden state or by chance, is said to; its
calls are still judged one by one on what they consumed. Does not judge.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from parity.backend.base import Backend, Witness
from parity.backend.observed import TorchBackend, in_use, observe
from parity.backend.torch_call import real_view
from parity.case.case import Case
from parity.case.tensor import HostTensor
from parity.errors import GoldenError, UsageError, near_miss
from parity.run import module_recorder
from parity.run.engine_recorder import failure_of
from parity.run.journal import Journal, Phase
from parity.run.module_names import ROOT
from parity.run.module_storage import elements, is_plain
from parity.run.module_target import Target, find_target
from parity.run.module_tree import tensors_at
from parity.run.module_weights import weights_in
from parity.run.repeats import repeated
from parity.run.subject import FindWeight
from parity.store.recording import Environment, Failure, FailureKind, Recording, StepRecord, TensorRef
from parity.store.schema import all_references

__all__ = ["record", "weights_of"]

_OPTIONS = ("target", "dtype", "depth")


def weights_of(case: Case) -> FindWeight:
    """Return what finds the weights of a case by name. Raises GoldenError where the module is not here."""
    try:
        return weights_in(find_target(case).model)
    except UsageError as error:
        raise GoldenError(f"the weights of {case.id} are not here: {error}") from error


def record(
    case: Case, backend: Backend, *, repeat: int, journal: Journal, environment: Environment
) -> Recording:
    """Run a case `repeat` times under a recorder, then alone, and return the first run.

    A call that a device cannot do ends the run; the steps before it stay.
    """
    _check(case)
    run = _Run(case, backend, journal)
    first = run.observed()
    steps, tensors = first.steps, dict(first.tensors)
    for number in range(2, repeat + 1):
        again = run.observed()
        steps = repeated(steps, again.steps, run=f"run {number} of {repeat}")
        tensors = {**again.tensors, **tensors}
    alone = _Made() if first.failed else run.alone()
    unobserved = alone.results
    if not alone.failed and _digests(alone) != _digests(first):
        third = run.alone()
        if _digests(third) != _digests(alone):  # it differs from itself: observing is not to blame
            again = run.observed()
            steps, unobserved = _unsteady(steps, again.steps), []
            tensors = {**again.tensors, **tensors}
    recording = Recording(
        case=str(case.id),
        revision=case.revision,
        environment=environment,
        steps=(*steps, *alone.steps),
        results=tuple(first.results),
        unobserved=tuple(unobserved),
    )
    tensors = {**alone.tensors, **tensors}
    named = {ref.digest for ref in all_references(recording)}
    return dataclasses.replace(recording, tensors={d: t for d, t in tensors.items() if d in named})


def _check(case: Case) -> None:
    assert case.subject is not None
    options = case.subject.options
    for name in options:
        if name not in _OPTIONS:
            raise UsageError(f"{case.where}: a module has no option '{name}'{near_miss(name, _OPTIONS)}")
    if options.get("depth", "op") not in ("op", "module"):
        raise UsageError(f"{case.where}: depth is op or module, got '{options['depth']}'")
    if case.inputs:
        raise UsageError(f"{case.where}: a module's inputs come from its target, so the case has none")


@dataclass(slots=True, kw_only=True)
class _Made:
    """What one run gave; that of a run alone has no steps but a failure."""

    steps: list[StepRecord] = field(default_factory=list)
    tensors: dict[str, HostTensor] = field(default_factory=dict)
    results: list[TensorRef] = field(default_factory=list)
    failed: bool = False


class _Run:
    """One case on one backend: the model is there once, each run has inputs of its own."""

    def __init__(self, case: Case, backend: Backend, journal: Journal) -> None:
        assert case.subject is not None
        self._case, self._backend, self._journal = case, backend, journal
        self._depth: Any = case.subject.options.get("depth", "op")
        self._last = "nothing"
        self._target: Target | None = None
        if isinstance(backend, TorchBackend) and backend.spec.mode in ("eager", "lazy"):
            target = find_target(case)
            self._enter(Phase.PUT, "weights")
            with in_use(backend):
                self._target = target.to(backend.device)

    def _enter(self, phase: Phase, step: str) -> None:
        self._last = step
        self._journal.enter(phase, case=str(self._case.id), step=step)

    def _observe(self, function: Any, op: str) -> tuple[Any, Witness]:
        return observe(self._backend, function, op)

    def observed(self) -> _Made:
        """Run under a recorder."""
        if self._target is None:
            return _nowhere(self._backend)
        target, error = self._target, None
        observed = module_recorder.observe(
            target.model,
            self._depth,
            evidence=self._observe,
            fetch=self._backend.get,
            enter=lambda name: self._enter(Phase.RUN, name),
        )
        with in_use(self._backend), torch.no_grad():
            args, kwargs = copy.deepcopy((target.args, dict(target.kwargs)))
            with observed as recorder:
                try:
                    target.model(*args, **kwargs)
                except Exception as caught:  # noqa: BLE001  # whatever it is, the model gave nothing more
                    error = caught
                    recorder.failed(error)
            self._enter(Phase.FETCH, self._last)
            steps, tensors = recorder.steps()
            if error is not None and not any(step.failure for step in steps):
                steps.append(_lost(f"after {self._last}", failure_of(error)))
            return _Made(
                steps=steps, tensors=tensors, results=list(recorder.results()), failed=error is not None
            )

    def alone(self) -> _Made:
        """Run with nothing that looks on."""
        assert self._target is not None
        target, made = self._target, _Made()
        self._enter(Phase.RUN, "unobserved run")
        with in_use(self._backend), torch.no_grad():
            args, kwargs = copy.deepcopy((target.args, dict(target.kwargs)))
            try:
                output = target.model(*args, **kwargs)
                for path, tensor in tensors_at(output, "output"):
                    if is_plain(tensor):
                        self._keep(made, path, tensor)
            except Exception as error:  # noqa: BLE001  # see above
                return _Made(steps=[_lost("unobserved run", failure_of(error))], failed=True)
        return made

    def _keep(self, made: _Made, path: str, tensor: torch.Tensor) -> None:
        host = self._backend.get(real_view(elements(tensor))).contiguous()
        digest = host.digest()
        made.tensors[digest] = host
        made.results.append(
            TensorRef(
                name=path,
                role="activation",
                dtype=host.dtype,
                shape=host.shape,
                stride=host.stride,
                offset=0,
                digest=digest,
            )
        )


def _nowhere(backend: Backend) -> _Made:
    text = (
        f"'{backend.spec}' runs no torch module: only single steps, so record its calls elsewhere and replay"
    )
    return _Made(steps=[_lost(ROOT, Failure(kind=FailureKind.UNSUPPORTED, text=text))], failed=True)


def _lost(name: str, failure: Failure) -> StepRecord:
    return StepRecord(name=name, op="?", attrs={}, inputs=(), outputs=(), failure=failure)


def _digests(made: _Made) -> list[tuple[str, str]]:
    return [(ref.name, ref.digest) for ref in made.results]


def _unsteady(first: Sequence[StepRecord], again: Sequence[StepRecord]) -> list[StepRecord]:
    """Return the first run's steps, where the outermost module says that it cannot be run again."""
    cause = "whose calls are the same"
    for one, two in zip(first, again, strict=False):
        if one.op == "module":
            continue
        if (one.name, one.op) != (two.name, two.op):
            cause = f"which calls '{two.name}' where it called '{one.name}'"
            break
        consumed = [[ref and ref.digest for ref in step.inputs] for step in (one, two)]
        if consumed[0] != consumed[1]:
            cause = f"first seen in what '{one.name}' reads: state that is kept between runs"
            break
        if [ref.digest for ref in one.outputs] != [ref.digest for ref in two.outputs]:
            cause = f"first seen in what '{one.name}' gives of the same inputs"
            break
    reason = f"gives other results on the same inputs, {cause}"
    return [
        dataclasses.replace(step, attrs={**step.attrs, "reason": reason}, replayable=False)
        if step.name == ROOT and step.op == "module"
        else step
        for step in first
    ]
