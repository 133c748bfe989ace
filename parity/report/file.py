"""Write report files, and say before a run that one cannot be written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from parity.errors import UsageError
from parity.report import json, junit
from parity.report.view import Run

__all__ = ["require_writable", "save", "write_text"]

# About the size of a report of a thousand cases; a disk with less room is as good as full.
_ROOM = 2 << 20


def require_writable(path: Path) -> None:
    """Raise UsageError, naming the path and the system's reason, unless a report fits there."""
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder")
    try:
        if not path.exists() or path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".parity-") as probe:
                probe.write(bytes(_ROOM))
                probe.flush()
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def write_text(path: Path, text: str) -> None:
    """Write a report whole or not at all. Raises UsageError when the disk refuses it after all."""
    try:
        if path.exists() and not path.is_file():  # a pipe or device is written to, not replaced
            path.write_text(text, encoding="utf-8")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def save(run: Run, *, json_files: Sequence[Path], junit_file: Path | None) -> None:
    """Write the reports that were asked for. Raises UsageError when one cannot be written after all."""
    text = json.dumps(run)
    for path in json_files:
        write_text(path, text)
    if junit_file is not None:
        write_text(junit_file, junit.dumps(run))
