"""Record an engine case: the network on the backend's device, teacher-forced along its plan.

Run once under a recorder and once more with nothing in between, whose scores must be the same.
Does not judge, nor serve requests: `engine` does that with the same network.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import parity.engine.ops.cpu
import parity.engine.ops.npu
import parity.engine.ops.reference  # noqa: F401  # declares the ops
from parity.backend.base import Backend, Node, Witness
from parity.backend.observed import TorchBackend, in_use, observe
from parity.backend.torch_tensor import to_host, torch_dtype
from parity.backend.torch_witness import Trace
from parity.case.case import Case
from parity.case.draw import key_text
from parity.case.inputs import generate
from parity.case.tensor import HostTensor
from parity.engine.kv.pool import Pool
from parity.engine.model.net import Network, build
from parity.engine.model.weights import Weights
from parity.engine.ops.op import Binder, Wrap
from parity.engine.run.batch import flatten
from parity.errors import UsageError
from parity.run.engine_model import Model, model_of
from parity.run.engine_recorder import Recorder, compose, failure_of
from parity.run.hosted import NOTE, Hosted
from parity.run.journal import Journal, Phase
from parity.run.kept import reference
from parity.run.passes import Phased
from parity.run.plan import Plan, read_plan
from parity.run.repeats import repeated
from parity.run.subject import FindWeight
from parity.store.recording import Environment, Recording, StepRecord, TensorRef
from parity.store.schema import all_references

__all__ = ["record", "steps_of", "weights_of"]

# Modes in which torch code runs as it is written; in the others only single steps do.
_DIRECT = ("eager", "lazy")


def weights_of(case: Case) -> FindWeight:
    """Return what finds the weights of a case by name. Raises GoldenError where they are not here."""
    model = model_of(case)
    return lambda ref: model.find(ref.name)


def steps_of(case: Case) -> tuple[str, ...]:
    """Return the names of the steps of a case, as they are bound; binds the network, computes nothing."""
    model, (plan, tokens) = model_of(case), _planned(case)
    meta = torch.device("meta")
    weights: Weights = {
        name: torch.empty(weight.shape, dtype=torch_dtype(model.dtype), device=meta)
        for name, weight in model.weights().items()
    }
    # Somebody who looks on keeps fused operations apart.
    binder = Binder("cpu", force=("*",), wrap=lambda _site, _op, function, _bound: function)
    pool = Pool(model.arch, 1, dtype=torch_dtype(model.dtype), device=meta)
    build(model.arch, weights, pool, binder)
    turns = len(plan.runs(tokens, key=""))
    prefixes = [f"s{number}." if turns > 1 else "" for number in range(turns)]
    return tuple(prefix + site for prefix in prefixes for site, _ in binder.sites)


def record(
    case: Case, backend: Backend, *, repeat: int, journal: Journal, environment: Environment
) -> Recording:
    """Run a case `repeat` times under a recorder, then once alone, and return the first run.

    A call that a device cannot do ends the run; the steps before it stay.
    """
    run = _Run(case, backend, journal)
    first = run.observed()
    steps, tensors = first.steps, dict(first.tensors)
    for number in range(2, repeat + 1):
        if first.failed:
            break
        again = run.observed()
        steps = repeated(steps, again.steps, run=f"run {number} of {repeat}")
        tensors = {**again.tensors, **tensors}
    alone, note = run.compared(first)
    tensors = {**alone.tensors, **tensors}
    recording = Recording(
        case=str(case.id),
        revision=case.revision,
        environment=_with(environment, note),
        steps=(*steps, *alone.steps),
        results=tuple(first.results),
        unobserved=tuple(alone.results),
    )
    named = {ref.digest for ref in all_references(recording)}
    return dataclasses.replace(recording, tensors={d: t for d, t in tensors.items() if d in named})


def _with(environment: Environment, note: str) -> Environment:
    if not note:
        return environment
    return dataclasses.replace(environment, provenance={**environment.provenance, "engine": note})


@dataclass(frozen=True, slots=True)
class _Made:
    """What one run gave; `steps` of a run alone hold nothing but its failure."""

    steps: list[StepRecord]
    tensors: dict[str, HostTensor]
    results: list[TensorRef]
    failed: bool


class _Run:
    """One case on one backend: its weights are there once, each run has a pool of its own."""

    def __init__(self, case: Case, backend: Backend, journal: Journal) -> None:
        self._case, self._backend, self._journal = case, backend, journal
        self._model = model_of(case)
        self._plan, tokens = _planned(case)
        self._runs = self._plan.runs(tokens, key=key_text(case.id, "pages"))
        direct = isinstance(backend, TorchBackend) and backend.spec.mode in _DIRECT
        self.hosted = None if direct else Hosted(backend)
        self._device: torch.device = backend.device if isinstance(backend, TorchBackend) and direct else _CPU
        self._step = "weights"
        if isinstance(backend, Phased):
            backend.on_phase = lambda phase: self._enter(Phase(phase))
        self._enter(Phase.PUT)
        with in_use(backend):
            self._weights = self._put(self._model)

    def _enter(self, phase: Phase, step: str = "") -> None:
        self._step = step or self._step
        self._journal.enter(phase, case=str(self._case.id), step=self._step)

    def _put(self, model: Model) -> Weights:
        made: Weights = {}
        for name, weight in model.weights().items():
            host = model.make(weight)
            made[name] = _on_cpu(host) if self.hosted else self._backend.put(host)
        return made

    def _fetch(self, tensor: Tensor) -> HostTensor:
        return to_host(tensor) if self.hosted else self._backend.get(tensor)

    def _observe(self, function: Callable[[], Any], op: str) -> tuple[Any, Witness]:
        return observe(self._backend, function, op)

    def _network(self, wrap: Wrap | None) -> Network:
        pool = Pool(
            self._model.arch, self._plan.slots, dtype=torch_dtype(self._model.dtype), device=self._device
        )
        binder = Binder(self._device.type, force=self._model.force, wrap=wrap)
        return build(self._model.arch, self._weights, pool, binder)

    def observed(self) -> _Made:
        """Run under a recorder. Whole steps of a lazy device are observed, so that its graphs stay whole."""
        lazy = self.hosted is None and self._backend.spec.mode == "lazy"
        recorder = Recorder(
            observe=self.hosted.observe if self.hosted else None if lazy else self._observe,
            fetch=self._fetch,
            enter=lambda name: self._enter(Phase.RUN, name),
            complete=True,
            numbered=len(self._runs) > 1,
        )
        wrap = compose(self.hosted.wrap, recorder.wrap) if self.hosted else recorder.wrap
        results: list[TensorRef] = []
        tensors: dict[str, HostTensor] = {}
        extra: list[StepRecord] = []
        with in_use(self._backend), torch.no_grad():
            try:
                network = self._network(wrap)
                for number in range(len(self._runs)):
                    logits = self._step_of(network, number, recorder, whole=lazy)
                    self._enter(Phase.FETCH)
                    recorder.flush()
                    results.append(self._result(logits, number, tensors))
            except Exception as error:  # noqa: BLE001  # whatever it is, the device gave nothing more
                if not recorder.failed:
                    extra.append(_lost(f"glue after {recorder.last or 'nothing'}", error))
            steps, held = recorder.steps()
        return _Made([*steps, *extra], {**held, **tensors}, results, recorder.failed or bool(extra))

    def compared(self, first: _Made) -> tuple[_Made, str]:
        """Return a run with nothing in between, to be held against `first`, and what must be said of it.

        A device that gives other bits each time, observed or not, leaves nothing to compare.
        """
        nothing = _Made([], {}, [], failed=False)
        if first.failed:
            return nothing, ""
        if self.hosted is not None:
            return nothing, f"hosted: {NOTE}"
        alone = self.alone()
        if alone.failed or _digests(alone) == _digests(first):
            return alone, ""
        # Twice in a row: what depends on a count of calls may come round again every second run.
        if all([_outputs(self.observed()) == _outputs(first) for _ in range(2)]):  # noqa: C419 - both are run
            return alone, ""
        return nothing, "observed runs differ: whether observing changes a run is not known"

    def alone(self) -> _Made:
        """Run with nothing that looks on."""
        tensors: dict[str, HostTensor] = {}
        self._enter(Phase.RUN, "unobserved run")
        with in_use(self._backend), torch.no_grad():
            try:
                network = self._network(None)
                results = [
                    self._result(self._step_of(network, number), number, tensors)
                    for number in range(len(self._runs))
                ]
            except Exception as error:  # noqa: BLE001  # see above
                return _Made([_lost("unobserved run", error)], {}, [], failed=True)
        return _Made([], tensors, results, failed=False)

    def _step_of(
        self, network: Network, number: int, recorder: Recorder | None = None, *, whole: bool = False
    ) -> Tensor:
        """Run a step of the plan; `whole` asks the backend what ran in all of it."""
        batch = flatten(self._runs[number], device=self._device)
        if recorder is not None:
            recorder.expect(batch, flatten(self._runs[number], device=_CPU))
        if recorder is None or not whole:
            return network(batch)
        planned: list[Node] = []  # what torch itself was asked to do on the host, such as angles

        def traced() -> Tensor:
            with Trace(self._device, reduced=None) as trace:
                logits = network(batch)
            planned.extend(trace.witness((logits,)).host)
            return logits

        logits, witness = self._observe(traced, "engine")
        recorder.fell_back(list((Counter(witness.host) - Counter(planned)).elements()))
        return logits  # type: ignore[no-any-return] # what the network gave

    def _result(self, logits: Tensor, number: int, tensors: dict[str, HostTensor]) -> TensorRef:
        host = self._fetch(logits).contiguous()
        digest = host.digest()
        tensors[digest] = host
        return reference(host, f"s{number}.logits" if len(self._runs) > 1 else "logits", digest)


_CPU = torch.device("cpu")


def _digests(made: _Made) -> list[str]:
    return [ref.digest for ref in made.results]


def _outputs(made: _Made) -> list[list[str]]:
    return [[ref.digest for ref in step.outputs] for step in made.steps]


def _on_cpu(host: HostTensor) -> Tensor:
    from_bits = torch.from_numpy(host.storage.view(f"i{host.dtype.itemsize}").copy())
    return from_bits.view(torch_dtype(host.dtype)).view(host.shape)


def _planned(case: Case) -> tuple[Plan, Sequence[int]]:
    """Return the plan of a case and its tokens. Raises UsageError where they do not fit together."""
    assert case.subject is not None
    inputs = generate(case)
    if list(inputs) != ["tokens"]:
        raise UsageError(
            f"{case.where}: an engine has one input, 'tokens'; got {', '.join(inputs) or 'none'}"
        )
    return read_plan(str(case.subject.options.get("plan"))), inputs["tokens"].array().tolist()


def _lost(name: str, error: Exception) -> StepRecord:
    return StepRecord(name=name, op="?", attrs={}, inputs=(), outputs=(), failure=failure_of(error))
