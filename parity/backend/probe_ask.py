"""Ask an open backend for single operations: exact values in, exact values out, or its bits.

Uses nothing but the protocol, so whatever implements it can be asked. Does not interpret what
comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from parity.backend.base import UNKNOWN_PLACE, Backend, Unsupported, Witness
from parity.case.case import Step
from parity.case.dtype import DTYPES, DType, decode, encode
from parity.case.op import OPS, Attr
from parity.case.tensor import HostTensor

__all__ = ["Asker", "Elsewhere", "Threaded", "Unsure", "Values", "bits", "rounded", "tensor", "values"]

Values = npt.NDArray[np.float64]


class Unsure(Exception):
    """The answers fit none of the known kinds of arithmetic; the text says what was seen."""


class Elsewhere(Unsure):
    """The backend answered, and something else than the device had computed it."""


@runtime_checkable
class Threaded(Protocol):
    """A backend that computes on threads of the host, as many as it is told."""

    @property
    def threads(self) -> int:
        """How many it uses now."""

    @threads.setter
    def threads(self, count: int) -> None: ...


def _require_target(op: str, witness: Witness) -> None:
    """Raise Elsewhere unless the device computed an op: what a host computes says nothing of it."""
    if witness.host:
        raise Elsewhere(f"{op} ran elsewhere: {witness.host[0].kind} on {witness.host[0].device}")
    if not witness.executed:
        raise Elsewhere(f"nothing says that {op} ran on the device")
    hidden = next((node.kind for node in witness.executed if node.device == UNKNOWN_PLACE), "")
    if hidden:
        raise Elsewhere(f"{op} may have run elsewhere: {hidden}")


class Asker:
    """Runs one op at a time on an open backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def run(self, op: str, *inputs: HostTensor | None, **attrs: Attr) -> HostTensor:
        """Return the first output of an op. Raises Unsupported, or Elsewhere by the backend's witness."""
        if op not in OPS:
            raise Unsupported(f"there is no op '{op}'")
        names = tuple(None if each is None else f"x{number}" for number, each in enumerate(inputs))
        step = Step(name=op, op=op, inputs=names, outputs=OPS[op].outputs, attrs=attrs)
        handles = [None if each is None else self._backend.put(each) for each in inputs]
        results = self._backend.run(step, handles)
        self._backend.synchronize()
        _require_target(op, self._backend.witness())
        return self._backend.get(results[0])

    @contextmanager
    def on_threads(self, count: int) -> Iterator[None]:
        """Let the backend compute on so many threads of the host. Raises Unsure where it cannot be told."""
        if not isinstance(self._backend, Threaded):
            raise Unsure("this backend cannot be asked for another number of threads")
        before = self._backend.threads
        self._backend.threads = count
        try:
            yield
        finally:
            self._backend.threads = before

    def values(self, op: str, *inputs: Values, of: str, **attrs: Attr) -> Values:
        """Run an op on values of dtype `of`, each rounded once to it, and return exact values."""
        return values(self.run(op, *(tensor(each, of) for each in inputs), **attrs))


def tensor(array: npt.ArrayLike, of: str) -> HostTensor:
    """Return a contiguous tensor; floats are rounded once, to nearest, integers must fit."""
    to = DTYPES[of]
    if to.is_float:
        codes = encode(np.asarray(array, dtype=np.float64), to)
        return HostTensor.of(codes.view(to.storage), to)
    return HostTensor.of(np.asarray(array, dtype=to.storage), to)


def bits(host: HostTensor) -> npt.NDArray[np.unsignedinteger]:
    """Return the codes of the elements."""
    return np.ascontiguousarray(host.array()).view(f"u{host.dtype.itemsize}")


def values(host: HostTensor) -> Values:
    """Return the exact values of float elements; integers as they are, in float64."""
    if not host.dtype.is_float:
        return np.asarray(host.array(), dtype=np.float64)
    return decode(bits(host), host.dtype)


def rounded(exact: Values, to: DType) -> Values:
    """Return values rounded once, to nearest with ties to even."""
    return decode(encode(exact, to), to)
