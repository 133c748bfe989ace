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
_MAGIC_BYTES = 8  # ARROW1, padded
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
    """Write a file, whole or not at all, and return the digest of its content.

    Equal recordings give equal bytes, from one version of pyarrow. With a trailer the file proves
    itself; without one, its digest must be kept elsewhere, as a manifest does. A recording that
    contradicts itself, such as by a tensor whose memory changed after its digest was taken, is
    refused by `read`, which every file passes before it counts. Raises GoldenError when the path
    cannot be written.
    """
    with replacing(path) as file:
        sink = _Sink(file)
        _write_content(recording, sink)
        if trailer:
            file.write(TRAILER_MAGIC + sink.digest.digest())
    return f"sha256:{sink.digest.hexdigest()}"


def read(path: Path, *, digest: str | None = None) -> Recording:
    """Read a recording whose tensors are views of the mapped file.

    `digest` is that of a file without a trailer; None means that the file's own trailer must
    match. Replacing the file later is safe; changing it in place while it is mapped is not.
    Raises GoldenError for anything but a whole and consistent recording.
    """
    return _parse(_verified(path, digest), path)


class _Sink:
    """A file that digests what it gets, and writes the tensors where Arrow hands it their stand-in.

    Arrow wants all tensors in one piece of memory. Untouched zeros of that size cost nothing, a
    copy would double the memory of a recording and take longer than writing it.
    """

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file
        self._at = 0
        self._splice: tuple[int, int, Sequence[HostTensor]] | None = None

    def splice(self, stored: Sequence[HostTensor], *, at: int, size: int) -> None:
        """Expect the stand-in of `size` bytes at byte `at`."""
        self._splice = (at, size, stored)

    @property
    def spliced(self) -> bool:
        """Whether the stand-in came where it was expected."""
        return self._splice is None

    def write(self, chunk: Any) -> None:
        if self._splice is None or (self._at, len(chunk)) != self._splice[:2]:
            self._put(chunk)
            return
        _, _, stored = self._splice
        self._splice = None
        for piece in rows.pieces(stored):
            self._put(piece)

    def _put(self, chunk: Any) -> None:
        self.digest.update(chunk)
        self._file.write(chunk)
        self._at += len(chunk)

    def flush(self) -> None:
        self._file.flush()


def _write_content(recording: Recording, sink: _Sink) -> None:
    digests = schema.stored(recording)
    stored = [recording.tensors[digest].contiguous() for digest in digests]
    metadata = schema.encode(recording)
    ends = rows.ends(stored)
    stand_in = np.zeros(int(ends[-1]), dtype=np.uint8)
    batch = _batch(digests, stored, ends=ends, data=stand_in)
    # The data comes last of a batch's message, which follows the magic and the schema's. Arrow
    # aligns to 8 bytes alone: spaces after the JSON, 8 at a time, move the data by as much.
    message = _COLUMNS.with_metadata({METADATA_KEY: metadata}).serialize()
    start = _MAGIC_BYTES + message.size + pa.ipc.get_record_batch_size(batch) - stand_in.size
    spaces = -start % ALIGNMENT
    sink.splice(stored, at=start + spaces, size=stand_in.size)
    batch = batch.replace_schema_metadata({METADATA_KEY: metadata + b" " * spaces})
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    assert sink.spliced or not stand_in.size, "Arrow put the data elsewhere"


def _batch(
    digests: Sequence[str],
    stored: Sequence[HostTensor],
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
    return pa.record_batch(columns, schema=_COLUMNS)


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
