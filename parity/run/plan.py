"""Which steps an engine takes in a case: requests, their tokens, and in which slots their keys lie.

    prefill:64           one request of 64 tokens, scores of the last
    score:128            the same with the scores of every position
    decode:64+8          64 tokens at once, then 8 steps of one token; scores of each step
    mixed:p24,c8+16,d12  all in one step: a prompt of 24, a chunk of 16 behind 8 cached, one token
                         behind 12; a step before it fills the cache

Tokens are given (teacher-forced), and pages are handed out in an order that follows from the case's
name, so that two runs do the same. Does not choose tokens; `sched` serves real requests.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parity.case.draw import words
from parity.engine.run.batch import Run
from parity.errors import UsageError

__all__ = ["PAGE", "Plan", "Span", "read_plan"]

PAGE = 8  # slots of a page: small, so that short cases cross pages
_SPARE = 3  # pages that nobody holds
_WHOLE = re.compile(r"(prefill|score):([1-9]\d*)")
_DECODE = re.compile(r"decode:([1-9]\d*)\+([1-9]\d*)")
_PART = re.compile(r"([pd])([1-9]\d*)|c([1-9]\d*)\+([1-9]\d*)")


@dataclass(frozen=True, slots=True)
class Span:
    """A request's part of a step: `length` tokens behind `context`, scores of the last `logits`."""

    request: int
    context: int
    length: int
    logits: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps of spans."""

    steps: tuple[tuple[Span, ...], ...]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each request."""
        ends: dict[int, int] = {}
        for span in itertools.chain.from_iterable(self.steps):
            ends[span.request] = max(ends.get(span.request, 0), span.context + span.length)
        return [ends[request] for request in sorted(ends)]

    @property
    def slots(self) -> int:
        """Slots of the pool: whole pages, and some that stay free."""
        return PAGE * (sum(-(-n // PAGE) for n in self.lengths) + _SPARE)

    def runs(self, tokens: Sequence[int], *, key: str) -> list[list[Run]]:
        """Return each step's runs; requests take `tokens` in turn, and `key` decides on the pages.

        Raises UsageError unless there are as many tokens as the plan needs.
        """
        lengths = self.lengths
        if len(tokens) != sum(lengths):
            raise UsageError(f"the plan needs {sum(lengths)} tokens, the case has {len(tokens)}")
        order = iter(np.argsort(words(key, "pages", self.slots // PAGE), kind="stable").tolist())
        texts, slots, start = [], [], 0
        for length in lengths:
            texts.append(list(tokens[start : start + length]))
            pages = itertools.islice(order, -(-length // PAGE))
            slots.append([page * PAGE + place for page in pages for place in range(PAGE)][:length])
            start += length

        def run(span: Span) -> Run:
            end = span.context + span.length
            return Run(
                tokens=texts[span.request][span.context : end],
                context=span.context,
                slots=slots[span.request][:end],
                logits=span.logits,
            )

        return [[run(span) for span in step] for step in self.steps]


def read_plan(text: str) -> Plan:
    """Read a plan. Raises UsageError that shows what can be written."""
    if match := _WHOLE.fullmatch(text):
        length = int(match[2])
        return Plan(((Span(0, 0, length, length if match[1] == "score" else 1),),))
    if match := _DECODE.fullmatch(text):
        context, count = int(match[1]), int(match[2])
        singles = ((Span(0, context + number, 1, 1),) for number in range(count))
        return Plan(((Span(0, 0, context, 1),), *singles))
    kind, _, rest = text.partition(":")
    parts = [_PART.fullmatch(part) for part in rest.split(",")]
    if kind != "mixed" or not all(parts):
        raise UsageError(
            f"'{text}' is not a plan: write prefill:64, score:128, decode:64+8 or mixed:p24,c8+16,d12"
        )
    return _mixed([_span(number, part) for number, part in enumerate(parts) if part])


def _span(number: int, part: re.Match[str]) -> Span:
    match part[1]:
        case "p":
            return Span(number, 0, int(part[2]), 1)
        case "d":
            return Span(number, int(part[2]), 1, 1)
        case _:
            return Span(number, int(part[3]), int(part[4]), 1)


def _mixed(spans: Sequence[Span]) -> Plan:
    cached = tuple(Span(s.request, 0, s.context, 1) for s in spans if s.context)
    return Plan((cached, tuple(spans)) if cached else (tuple(spans),))
