"""What a recorder keeps of each call until its steps are written down: copies, links, digests.

An input that is, by object and version, what an earlier call gave must have that call's bits, and a
row that is read from a pool those that were stored there last; where not, somebody wrote in
between, and the step that reads it says so. Digests are taken on the host, each content once.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from parity.backend.base import Witness
from parity.case.dtype import dtype
from parity.case.op import Attr
from parity.case.tensor import HostTensor
from parity.run.sites import Named, Pages
from parity.store.recording import Failure, FailureKind, StepRecord, TensorRef

__all__ = ["Call", "Input", "Kept", "Ledger", "Weights", "reference"]

_Fetch = Callable[[Tensor], HostTensor]
_I64 = dtype("i64")


@dataclass(slots=True)
class Kept:
    """One tensor as it was: on its device, then on the host with its digest."""

    name: str
    copy: Tensor | None
    host: HostTensor | None = None
    digest: str = ""


@dataclass(slots=True)
class Input:
    """What a call consumed; `source` is what an earlier call gave, if it is that very tensor."""

    name: str
    kept: Kept | None = None
    weight: Tensor | None = None
    source: Kept | None = None
    pool: Tensor | None = None


@dataclass(slots=True, kw_only=True)
class Call:
    """One call of a site. `stored_in` is the pool that it wrote `pages.written` of."""

    site: str
    turn: int
    op: str
    attrs: Mapping[str, Attr]
    inputs: list[Input | None]
    outputs: list[Kept] = field(default_factory=list)
    pages: Pages | None = None
    stored_in: Tensor | None = None
    witness: Witness | None = None
    failure: Failure | None = None
    seconds: float = 0.0
    flops: int = 0


class Weights:
    """Digests of weights, each fetched once, when it is first needed; it stays on its device."""

    def __init__(self, fetch: _Fetch) -> None:
        self._fetch = fetch
        self._known: dict[int, tuple[weakref.ref[Tensor], TensorRef]] = {}

    def ref(self, name: str, weight: Tensor) -> TensorRef:
        """Return the reference of a weight, under the name by which it was seen first."""
        held = self._known.get(id(weight))
        if held is not None and held[0]() is weight:
            return held[1]
        host = self._fetch(weight)
        ref = reference(host, name, host.digest(), role="weight")
        self._known[id(weight)] = (weakref.ref(weight), ref)
        return ref

    def copies(self) -> dict[str, HostTensor]:
        """Return a copy of each that is still there, by name."""
        alive = ((ref.name, tensor()) for tensor, ref in self._known.values())
        return {name: self._fetch(tensor) for name, tensor in alive if tensor is not None}


class Ledger:
    """The calls so far. `tensors` are the activations by digest; see `Recorder` for `complete`."""

    def __init__(self, fetch: _Fetch, *, complete: bool) -> None:
        self.calls: list[Call] = []
        self.tensors: dict[str, HostTensor] = {}
        self.weights = Weights(fetch)
        self._fetch, self._complete = fetch, complete
        self._written: list[tuple[int, StepRecord]] = []
        # By object: a tensor that is kept alive here cannot give its identity to another.
        self._alive: dict[int, tuple[Tensor, int, Kept]] = {}
        self._rows: dict[int, tuple[Tensor, dict[int, npt.NDArray[np.uint8]]]] = {}

    def given(self, site: str, named: Named) -> Input:
        """Keep one input of a call, as it is now."""
        value = named.value
        if not isinstance(value, Tensor):
            host = HostTensor.of(value, _I64)
            return Input(named.name, Kept(f"{site}.{named.name}", None, host))
        if named.is_weight:
            return Input(named.name, weight=value)
        if named.pool is not None:  # a copy already
            return Input(named.name, Kept(f"{site}.{named.name}", value), pool=named.pool)
        kept = Kept(f"{site}.{named.name}", _copied(value))
        known = self._alive.get(id(value))
        source = known[2] if known is not None and known[1] == value._version else None  # noqa: SLF001 - no other
        if source is None:
            self._alive[id(value)] = (value, value._version, kept)  # noqa: SLF001 - see above
        return Input(named.name, kept, source=source)

    def made(self, name: str, value: Tensor, *, copied: bool = False) -> Kept:
        """Keep one output of a call, as it is now."""
        kept = Kept(name, value if copied else _copied(value))
        self._alive[id(value)] = (value, value._version, kept)  # noqa: SLF001 - see above
        return kept

    def clear(self) -> None:
        """Forget all but the weights."""
        self.calls, self._written = [], []
        self.tensors, self._alive, self._rows = {}, {}, {}

    def flush(self) -> None:
        """Write the calls down and let go of what is on the device."""
        calls, self.calls = self.calls, []
        for call in calls:
            self._written.append((call.turn, self._record(call)))
        self._alive.clear()

    def records(self, *, numbered: bool) -> list[StepRecord]:
        """Return the steps; `numbered` puts the number of the engine's step before their names."""
        return [_prefixed(record, f"s{turn}.") if numbered else record for turn, record in self._written]

    def _record(self, call: Call) -> StepRecord:
        changed: list[str] = []
        inputs = [None if each is None else self._input(each, call, changed) for each in call.inputs]
        outputs = [self._ref(kept) for kept in call.outputs]
        self._note_rows(call)
        failure = call.failure
        if failure is None and changed:
            failure = Failure(kind=FailureKind.EXCEEDS, text="; ".join(changed))
        return StepRecord(
            name=call.site,
            op=call.op,
            attrs=call.attrs,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            witness=call.witness,
            failure=failure,
            seconds=call.seconds,
            bytes=sum(ref.dtype.itemsize * int(np.prod(ref.shape)) for ref in (*inputs, *outputs) if ref),
            flops=call.flops,
        )

    def _input(self, given: Input, call: Call, changed: list[str]) -> TensorRef:
        if given.weight is not None:
            return self.weights.ref(given.name, given.weight)
        kept, source = given.kept, given.source
        assert kept is not None
        if source is not None:
            theirs, ours = self._host(source), self._host(kept)
            if np.array_equal(_bytes(theirs), _bytes(ours)):
                return self._ref(source)
            changed.append(
                f"reads a '{given.name}' that is not what '{source.name}' was: it changed in between"
            )
        if given.pool is not None and call.pages is not None:
            wrong = self._strangers(given.pool, call.pages, self._host(kept))
            if wrong:
                changed.append(
                    f"reads {wrong:,} rows of '{given.name}' that no step stored so: stale or overwritten"
                )
        return self._ref(kept)

    def _strangers(self, pool: Tensor, pages: Pages, host: HostTensor) -> int:
        """Count the rows that are not those that were stored last in their slots."""
        held = self._rows.get(id(pool), (pool, {}))[1]
        wrong = 0
        for slot, row in zip(pages.read.tolist(), _rows(host), strict=True):
            stored = held.get(slot)
            wrong += self._complete if stored is None else not np.array_equal(stored, row)
        return wrong

    def _note_rows(self, call: Call) -> None:
        if call.stored_in is None or call.pages is None or not call.outputs:
            return
        _, held = self._rows.setdefault(id(call.stored_in), (call.stored_in, {}))
        held.update(zip(call.pages.written.tolist(), _rows(self._host(call.outputs[0])), strict=True))

    def _host(self, kept: Kept) -> HostTensor:
        if kept.host is None:
            assert kept.copy is not None
            kept.host, kept.copy = self._fetch(kept.copy).contiguous(), None
        return kept.host

    def _ref(self, kept: Kept) -> TensorRef:
        host = self._host(kept)
        if not kept.digest:
            kept.digest = host.digest()
            self.tensors.setdefault(kept.digest, host)
        return reference(host, kept.name, kept.digest)


def reference(host: HostTensor, name: str, digest: str, *, role: str = "activation") -> TensorRef:
    """Return the reference of a tensor whose digest is known."""
    return TensorRef(
        name=name,
        role=role,
        dtype=host.dtype,
        shape=host.shape,
        stride=host.stride,
        offset=host.offset,
        digest=digest,
    )


def _copied(value: Tensor) -> Tensor:
    # A fresh tensor in row-major order: the caller's may be a view, or be written to later.
    return value.detach().clone(memory_format=torch.contiguous_format)


def _bytes(host: HostTensor) -> npt.NDArray[np.uint8]:
    return host.storage.view(np.uint8)


def _rows(host: HostTensor) -> npt.NDArray[np.uint8]:
    return _bytes(host).reshape(host.shape[0], -1)


def _prefixed(record: StepRecord, prefix: str) -> StepRecord:
    def named(ref: TensorRef) -> TensorRef:
        return ref if ref.role == "weight" else dataclasses.replace(ref, name=prefix + ref.name)

    return dataclasses.replace(
        record,
        name=prefix + record.name,
        inputs=tuple(None if ref is None else named(ref) for ref in record.inputs),
        outputs=tuple(map(named, record.outputs)),
    )
