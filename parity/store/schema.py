"""A recording without its tensors as one JSON document, and strictly back.

What steps share, such as a tensor that one gives and another reads, is written once and named by
its number. What is as usual is not written. Does not know how rows are stored; `arrow` does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parity.backend.base import Node, Witness
from parity.case.ids import CaseId
from parity.case.op import Attr
from parity.errors import GoldenError, UsageError
from parity.store.fields import Field
from parity.store.recording import Failure, FailureKind, Recording, StepRecord, TensorRef
from parity.store.schema_environment import environment_json, read_environment
from parity.store.schema_tensor import Placed, read_reference, reference_json
from parity.store.shared import Numbered, Numbers

__all__ = [
    "REPAIR",
    "VERSION",
    "all_references",
    "decode",
    "encode",
    "references",
    "stored",
]

VERSION = 2
REPAIR = "The digest is right, so it was written this way: record the case again"


def references(step: StepRecord) -> Iterator[TensorRef]:
    """Yield every tensor reference of a step in the order of the file."""
    yield from (ref for ref in step.inputs if ref is not None)
    yield from step.outputs
    for outputs in step.repeats:
        yield from outputs


def all_references(recording: Recording) -> Iterator[TensorRef]:
    """Yield every tensor reference of a recording in the order of the file."""
    for step in recording.steps:
        yield from references(step)
    yield from recording.results
    yield from recording.unobserved


def stored(recording: Recording) -> list[str]:
    """Return the digests of the stored tensors in the order in which the steps name them.

    Raises ValueError for a tensor that no step names, since a reader could not tell what it is.
    """
    named = dict.fromkeys(ref.digest for ref in all_references(recording))
    order = [digest for digest in named if digest in recording.tensors]
    stray = recording.tensors.keys() - named.keys()
    if stray:
        raise ValueError(f"recording of {recording.case}: no step names tensor {min(stray)}")
    return order


def encode(recording: Recording) -> bytes:
    """Return the document: ASCII, no spaces, keys in a fixed order, so equal recordings are equal bytes."""
    rows = {digest: row for row, digest in enumerate(stored(recording))}
    refs, witnesses, nodes = Numbers[TensorRef](), Numbers[Witness](), Numbers[Node]()
    document = {
        "schema": VERSION,
        "case": recording.case,
        "revision": recording.revision,
        "environment": environment_json(recording.environment),
        "steps": [_step_json(step, refs, witnesses) for step in recording.steps],
    }
    for name, group in (("results", recording.results), ("unobserved", recording.unobserved)):
        if group:
            document[name] = refs.of(group)
    document["tensors"] = [reference_json(ref, row=rows.get(ref.digest)) for ref in refs]
    document["witnesses"] = [_witness_json(witness, nodes) for witness in witnesses]
    document["nodes"] = [
        {"kind": node.kind, "device": node.device, "precision": node.precision} for node in nodes
    ]
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")


# Of a step, what is written only where it says something.
_USUAL: dict[str, Any] = {
    "witness": None,
    "mutates": [],
    "replayable": True,
    "failure": None,
    "repeats": [],
    "seconds": None,
    "bytes": 0,
    "flops": 0,
    "rank": 0,
    "shard": "",
}


def _step_json(step: StepRecord, refs: Numbers[TensorRef], witnesses: Numbers[Witness]) -> dict[str, Any]:
    failure = step.failure
    fields: dict[str, Any] = {
        "name": step.name,
        "op": step.op,
        "attrs": {name: _attr_json(step.attrs[name]) for name in sorted(step.attrs)},
        "inputs": [None if ref is None else refs[ref] for ref in step.inputs],
        "outputs": refs.of(step.outputs),
        "witness": step.witness and witnesses[step.witness],
        "mutates": list(step.mutates),
        "replayable": step.replayable,
        "failure": failure and {"kind": failure.kind.value, "text": failure.text},
        "repeats": [refs.of(outputs) for outputs in step.repeats],
        "seconds": step.seconds,
        "bytes": step.bytes,
        "flops": step.flops,
        "rank": step.rank,
        "shard": step.shard,
    }
    return {name: value for name, value in fields.items() if name not in _USUAL or value != _USUAL[name]}


def _witness_json(witness: Witness, nodes: Numbers[Node]) -> dict[str, Any]:
    groups = {"executed": witness.executed, "moved": witness.moved, "host": witness.host}
    written: dict[str, Any] = {name: nodes.of(group) for name, group in groups.items() if group}
    return written | ({"borrowed": witness.borrowed} if witness.borrowed else {})


def _attr_json(value: Attr) -> Any:
    # JSON has no infinities and no NaN, but a mask value may well be one.
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def decode(document: bytes, *, file: Path) -> tuple[Recording, list[Placed]]:
    """Read a document back. The recording has no tensors yet; `Placed` says where they are.

    Raises GoldenError for another schema version, and for any field that is missing, unknown or
    of the wrong type.
    """
    root = Field(_parse(document, file), file=file, repair=REPAIR)
    version = root.mapping().get("schema")
    if version is None or type(version.value) is not int or version.value != VERSION:
        found = "none" if version is None else repr(version.value)
        raise GoldenError(
            f"{file}: schema version {found}, but this parity reads {VERSION}: "
            "record the case again, or use the parity that wrote the file"
        )
    fields = root.record(
        *("schema", "case", "revision", "environment", "steps", "tensors", "witnesses", "nodes"),
        optional={"results": [], "unobserved": []},
    )
    placed: list[Placed] = []
    nodes = Numbered(fields["nodes"], _node)
    witnesses = Numbered(fields["witnesses"], lambda field: _witness(field, nodes))
    refs = Numbered(fields["tensors"], lambda field: read_reference(field, placed))
    recording = Recording(
        case=_case(fields["case"]),
        revision=fields["revision"].digest(),
        environment=read_environment(fields["environment"]),
        steps=tuple(_step(step, refs, witnesses) for step in fields["steps"].items()),
        results=refs.of(fields["results"]),
        unobserved=refs.of(fields["unobserved"]),
    )
    for table in (refs, witnesses, nodes):
        table.check_all_named()
    return recording, placed


def _parse(document: bytes, file: Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name occurs twice in one object")
        return found

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(document, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise GoldenError(f"{file}: the metadata is not JSON: {error}. {REPAIR}") from None


def _case(field: Field) -> str:
    try:
        return str(CaseId.parse(field.text()))
    except UsageError:
        field.fail("a case id")


def _step(field: Field, refs: Numbered[TensorRef], witnesses: Numbered[Witness]) -> StepRecord:
    fields = field.record("name", "op", "attrs", "inputs", "outputs", optional=_USUAL)
    return StepRecord(
        name=fields["name"].text(),
        op=fields["op"].text(),
        attrs={name: _attr(value) for name, value in fields["attrs"].mapping().items()},
        inputs=tuple(None if ref.value is None else refs[ref] for ref in fields["inputs"].items()),
        outputs=refs.of(fields["outputs"]),
        mutates=tuple(name.text() for name in fields["mutates"].items()),
        replayable=fields["replayable"].boolean(),
        witness=None if fields["witness"].value is None else witnesses[fields["witness"]],
        failure=_failure(fields["failure"]),
        repeats=tuple(refs.of(outputs) for outputs in fields["repeats"].items()),
        seconds=None if fields["seconds"].value is None else fields["seconds"].number(),
        bytes=fields["bytes"].integer(),
        flops=fields["flops"].integer(),
        rank=fields["rank"].integer(),
        shard=fields["shard"].text(),
    )


def _attr(field: Field) -> Attr:
    if isinstance(field.value, dict):
        text = field.record("float")["float"].text()
        if text not in ("inf", "-inf", "nan"):
            field.fail("one of 'inf', '-inf', 'nan'")
        return float(text)
    if not isinstance(field.value, (bool, int, float, str, type(None))):
        field.fail("a number, a string, true, false or null")
    return field.value


def _node(field: Field) -> Node:
    return Node(**{name: f.text() for name, f in field.record("kind", "device", "precision").items()})


def _witness(field: Field, nodes: Numbered[Node]) -> Witness:
    fields = field.record(optional={"executed": [], "moved": [], "host": [], "borrowed": 0})
    return Witness(
        executed=nodes.of(fields["executed"]),
        moved=nodes.of(fields["moved"]),
        host=nodes.of(fields["host"]),
        borrowed=fields["borrowed"].integer(),
    )


def _failure(field: Field) -> Failure | None:
    if field.value is None:
        return None
    fields = field.record("kind", "text")
    return Failure(kind=fields["kind"].choice(FailureKind), text=fields["text"].text())
