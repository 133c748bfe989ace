"""Ask a vendor's module for what its version may not have.

A name that is missing and a call that fails give None, which is reported as `unknown`. Imports
nothing.
"""

from __future__ import annotations

from typing import Any

__all__ = ["UNKNOWN", "ask", "find", "said"]

UNKNOWN = "unknown"


def find(module: Any, path: str) -> Any:
    """Return what `module.path` is, None where a part of the path is missing."""
    for name in path.split("."):
        try:
            module = getattr(module, name)
        except Exception:  # noqa: BLE001 - a module that loads its parts lazily raises whatever it likes
            return None
    return module


def ask(module: Any, path: str, *arguments: Any) -> Any:
    """Return what `module.path(*arguments)` returns, None where that is missing or fails."""
    function = find(module, path)
    if not callable(function):
        return None
    try:
        return function(*arguments)
    except Exception:  # noqa: BLE001 - a vendor's refusal has no type of its own, and means unknown
        return None


def said(answer: object) -> str:
    """Return an answer as text, `unknown` where there is none."""
    return UNKNOWN if answer is None or not str(answer).strip() else str(answer).strip()
