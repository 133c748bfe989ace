"""The three families of errors that may reach a user, and how they are worded.

A message says what, where, which value and what to do next. A mismatch between devices is
never an error: it is a verdict. Does not know about exit codes beyond one number a family.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["BackendError", "GoldenError", "ParityError", "UsageError", "near_miss"]


class ParityError(Exception):
    """What a door prints without a traceback; `exit_code` is what the process then returns."""

    exit_code = 3


class UsageError(ParityError):
    """The request cannot be understood; nothing was run."""

    exit_code = 2


class BackendError(ParityError):
    """A backend that was asked for cannot be used here."""


class GoldenError(ParityError):
    """A golden or recording is missing, damaged, or of something else than what is asked."""


def near_miss(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
