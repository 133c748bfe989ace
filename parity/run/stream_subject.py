"""An engine case that is one part of a network: recorded alone, from what the part before gave.

The cases of a checkpoint's parts, run one after another in one child, check it on a device that holds
no more than one layer. Hidden states are carried from part to part; where the part before did not
run in this child, they are made again, unrecorded. Does not judge.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parity.backend.base import Backend, Node, Witness
from parity.backend.observed import TorchBackend, in_use, observe
from parity.backend.torch_tensor import lent, to_host
from parity.backend.torch_witness import Trace
from parity.case.case import Case
from parity.case.draw import key_text
from parity.case.inputs import generate
from parity.case.tensor import HostTensor
from parity.engine.model.arch import Arch
from parity.engine.run.batch import flatten
from parity.errors import UsageError
from parity.run.engine_model import model_of
from parity.run.engine_recorder import Recorder, compose, failure_of
from parity.run.hosted import NOTE, Hosted
from parity.run.journal import Journal, Phase
from parity.run.kept import reference
from parity.run.plan import read_plan
from parity.run.repeats import repeated
from parity.run.stream import Streamed, parts
from parity.run.stream_weights import named_experts, reader, weights_of
from parity.store.recording import Environment, Recording, StepRecord, TensorRef
from parity.store.schema import all_references

__all__ = ["record", "weights_of"]

_CPU = torch.device("cpu")
_DIRECT = ("eager", "lazy")


@dataclass(slots=True)
class _Carried:
    """What the last part that ran in this process gave: nothing but activations."""

    key: str = ""
    number: int = -1
    hidden: Sequence[Tensor] = ()


# One child runs the parts of one checkpoint on one device, in their order.
_LAST = _Carried()


def record(
    case: Case, backend: Backend, *, repeat: int, journal: Journal, environment: Environment
) -> Recording:
    """Run a part `repeat` times under a recorder, then once alone, and return the first run."""
    run = _Run(case, backend, journal)
    first = run.observed()
    steps, tensors = first.steps, dict(first.tensors)
    for number in range(2, repeat + 1):
        if not first.failed:
            again = run.observed()
            steps = repeated(steps, again.steps, run=f"run {number} of {repeat}")
            tensors = {**again.tensors, **tensors}
    alone, note = run.compared(first, tensors)
    recording = Recording(
        case=str(case.id),
        revision=case.revision,
        environment=_with(environment, note),
        steps=tuple(steps),
        results=tuple(first.results),
        unobserved=tuple(alone),
    )
    named = {ref.digest for ref in all_references(recording)}
    return dataclasses.replace(recording, tensors={d: t for d, t in tensors.items() if d in named})


def _with(environment: Environment, note: str) -> Environment:
    if not note:
        return environment
    return dataclasses.replace(environment, provenance={**environment.provenance, "engine": note})


@dataclass(frozen=True, slots=True)
class _Made:
    steps: list[StepRecord]
    tensors: dict[str, HostTensor]
    results: list[TensorRef]
    failed: bool


class _Run:
    """One part on one backend."""

    def __init__(self, case: Case, backend: Backend, journal: Journal) -> None:
        self._case, self._backend, self._journal = case, backend, journal
        assert case.subject is not None
        model, plan = model_of(case), read_plan(str(case.subject.options["plan"]))
        tokens = generate(case)["tokens"].array().tolist()
        self._runs = plan.runs(tokens, key=key_text(case.id, "pages"))
        direct = isinstance(backend, TorchBackend) and backend.spec.mode in _DIRECT
        self.hosted = None if direct else Hosted(backend)
        self._device: torch.device = backend.device if isinstance(backend, TorchBackend) and direct else _CPU
        read = reader(model)
        with in_use(backend):
            self._stream = Streamed(
                model.arch,
                self._runs,
                plan.slots,
                read=lambda weight, experts: self._put(read(weight, experts)),
                device=self._device,
                force=model.force,
            )
        self._number = _number(case, model.arch)
        self._name = str(case.subject.options["part"]).partition("-")[2]
        self._hidden = self._before(_key(case, backend))

    def _put(self, made: Tensor) -> Tensor:
        self._journal.enter(Phase.PUT, case=str(self._case.id), step=self._name)
        if self._device.type == "cpu":
            return made
        handle: Tensor = self._backend.put(lent(made))
        return handle

    def _fetch(self, tensor: Tensor) -> HostTensor:
        # A recorder's copies are nobody else's, and a weight is read while it lies still.
        if self._device.type == "cpu":
            return lent(tensor.contiguous())
        return self._backend.get(tensor)

    def _before(self, key: str) -> Sequence[Tensor]:
        """Return what the part before gives, as carried, or made again by all parts before."""
        if self._number == 0:
            return ()
        if (_LAST.key, _LAST.number) == (key, self._number - 1):
            return _LAST.hidden
        hidden: Sequence[Tensor] = ()
        with in_use(self._backend), torch.no_grad():
            for number in range(self._number):
                hidden = self._stream.pass_through(
                    number, hidden, wrap=self.hosted.wrap if self.hosted else None
                )
        return hidden

    def _observe(self, function: Callable[[], Any], op: str) -> tuple[Any, Witness]:
        return observe(self._backend, function, op)

    def observed(self) -> _Made:
        """Run under a recorder, and carry what it gives to the next part.

        Whole steps of a lazy device are observed, so that its graphs stay whole.
        """
        lazy = self.hosted is None and self._backend.spec.mode == "lazy"
        recorder = Recorder(
            observe=self.hosted.observe if self.hosted else None if lazy else self._observe,
            fetch=self._fetch,
            enter=lambda name: self._journal.enter(Phase.RUN, case=str(self._case.id), step=name),
            complete=True,
            numbered=len(self._runs) > 1,
        )
        wrap = compose(self.hosted.wrap, recorder.wrap) if self.hosted else recorder.wrap
        results: list[TensorRef] = []
        tensors: dict[str, HostTensor] = {}
        lost: list[StepRecord] = []

        def watched(number: int, step: Callable[[], Tensor]) -> Tensor:
            recorder.expect(self._stream.batches[number], flatten(self._runs[number], device=_CPU))
            made = self._whole(step, recorder) if lazy else step()
            recorder.flush()
            return made

        with in_use(self._backend), torch.no_grad():
            try:
                made = self._stream.pass_through(self._number, self._hidden, wrap=wrap, around=watched)
                results = self.results(made, tensors)
                _LAST.key, _LAST.number, _LAST.hidden = _key(self._case, self._backend), self._number, made
            except Exception as error:  # noqa: BLE001  # whatever it is, the device gave nothing more
                if not recorder.failed:
                    name = f"glue after {recorder.last or 'nothing'}"
                    failure = failure_of(error)
                    lost.append(
                        StepRecord(name=name, op="?", attrs={}, inputs=(), outputs=(), failure=failure)
                    )
            steps, held = recorder.steps()
        named = list(named_experts(steps, self._stream.chosen))
        return _Made([*named, *lost], {**held, **tensors}, results, recorder.failed or bool(lost))

    def _whole(self, step: Callable[[], Tensor], recorder: Recorder) -> Tensor:
        """Run a step of the plan and ask the backend what ran in all of it."""
        planned: list[Node] = []  # what torch itself was asked to do on the host, such as angles

        def traced() -> Tensor:
            with Trace(self._device, reduced=None) as trace:
                made = step()
            planned.extend(trace.witness((made,)).host)
            return made

        made, witness = self._observe(traced, "engine")
        recorder.fell_back(list((Counter(witness.host) - Counter(planned)).elements()))
        return made  # type: ignore[no-any-return] # what the step gave

    def compared(self, first: _Made, tensors: dict[str, HostTensor]) -> tuple[list[TensorRef], str]:
        """Return what a run gives that nobody observes, and what must be said of it.

        A device that gives other bits each time, observed or not, leaves nothing to compare.
        """
        if first.failed or self.hosted is not None:
            return [], f"hosted: {NOTE}" if self.hosted else ""
        with in_use(self._backend), torch.no_grad():
            alone = self.results(self._stream.pass_through(self._number, self._hidden), tensors)
        if _digests(alone) == _digests(first.results):
            return alone, ""
        # Twice in a row: what depends on a count of calls may come round again every second run.
        if all([_outputs(self.observed()) == _outputs(first) for _ in range(2)]):  # noqa: C419 - both are run
            return alone, ""
        return [], "observed runs differ: whether observing changes a run is not known"

    def results(self, made: Sequence[Tensor], tensors: dict[str, HostTensor]) -> list[TensorRef]:
        """Return references of what a part gave, and put its values into `tensors`."""
        found = []
        for number, tensor in enumerate(made):
            host = to_host(tensor) if self._device.type == "cpu" else self._backend.get(tensor).contiguous()
            digest = host.digest()
            tensors[digest] = host
            name = f"s{number}.{self._name}" if len(made) > 1 else self._name
            found.append(reference(host, name, digest))
        return found


def _outputs(made: _Made) -> list[list[str]]:
    return [_digests(step.outputs) for step in made.steps]


def _digests(refs: Sequence[TensorRef]) -> list[str]:
    return [ref.digest for ref in refs]


def _number(case: Case, arch: Arch) -> int:
    assert case.subject is not None
    part, known = str(case.subject.options["part"]), parts(arch)
    if part not in known:
        raise UsageError(f"{case.where}: part '{part}' is none of {known[0]} … {known[-1]}")
    return known.index(part)


def _key(case: Case, backend: Backend) -> str:
    """Return what two parts have in common that may carry to each other."""
    assert case.subject is not None
    options = {name: value for name, value in case.subject.options.items() if name != "part"}
    tokens = generate(case)["tokens"].digest()
    return json.dumps([options, tokens, str(backend.spec), backend.setting.value], sort_keys=True)
