"""A recording without its tensors as one JSON document, and strictly back.

Every tensor reference carries the row of the file that holds its bytes, or null where they are
generated or left out. Does not know how rows are stored; `arrow` does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.backend.base import Node, Witness
from parity.case.ids import CaseId
from parity.case.op import Attr
from parity.errors import GoldenError, UsageError
from parity.store.fields import Field
from parity.store.recording import Failure, FailureKind, Recording, StepRecord, TensorRef
from parity.store.schema_environment import environment_json, read_dtype, read_environment

__all__ = [
    "MAX_DIMS",
    "REPAIR",
    "VERSION",
    "Placed",
    "all_references",
    "decode",
    "encode",
    "references",
    "stored",
]

VERSION = 1
# numpy 1 can view no more dimensions.
MAX_DIMS = 32
REPAIR = "The digest is right, so it was written this way: record the case again"

_ROLES = ("input", "weight", "activation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A tensor reference and the row that it says holds its bytes; `field` names it in messages."""

    field: str
    ref: TensorRef
    row: int


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
    document = {
        "schema": VERSION,
        "case": recording.case,
        "revision": recording.revision,
        "environment": environment_json(recording.environment),
        "steps": [_step_json(step, rows) for step in recording.steps],
    }
    for name, refs in (("results", recording.results), ("unobserved", recording.unobserved)):
        if refs:
            document[name] = [_ref_json(ref, rows) for ref in refs]
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")


def _step_json(step: StepRecord, rows: Mapping[str, int]) -> dict[str, Any]:
    def refs(group: tuple[TensorRef | None, ...]) -> list[dict[str, Any] | None]:
        return [None if ref is None else _ref_json(ref, rows) for ref in group]

    failure = step.failure
    # Written where they say something: what one process did whole has neither.
    divided: dict[str, Any] = {"rank": step.rank} if step.rank else {}
    divided |= {"shard": step.shard} if step.shard else {}
    return {
        "name": step.name,
        "op": step.op,
        "attrs": {name: _attr_json(step.attrs[name]) for name in sorted(step.attrs)},
        "inputs": refs(step.inputs),
        "outputs": refs(step.outputs),
        "mutates": list(step.mutates),
        "replayable": step.replayable,
        "witness": step.witness and _witness_json(step.witness),
        "failure": failure and {"kind": failure.kind.value, "text": failure.text},
        "repeats": [refs(outputs) for outputs in step.repeats],
        "seconds": step.seconds,
        "bytes": step.bytes,
        "flops": step.flops,
        **divided,
    }


def _witness_json(witness: Witness) -> dict[str, Any]:
    def nodes(group: tuple[Node, ...]) -> list[dict[str, str]]:
        return [{"kind": n.kind, "device": n.device, "precision": n.precision} for n in group]

    return {
        "executed": nodes(witness.executed),
        "moved": nodes(witness.moved),
        "host": nodes(witness.host),
        "borrowed": witness.borrowed,
    }


def _attr_json(value: Attr) -> Any:
    # JSON has no infinities and no NaN, but a mask value may well be one.
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def _ref_json(ref: TensorRef, rows: Mapping[str, int]) -> dict[str, Any]:
    return {
        "name": ref.name,
        "role": ref.role,
        "dtype": ref.dtype.tag,
        "shape": list(ref.shape),
        "stride": list(ref.stride),
        "offset": ref.offset,
        "digest": ref.digest,
        "row": rows.get(ref.digest),
    }


def decode(document: bytes, *, file: Path) -> tuple[Recording, list[Placed]]:
    """Read a document back. The recording has no tensors yet; `Placed` says where they are.

    Raises GoldenError for another schema version, and for any field that is missing, unknown or
    of the wrong type.
    """
    root = Field(_parse(document, file), file=file, repair=REPAIR)
    version = root.mapping().get("schema")
    if version is None or version.value != VERSION or isinstance(version.value, bool):
        found = "none" if version is None else repr(version.value)
        raise GoldenError(
            f"{file}: schema version {found}, but this parity reads {VERSION}: "
            "record the case again, or use the parity that wrote the file"
        )
    fields = root.record(
        *("schema", "case", "revision", "environment", "steps"), optional={"results": [], "unobserved": []}
    )
    placed: list[Placed] = []
    recording = Recording(
        case=_case(fields["case"]),
        revision=fields["revision"].digest(),
        environment=read_environment(fields["environment"]),
        steps=tuple(_step(step, placed) for step in fields["steps"].items()),
        results=tuple(_ref(ref, placed) for ref in fields["results"].items()),
        unobserved=tuple(_ref(ref, placed) for ref in fields["unobserved"].items()),
    )
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


def _step(field: Field, placed: list[Placed]) -> StepRecord:
    fields = field.record(
        *("name", "op", "attrs", "inputs", "outputs", "mutates", "replayable", "witness"),
        *("failure", "repeats", "seconds", "bytes", "flops"),
        optional={"rank": 0, "shard": ""},
    )

    def refs(group: Field) -> tuple[TensorRef, ...]:
        return tuple(_ref(ref, placed) for ref in group.items())

    return StepRecord(
        name=fields["name"].text(),
        op=fields["op"].text(),
        attrs={name: _attr(value) for name, value in fields["attrs"].mapping().items()},
        inputs=tuple(None if ref.value is None else _ref(ref, placed) for ref in fields["inputs"].items()),
        outputs=refs(fields["outputs"]),
        mutates=tuple(name.text() for name in fields["mutates"].items()),
        replayable=fields["replayable"].boolean(),
        witness=_witness(fields["witness"]),
        failure=_failure(fields["failure"]),
        repeats=tuple(refs(outputs) for outputs in fields["repeats"].items()),
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


def _witness(field: Field) -> Witness | None:
    if field.value is None:
        return None
    fields = field.record("executed", "moved", "host", "borrowed")

    def nodes(group: Field) -> tuple[Node, ...]:
        records = (node.record("kind", "device", "precision") for node in group.items())
        return tuple(Node(**{name: f.text() for name, f in record.items()}) for record in records)

    return Witness(
        executed=nodes(fields["executed"]),
        moved=nodes(fields["moved"]),
        host=nodes(fields["host"]),
        borrowed=fields["borrowed"].integer(),
    )


def _failure(field: Field) -> Failure | None:
    if field.value is None:
        return None
    fields = field.record("kind", "text")
    return Failure(kind=fields["kind"].choice(FailureKind), text=fields["text"].text())


def _ref(field: Field, placed: list[Placed]) -> TensorRef:
    fields = field.record("name", "role", "dtype", "shape", "stride", "offset", "digest", "row")
    if fields["role"].value not in _ROLES:
        fields["role"].fail("one of " + ", ".join(repr(role) for role in _ROLES))
    shape, stride = fields["shape"].items(), fields["stride"].items()
    if len(shape) > MAX_DIMS:
        fields["shape"].fail(f"at most {MAX_DIMS} integers")
    if len(shape) != len(stride):
        fields["stride"].fail(f"as long as the shape, {len(shape)}")
    ref = TensorRef(
        name=fields["name"].text(),
        role=fields["role"].text(),
        dtype=read_dtype(fields["dtype"], exact=True),
        shape=tuple(n.integer() for n in shape),
        stride=tuple(n.integer() for n in stride),
        offset=fields["offset"].integer(),
        digest=fields["digest"].digest(),
    )
    if fields["row"].value is not None:
        placed.append(Placed(field=field.name, ref=ref, row=fields["row"].integer()))
    return ref
