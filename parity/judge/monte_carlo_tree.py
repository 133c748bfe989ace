"""The values in an operation's arguments and results, which are flat or hold lists, tuples and dicts.

torch's own functions for that take any object apart, and cost as much as the operation itself. Named
results become plain tuples: they are read by place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["leaves", "mapped"]

_HOLDERS = (tuple, list, dict)


def leaves(value: Any) -> list[Any]:
    """Return the values in lists, tuples and dicts, in order; None counts as none."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if not isinstance(value, (tuple, list)):
        return [] if value is None else [value]
    found = []
    for item in value:
        if isinstance(item, _HOLDERS):
            found += leaves(item)
        elif item is not None:
            found.append(item)
    return found


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Return the same lists, tuples and dicts with every other value changed."""
    if isinstance(value, tuple):
        return tuple([mapped(change, item) if isinstance(item, _HOLDERS) else change(item) for item in value])
    if isinstance(value, list):
        return [mapped(change, item) for item in value]
    if isinstance(value, dict):
        return {key: mapped(change, item) for key, item in value.items()}
    return change(value)
