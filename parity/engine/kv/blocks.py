"""Who holds which page: reference counts, a prefix cache that verifies tokens, eviction by age.

A full page is known by its parent and its tokens themselves, not by a hash of them, so a hit is
exact and two contexts never share what they should not. Host only: knows no tensors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Blocks", "Held"]

_ROOT = 0
_Key = tuple[str, int, tuple[int, ...]]


@dataclass(slots=True)
class Held:
    """The pages that one request holds, in order; `chain` names those that are full and shared."""

    pages: list[int]
    chain: list[int]


class Blocks:
    """`pages` pages of `size` tokens each."""

    def __init__(self, pages: int, size: int) -> None:
        self.size = size
        self.count = pages
        self._references = [0] * pages
        self._free = list(range(pages - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # cached, held by nobody, oldest first
        self._index: dict[_Key, int] = {}
        self._keys: dict[int, _Key] = {}
        self._names: dict[int, int] = {}  # page -> a number that no other content ever has
        self._next = _ROOT + 1

    @property
    def available(self) -> int:
        """Pages that can be had: free ones, and cached ones that nobody holds."""
        return len(self._free) + len(self._idle)

    def match(self, tokens: Sequence[int], domain: str) -> Held:
        """Hold the longest cached run of full pages that begins `tokens`, but never all of them.

        One token at least must be computed, or there would be no scores to go on from.
        """
        held = Held([], [])
        parent = _ROOT
        for start in range(0, (len(tokens) - 1) // self.size * self.size, self.size):
            page = self._index.get((domain, parent, tuple(tokens[start : start + self.size])))
            if page is None:
                break
            self._hold(page)
            parent = self._names[page]
            held.pages.append(page)
            held.chain.append(parent)
        return held

    def grow(self, held: Held, tokens: int) -> bool:
        """Hold as many pages as `tokens` need, or change nothing and return False."""
        more = -(-tokens // self.size) - len(held.pages)
        if more > self.available:
            return False
        for _ in range(more):
            page = self._take()
            self._references[page] = 1
            held.pages.append(page)
        return True

    def publish(self, held: Held, tokens: Sequence[int], domain: str) -> None:
        """Let the pages that `tokens`, all of them computed, fill be found by others."""
        for number in range(len(held.chain), len(tokens) // self.size):
            page = held.pages[number]
            parent = held.chain[-1] if held.chain else _ROOT
            key = (domain, parent, tuple(tokens[number * self.size : (number + 1) * self.size]))
            twin = self._index.get(key)
            if twin is None:
                self._index[key], self._keys[page], self._names[page] = page, key, self._next
                self._next += 1
                twin = page
            held.chain.append(self._names[twin])

    def release(self, held: Held) -> None:
        """Give all pages back; what is cached in them stays until the room is needed."""
        for page in reversed(held.pages):  # the end of a chain is worth least
            self._references[page] -= 1
            if self._references[page] == 0:
                if page in self._keys:
                    self._idle[page] = None
                else:
                    self._free.append(page)
        held.pages, held.chain = [], []

    def slots(self, held: Held, tokens: int) -> list[int]:
        """Return the slot of each of the first `tokens` positions."""
        size = self.size
        pages = held.pages[: -(-tokens // size)]
        return [page * size + offset for page in pages for offset in range(size)][:tokens]

    def check(self, holders: Iterable[Held]) -> None:
        """Raise AssertionError unless every page is free, idle or held exactly as often as it is counted."""
        counted = [0] * self.count
        for held in holders:
            if len(set(held.pages)) != len(held.pages):
                raise AssertionError(f"a request holds a page twice: {held.pages}")
            for page in held.pages:
                counted[page] += 1
        if counted != self._references:
            wrong = next(p for p in range(self.count) if counted[p] != self._references[p])
            raise AssertionError(
                f"page {wrong} is counted {self._references[wrong]} times and held {counted[wrong]} times"
            )
        spare = [*self._free, *self._idle]
        if sorted(spare) != [page for page in range(self.count) if not counted[page]]:
            raise AssertionError("free and cached pages are not those that nobody holds")
        if any(self._index.get(key) != page for page, key in self._keys.items()):
            raise AssertionError("a cached page is not found under its own tokens")

    def _hold(self, page: int) -> None:
        self._references[page] += 1
        self._idle.pop(page, None)

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        page, _ = self._idle.popitem(last=False)
        del self._index[self._keys.pop(page)]
        del self._names[page]
        return page
