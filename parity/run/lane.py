"""One device's children, one after another, and what each loss of one costs.

A child that dies or hangs costs the case and step that its journal names. Does not choose which
case comes next; `pool` does.
"""

from __future__ import annotations

import math
import selectors
import time
from collections import deque
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from parity.case.case import Case
from parity.case.ids import CaseId
from parity.run.child import Child, Job
from parity.run.journal import Entry, Phase
from parity.run.partial import partial
from parity.run.subject import are_apart
from parity.run.wire import Event, News, Task
from parity.store.arrow import write
from parity.store.folder import recording_path
from parity.store.recording import Environment, Failure, FailureKind

__all__ = ["EXIT_GRACE_S", "Finished", "Lane", "Limits", "Lost", "State"]

Lost = dict[CaseId, dict[str, Failure]]  # of each case, the steps that ended a process

_HOST_LIMIT_S = 120.0  # for opening a device, and for the phases that are ours
_LOST_MOST = 8  # steps of one case that may each end a process before the case is given up
EXIT_GRACE_S = 5.0  # for a vendor's own clean-up when a child has nothing more to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One case, done. Either `path` holds its recording, or `not_run` says why there is none.

    `failure` and `step` say how and where its process was lost; its recording then begins there.
    A case that was not run blames no device: it is `unjudged`.
    """

    case: Case
    seconds: float
    path: Path | None = None
    failure: Failure | None = None
    step: str = ""
    not_run: str = ""

    def __post_init__(self) -> None:
        if (self.path is None) != bool(self.not_run):
            raise ValueError(f"{self.case.id}: either recorded or not run, with the reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds without progress after which a child counts as hung, in a step and compiling one."""

    run_s: float
    compile_s: float

    def of(self, phase: Phase) -> float:
        """Return the limit of a phase."""
        if phase is Phase.COMPILE:
            return self.compile_s
        return self.run_s if phase.is_device else max(self.run_s, _HOST_LIMIT_S)

    @property
    def least_s(self) -> float:
        """How often a working child's journal must be looked at."""
        return min(self.run_s, self.compile_s)


class State(Enum):
    """Where a lane stands."""

    OFF = "off"  # no child; the next starts at `start_at_s`
    OPENING = "opening"
    READY = "ready"
    GONE = "gone"  # for good: `reason`


class Lane:
    """Children that follow each other; at most one lives. `environment` is None until one opened."""

    def __init__(self, job: Job, *, limits: Limits, pause_s: float, lost: Lost | None = None) -> None:
        self.job = job
        self._lost: Lost = {} if lost is None else lost
        self.state = State.OFF
        self.start_at_s = 0.0
        self.environment: Environment | None = None
        self.held: deque[Case] = deque()  # given to the child, the first of them running
        self.reason = ""
        self._limits = limits
        self._pause_s = pause_s
        self._child: Child | None = None
        self._failures = 0  # children in a row that did not get as far as a case
        self._busy_since_s = 0.0
        self._look_at_s = math.inf  # when to look into the journal
        self._last_case = ""

    def start(self) -> None:
        """Start a child; it is ready when it says so."""
        self._child = Child(self.job)
        self.state, self.reason = State.OPENING, ""
        self._look_at_s = time.monotonic() + self._limits.least_s

    def give(self, case: Case, *, replay: str = "") -> None:
        """Hand a case to the child, behind those it holds; `replay` as in `Task`."""
        assert self._child is not None
        # A folder that is used again must not show an older recording of a case that is lost now.
        recording_path(self.job.folder, case.id).unlink(missing_ok=True)
        if not self.held:
            self._busy_since_s = time.monotonic()
            self._look_at_s = self._busy_since_s + self._limits.least_s
        self.held.append(case)
        lost = {step: (f.kind.value, f.text) for step, f in self._lost.get(case.id, {}).items()}
        self._child.send(Task(case=str(case.id), revision=case.revision, lost=lost, replay=replay))

    def watch(self, selector: selectors.BaseSelector) -> float:
        """Let a selector hear of the child, and return when to come back at the latest."""
        if self._child is not None:
            self._child.watch(selector)
        return self.start_at_s if self.state is State.OFF else self._look_at_s

    def attend(self) -> list[Finished]:
        """Take the child's news, and its end or silence where there is one."""
        if self._child is None:
            return []
        events, ended = self._child.events()
        finished = [done for event in events for done in self._hear(event)]
        if ended or any(event.news in {News.UNUSABLE, News.RETIRED} for event in events):
            retired = any(event.news is News.RETIRED for event in events)
            finished += self._lose(self._child, FailureKind.CRASHED, retired=retired)
        elif time.monotonic() >= self._look_at_s:
            finished += self._look(self._child)
        return finished

    def _hear(self, event: Event) -> list[Finished]:
        now = time.monotonic()
        if event.news is News.UNUSABLE:
            self.reason = event.text
        if event.news is News.READY:
            self.state, self.environment, self._look_at_s = State.READY, event.environment, math.inf
        if event.news not in {News.RECORDED, News.NOT_RUN}:
            return []
        case = self._take()
        assert str(case.id) == event.case, f"the child finished {event.case} and held {case.id}"
        self._busy_since_s = now
        self._look_at_s = now + self._limits.least_s if self.held else math.inf
        if event.news is News.NOT_RUN:
            return [Finished(case=case, seconds=event.seconds, not_run=event.text)]
        return [Finished(case=case, seconds=event.seconds, path=recording_path(self.job.folder, case.id))]

    def _take(self) -> Case:
        case = self.held.popleft()
        self._failures = 0
        self._last_case = str(case.id)
        return case

    def _look(self, child: Child) -> list[Finished]:
        now, entry = time.monotonic(), child.entry()
        limit_s = self._limits.of(entry.phase)
        due_s = max(entry.at_s, self._busy_since_s) + limit_s
        if now < due_s:
            self._look_at_s = min(due_s, now + self._limits.least_s)
            return []
        return self._lose(child, FailureKind.TIMED_OUT, how=f"no progress for {limit_s:g} s")

    def _lose(
        self, child: Child, kind: FailureKind, *, how: str = "", retired: bool = False
    ) -> list[Finished]:
        """End the child, blame what its journal names, and set up the lane for the next."""
        ending = child.end(grace_s=0.0 if how else EXIT_GRACE_S)
        entry = child.entry()
        words = child.last_words(entry)
        what = f"{how or ending} in {_place(entry)}" + (f"; last words: {words}" if words else "")
        opening, self._child, self.state = self.state is State.OPENING, None, State.OFF
        self.start_at_s, self._look_at_s = 0.0, math.inf
        if self.held and entry.case == str(self.held[0].id):
            return self._blame(entry, Failure(kind=kind, text=what))
        if not retired:
            self._did_not_come_up(self.reason if opening and self.reason else what)
        return []

    def _blame(self, entry: Entry, failure: Failure) -> list[Finished]:
        """Finish the case at the step that was lost, or keep it for another child without that step."""
        case, seconds = self._take(), time.monotonic() - self._busy_since_s
        if not entry.phase.is_device:
            return [Finished(case=case, seconds=seconds, not_run=failure.text)]
        before = self._lost.setdefault(case.id, {})
        if are_apart(case) and entry.step and len(before) < _LOST_MOST:
            before[entry.step] = failure
            self.held.appendleft(case)
            return []
        assert self.environment is not None
        path = recording_path(self.job.folder, case.id)
        write(partial(case, self.environment, step=entry.step, failure=failure, before=before), path)
        return [Finished(case=case, seconds=seconds, path=path, failure=failure, step=entry.step)]

    def _did_not_come_up(self, reason: str) -> None:
        self._failures += 1
        self.reason = reason
        self.start_at_s = time.monotonic() + self._pause_s
        # A device that never opened is not there; one that did may need a moment after a crash.
        if self.environment is None or self._failures > 1:
            self.state = State.GONE
            if self._last_case:
                self.reason = f"did not come back after {self._last_case}: {reason}"

    def finish(self) -> None:
        """Tell the child that nothing more comes."""
        if self._child is not None:
            self._child.finish()

    def end(self, *, grace_s: float = 0.0) -> None:
        """End the child, killing it when it takes longer than `grace_s`."""
        if self._child is not None:
            self._child.end(grace_s=grace_s)
            self._child = None


def _place(entry: Entry) -> str:
    return f"step '{entry.step}' (phase {entry.phase.value})" if entry.step else f"phase {entry.phase.value}"
