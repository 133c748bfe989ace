"""Who runs in the next step, and with how many tokens: one loop over one queue.

A step takes up to `budget` tokens from requests in order of priority, then arrival: decodes,
prefill chunks and resumed requests alike. When pages run out, the last in that order gives its
own back and is computed again later. The same queue gives the same plan. Runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from parity.engine.kv.blocks import Blocks
from parity.engine.run.batch import Run
from parity.engine.sched.request import Finish, Request
from parity.errors import UsageError

__all__ = ["Limits", "Planned", "Scheduler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`budget` tokens a step, `requests` at a time, `chunk` tokens of one request a step.

    `static` lets nobody in before all that run have ended, as a baseline.
    """

    budget: int = 512
    requests: int = 64
    chunk: int = 512
    positions: int = 2**31
    static: bool = False
    prefix_cache: bool = True

    def __post_init__(self) -> None:
        for name in ("budget", "requests", "chunk", "positions"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"{name} must be 1 or more, or nothing would ever run; got {getattr(self, name)}"
                )


@dataclass(frozen=True, slots=True)
class Planned:
    """A request and its part of the step."""

    request: Request
    run: Run


class Scheduler:
    """Requests that wait and that run, over the pages of `blocks`."""

    def __init__(self, blocks: Blocks, limits: Limits) -> None:
        self.blocks = blocks
        self.limits = limits
        self.waiting: list[Request] = []
        self.running: list[Request] = []

    def add(self, request: Request) -> None:
        """Queue a request. Raises UsageError with the arithmetic for one that can never fit."""
        if not request.prompt:
            raise UsageError("an empty prompt has no token to go on from; begin with the start token")
        most = len(request.prompt) + max(request.params.max_tokens, 1) - 1
        room = self.blocks.count * self.blocks.size
        pages = f"{self.blocks.count} pages of {self.blocks.size} tokens hold"
        for limit, what in ((room, pages), (self.limits.positions, "the model was made for")):
            if most > limit:
                raise UsageError(
                    f"a prompt of {len(request.prompt):,} tokens and up to "
                    f"{request.params.max_tokens:,} more need {most:,} positions, but {what} {limit:,}; "
                    "shorten it or make room"
                )
        self.waiting.append(request)
        self._sort()

    def plan(self) -> list[Planned]:
        """Return the next step, its pages held; empty when there is nothing to do."""
        planned: list[Planned] = []
        left = self.limits.budget
        admitting = not (self.limits.static and self.running)
        # Who is preempted stands behind the one it is preempted for, so it is never planned already.
        for request in sorted((*self.running, *self.waiting), key=_order):
            if not left:
                break
            if request in self.running:
                run = self._part(request, left)
            else:
                run = self._admit(request, left) if admitting else None
            if run is None:
                admitting = False  # in order: nobody overtakes one that needs more room
            else:
                planned.append(Planned(request, run))
                left -= len(run.tokens)
        return planned

    def _admit(self, request: Request, left: int) -> Run | None:
        if self.limits.prefix_cache and not request.score_all:
            request.held = self.blocks.match(request.tokens, request.domain)
            request.computed = request.cached = len(request.held.pages) * self.blocks.size
        size = min(request.length - request.computed, left, self.limits.chunk)
        if not self._room(request, request.computed + size):
            self.blocks.release(request.held)
            request.computed = request.cached = 0
            return None
        self.waiting.remove(request)
        self.running.append(request)
        self._sort()
        return self._run(request, size)

    def _room(self, request: Request, tokens: int) -> bool:
        """Make a place and pages for a request that comes in, if need be of those of lower priority."""
        while len(self.running) >= self.limits.requests or not self.blocks.grow(request.held, tokens):
            if not self.running or self.running[-1].priority <= request.priority:
                return False
            self._preempt(self.running[-1])
        return True

    def _part(self, request: Request, left: int) -> Run | None:
        size = min(request.length - request.computed, left, self.limits.chunk)
        while not self.blocks.grow(request.held, request.computed + size):
            last = self.running[-1]
            self._preempt(last)
            if last is request:
                return None
        return self._run(request, size)

    def _run(self, request: Request, size: int) -> Run:
        end = request.computed + size
        wanted = size if request.score_all else int(end == request.length)
        return Run(
            tokens=request.tokens[request.computed : end],
            context=request.computed,
            slots=self.blocks.slots(request.held, end),
            logits=wanted,
        )

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self.blocks.release(request.held)
        request.computed = 0
        request.logits.clear()
        request.preempted += 1
        self.waiting.append(request)
        self._sort()

    def done(self, planned: Planned) -> None:
        """Note that a part was computed; its full pages may now be found by others."""
        request = planned.request
        request.computed = planned.run.context + len(planned.run.tokens)
        if self.limits.prefix_cache:
            self.blocks.publish(request.held, request.tokens[: request.computed], request.domain)

    def check(self) -> None:
        """Raise AssertionError unless every page is accounted for."""
        self.blocks.check(request.held for request in (*self.running, *self.waiting))

    def end(self, request: Request, why: Finish) -> None:
        """End a request and free its pages; others do not notice."""
        for queue in (self.running, self.waiting):
            if request in queue:
                queue.remove(request)
        self.blocks.release(request.held)
        request.finish = why

    def _sort(self) -> None:
        self.waiting.sort(key=_order)
        self.running.sort(key=_order)


def _order(request: Request) -> tuple[int, int]:
    return request.priority, request.id
