"""Print report lines on stdout, with colour where a terminal shows it and NO_COLOR is not set."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from parity.judge.verdict import Verdict

__all__ = ["paint"]

_RED, _YELLOW, _BOLD, _PLAIN = "\033[31m", "\033[33m", "\033[1m", "\033[0m"
_YELLOWS = (Verdict.UNJUDGED, Verdict.STALE, Verdict.UNSUPPORTED)


def paint(lines: Iterable[str]) -> None:
    """Print every line; the words stay the only carrier of meaning."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in lines:
        code = _code(line) if colour else ""
        print(f"{code}{line}{_PLAIN}" if code else line)


def _code(line: str) -> str:
    for verdict in Verdict:
        word = verdict.value.upper().replace("_", " ")
        if line.startswith((f"{word} ", f"REFERENCE {word} ")):
            return _YELLOW if verdict in _YELLOWS else _RED
    return _BOLD if line.startswith(("parity ", "next ")) else ""
