# ruff: noqa: SLF001 - torch keeps to itself how its modes are left and how writes are counted
"""Record every call of a torch function that a module makes, or its modules alone, while it runs.

    with observe(model, depth="op") as recorder:
        model(**inputs)
    records, tensors = recorder.steps()

Nothing is installed outside the block. A step holds the bits that it consumed, those before the call
where it writes in place, and what it gave; functions that only view memory are no steps. A value that
no seen call made (scripted, vmapped or compiled code) is the output of a `composite:` step, which nobody
can judge alone. Each invocation of a module is a step of op `module` behind those inside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from parity.backend.base import Witness
from parity.backend.torch_call import flat_tensors
from parity.backend.torch_tensor import to_host
from parity.backend.torch_witness import Trace
from parity.case.op import OPS
from parity.case.tensor import HostTensor
from parity.run.module_facts import Facts, Kind, draws, look_up, region_kind, written_by
from parity.run.module_hooks import composite_kind, install
from parity.run.module_memory import Capture, Get
from parity.run.module_seen import Invocation, Seen, among
from parity.run.module_step import Done, Draft, failed_call, meaning
from parity.run.module_storage import is_plain, only_views, version
from parity.run.module_tree import argument_tensors, tensors_at
from parity.store.recording import StepRecord, TensorRef

__all__ = ["Depth", "Evidence", "Recorder", "observe"]

Depth = Literal["op", "module"]
# Runs a call that stands for the op of that name, and says what was executed for it.
Evidence = Callable[[Callable[[], Any], str], tuple[Any, Witness]]


@contextmanager
def observe(
    model: nn.Module,
    depth: Depth = "op",
    *,
    keep: Callable[[str], bool] = lambda _: True,
    evidence: Evidence | None = None,
    fetch: Get = to_host,
    enter: Callable[[str], None] = lambda _: None,
) -> Iterator[Recorder]:
    """Record what `model` does while the block runs.

    `depth` is `op` for every call and every module, `module` for modules alone. `keep` is asked with a
    module's path (`.` is the model) whether its steps are wanted. `evidence` runs a call and says what ran,
    by default what torch dispatched on the model's device. `fetch` copies a tensor to the host, when
    `steps` is called. `enter` is told the name of each call before it begins.
    """
    if depth not in ("op", "module"):
        raise ValueError(f"depth must be op or module, got '{depth}'")
    recorder = Recorder(model, depth=depth, keep=keep, evidence=evidence, fetch=fetch, enter=enter)
    with ExitStack() as stack:
        stack.enter_context(install(model, recorder))
        if depth == "op":
            stack.enter_context(_Mode(recorder))
        try:
            yield recorder
        except BaseException as error:
            recorder.failed(error)
            raise


class _Mode(TorchFunctionMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # First, and nothing before it: a compiler that traces the model traces this function too.
        if torch.compiler.is_compiling():
            return func(*args, **kwargs)
        facts = look_up(func)
        if facts.kind is Kind.METADATA or self._recorder.paused:
            return func(*args, **kwargs)
        region = region_kind(flat_tensors((args, kwargs)))
        if region:
            self._recorder.seen.in_region(region, args, kwargs)
            return func(*args, **kwargs)
        return self._recorder.call(func, facts, args, kwargs)


class _Ran(NamedTuple):
    witness: Witness
    seconds: float


class Recorder:
    """What a model did under `observe`, whose arguments it has; `paused` inside what runs as one piece."""

    def __init__(
        self,
        model: nn.Module,
        *,
        depth: Depth,
        keep: Callable[[str], bool],
        evidence: Evidence | None,
        fetch: Get,
        enter: Callable[[str], None],
    ) -> None:
        self.paused = 0
        self.seen = Seen(model, complete=depth == "op")
        self._keep, self._fetch, self._enter = keep, fetch, enter
        self._evidence = evidence or _traced(model)
        self._results: list[tuple[str, Capture]] = []
        self._invocations: list[Invocation] = []
        self._failed: tuple[BaseException, Draft] | None = None

    # What modules do.

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note that a module begins."""
        seen = self.seen
        with torch._C.DisableTorchFunction():
            seen.close_region()
            is_outermost = seen.sites.is_outside
            frame = seen.sites.enter(module)
            given = _arguments(module, args, kwargs)
            for path, tensor in given if is_outermost else ():
                if not seen.memory.is_known(tensor):
                    seen.memory.adopt(tensor, f"input.{path}")
            invocation = Invocation(frame.name, self._keep(frame.path))
            if invocation.is_kept:
                invocation.inputs = {path: seen.read(tensor) for path, tensor in given}
            self._invocations.append(invocation)
            self.paused += bool(composite_kind(module))

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """Note that a module ends; what it changed of its arguments is given too."""
        seen = self.seen
        with torch._C.DisableTorchFunction():
            seen.close_region()
            run, kind = self._invocations.pop(), composite_kind(module)
            self.paused -= bool(kind)
            made = [(path, t) for path, t in tensors_at(output) if is_plain(t)]
            for _, tensor in made if kind else ():
                seen.memory.wrote(tensor, run.name)
            if run.is_kept and made:
                outputs = [(run.output(path), seen.read(tensor)) for path, tensor in made]
                after = [(path, seen.read(tensor)) for path, tensor in _arguments(module, args, kwargs)]
                changed = [(path, capture) for path, capture in after if run.inputs.get(path) is not capture]
                outputs += [(run.output(f"changed.{path}"), capture) for path, capture in changed]
                seen.drafts.append(
                    Draft(
                        name=run.name,
                        op=f"composite:{kind}" if kind else "module",
                        attrs={"class": type(module).__name__},
                        inputs=list(run.inputs.items()),
                        outputs=outputs,
                        reason="runs as one piece" if kind else "",
                    )
                )
            seen.sites.leave()
            if seen.sites.is_outside:
                self._results += [(run.output(path), seen.read(tensor)) for path, tensor in made]

    # What functions do.

    def call(
        self, function: Callable[..., Any], facts: Facts, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run a call of a torch function and note what it did."""
        self.seen.close_region()
        if facts.kind is Kind.CALL or facts.kind is Kind.FACTORY:
            return self._step(function, facts, args, kwargs)
        result = function(*args, **kwargs)
        if facts.kind is Kind.SHARING:
            for tensor in filter(is_plain, flat_tensors(args[:1])):
                self.seen.memory.share(tensor)
        elif facts.kind is not Kind.VIEW:
            name = self.seen.sites.next(facts.short)
            for tensor in filter(is_plain, flat_tensors(result)):
                self.seen.memory.adopt(tensor, name, blank=facts.kind is Kind.BLANK)
        return result

    def _step(
        self, function: Callable[..., Any], facts: Facts, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        seen, name = self.seen, self.seen.sites.next(facts.short)
        given = list(filter(is_plain, flat_tensors((args, kwargs))))
        writes = list(filter(is_plain, written_by(function, facts, args, kwargs)))
        # Where nothing is written, what was consumed can be read after the call: most of it is known.
        before = {id(t): seen.read(t) for t in given} if writes else {}
        for tensor in writes:
            seen.memory.before_write(tensor)
        counters = [(t, version(t)) for t in given]
        self._enter(name)
        started = time.perf_counter()
        try:
            result, witness = self._evidence(lambda: function(*args, **kwargs), facts.short)
        except Exception as error:
            self._failed = (error, failed_call(name, facts, list(map(seen.read, given)), error))
            raise
        ran = _Ran(witness, time.perf_counter() - started)
        changed = [(t, count) for t, count in counters if version(t) != count and not among(t, writes)]
        for tensor, count in changed:  # without saying so: what it was is known only if it was read before
            before[id(tensor)] = seen.memory.held(tensor, count) or seen.read(tensor)
        made = flat_tensors(result)
        results = list(filter(is_plain, made))
        outputs = tuple({id(t): t for t in (*results, *writes)}.values())
        computed = writes or changed or len(results) < len(made) or not only_views(results, given)
        if not (computed and (made or outputs)):
            return result
        seen.sites.count(facts.short)
        call = (function, facts, args, kwargs)
        done = Done(*call, given, outputs, writes, [t for t, _ in changed], len(results) < len(made))
        if self._keep(seen.sites.frame.path):
            self._note(name, done, before, ran)
        else:
            for tensor in (*outputs, *done.changed):
                seen.memory.wrote(tensor, name)
        return result

    def _note(self, name: str, done: Done, before: Mapping[int, Capture], ran: _Ran) -> None:
        memory = self.seen.memory
        did = meaning(done, blank=any(map(memory.is_blank, done.writes)))
        draft = Draft(name=name, op=did.op, attrs=did.attrs, reason=did.reason)
        draft.witness, draft.seconds = ran
        for tensor in did.inputs:
            if tensor is None:
                draft.inputs.append(None)
                continue
            if not among(tensor, done.given) and not memory.is_known(tensor):
                memory.adopt(tensor, "number")
            capture = before.get(id(tensor)) or self.seen.read(tensor)
            draft.inputs.append((capture.name, capture))
        draft.mutates = tuple(before[id(t)].name for t in done.changed)
        for i, tensor in enumerate(did.outputs):
            each = name if len(did.outputs) == 1 else f"{name}.{i}"
            memory.wrote(tensor, each)
            draft.outputs.append((each, memory.read(tensor)))
        for tensor in (*done.outputs, *done.changed):
            if not only_views([tensor], did.outputs):
                memory.wrote(tensor, name)
        if did.op not in OPS and draws(done.facts, done.args, done.kwargs, ran.witness):
            draft.reason = draft.reason or "draws random numbers"
        self.seen.drafts.append(draft)

    def failed(self, error: BaseException) -> None:
        """Note that the run ended in an exception: the call that raised it becomes a failed step."""
        if self._failed is not None and self._failed[0] is error:
            self.seen.drafts.append(self._failed[1])

    # What came of it.

    def steps(self) -> tuple[list[StepRecord], dict[str, HostTensor]]:
        """Return the steps in order, and the activations that they and the results name, by digest."""
        self.seen.close_region()
        records = [draft.record(self._fetch) for draft in self.seen.drafts]
        held = [each for draft in self.seen.drafts for each in (*draft.inputs, *draft.outputs)]
        tensors: dict[str, HostTensor] = {}
        for each in (*held, *self._results):
            host = each[1].fetch(self._fetch) if each is not None else None
            if each is not None and host is not None:
                tensors.setdefault(each[1].ref(self._fetch).digest, host)
        return records, tensors

    def results(self) -> tuple[TensorRef, ...]:
        """Return what the outermost module gave, `output` and the path inside it."""
        return tuple(capture.ref(self._fetch, name=name) for name, capture in self._results)


def _traced(model: nn.Module) -> Evidence:
    held = next(iter((*model.parameters(), *model.buffers())), None)
    device = torch.device("cpu") if held is None else held.device

    def run(function: Callable[[], Any], _: str) -> tuple[Any, Witness]:
        with Trace(device, reduced=None) as trace:
            result = function()
        return result, trace.witness(flat_tensors(result))

    return run


def _arguments(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    found = argument_tensors(module.forward, args, kwargs)
    return [(path, tensor) for path, tensor in found if is_plain(tensor)]
