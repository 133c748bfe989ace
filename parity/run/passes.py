"""One pass over the steps of a case: copy in, run, copy out, and see that nothing else changed.

Each step is entered in the journal before it begins. Does not repeat; `recorder` does.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from parity.backend.base import Backend, Handle, Unsupported, Witness
from parity.case.case import Case
from parity.case.dtype import dtype
from parity.case.tensor import HostTensor
from parity.run.flops import flops
from parity.run.journal import Journal, Phase
from parity.store.recording import Failure, FailureKind, StepRecord, TensorRef

__all__ = ["Given", "Pass", "Phased", "responds"]

_WORDS = 300  # characters of a device's message that a report can show


@runtime_checkable
class Phased(Protocol):
    """A backend that compiles says so: it calls `on_phase("compile")`, then `on_phase("run")`.

    Compiling then has a time limit of its own and does not count as the step's seconds.
    """

    on_phase: Callable[[str], None] | None


def responds(backend: Backend) -> bool:
    """Whether the device still takes a tensor and gives it back: after some faults none does."""
    probe = HostTensor.of(np.arange(8, dtype=np.float32), dtype("f32"))
    try:
        handle = backend.put(probe)
        backend.synchronize()
        return backend.get(handle).digest() == probe.digest()
    except Exception:  # noqa: BLE001  # any error at all is the answer
        return False


class _BreachError(Exception):
    """The backend broke its protocol."""


@dataclass(frozen=True, slots=True)
class Given:
    """A generated tensor, and the reference with the digest that it had then."""

    host: HostTensor
    ref: TensorRef

    @classmethod
    def of(cls, host: HostTensor, name: str, *, role: str) -> Given:
        """Take its digest, before any backend has seen it."""
        return cls(host, _ref(host, name, role=role))


class Pass:
    """One run over the steps; `tensors` collects the activations that it fetches, by digest."""

    def __init__(
        self,
        case: Case,
        backend: Backend,
        inputs: Mapping[str, Given],
        tensors: dict[str, HostTensor],
        journal: Journal,
    ) -> None:
        self._case, self._backend, self._inputs, self._tensors = case, backend, inputs, tensors
        self._journal = journal
        self._step = case.steps[0]
        self._started = 0.0
        self._refs = {name: held.ref for name, held in inputs.items()}
        self._handles: dict[str, Handle] = {}
        self._lost: dict[str, StepRecord] = {}  # outputs that do not exist, and the step to blame
        self._last: StepRecord | None = None  # after which the device answered no more

    def run(self) -> list[StepRecord]:
        """Return a record of every step, run or not."""
        phased = self._backend if isinstance(self._backend, Phased) else None
        if phased:
            phased.on_phase = lambda phase: self._enter(Phase(phase))
        last_use = {name: i for i, step in enumerate(self._case.steps) for name in step.tensors()}
        records: list[StepRecord] = []
        for number, step in enumerate(self._case.steps):
            self._step = step
            needs = next((self._lost[name] for name in step.tensors() if name in self._lost), None)
            cause = self._last or needs
            records.append(self._attempt() if cause is None else self._not_reached(cause))
            if not records[-1].outputs:
                self._lost.update(dict.fromkeys(step.outputs, cause or records[-1]))
            # Device memory is scarce: what no later step reads is freed now.
            for name in [n for n in self._handles if last_use.get(n, -1) <= number]:
                del self._handles[name]
        if phased:
            phased.on_phase = None  # or the tensors of this case would outlive it
        return records

    def _enter(self, phase: Phase) -> None:
        self._journal.enter(phase, case=str(self._case.id), step=self._step.name)
        self._started = time.perf_counter()

    def _attempt(self) -> StepRecord:
        try:
            return self._run()
        except Unsupported as error:
            return self._failed(FailureKind.UNSUPPORTED, _first_line(error) or type(error).__name__)
        except _BreachError as error:
            failed = self._failed(FailureKind.CRASHED, str(error))
        except Exception as error:  # noqa: BLE001  # whatever it is, the device's step gave nothing
            failed = self._failed(FailureKind.CRASHED, f"{type(error).__name__}: {_first_line(error)}")
        # Asked here, where the exception and with it the tensors of its frames are gone.
        if not responds(self._backend):
            self._last = failed
        return failed

    def _run(self) -> StepRecord:
        step, backend = self._step, self._backend
        absent = [name for name in dict.fromkeys(step.tensors()) if name not in self._handles]
        if absent:
            self._enter(Phase.PUT)
            self._handles.update({name: backend.put(self._inputs[name].host) for name in absent})
        self._enter(Phase.RUN)
        handles = backend.run(step, [None if name is None else self._handles[name] for name in step.inputs])
        backend.synchronize()
        seconds = time.perf_counter() - self._started
        self._enter(Phase.FETCH)
        witness = backend.witness()
        if not isinstance(witness, Witness):
            raise _BreachError(f"witness returned a {type(witness).__name__}, not a Witness")
        inputs, outputs = self._input_refs(), self._fetch(handles)
        overwritten, failure = self._check_inputs()
        return StepRecord(
            name=step.name,
            op=step.op,
            attrs=step.attrs,
            inputs=inputs,
            outputs=outputs,
            mutates=overwritten,
            witness=witness,
            failure=failure,
            seconds=seconds,
            bytes=sum(math.prod(ref.shape) * ref.dtype.itemsize for ref in (*inputs, *outputs) if ref),
            flops=flops(step.op, inputs, outputs),
        )

    def _fetch(self, handles: Any) -> tuple[TensorRef, ...]:
        names = self._step.outputs
        if not isinstance(handles, tuple) or len(handles) != len(names):
            got = len(handles) if isinstance(handles, tuple) else f"a {type(handles).__name__}"
            raise _BreachError(f"run returned {got} where {len(names)} outputs are expected, as a tuple")
        made = dict(zip(names, handles, strict=True))
        refs = {name: self._keep(self._get(handle), name) for name, handle in made.items()}
        self._handles.update(made)
        self._refs.update(refs)
        return tuple(refs.values())

    def _get(self, handle: Handle) -> HostTensor:
        host = self._backend.get(handle)
        if not isinstance(host, HostTensor):
            raise _BreachError(f"get returned a {type(host).__name__}, not a HostTensor")
        return host.contiguous()

    def _keep(self, host: HostTensor, name: str) -> TensorRef:
        ref = _ref(host, name, role="activation")
        if ref.digest not in self._tensors:
            # Copied, for a backend whose `get` gives a view of memory that a later step writes to.
            self._tensors[ref.digest] = dataclasses.replace(host, storage=host.storage.copy())
        return ref

    def _check_inputs(self) -> tuple[tuple[str, ...], Failure | None]:
        """Return the inputs that this step overwrote, and the failure that its inputs amount to.

        What the device holds instead becomes the value that later steps are said to consume.
        """
        altered, overwritten = "", []
        for name in dict.fromkeys(self._step.tensors()):
            before, host = self._refs[name], self._get(self._handles[name])
            if host.digest() == before.digest:
                continue
            self._refs[name] = self._keep(host, name)
            if self._is_altered_by_put(name):
                altered = altered or f"'{name}': {_shaped(before)} came back as {_shaped(self._refs[name])}"
            else:
                overwritten.append(name)
        if overwritten:
            names = ", ".join(f"'{name}'" for name in overwritten)
            return tuple(overwritten), Failure(kind=FailureKind.CRASHED, text=f"overwrote its input {names}")
        if altered:
            text = f"put does not keep the bits of input {altered}, before any step ran"
            return (), Failure(kind=FailureKind.UNSUPPORTED, text=text)
        return (), None

    def _is_altered_by_put(self, name: str) -> bool:
        held = self._inputs.get(name)
        # A generated tensor that itself changed was overwritten, through memory that put shares.
        if held is None or held.host.digest() != held.ref.digest:
            return False
        return self._get(self._backend.put(held.host)).digest() != held.ref.digest

    def _input_refs(self) -> tuple[TensorRef | None, ...]:
        return tuple(None if name is None else self._refs.get(name) for name in self._step.inputs)

    def _not_reached(self, cause: StepRecord) -> StepRecord:
        assert cause.failure is not None
        why = "the device answered no more after step" if cause is self._last else "needs"
        return self._failed(cause.failure.kind, f"not reached: {why} '{cause.name}'")

    def _failed(self, kind: FailureKind, text: str) -> StepRecord:
        step, failure = self._step, Failure(kind=kind, text=text)
        return StepRecord(
            name=step.name,
            op=step.op,
            attrs=step.attrs,
            inputs=self._input_refs(),
            outputs=(),
            failure=failure,
        )


def _ref(host: HostTensor, name: str, *, role: str) -> TensorRef:
    return TensorRef(
        name=name,
        role=role,
        dtype=host.dtype,
        shape=host.shape,
        stride=host.stride,
        offset=host.offset,
        digest=host.digest(),
    )


def _shaped(ref: TensorRef) -> str:
    return f"{ref.dtype}{list(ref.shape)} {ref.digest[7:19]}"


def _first_line(error: Exception) -> str:
    lines: Iterable[str] = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), "")[:_WORDS]
