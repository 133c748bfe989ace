"""A step while it is still tensors on a device, and how a call of torch becomes one.

Canonical where a rule says so, else `torch:<name>` with the call as JSON, else `composite:<name>`, which
says only what went in and came out. Does not run anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from parity.backend.base import Unsupported, Witness
from parity.backend.torch_call import encode_call, flat_tensors
from parity.backend.torch_eager import inability
from parity.backend.torch_names import call_name
from parity.case.op import OPS, Attr
from parity.errors import UsageError
from parity.run.flops import flops
from parity.run.module_calls import Canonical, canonical
from parity.run.module_facts import Facts, Kind, look_up
from parity.run.module_memory import Capture, Get
from parity.run.module_storage import address, is_plain
from parity.store.recording import Failure, FailureKind, StepRecord

__all__ = ["Done", "Draft", "Meaning", "failed_call", "meaning"]


@dataclass(slots=True, eq=False, kw_only=True)
class Draft:
    """A step whose tensors are on their device. `reason` says why it cannot be run again to the same bits."""

    name: str
    op: str
    attrs: dict[str, Attr] = field(default_factory=dict)
    inputs: list[tuple[str, Capture] | None] = field(default_factory=list)
    outputs: list[tuple[str, Capture]] = field(default_factory=list)
    mutates: tuple[str, ...] = ()
    reason: str = ""
    witness: Witness | None = None
    failure: Failure | None = None
    seconds: float | None = None

    def record(self, get: Get) -> StepRecord:
        """Return the step with its digests."""
        names: dict[str, Capture] = {}
        inputs = tuple(
            None if held is None else held[1].ref(get, name=_unique(*held, names)) for held in self.inputs
        )
        outputs = tuple(capture.ref(get, name=name) for name, capture in self.outputs)
        attrs = {**self.attrs, "reason": self.reason} if self.reason else self.attrs
        refs = [ref for ref in (*inputs, *outputs) if ref is not None]
        return StepRecord(
            name=self.name,
            op=self.op,
            attrs=attrs,
            inputs=inputs,
            outputs=outputs,
            mutates=self.mutates,
            replayable=not self.reason,
            witness=self.witness,
            failure=self.failure,
            seconds=self.seconds,
            bytes=sum(math.prod(ref.shape) * ref.dtype.itemsize for ref in refs),
            flops=flops(self.op, inputs, outputs) if self.op in OPS and outputs else 0,
        )


def _unique(name: str, capture: Capture, names: dict[str, Capture]) -> str:
    """Return a name that no other tensor of the step has: two values of one memory are two inputs."""
    number, unique = 1, name
    while names.setdefault(unique, capture) is not capture:
        number += 1
        unique = f"{name}#{number}"
    return unique


def failed_call(name: str, facts: Facts, captures: Sequence[Capture], error: Exception) -> Draft:
    """Return the step that a call is which raised."""
    words = str(error) if isinstance(error, Unsupported) else inability(error)
    kind = FailureKind.CRASHED if words is None else FailureKind.UNSUPPORTED
    text = words or f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return Draft(
        name=name,
        op=f"torch:{facts.name or facts.short}",
        inputs=[(capture.name, capture) for capture in captures],
        failure=Failure(kind=kind, text=text),
    )


@dataclass(frozen=True, slots=True)
class Done:
    """A call that ran: `given` are the tensors among its arguments, `outputs` what it gave or wrote to.

    `writes` are the arguments that it said it would write to, `changed` those that it wrote to besides.
    `is_partial` says that it gave what no recording can hold.
    """

    function: Callable[..., Any]
    facts: Facts
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    given: Sequence[Tensor]
    outputs: tuple[Tensor, ...]
    writes: Sequence[Tensor] = ()
    changed: Sequence[Tensor] = ()
    is_partial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a call did: an op on these tensors, which gave those."""

    op: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    attrs: dict[str, Attr] = field(default_factory=dict)
    reason: str = ""


def meaning(done: Done, *, blank: bool) -> Meaning:
    """Return what a call did; `blank` says that what it wrote to held nothing before."""
    region = _region_of(done) if blank else None
    if region is not None:  # nothing else of it has a value yet
        args = (region, done.args[2])
        name = "Tensor.copy_" if isinstance(args[1], Tensor) else "Tensor.fill_"
        facts = look_up(getattr(Tensor, name.removeprefix("Tensor.")))
        done = replace(done, facts=facts, args=args, outputs=(region,), writes=(region,))
    odd = next((t for t in flat_tensors((done.args, done.kwargs)) if not is_plain(t)), None)
    if odd is not None or done.is_partial:
        return _composite(done, "a recording cannot hold one of its tensors")
    device = done.outputs[0].device.type
    mixed = torch.is_autocast_enabled(device) if device != "meta" else False
    name = done.facts.name or ""
    found = None if mixed else canonical(name, done.args, done.kwargs, done.outputs)
    if found is not None and _fits(found, done):
        return Meaning(op=found.op, inputs=found.inputs, outputs=done.outputs, attrs=dict(found.attrs))
    if done.facts.kind is Kind.FACTORY or (
        done.facts.name and done.facts.short in ("fill", "zero") and done.writes
    ):
        done = _factory(done)
    return _as_call(done, mixed=mixed)


def _fits(found: Canonical, done: Done) -> bool:
    try:
        names = tuple(None if t is None else "x" for t in found.inputs)
        OPS[found.op].check(names, ["y"] * len(done.outputs), found.attrs, where="a call")
    except UsageError:
        return False
    # A view that the call only implied, of memory that it wrote to, no longer shows what it consumed.
    written = set(map(address, done.writes))
    implied = [t for t in found.inputs if t is not None and not any(t is given for given in done.given)]
    return not any(address(t) in written for t in implied)


def _as_call(done: Done, *, mixed: bool) -> Meaning:
    function, args, kwargs, writes = _functional(done)
    try:
        text, inputs = encode_call(function, args, kwargs, writes=writes)
    except Unsupported as error:
        return _composite(done, str(error))
    op = f"torch:{call_name(function)}"
    reason = "ran under autocast, which chooses types by itself" if mixed else ""
    return Meaning(op=op, inputs=inputs, outputs=done.outputs, attrs={"call": text}, reason=reason)


def _composite(done: Done, reason: str) -> Meaning:
    inputs = tuple({id(t): t for t in done.given}.values())
    return Meaning(op=f"composite:{done.facts.short}", inputs=inputs, outputs=done.outputs, reason=reason)


def _functional(
    done: Done,
) -> tuple[Callable[..., Any], Sequence[Any], dict[str, Any], Sequence[Tensor]]:
    """Return the call that gives what this one writes, where torch has one that cannot promote types."""
    function, args = done.function, done.args
    kwargs = {key: value for key, value in done.kwargs.items() if key != "out"}
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    writes = [t for t in done.writes if any(t is a for a in tensors)]
    if kwargs.get("inplace") is True:
        return function, args, {**kwargs, "inplace": False}, ()
    name = getattr(function, "__name__", "")
    twin = getattr(Tensor, name.removesuffix("_"), None) if name.endswith("_") and name[-2:] != "__" else None
    if twin is not None and len({t.dtype for t in tensors}) == 1 == len(writes):
        return (
            (twin, args, kwargs, ())
            if getattr(Tensor, name, None) == function
            else (function, args, kwargs, writes)
        )
    return function, args, kwargs, writes


def _factory(done: Done) -> Done:
    """Return the call that makes the same tensor from numbers alone, its type and place said."""
    made, short = done.outputs[0], done.facts.short
    said = {"dtype": made.dtype, "device": made.device}
    last = short.removeprefix("new_").removesuffix("_like")
    args: tuple[Any, ...]
    if last in ("zero", "zeros", "ones"):
        function, args = (torch.ones if last == "ones" else torch.zeros), (tuple(made.shape),)
        return replace(done, function=function, args=args, kwargs=said, writes=())
    if last in ("fill", "full") and short != "full":
        at = 2 if short == "new_full" else 1
        value = done.kwargs.get("fill_value", done.kwargs.get("value"))
        args = (tuple(made.shape), done.args[at] if len(done.args) > at else value)
        return replace(done, function=torch.full, args=args, kwargs=said, writes=())
    kept = {key: value for key, value in done.kwargs.items() if key not in ("out", "pin_memory")}
    return replace(done, function=getattr(torch, short), kwargs={**kept, **said}, writes=())


def _region_of(done: Done) -> Tensor | None:
    """Return the view that `x[index] = values` writes to, None where the index selects by tensors."""
    if done.facts.short != "setitem" or done.kwargs or len(done.args) != 3:
        return None
    x, index, _ = done.args
    region: Tensor = x[index]
    return region if address(region) == address(x) else None
