"""A tensor reference as one entry of the document's list `tensors`, and strictly back.

Part of the document that `schema` describes: a layout is written where it is not row-major from
the first element, a row where the tensor is stored. Does not know about steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parity.case.tensor import contiguous_stride
from parity.store.fields import Field
from parity.store.recording import TensorRef
from parity.store.schema_environment import read_dtype

__all__ = ["MAX_DIMS", "Placed", "read_reference", "reference_json"]

# numpy 1 can view no more dimensions.
MAX_DIMS = 32

_ROLES = ("input", "weight", "activation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A tensor reference and the row that it says holds its bytes; `field` names it in messages."""

    field: str
    ref: TensorRef
    row: int


def reference_json(ref: TensorRef, *, row: int | None) -> dict[str, Any]:
    """Return plain data with names in a fixed order. `row` is None where the tensor is not stored."""
    layout: dict[str, Any] = {} if row is None else {"row": row}
    if ref.stride != contiguous_stride(ref.shape):
        layout["stride"] = list(ref.stride)
    if ref.offset:
        layout["offset"] = ref.offset
    return {
        "name": ref.name,
        "role": ref.role,
        "dtype": ref.dtype.tag,
        "shape": list(ref.shape),
        "digest": ref.digest,
        **layout,
    }


def read_reference(field: Field, placed: list[Placed]) -> TensorRef:
    """Read it back; where it names a row, append that to `placed`."""
    fields = field.record(
        "name", "role", "dtype", "shape", "digest", optional={"stride": None, "offset": 0, "row": None}
    )
    if fields["role"].value not in _ROLES:
        fields["role"].fail("one of " + ", ".join(repr(role) for role in _ROLES))
    shape = fields["shape"].items()
    if len(shape) > MAX_DIMS:
        fields["shape"].fail(f"at most {MAX_DIMS} integers")
    sizes = tuple(n.integer() for n in shape)
    ref = TensorRef(
        name=fields["name"].text(),
        role=fields["role"].text(),
        dtype=read_dtype(fields["dtype"], exact=True),
        shape=sizes,
        stride=_stride(fields["stride"], sizes),
        offset=fields["offset"].integer(),
        digest=fields["digest"].digest(),
    )
    if fields["row"].value is not None:
        placed.append(Placed(field=field.name, ref=ref, row=fields["row"].integer()))
    return ref


def _stride(field: Field, shape: tuple[int, ...]) -> tuple[int, ...]:
    if field.value is None:
        return contiguous_stride(shape)
    stride = tuple(n.integer() for n in field.items())
    if len(stride) != len(shape):
        field.fail(f"as long as the shape, {len(shape)}")
    return stride
