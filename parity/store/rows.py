"""Where the bytes of stored tensors lie in a file, and whether they are what their row declares.

Little-endian, row-major, zero-padded so that each tensor begins at a multiple of 64 bytes. Does
not know Arrow; `arrow` puts these bytes into a file and finds them again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from parity.case.dtype import DType, dtype
from parity.case.tensor import HostTensor, contiguous_stride
from parity.errors import GoldenError, UsageError
from parity.store import schema
from parity.store.schema_tensor import MAX_DIMS, Placed

__all__ = ["ALIGNMENT", "Row", "Table", "check_places", "ends", "pieces", "rows", "tensors", "wrong"]

ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The columns of a file as they are written there, nothing believed yet.

    Row `i` holds bytes `ends[i]` to `ends[i + 1]` of `size` bytes that begin at file offset `start`.
    """

    digests: Sequence[str]
    tags: Sequence[str]
    shapes: Sequence[Sequence[int | None]]
    ends: Sequence[int]
    start: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A stored tensor as its row declares it."""

    index: int
    digest: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the elements. Python's integers do not overflow: no shape wraps to a small size."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def wrong(file: Path, what: str) -> GoldenError:
    """Return the error for a file that is undamaged and yet no recording."""
    return GoldenError(f"{file}: {what}. {schema.REPAIR}")


def ends(stored: Sequence[HostTensor]) -> npt.NDArray[np.int64]:
    """Return where each tensor ends, padding included, after a first 0."""
    return np.cumsum([0, *(_padded(tensor.nbytes) for tensor in stored)], dtype=np.int64)


def pieces(stored: Sequence[HostTensor]) -> Iterator[memoryview | bytes]:
    """Yield the bytes of contiguous tensors, each followed by its padding."""
    for tensor in stored:
        little = tensor.storage.astype(tensor.dtype.storage.newbyteorder("<"), copy=False)
        yield little.view(np.uint8).data
        yield bytes(_padded(tensor.nbytes) - tensor.nbytes)


def _padded(nbytes: int) -> int:
    return nbytes + -nbytes % ALIGNMENT


def rows(table: Table, file: Path) -> list[Row]:
    """Return the rows when their dtypes and shapes are possible and no tensor is stored twice."""
    found: dict[str, Row] = {}
    for i, (digest, tag, shape) in enumerate(zip(table.digests, table.tags, table.shapes, strict=True)):
        try:
            element = dtype(tag)
        except UsageError:
            element = None
        if element is None or element.tag != tag:
            raise wrong(file, f"row {i} is of dtype '{tag}', which this parity does not know")
        sizes = tuple(n for n in shape if n is not None and n >= 0)
        # Without this an empty tensor could have a side that numpy cannot count.
        countable = math.prod(max(n, 1) for n in sizes) * element.itemsize < 2**63
        if len(sizes) != len(shape) or len(shape) > MAX_DIMS or not countable:
            raise wrong(file, f"row {i} declares the impossible shape {list(shape[:8])}")
        if digest in found:
            raise wrong(file, f"row {i} stores {digest} again, after row {found[digest].index}")
        found[digest] = Row(index=i, digest=digest, dtype=element, shape=sizes)
    return list(found.values())


def check_places(placed: Sequence[Placed], stored: Sequence[Row], file: Path) -> None:
    """Raise unless every reference names a row with its tensor, and every row is named."""
    for place in placed:
        if place.row >= len(stored):
            raise wrong(file, f"field '{place.field}' names row {place.row}, but there are {len(stored)}")
        row, ref = stored[place.row], place.ref
        if (row.digest, row.dtype, row.shape) != (ref.digest, ref.dtype, ref.shape):
            raise wrong(
                file,
                f"field '{place.field}' is {ref.dtype}{list(ref.shape)} with digest {ref.digest}, "
                f"but row {row.index} declares {row} with digest {row.digest}",
            )
    unnamed = set(range(len(stored))) - {place.row for place in placed}
    if unnamed:
        raise wrong(file, f"row {min(unnamed)} is named by no step")


def tensors(
    content: npt.NDArray[np.uint8], table: Table, stored: Sequence[Row], file: Path
) -> Mapping[str, HostTensor]:
    """Return views of `content` by digest, once every size, offset, padding and digest is right."""
    if table.ends[0] != 0 or table.ends[-1] != table.size:
        raise wrong(file, f"the rows span bytes {table.ends[0]:,} to {table.ends[-1]:,} of {table.size:,}")
    spans = list(zip(stored, itertools.pairwise(table.ends), strict=True))
    for row, (begin, end) in spans:
        if end - begin != _padded(row.nbytes):
            raise wrong(
                file,
                f"row {row.index} declares {row} = {row.nbytes:,} bytes, padded to "
                f"{_padded(row.nbytes):,}, but holds {end - begin:,}",
            )
        if row.nbytes and (table.start + begin) % ALIGNMENT:
            raise wrong(
                file,
                f"row {row.index} begins at byte {table.start + begin:,}, no multiple of {ALIGNMENT}",
            )
    return {
        row.digest: _tensor(content[table.start + begin : table.start + end], row, file)
        for row, (begin, end) in spans
    }


def _tensor(padded: npt.NDArray[np.uint8], row: Row, file: Path) -> HostTensor:
    if padded[row.nbytes :].any():
        raise wrong(file, f"row {row.index} is padded with something else than zeros")
    native = row.dtype.storage
    tensor = HostTensor(
        dtype=row.dtype,
        storage=padded[: row.nbytes].view(native.newbyteorder("<")).astype(native, copy=False),
        shape=row.shape,
        stride=contiguous_stride(row.shape),
    )
    if tensor.digest() != row.digest:
        raise wrong(file, f"row {row.index} says digest {row.digest}, but its bytes have {tensor.digest()}")
    return tensor
