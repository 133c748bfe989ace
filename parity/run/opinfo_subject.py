"""Record torch's own samples of one op: each is one step, its inputs known by digest and not stored.

Whoever judges draws the same samples again (`case.opinfo_db`) and believes them by digest. A call that is
an op of the table is recorded as that op, another one as `torch:<name>`, and a call that must raise as
`refused:<name>`. Does not judge. Longer than a file should be: every way in which a sample says nothing
is a reason of its own, and they stand together.
"""

from __future__ import annotations

import functools
import math
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from parity.backend.base import Backend, Witness
from parity.backend.observed import TorchBackend, in_use, observe
from parity.backend.torch_call import encode_call, flat_tensors, real_view
from parity.backend.torch_eager import inability
from parity.backend.torch_names import call_name
from parity.case.case import Case
from parity.case.op import Attr
from parity.case.opinfo_db import PREFIX, NoSamples, Sample, database, is_promised, samples
from parity.case.tensor import HostTensor
from parity.run.engine_recorder import failure_of
from parity.run.journal import Journal, Phase
from parity.run.module_facts import Facts, Kind, draws, look_up
from parity.run.module_step import Done, meaning
from parity.run.module_storage import is_plain
from parity.run.opinfo_refusal import refused
from parity.run.opinfo_tensors import fetched, host_of, is_part, moved, ref_of
from parity.run.repeats import repeated
from parity.run.subject import FindWeight
from parity.store.recording import Environment, Failure, FailureKind, Recording, StepRecord, TensorRef

__all__ = ["record", "weights_of"]

# How torch words that an op is for other devices than this one, whatever the database says.
_ELSEWHERE = re.compile(r"only supported on (CUDA|ROCm|XPU|MPS)")
_UNWRITTEN = frozenset(
    f"aten::{name}"
    for name in ("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided")
)


def weights_of(case: Case) -> FindWeight:
    """Return what finds an input of a case's samples by its digest; made when the first is asked for."""

    @functools.cache
    def held() -> Mapping[str, HostTensor]:
        try:
            drawn = _samples(case)
        except NoSamples:
            return {}
        hosts = (host_of(x) for sample in drawn for x in sample.tensors() if is_plain(x))
        return {host.digest(): host for host in hosts}

    return lambda ref: held().get(ref.digest) if ref.role == "input" else None


def record(
    case: Case,
    backend: Backend,
    *,
    repeat: int,
    journal: Journal,
    environment: Environment,
    lost: Mapping[str, Failure] = MappingProxyType({}),
) -> Recording:
    """Run every sample of a case on an open backend, `repeat` times, and return its steps.

    Samples that are `lost` ended a process before: they are not run again.
    """
    run = _Run(case, backend, journal, lost)
    steps = run.steps()
    for number in range(2, repeat + 1):
        steps = repeated(steps, run.steps(), run=f"run {number} of {repeat}")
    named = {ref.digest for step in steps for ref in (*step.outputs, *filter(None, step.inputs))}
    named |= {ref.digest for step in steps for run_ in step.repeats for ref in run_}
    return Recording(
        case=str(case.id),
        revision=case.revision,
        environment=environment,
        steps=tuple(steps),
        tensors={digest: run.tensors[digest] for digest in run.tensors.keys() & named},
    )


def _samples(case: Case) -> tuple[Sample, ...]:
    assert case.subject is not None
    options = case.subject.options
    return samples(str(options["op"]), dtype=str(options["dtype"]), inputs=str(options["inputs"]))


@dataclass(slots=True, kw_only=True)
class _Held:
    """The tensors of one sample: on the host, and as what they were on the device when the call began."""

    hosts: dict[int, HostTensor] = field(default_factory=dict)  # by id of the device's tensor
    placed: dict[int, Tensor] = field(default_factory=dict)  # by id of the sample's


class _Run:
    """One case on one backend."""

    def __init__(self, case: Case, backend: Backend, journal: Journal, lost: Mapping[str, Failure]) -> None:
        assert case.subject is not None
        self._case, self._backend, self._journal, self._before = case, backend, journal, lost
        self._op = database()[str(case.subject.options["op"])]
        inputs, dtype = (str(case.subject.options[name]) for name in ("inputs", "dtype"))
        self._is_promised = inputs == "samples" or is_promised(self._op, inputs, dtype)
        self._name = call_name(self._op.op)
        self._facts = look_up(self._op.op) if self._name else _unlisted(self._op)
        self.tensors: dict[str, HostTensor] = {}

    def steps(self) -> list[StepRecord]:
        """Run all samples once."""
        try:
            _samples(self._case)
        except NoSamples as reason:
            return [self._unjudged(Sample(name="none", args=(), kwargs={}), str(reason))]
        if not isinstance(self._backend, TorchBackend) or self._backend.spec.mode not in ("eager", "lazy"):
            text = f"'{self._backend.spec}' runs steps of the op table alone, and no call of torch"
            return [
                _lost(each.name, Failure(kind=FailureKind.UNSUPPORTED, text=text))
                for each in _samples(self._case)
            ]
        found, wrote = [], False
        with in_use(self._backend), torch.no_grad(), _deterministic_if_it_can(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecations, which no verdict depends on
            for sample in _samples(self._case):
                before = [x._version for x in sample.tensors()]  # noqa: SLF001 - torch's count of writes
                found.append(self._step(sample))
                wrote |= before != [x._version for x in sample.tensors()]  # noqa: SLF001 - see above
        if wrote:
            samples.cache_clear()
        return found

    def _step(self, sample: Sample) -> StepRecord:
        if sample.name in self._before:
            return _lost(sample.name, self._before[sample.name], op=f"torch:{self._full}")
        self._journal.enter(Phase.PUT, case=str(self._case.id), step=sample.name)
        odd = [x for x in sample.tensors() if not is_plain(x)]
        if odd and not sample.error:
            return self._unjudged(
                sample, f"a recording cannot hold a {str(odd[0].layout)[6:]} {str(odd[0].dtype)[6:]} tensor"
            )
        held = _Held()
        try:
            args, kwargs = self._placed(sample, held)
        except Exception as error:  # noqa: BLE001  # what the device raises is its answer
            return _lost(sample.name, _failure(error))
        self._journal.enter(Phase.RUN, case=str(self._case.id), step=sample.name)
        if sample.error and not self._is_promised:
            return self._unjudged(sample, "torch's own test of its errors expects to fail")
        if sample.error:
            return refused(
                self._backend, sample, self._full, lambda: self._call(*args, **kwargs), keep=self._keep
            )
        began = time.perf_counter()
        try:
            result, witness = self._observed(args, kwargs)
        except Exception as error:  # noqa: BLE001  # see above
            if _ELSEWHERE.search(str(error)) or not self._is_promised:
                return self._unjudged(sample, str(error).partition("\n")[0])
            return _lost(sample.name, _failure(error), op=f"torch:{self._full}")
        seconds = time.perf_counter() - began
        self._journal.enter(Phase.FETCH, case=str(self._case.id), step=sample.name)
        return self._recorded(sample, held, args, kwargs, result, witness, seconds)

    def _observed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Witness]:
        made = []

        def call() -> tuple[Tensor, ...]:
            made.append(self._call(*args, **kwargs))
            return flat_tensors(made[0])  # a witness is of tensors: some calls give numbers besides

        _, witness = observe(self._backend, call, f"torch:{self._full}")
        return made[0], witness

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        return self._op.op(*args, **kwargs)

    @property
    def _full(self) -> str:
        return self._name or f"{PREFIX}{self._op.full_name}"

    def _placed(self, sample: Sample, held: _Held) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments on the device, in the layout that the sample has."""
        assert isinstance(self._backend, TorchBackend), "asked before"
        device = self._backend.device

        def put(x: Any) -> Any:
            if isinstance(x, torch.device):
                return device
            if not isinstance(x, Tensor):
                return x
            if id(x) not in held.placed:
                held.placed[id(x)] = x if device.type == "cpu" or x.is_meta else moved(x, self._backend)
                if not sample.error:  # of what is refused, nothing is judged but that
                    held.hosts[id(held.placed[id(x)])] = host_of(x)
            return held.placed[id(x)]

        args, kwargs = tree_map(put, (sample.args, dict(sample.kwargs)))
        if isinstance(kwargs.get("device"), str):
            kwargs["device"] = device
        return args, kwargs

    def _recorded(
        self,
        sample: Sample,
        held: _Held,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
        witness: Witness,
        seconds: float,
    ) -> StepRecord:
        outputs = flat_tensors(result)
        reason = self._reason(args, kwargs, outputs, witness)
        if reason:
            return self._unjudged(sample, reason, witness=witness, seconds=seconds)
        op, inputs, attrs = self._meaning(args, kwargs, outputs, tuple(held.placed.values()))
        made = tuple(self._keep(f"y{i}", fetched(self._backend, t)) for i, t in enumerate(outputs))
        return StepRecord(
            name=sample.name,
            op=op,
            attrs=attrs,
            inputs=tuple(self._input(f"x{i}", t, held) for i, t in enumerate(inputs)),
            outputs=made,
            replayable="reason" not in attrs,
            witness=witness,
            seconds=seconds,
            bytes=sum(math.prod(ref.shape) * ref.dtype.itemsize for ref in made),
        )

    def _reason(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Sequence[Tensor], witness: Witness
    ) -> str:
        """Return why nobody can say what a call should give, or an empty string."""
        if draws(self._facts, args, kwargs, witness):
            return "draws random numbers"
        if not outputs:
            return "gives no tensor"
        if any(not is_plain(t) for t in outputs):
            odd = next(t for t in outputs if not is_plain(t))
            return f"a recording cannot hold a {str(odd.layout)[6:]} {str(odd.dtype)[6:]} tensor"
        if self._facts.short.startswith("as_strided") and any(map(is_part, flat_tensors((args, kwargs)))):
            return "reads memory beyond its arguments"
        ran = {node.kind for node in witness.executed}
        if self._facts.kind is Kind.BLANK or (ran and ran <= _UNWRITTEN):
            return "gives memory that nobody wrote"
        return ""

    def _meaning(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        outputs: tuple[Tensor, ...],
        given: Sequence[Tensor],
    ) -> tuple[str, Sequence[Tensor | None], dict[str, Attr]]:
        if self._name is None:
            try:
                text, inputs = encode_call(self._op.op, args, kwargs, name=self._full)
            except Exception as error:  # noqa: BLE001  # an argument that is code has no form
                return f"torch:{self._full}", (), {"reason": str(error)}
            return f"torch:{self._full}", inputs, {"call": text}
        done = Done(
            function=self._op.op, facts=self._facts, args=args, kwargs=kwargs, given=given, outputs=outputs
        )
        found = meaning(done, blank=False)
        return found.op, found.inputs, found.attrs | ({"reason": found.reason} if found.reason else {})

    def _input(self, name: str, tensor: Tensor | None, held: _Held) -> TensorRef | None:
        if tensor is None:
            return None
        if id(tensor) in held.hosts:
            return ref_of(name, held.hosts[id(tensor)], role="input", like=real_view(tensor))
        return self._keep(
            name, fetched(self._backend, tensor)
        )  # a view or constant that the call only implied

    def _keep(self, name: str, host: HostTensor) -> TensorRef:
        ref = ref_of(name, host, role="activation")
        self.tensors[ref.digest] = host
        return ref

    def _unjudged(self, sample: Sample, reason: str, **ran: Any) -> StepRecord:
        return StepRecord(
            name=sample.name,
            op=f"torch:{self._full}",
            attrs={"reason": reason},
            inputs=(),
            outputs=(),
            replayable=False,
            **ran,
        )


@contextmanager
def _deterministic_if_it_can() -> Iterator[None]:
    """Let an op that has no deterministic kernel run under strict, too: it is to be judged, not refused."""
    was, warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(was, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warned)


def _unlisted(op: Any) -> Facts:
    """Return what is known of a function in Python that torch does not list: the op's name."""
    short = op.name.rpartition(".")[2].removesuffix("_")
    kind = (
        Kind.BLANK
        if short in ("new_empty", "new_empty_strided", "empty_strided", "resize", "resize_as")
        else Kind.CALL
    )
    return Facts(name=None, short=short, kind=kind, in_place=False)


def _failure(error: Exception) -> Failure:
    words = inability(error)
    return failure_of(error) if words is None else Failure(kind=FailureKind.UNSUPPORTED, text=words)


def _lost(name: str, failure: Failure, *, op: str = "?") -> StepRecord:
    return StepRecord(name=name, op=op, attrs={}, inputs=(), outputs=(), failure=failure)
