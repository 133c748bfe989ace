"""Files that appear whole or not at all.

Does not sync to the disk: after a power cut a digest tells a torn file, and syncing each of a few
thousand small files would cost minutes.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from parity.errors import GoldenError

__all__ = ["replacing"]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a hidden file beside `path` that takes its place when the block ends well.

    Makes the folders above. Raises GoldenError with the system's reason for a full disk or a path
    that cannot be written, and then leaves `path` as it was.
    """
    # Not tempfile: its files are readable by their owner alone, and goldens are shared.
    partial = path.parent / f".{uuid.uuid4().hex}.part"
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise GoldenError(
            f"{path}: cannot be written: {reason}. Make room or name a folder that can be written"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
