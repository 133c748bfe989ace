"""What several parts of a document share: written once in a list, and named by its number in it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from parity.store.fields import Field

__all__ = ["Numbered", "Numbers"]

_H = TypeVar("_H", bound=Hashable)
_T = TypeVar("_T")


class Numbers(Generic[_H]):
    """Numbers values as they are first asked for; iterating gives them in that order."""

    def __init__(self) -> None:
        self._number: dict[_H, int] = {}

    def __getitem__(self, value: _H) -> int:
        return self._number.setdefault(value, len(self._number))

    def __iter__(self) -> Iterator[_H]:
        return iter(self._number)

    def of(self, values: Iterable[_H]) -> list[int]:
        """Return the numbers of several values."""
        return [self[value] for value in values]


class Numbered(Generic[_T]):
    """The list of a document that `read` makes values of, and which of them were named.

    Raises GoldenError for a number that is none of the list, and for a value that nothing names.
    """

    def __init__(self, field: Field, read: Callable[[Field], _T]) -> None:
        self._fields = field.items()
        self._values = [read(each) for each in self._fields]
        self._named: set[int] = set()

    def __getitem__(self, field: Field) -> _T:
        number = field.integer()
        if number >= len(self._values):
            field.fail(f"a number below {len(self._values)}")
        self._named.add(number)
        return self._values[number]

    def of(self, field: Field) -> tuple[_T, ...]:
        """Return the values that a list of numbers names."""
        return tuple(self[number] for number in field.items())

    def check_all_named(self) -> None:
        """Raise unless each value of the list was named."""
        for number, field in enumerate(self._fields):
            if number not in self._named:
                field.fail("in use")
