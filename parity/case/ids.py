"""Case ids and selectors: `suite/test:param=value,param=value`.

No brackets, stars or quotes, so a shell never mangles one. Does not know which cases exist;
`catalog` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from parity.errors import UsageError

__all__ = ["CaseId", "Selector"]

_WORD = re.compile(r"[A-Za-z0-9._+-]+")


@dataclass(frozen=True, slots=True, order=True)
class CaseId:
    """`path` is `suite/test` (the test may hold more slashes); `params` are sorted by name."""

    path: str
    params: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        _check_path(self.path, text=str(self))
        names = [name for name, _ in self.params]
        if names != sorted(set(names)):
            raise UsageError(f"'{self}': parameters must be sorted by name and named once")
        for name, value in self.params:
            if not _WORD.fullmatch(name) or not _WORD.fullmatch(value):
                raise UsageError(f"'{self}': '{name}={value}' may hold only letters, digits and ._+-")

    @classmethod
    def of(cls, path: str, params: Mapping[str, str]) -> CaseId:
        """Build an id from parameters in any order."""
        return cls(path, tuple(sorted(params.items())))

    @classmethod
    def parse(cls, text: str) -> CaseId:
        """Read an id. Raises UsageError for anything that is not exactly one."""
        path, params = _split(text)
        return cls(path, params)

    def __str__(self) -> str:
        if not self.params:
            return self.path
        return f"{self.path}:{','.join(f'{name}={value}' for name, value in self.params)}"

    @property
    def file_name(self) -> str:
        """The parameters as a file stem; `default` when there are none."""
        return ",".join(f"{name}={value}" for name, value in self.params) or "default"


@dataclass(frozen=True, slots=True)
class Selector:
    """A path prefix that ends at a `/` or `:` boundary, and a subset of parameters."""

    path: str
    params: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Read a selector: an id, a part of one, or a path with a trailing slash."""
        path, params = _split(text)
        path = path.rstrip("/")
        _check_path(path, text=text)
        return cls(path, params)

    def __str__(self) -> str:
        return str(CaseId(self.path, tuple(sorted(self.params))))

    def matches_path(self, path: str) -> bool:
        """Whether a `suite/test` path lies under this selector's path."""
        return path == self.path or path.startswith(self.path + "/")

    def matches(self, case: CaseId) -> bool:
        """Whether a case lies under the path and has every named parameter value."""
        return self.matches_path(case.path) and set(self.params) <= set(case.params)


def _split(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    path, colon, rest = text.partition(":")
    if not colon:
        return path, ()
    params = []
    for item in rest.split(","):
        name, equals, value = item.partition("=")
        if not equals or not _WORD.fullmatch(name) or not _WORD.fullmatch(value):
            raise UsageError(f"'{text}': expected param=value after ':', got '{item}'")
        params.append((name, value))
    return path, tuple(params)


def _check_path(path: str, *, text: str) -> None:
    # `.` and `..` are refused because an id also names a file below a store.
    if not all(_WORD.fullmatch(part) and part.strip(".") for part in path.split("/")):
        raise UsageError(f"'{text}' is not a case or selector: expected suite/test:param=value,param=value")
