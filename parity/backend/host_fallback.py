"""Hear a torch device say that an operator ran on the host, and remember it.

Vendors say so in a warning, on file descriptor 2 or through Python, and some only the first time.
What was said stays visible, also after a crash. Does not know the vendors' words; they bring them.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from parity.backend.base import Node, Witness, unplaced

__all__ = ["FallbackWarning", "HostFallbacks", "Repeat", "listen"]

_UNNAMED = "an operator that the warning does not name"


class Repeat(Enum):
    """When a vendor warns again."""

    EVERY_CALL = "every call"
    ONCE_PER_OP = "once per operator and process"
    ONCE_PER_PROCESS = "once per process"


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackWarning:
    """How a vendor words it: a regular expression whose group `op`, if any, is the operator."""

    pattern: str
    repeat: Repeat
    source: str


@contextmanager
def listen(pattern: str) -> Iterator[list[str]]:
    """Collect what is printed on file descriptor 2 or warned, as text that is there after the block.

    Warnings that match `pattern` are not limited to the first one of their line.
    """
    said: list[str] = []
    with warnings.catch_warnings(record=True) as warned:
        # Torch hands its C++ warnings to Python, whose default filter drops repetitions.
        warnings.filterwarnings("always", message=f"(?s:.*)(?:{pattern})")
        try:
            with _printed(said):
                yield said
        finally:
            said += [str(item.message) for item in warned]
    for item in warned:
        warnings.showwarning(item.message, item.category, item.filename, item.lineno)


@contextmanager
def _printed(said: list[str]) -> Iterator[None]:
    sys.stderr.flush()
    log = _log()
    if log is None:
        with _redirected(said):
            yield
        return
    start = os.fstat(log).st_size
    try:
        yield
    finally:
        sys.stderr.flush()
        said.append(os.pread(log, max(0, os.fstat(log).st_size - start), start).decode(errors="replace"))
        os.close(log)


def _log() -> int | None:
    """Open for reading the file that descriptor 2 goes to: what a crash prints is then kept there."""
    try:
        return os.open("/proc/self/fd/2", os.O_RDONLY) if stat.S_ISREG(os.fstat(2).st_mode) else None
    except OSError:  # not Linux, or not ours to read
        return None


@contextmanager
def _redirected(said: list[str]) -> Iterator[None]:
    before = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(before, 2)
                file.seek(0)
                text = file.read()
                said.append(text.decode(errors="replace"))
                os.write(2, text)
    finally:
        os.close(before)


class HostFallbacks:
    """What one process is known to run on the host, by a vendor's warning."""

    def __init__(self, warning: FallbackWarning) -> None:
        self._warning = warning
        self._pattern = re.compile(warning.pattern)
        self._known: set[str] = set()
        self._suspects: set[str] = set()
        self._silent = False

    @contextmanager
    def watch(self) -> Iterator[list[str]]:
        """Collect the operators that are warned of; the list is read after the block.

        Whatever is asynchronous must be waited for inside. Also what runs outside of steps must be
        watched: a warning that nobody heard is not repeated.
        """
        ops: list[str] = []
        said: list[str] = []
        try:
            with listen(self._warning.pattern) as said:
                yield ops
        finally:
            ops += [self._operator(match) for text in said for match in self._pattern.finditer(text)]
            self._remember(ops)

    def _remember(self, ops: list[str]) -> None:
        match self._warning.repeat:
            case Repeat.EVERY_CALL:
                pass
            case Repeat.ONCE_PER_OP:
                self._known.update(ops)
            case Repeat.ONCE_PER_PROCESS:
                self._silent = self._silent or bool(ops)

    def _operator(self, match: re.Match[str]) -> str:
        named = self._pattern.groupindex.get("op") and match["op"]
        # `aten::argsort.stable` is the overload of what a trace calls `aten::argsort`.
        return named.partition(".")[0] if named else _UNNAMED

    def revise(self, witness: Witness, warned: list[str]) -> Witness:
        """Return the witness of a step in which `warned` was heard, with all that is known.

        What cannot be told from the host any more loses its precision, which leaves it unjudged.
        """
        ran = (*witness.executed, *witness.moved)
        kinds = {node.kind for node in ran}
        on_host = [node for node in ran if node.kind in self._known.union(warned)]
        hidden = [op for op in dict.fromkeys(warned) if op not in kinds]
        if hidden and self._warning.repeat is Repeat.ONCE_PER_OP:
            # One of these called what was warned of from inside, and will do so silently from now on.
            self._suspects |= kinds
        return Witness(
            executed=tuple(self._seen(node) for node in witness.executed if node not in on_host),
            moved=tuple(node for node in witness.moved if node not in on_host),
            host=(
                *witness.host,
                *(dataclasses.replace(node, device="cpu") for node in on_host),
                *(Node(kind=op, device="cpu", precision="?") for op in hidden),
            ),
            borrowed=witness.borrowed,
        )

    def _seen(self, node: Node) -> Node:
        # A compiler's node may hide an operator that was warned of under its own name.
        compiled = bool(self._known) and "::" not in node.kind
        if self._silent or compiled or node.kind in self._suspects:
            return unplaced(node)
        return node
