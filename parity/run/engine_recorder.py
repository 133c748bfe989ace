"""Watch an engine compute: each call of a site becomes a step with all that it consumed and produced.

Bound in as `wrap`, once, when the network is built. What a call consumes and gives is copied on its
device without waiting for it, and fetched when a step of the engine is over, so that a lazy or
asynchronous device keeps its order of work. What lies between sites (views, joins, the choice of
rows that get scores) is computed by torch alone and is no step. Does not judge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from parity.backend.base import Node, Unsupported, Witness
from parity.backend.torch_tensor import to_host
from parity.backend.torch_witness import Trace
from parity.case.tensor import HostTensor
from parity.engine.ops.op import Op, Wrap
from parity.engine.run.batch import Batch
from parity.run.kept import Call, Input, Kept, Ledger
from parity.run.sites import Named, Pages, describe
from parity.store.recording import Failure, FailureKind, StepRecord

__all__ = ["Observe", "Recorder", "compose", "failure_of"]

# Runs a call and returns what it gave with the evidence of it; `op` is the canonical op.
Observe = Callable[[Callable[[], Any], str], tuple[Any, Witness]]
_Function = Callable[..., Any]
_WORDS = 300  # characters of a device's message that a report can show
_DEPTHS = ("op", "layer")


def compose(*wraps: Wrap) -> Wrap:
    """Return the wrap that applies each in turn: the first is innermost, the last sees all they did."""

    def wrap(site: str, op: Op, function: _Function, bound: Mapping[str, Any]) -> _Function:
        for each in wraps:
            function = each(site, op, function, bound)
        return function

    return wrap


class Recorder:
    """What happens at the sites of one engine, in order.

    `depth` is `op` for every site, or `layer` for what enters and leaves each layer, its hidden state
    and the rows that it stores; outside of layers all sites. `observe` brings the evidence, by default
    what torch dispatched. `fetch` copies a tensor to the host. `enter` is told the name of each
    step before it begins. `complete` says that all rows which are read were stored under this
    recorder, so that any other is a fault. With `numbered`, names begin with the number of the
    engine's step from the start (`s0.`), else as soon as there is a second step.
    """

    def __init__(
        self,
        depth: str = "op",
        observe: Observe | None = None,
        *,
        fetch: Callable[[Tensor], HostTensor] = to_host,
        enter: Callable[[str], None] = lambda _: None,
        complete: bool = False,
        numbered: bool = False,
    ) -> None:
        if depth not in _DEPTHS:
            raise ValueError(f"depth must be one of {', '.join(_DEPTHS)}, got '{depth}'")
        self._depth, self._observe, self._enter, self._numbered = depth, observe, enter, numbered
        self._ledger = Ledger(fetch, complete=complete)
        self._turn = 0
        self._done: set[str] = set()  # sites of this turn
        self._pages: tuple[Batch, Pages] | None = None
        self._layer: _Layer | None = None
        self.last = ""  # the site that was entered last
        self.failed = False

    def wrap(self, site: str, op: Op, function: _Function, bound: Mapping[str, Any]) -> _Function:
        """Return what runs `function` and keeps what went in and came out; the `wrap` of an engine."""
        if self._depth == "layer" and _layer_of(site):
            return self._at_layer(site, function)

        def recorded(*arguments: Any, **options: Any) -> Any:
            return self._call(site, op, function, {**bound, **options}, arguments, options)

        return recorded

    def expect(self, batch: Batch, host: Batch) -> None:
        """Learn where the rows of the next step's batch lie from the same batch on the host.

        Else the device is asked, in the middle of the step.
        """
        self._pages = (batch, Pages(batch, host))

    def flush(self) -> None:
        """Fetch and digest what is kept on the device: after each step of the engine, at the latest."""
        self._ledger.flush()
        self._pages = None

    def fell_back(self, nodes: Sequence[Node]) -> None:
        """Say that these ran on the host in the step of the engine that is over, nobody knows where.

        Each call that dispatched something of such a kind is told so, or all where none did.
        """
        for node in dict.fromkeys(nodes):
            named = [call for call in self._ledger.calls if node.kind.rstrip("_") in _kinds(call)]
            for call in named or self._ledger.calls:
                witness = call.witness or Witness()
                call.witness = replace(witness, host=(*witness.host, node))

    def steps(self) -> tuple[list[StepRecord], dict[str, HostTensor]]:
        """Return the steps so far and the activations that they name, by digest."""
        self.flush()
        return self._ledger.records(numbered=self._numbered or self._turn > 0), dict(self._ledger.tensors)

    def weights(self) -> dict[str, HostTensor]:
        """Return a copy of every weight that a step has read, by name."""
        return self._ledger.weights.copies()

    def clear(self) -> None:
        """Forget all steps; digests of weights stay, since those do not change."""
        self._ledger.clear()
        self._turn, self._done, self._pages, self._layer = 0, set(), None, None
        self.last, self.failed = "", False

    def _begin(self, site: str) -> None:
        if site in self._done:  # each site is called once in a step of the engine
            self._turn += 1
            self._done.clear()
        self._done.add(site)
        self.last = f"s{self._turn}.{site}" if self._numbered else site
        self._enter(self.last)

    def _pages_of(self, batch: Batch) -> Pages:
        if self._pages is None or self._pages[0] is not batch:
            self._pages = (batch, Pages(batch))
        return self._pages[1]

    def _call(
        self,
        site: str,
        op: Op,
        function: _Function,
        bound: Mapping[str, Any],
        arguments: tuple[Any, ...],
        options: Mapping[str, Any],
    ) -> Any:
        self._begin(site)
        step = describe(site, op, bound, arguments, self._pages_of)
        call = Call(
            site=site,
            turn=self._turn,
            op=step.op,
            attrs=step.attrs,
            inputs=[None if named is None else self._ledger.given(site, named) for named in step.inputs],
            pages=step.pages,
            flops=_flops(op, arguments, bound),
        )
        self._ledger.calls.append(call)
        result = self._run(call, function, arguments, options)
        pool = step.stored_in
        if pool is None:
            values = result if isinstance(result, tuple) else (result,)
        else:  # what a store gives is what can be read back
            assert step.pages is not None
            values = (pool.index_select(0, bound["batch"].slots),)
            call.stored_in = pool
        for name, value in zip(step.outputs, values, strict=True):
            shown = site if len(step.outputs) == 1 else f"{site}.{name}"
            call.outputs.append(self._ledger.made(shown, value, copied=pool is not None))
        return result

    def _run(self, call: Call, function: _Function, arguments: Any, options: Mapping[str, Any]) -> Any:
        started = time.perf_counter()
        try:
            if self._observe is not None:
                result, call.witness = self._observe(lambda: function(*arguments, **options), call.op)
            else:
                with Trace(_device(arguments), reduced=None) as trace:
                    result = function(*arguments, **options)
                call.witness = trace.witness(result if isinstance(result, tuple) else (result,))
        except Exception as error:
            self.failed = True
            call.failure = failure_of(error)
            raise
        call.seconds = time.perf_counter() - started
        return result

    def _at_layer(self, site: str, function: _Function) -> _Function:
        """Keep what enters and leaves a layer; every other site stays the function that it was."""
        name = _layer_of(site)
        last = site.rpartition(".")[2]
        if last == "norm1":

            def entered(x: Tensor) -> Tensor:
                self._begin(name)
                self._layer = _Layer(started=time.perf_counter(), x=self._ledger.given(name, _x(x)))
                return function(x)  # type: ignore[no-any-return] # a norm gives a tensor

            return entered
        if last.startswith("store_"):

            def stored(x: Tensor, *, batch: Batch) -> None:
                assert self._layer is not None
                function(x, batch=batch)
                self._layer.stored.append(self._ledger.made(site, x))
                self._layer.pages = self._pages_of(batch)

            return stored
        if last == "res2":

            def left(x: Tensor, y: Tensor) -> Tensor:
                made: Tensor = function(x, y)
                self._leave(name, made)
                return made

            return left
        return function

    def _leave(self, name: str, made: Tensor) -> None:
        layer, self._layer = self._layer, None
        assert layer is not None and layer.pages is not None
        pages = layer.pages
        placed = (Named(name="slots", value=pages.slots), Named(name="segments", value=pages.segments))
        self._ledger.calls.append(
            Call(
                site=name,
                turn=self._turn,
                op="layer",
                attrs={},
                inputs=[layer.x, *(self._ledger.given(name, each) for each in placed)],
                outputs=[self._ledger.made(name, made), *layer.stored],
                seconds=time.perf_counter() - layer.started,
            )
        )


@dataclass(slots=True)
class _Layer:
    """A layer that has been entered and not yet left."""

    started: float
    x: Input
    stored: list[Kept]
    pages: Pages | None

    def __init__(self, *, started: float, x: Input) -> None:
        self.started, self.x, self.stored, self.pages = started, x, [], None


def failure_of(error: Exception) -> Failure:
    """Return what is said of a call that raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, Unsupported):
        return Failure(kind=FailureKind.UNSUPPORTED, text=lines[0][:_WORDS])
    return Failure(kind=FailureKind.CRASHED, text=f"{type(error).__name__}: {lines[0][:_WORDS]}")


def _kinds(call: Call) -> set[str]:
    """Return what a call dispatched, `aten::add_` as `aten::add`."""
    ran = (*call.witness.executed, *call.witness.moved) if call.witness else ()
    return {node.kind.rstrip("_") for node in ran}


def _x(value: Tensor) -> Named:
    return Named(name="x", value=value)


def _layer_of(site: str) -> str:
    """Return `L07` for a site of layer 7, nothing for one outside of layers."""
    layer, dot, _ = site.partition(".")
    return layer if dot and layer[0] == "L" and layer[1:].isdigit() else ""


def _device(arguments: tuple[Any, ...]) -> torch.device:
    return next(x.device for x in arguments if isinstance(x, Tensor))


def _flops(op: Op, arguments: tuple[Any, ...], bound: Mapping[str, Any]) -> int:
    if op.name == "experts":  # its cost asks which experts are chosen, for which a device must be waited for
        chosen, up, down = arguments[2], bound["up"], bound["down"]
        return int(2 * (up[0].numel() + down[0].numel()) * chosen.numel())
    return op.cost(*arguments, **bound).flops
