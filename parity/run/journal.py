"""What a child was about to do, in a file before it does it.

One JSON line an entry, handed to the kernel in one write, so that a `kill -9` loses none and a
crash or hang has a step. Does not decide what a silence means; `pool` does.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

__all__ = ["Entry", "Journal", "Phase", "last_entry"]

_TAIL_BYTES = 4096  # holds the last entry: ids and step names are far shorter


class Phase(Enum):
    """What a child does; `is_device` says whether a crash there is the backend's."""

    OPEN = "open"
    IDLE = "idle"
    GENERATE = "generate"
    PUT = "put"
    COMPILE = "compile"
    RUN = "run"
    FETCH = "fetch"
    WRITE = "write"

    @property
    def is_device(self) -> bool:
        """Whether the backend's code runs in this phase, in a step."""
        return self in {Phase.PUT, Phase.COMPILE, Phase.RUN, Phase.FETCH}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """`at_s` is time.monotonic(), one clock for all processes of a boot.

    `log_bytes` is how long the child's log was when the case began.
    """

    at_s: float
    phase: Phase
    case: str = ""
    step: str = ""
    log_bytes: int = 0


class Journal:
    """Appends entries to a file; with no path, as when recording in-process, keeps none."""

    def __init__(self, path: Path | None = None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = None if path is None else os.open(path, flags, 0o644)
        self._log_bytes = 0

    def enter(self, phase: Phase, *, case: str = "", step: str = "") -> None:
        """Write down what starts now."""
        if self._fd is None:
            return
        if phase is Phase.GENERATE:
            self._log_bytes = os.fstat(2).st_size
        line = json.dumps([time.monotonic(), phase.value, case, step, self._log_bytes])
        # On a line of its own even where a library has written into the file, which some do.
        os.write(self._fd, f"\n{line}\n".encode())

    def close(self) -> None:
        """Close the file; what was entered stays."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def last_entry(path: Path) -> Entry | None:
    """Return the latest whole entry of a journal, None when there is none yet."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    return next((entry for entry in map(_entry, reversed(lines)) if entry is not None), None)


def _entry(line: bytes) -> Entry | None:
    try:
        at_s, phase, case, step, log_bytes = json.loads(line)
        return Entry(at_s=at_s, phase=Phase(phase), case=case, step=step, log_bytes=log_bytes)
    except (TypeError, ValueError):
        return None
