"""Typed access to parsed JSON and TOML that somebody else may have written.

Every accessor returns the value at its exact type or raises a GoldenError that names the file,
the field, the value and the repair. Does not know any format; `schema` and `manifest` do.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar, cast

from parity.errors import GoldenError

__all__ = ["Field"]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_E = TypeVar("_E", bound=Enum)


class Field:
    """One value inside a document. Its name is built only when there is something to report."""

    __slots__ = ("_file", "_key", "_parent", "_repair", "value")

    def __init__(
        self,
        value: Any,
        *,
        file: Path,
        repair: str,
        key: str | int = "",
        parent: Field | None = None,
    ) -> None:
        self.value = value
        self._file = file
        self._repair = repair
        self._key = key
        self._parent = parent

    @property
    def name(self) -> str:
        """The path to this value, such as `steps[3].outputs[0].shape`."""
        above = self._parent.name if self._parent else ""
        if isinstance(self._key, int):
            return f"{above}[{self._key}]"
        return f"{above}.{self._key}" if above else self._key

    def fail(self, expected: str) -> NoReturn:
        """Raise that this value is not `expected`."""
        subject = f"field '{self.name}'" if self._parent else "the document"
        self._refuse(f"{subject} must be {expected}, got {_shown(self.value)}")

    def _refuse(self, what: str) -> NoReturn:
        raise GoldenError(f"{self._file}: {what}. {self._repair}")

    def _child(self, value: Any, key: str | int) -> Field:
        return Field(value, file=self._file, repair=self._repair, key=key, parent=self)

    def mapping(self) -> dict[str, Field]:
        """Return the fields of an object with any names."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        return {key: self._child(value, key) for key, value in self.value.items()}

    def record(self, *names: str, optional: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Field]:
        """Return the fields of an object that has exactly these names; an `optional` one has a default."""
        fields = self.mapping()
        for name in optional:
            fields.setdefault(name, self._child(optional[name], name))
        for name in names:
            if name not in fields:
                self._refuse(f"field '{self._child(None, name).name}' is missing")
        for name in fields:
            if name not in names and name not in optional:
                self._refuse(f"field '{fields[name].name}' is unknown")
        return fields

    def items(self) -> list[Field]:
        """Return the elements of a list."""
        if not isinstance(self.value, list):
            self.fail("a list")
        return [self._child(value, i) for i, value in enumerate(self.value)]

    def text(self) -> str:
        """Return a string."""
        if not isinstance(self.value, str):
            self.fail("a string")
        return self.value

    def integer(self, *, minimum: int = 0) -> int:
        """Return an integer, which a boolean is not."""
        if type(self.value) is not int or self.value < minimum:
            self.fail(f"an integer >= {minimum}")
        return self.value

    def boolean(self) -> bool:
        """Return true or false."""
        if not isinstance(self.value, bool):
            self.fail("true or false")
        return self.value

    def number(self) -> float:
        """Return a finite number >= 0, an integer as it stands."""
        if type(self.value) not in (int, float) or not math.isfinite(self.value) or self.value < 0:
            self.fail("a finite number >= 0")
        return cast("float", self.value)

    def choice(self, enum: type[_E]) -> _E:
        """Return the member of `enum` with this value."""
        try:
            return enum(self.value)
        except ValueError:
            self.fail("one of " + ", ".join(repr(member.value) for member in enum))

    def digest(self) -> str:
        """Return a string of the form `sha256:` and 64 hexadecimal digits."""
        if not isinstance(self.value, str) or not _DIGEST.fullmatch(self.value):
            self.fail("'sha256:' and 64 hexadecimal digits")
        return self.value


def _shown(value: Any) -> str:
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    short.maxlevel = 1
    return short.repr(value)
