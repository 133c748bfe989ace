"""The findings of `parity doctor`: a line each, its remedy below, the counts, the next command.

Imports no numpy, which may be what is broken. Does not examine; `backend.doctor` does.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import parity
from parity.backend.finding import Finding, State
from parity.errors import UsageError

__all__ = ["exit_code", "lines", "require_writable", "save"]

_WIDTH = 80
_INDENT = " " * 24


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 1 when something is broken, else 0."""
    return int(any(finding.state is State.BROKEN for finding in findings))


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield the report."""
    for finding in findings:
        yield from _wrap(f"{finding.subject:<15} {finding.state.value:<7} {finding.detail}", _INDENT)
        if finding.remedy:
            yield from _wrap(f"  = {finding.remedy}", "    ")
    yield ""
    counts = {state: sum(finding.state is state for finding in findings) for state in State}
    order = (State.BROKEN, State.WARNING, State.ABSENT, State.OK)
    yield ", ".join(f"{counts[state]} {state.value}" for state in order if counts[state])
    yield f"next    parity {'doctor' if exit_code(findings) else 'check'}"


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def require_writable(path: Path) -> None:
    """Raise UsageError, before anything is examined, where `save` would."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def save(findings: Sequence[Finding], path: Path) -> None:
    """Write the same findings as JSON. Raises UsageError where that cannot be done."""
    report = {
        "version": 1,
        "parity": parity.__version__,
        "exit_code": exit_code(findings),
        "findings": [
            {
                "subject": finding.subject,
                "state": finding.state.value,
                "detail": finding.detail,
                "remedy": finding.remedy,
            }
            for finding in findings
        ],
    }
    try:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None
