"""Lazy mode: calls are taped until somebody must see a value, then run as one graph.

A graph is known by its operations, which slots they read, and the shapes of what enters it; one
that is not known is compiled. Compiling costs nothing here, it is only counted and announced.
"""

# ruff: noqa: SLF001 - see calls
from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parity.backend.sim.calls import Call, each, leaves
from parity.backend.sim.device import Eager, SimTensor, goes_to_host
from parity.backend.sim.kernels import Kernels

__all__ = ["Lazy"]

_META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class _Entry:
    call: Call
    made: tuple[SimTensor, ...]  # wrappers that this call is to fill, in the order of its results
    outlines: tuple[Tensor, ...]  # theirs at the time of the call: a later one may change its tensor's shape


class Lazy:
    """The tape. `phase` is told when a graph is compiled and when it runs."""

    def __init__(self, kernels: Kernels, *, phase: Callable[[str], None]) -> None:
        self.kernels = kernels
        self.recompiles = 0
        self._phase = phase
        self._eager = Eager(kernels)
        self._tape: list[_Entry] = []
        self._compiled: set[Hashable] = set()

    def run(self, call: Call) -> Any:
        """Tape a call, or run it at once with all before it where its result must be seen."""
        shapes = None if self._must_be_seen(call) else _on_meta(call)
        if shapes is None:
            self.flush()
            return self._eager.run(call)
        self.kernels.check(call)
        known = {id(_meta(t)): t for t in call.tensors() if isinstance(t, SimTensor)}
        made: list[SimTensor] = []

        def wrapped(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            if id(x) not in known:
                known[id(x)] = SimTensor(None, x)
                made.append(known[id(x)])
            return known[id(x)]

        result = each(wrapped, shapes)
        # What the host may overwrite before the graph runs is kept as it is now.
        frozen = call.mapped(lambda x: x.clone() if _is_of_host(x) else x)
        self._tape.append(_Entry(frozen, tuple(made), tuple(_outline(t).detach() for t in made)))
        return result

    def _must_be_seen(self, call: Call) -> bool:
        writes_host = any(not isinstance(t, SimTensor) for t in call.written())
        return goes_to_host(call) or writes_host or bool(call.outs())  # of which the shape is checked

    def flush(self) -> None:
        """Run the tape."""
        tape, self._tape = self._tape, []
        if not tape:
            return
        key = _key(tape)
        if key not in self._compiled:
            self._compiled.add(key)
            self.recompiles += 1
            self._phase("compile")
            self._phase("run")
        # A default device that is in force must not reach what kernels allocate for themselves.
        with torch._C.DisableTorchFunction():
            for entry in tape:
                self._fill(entry)

    def _fill(self, entry: _Entry) -> None:
        given = {id(t) for t in entry.call.tensors()}
        result = leaves(self._eager.run(entry.call))
        # In-place calls return tensors that are there already.
        fresh = [x for x in result if isinstance(x, SimTensor) and id(x) not in given]
        for target, value, outline in zip(entry.made, fresh, entry.outlines, strict=True):
            target.elements = _laid_out(value.elements, outline)


def _outline(x: SimTensor) -> Tensor:
    if x.outline is None:
        assert x.elements is not None
        x.outline = _without_elements(x.elements)
    return x.outline


def _laid_out(value: Tensor | None, like: Tensor) -> Tensor:
    """Return a result with the strides that were promised for it."""
    assert value is not None
    if value.stride() == like.stride() and value.storage_offset() == like.storage_offset():
        return value
    return torch.empty_strided(like.shape, like.stride(), dtype=value.dtype).copy_(value)


def _is_of_host(x: Any) -> bool:
    return isinstance(x, Tensor) and not isinstance(x, SimTensor)


def _on_meta(call: Call) -> Any:
    """Return the results without elements, None for an operation whose shapes depend on values."""
    try:
        return call.mapped(_meta).run()
    except (NotImplementedError, RuntimeError):  # a wrong call raises again when it is run
        return None


def _meta(x: Any) -> Any:
    if isinstance(x, SimTensor):
        return _outline(x)
    if isinstance(x, Tensor):
        return _without_elements(x)
    return _META if isinstance(x, torch.device) else x


def _without_elements(x: Tensor) -> Tensor:
    whole = torch.empty(x.untyped_storage().nbytes() // max(x.itemsize, 1), dtype=x.dtype, device=_META)
    return whole.as_strided(x.shape, x.stride(), x.storage_offset())


def _key(tape: list[_Entry]) -> Hashable:
    slots: dict[int, int] = {}
    made = {id(t) for entry in tape for t in entry.made}

    def part(x: Any) -> Hashable:
        if not isinstance(x, Tensor):
            return repr(x)
        if id(x) in slots:
            return slots[id(x)]
        slots[id(x)] = len(slots)
        enters = id(x) not in made
        return (slots[id(x)], tuple(x.shape), x.stride(), str(x.dtype)) if enters else slots[id(x)]

    return tuple(
        (
            str(entry.call.func),
            tuple(part(x) for x in entry.call.leaves()),
            tuple(map(part, entry.made)),
        )
        for entry in tape
    )
