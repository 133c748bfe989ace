"""Ask an open backend what its arithmetic is: independent probes, merged into one `Arithmetic`.

A probe knows nothing of what is declared. What it saw and no known arithmetic explains is unknown,
with the reason. Does not survive the death of the process; `run/probing` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from parity.backend import probe_functions, probe_habits, probe_values
from parity.backend.arithmetic import Arithmetic
from parity.backend.base import Backend, Unsupported
from parity.backend.probe_ask import Asker, Unsure
from parity.backend.probe_products import products

__all__ = ["DECLARED", "PROBES", "Declaring", "Evidence", "Probe", "declaration", "evidence", "probe"]

DECLARED = "declared"  # beside the probes' names: what the backend says, not what it does

_FLOATS = ("f32", "bf16", "f16")
_PRODUCT = ("accumulator", "rounding", "reads", "block", "order", "splits", "ordered")


@runtime_checkable
class Declaring(Protocol):
    """A backend that says what its arithmetic is; None where it does not."""

    def arithmetic(self) -> Arithmetic:
        """Return what is declared, after `open`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Facts by name as `Arithmetic.facts` gives them; the others with the reason why not.

    `failed` says that the backend raised something that is no answer: it may be unusable now.
    """

    known: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    unknown: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What it may find, and how; `ask` yields facts one by one, so that an error loses only the rest."""

    name: str
    facts: tuple[str, ...]
    ask: Callable[[Asker], Iterator[tuple[str, str | Unsure]]]


def _single(fact: str, ask: Callable[[Asker], str]) -> Probe:
    def found(asker: Asker) -> Iterator[tuple[str, str | Unsure]]:
        yield fact, ask(asker)

    return Probe(name=fact, facts=(fact,), ask=found)


def _product(name: str, *, of: str, op: str) -> Probe:
    prefix = f"products.{name}"

    def found(asker: Asker) -> Iterator[tuple[str, str | Unsure]]:
        for fact, value in products(asker, of=of, op=op):
            yield f"{prefix}.{fact}", value

    return Probe(name=prefix, facts=tuple(f"{prefix}.{fact}" for fact in _PRODUCT), ask=found)


PROBES: Mapping[str, Probe] = {
    each.name: each
    for each in (
        *(_single(f"flush.{of}", partial(probe_values.flush, of=of)) for of in _FLOATS),
        *(_single(f"overflow.{of}", partial(probe_values.overflow, of=of)) for of in _FLOATS),
        _single("int64", probe_values.int64),
        _single("float64", probe_values.float64),
        _single("fp8", probe_values.fp8),
        _single("fp8_overflow", probe_values.fp8_overflow),
        _single("movement", probe_values.movement),
        *(
            _single(f"ulps.{name}", partial(probe_functions.ulps, name=name))
            for name in ("exp", "erf", "tanh", "rsqrt")
        ),
        _single("gelu", probe_functions.gelu),
        _single("division", probe_functions.division),
        _single("masked_row", probe_habits.masked_row),
        _single("run_to_run", probe_habits.run_to_run),
        _single("batch", probe_habits.batch),
        _single("threads", probe_habits.threads),
        *(_product(of, of=of, op="matmul") for of in _FLOATS),
        _product("conv.f32", of="f32", op="conv2d"),
        # Last: an index that a device does not understand may end it.
        _single("negative_index", probe_habits.negative_index),
    )
}


def evidence(backend: Backend, name: str) -> Evidence:
    """Run one probe on an open backend; whatever it raises is the reason for what it did not find."""
    asked = PROBES[name]
    known: dict[str, str] = {}
    unknown: dict[str, str] = {}
    reason, failed = "", False
    try:
        for fact, value in asked.ask(Asker(backend)):
            if isinstance(value, Unsure):
                unknown[fact] = str(value)
            else:
                known[fact] = value
    except Unsure as error:
        reason = str(error)
    except Unsupported as error:
        reason = f"unsupported: {error}"
    except Exception as error:  # noqa: BLE001  # a backend may raise anything, and each is a reason
        reason, failed = f"{type(error).__name__}: {error}".splitlines()[0], True
    unknown |= {fact: reason for fact in asked.facts if fact not in known and fact not in unknown}
    return Evidence(known=known, unknown=unknown, failed=failed)


def declaration(backend: Backend) -> Evidence:
    """Return what a backend says of its arithmetic; nothing where it says nothing."""
    if not isinstance(backend, Declaring):
        return Evidence()
    try:
        return Evidence(known=dict(backend.arithmetic().facts()))
    except Exception as error:  # noqa: BLE001  # as of a probe
        return Evidence(unknown={DECLARED: f"{type(error).__name__}: {error}"}, failed=True)


def probe(backend: Backend) -> Arithmetic:
    """Run every probe on an open backend and return what they found."""
    known: dict[str, str] = {}
    for name in PROBES:
        known |= evidence(backend, name).known
    return Arithmetic.of(known)
