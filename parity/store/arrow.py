"""Recordings as Arrow files, whose bytes `golden/README.md` describes one by one.

The only importer of pyarrow. Reading distrusts: the digest of the whole file before Arrow sees
it, then version, sizes and offsets, then every tensor. Does not know which files are goldens;
`folder` does.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from parity.case.tensor import HostTensor
from parity.errors import GoldenError
from parity.store import rows, schema
from parity.store.atomic import replacing
from parity.store.recording import Recording
from parity.store.rows import ALIGNMENT, Table, wrong

__all__ = ["METADATA_KEY", "TRAILER_MAGIC", "read", "write"]

METADATA_KEY = b"parity"
TRAILER_MAGIC = b"PARITY01"
_TRAILER_BYTES = len(TRAILER_MAGIC) + hashlib.sha256().digest_size

# The data comes last, so that where it begins does not depend on how much there is of it.
_COLUMNS = pa.schema(
    [
        pa.field("digest", pa.string(), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("shape", pa.list_(pa.field("item", pa.int64(), nullable=False)), nullable=False),
        pa.field("data", pa.large_binary(), nullable=False),
    ]
)
_AGAIN = "Record the case again, or copy the file again from where it was recorded"


def write(recording: Recording, path: Path, *, trailer: bool = True) -> str:
    """Write a file that `read` accepts, whole or not at all, and return the digest of its content.

    Equal recordings give equal bytes, from one version of pyarrow. With a trailer the file proves
    itself; without one, its digest must be kept elsewhere, as a manifest does. Raises GoldenError
    when the path cannot be written, and ValueError when the recording contradicts itself, such as
    by a tensor whose memory changed after its digest was taken.
    """
    with replacing(path) as file:
        _write_content(recording, file)
        file.flush()
        content = _map(Path(file.name), repair=_AGAIN)
        try:
            _parse(content, path)
        except GoldenError as error:
            raise ValueError(f"recording of {recording.case} contradicts itself: {error}") from None
        digest = hashlib.sha256(content)
        if trailer:
            file.write(TRAILER_MAGIC + digest.digest())
    return f"sha256:{digest.hexdigest()}"


def read(path: Path, *, digest: str | None = None) -> Recording:
    """Read a recording whose tensors are views of the mapped file.

    `digest` is that of a file without a trailer; None means that the file's own trailer must
    match. Replacing the file later is safe; changing it in place while it is mapped is not.
    Raises GoldenError for anything but a whole and consistent recording.
    """
    return _parse(_verified(path, digest), path)


class _Splice:
    """A file that writes the tensors where Arrow hands it the stand-in for them, and else what it gets.

    Arrow wants all tensors in one piece of memory. Untouched zeros of that size cost nothing, a
    copy would double the memory of a recording and take longer than writing it.
    """

    closed = False

    def __init__(self, file: BinaryIO, stored: Sequence[HostTensor], *, at: int, size: int) -> None:
        self._file = file
        self._stored = stored
        self._place = (at, size)

    def write(self, chunk: Any) -> None:
        if (self._file.tell(), len(chunk)) == self._place:
            rows.dump(self._stored, self._file)
        else:
            self._file.write(chunk)

    def flush(self) -> None:
        self._file.flush()


def _write_content(recording: Recording, file: BinaryIO) -> None:
    digests = schema.stored(recording)
    stored = [recording.tensors[digest].contiguous() for digest in digests]
    metadata = schema.encode(recording)
    start = _data_offset(digests, stored, metadata)
    # Arrow aligns to 8 bytes alone. Spaces after the JSON, 8 at a time, move what follows by as much.
    spaces = -start % ALIGNMENT
    ends = rows.ends(stored)
    stand_in = np.zeros(int(ends[-1]), dtype=np.uint8)
    batch = _batch(digests, stored, metadata + b" " * spaces, ends=ends, data=stand_in)
    sink = _Splice(file, stored, at=start + spaces, size=stand_in.size)
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _data_offset(digests: Sequence[str], stored: Sequence[HostTensor], metadata: bytes) -> int:
    """Return where the data would begin, found by writing it with one byte a row."""
    count = len(stored)
    one_each = np.arange(count + 1, dtype=np.int64)
    batch = _batch(digests, stored, metadata, ends=one_each, data=np.zeros(count, dtype=np.uint8))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content = sink.getvalue()
    return _table(content, pa.ipc.open_file(content)).start


def _batch(
    digests: Sequence[str],
    stored: Sequence[HostTensor],
    metadata: bytes,
    *,
    ends: npt.NDArray[np.int64],
    data: npt.NDArray[np.uint8],
) -> Any:
    buffers = [None, pa.py_buffer(ends.astype("<i8", copy=False)), pa.py_buffer(data)]
    columns = [
        pa.array(digests, pa.string()),
        pa.array([tensor.dtype.tag for tensor in stored], pa.string()),
        pa.array([tensor.shape for tensor in stored], _COLUMNS.field("shape").type),
        pa.Array.from_buffers(pa.large_binary(), len(stored), buffers),
    ]
    return pa.record_batch(columns, schema=_COLUMNS.with_metadata({METADATA_KEY: metadata}))


def _map(path: Path, *, repair: str) -> Any:
    """Map a file; its buffers keep the mapping alive, and no descriptor stays open."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise GoldenError(f"{path}: is not a file. {repair}")
        with pa.memory_map(str(path)) as source:
            return source.read_buffer()
    except FileNotFoundError:
        raise GoldenError(f"{path}: is not there. {repair}") from None
    except (OSError, ValueError) as error:  # ValueError: pyarrow takes no path that is not UTF-8
        raise GoldenError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}. {repair}"
        ) from None


def _verified(path: Path, digest: str | None) -> Any:
    """Return the mapped content of a file, trailer cut off, once its digest is the one expected."""
    repair = _AGAIN if digest is None else f"Restore it: git checkout -- {path}"
    content = _map(path, repair=repair)
    if digest is None:
        trailer = content.slice(max(content.size - _TRAILER_BYTES, 0)).to_pybytes()
        if len(trailer) < _TRAILER_BYTES or not trailer.startswith(TRAILER_MAGIC):
            raise GoldenError(
                f"{path}: does not end in a digest: it was cut short, or is no recording, "
                f"or is a golden without its manifest. {repair}"
            )
        content = content.slice(0, content.size - _TRAILER_BYTES)
        expected = f"sha256:{trailer[len(TRAILER_MAGIC) :].hex()}"
        source = "ends in"
    else:
        expected, source = digest, "is listed with"
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if found != expected:
        raise GoldenError(
            f"{path}: is damaged: its content has {found}, but it {source} {expected}. {repair}"
        )
    return content


def _parse(content: Any, path: Path) -> Recording:
    try:
        reader = pa.ipc.open_file(content)
        columns = reader.schema.remove_metadata()
        metadata = (reader.schema.metadata or {}).get(METADATA_KEY)
    except Exception as error:  # noqa: BLE001  pyarrow raises OSError, ValueError, MemoryError and more
        raise _not_arrow(path, error) from None
    if metadata is None:
        raise wrong(path, f"is an Arrow file without the metadata '{METADATA_KEY.decode()}'")
    # Before the columns: another version may well have others, and its number says more.
    recording, placed = schema.decode(metadata, file=path)
    if not columns.equals(_COLUMNS):
        raise wrong(path, f"has the columns {', '.join(map(str, columns))}")
    try:
        table = _table(content, reader)
    except Exception as error:  # noqa: BLE001  see above
        raise _not_arrow(path, error) from None
    if table.start < 0 or table.start + table.size > content.size:
        raise wrong(path, "its tensors are compressed instead of lying in the file as they are")
    stored = rows.rows(table, path)
    rows.check_places(placed, stored, path)
    view = np.frombuffer(content, dtype=np.uint8)
    return replace(recording, tensors=rows.tensors(view, table, stored, path))


def _not_arrow(path: Path, error: Exception) -> GoldenError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return wrong(path, f"Arrow cannot read it: {reason}")


def _table(content: Any, reader: Any) -> Table:
    if reader.num_record_batches != 1:
        raise ValueError(f"{reader.num_record_batches} record batches instead of one")
    batch = reader.get_batch(0)
    # Nothing in a column may be touched before this: its offsets could point anywhere.
    batch.validate(full=True)
    nulls = [
        name for name, column in zip(batch.schema.names, batch.columns, strict=True) if column.null_count
    ]
    if nulls:
        raise ValueError(f"column '{nulls[0]}' holds nulls")
    digests, tags, shapes = (batch.column(i).to_pylist() for i in range(3))
    _, offsets, data = batch.column(3).buffers()
    ends = np.frombuffer(offsets, dtype="<i8", count=len(digests) + 1).tolist() if digests else [0]
    size = data.size if data is not None else 0
    return Table(
        digests=digests,
        tags=tags,
        shapes=shapes,
        ends=ends,
        start=data.address - content.address if size else 0,
        size=size,
    )
