"""Run the probes of one backend in children: what a crash, a hang or an error costs is that probe.

The next child carries on with the rest. Reads nothing out of the facts but whether they agree
with what is declared.
"""

from __future__ import annotations

import os
import selectors
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from parity.backend.arithmetic import differences
from parity.backend.probe import DECLARED, PROBES, Evidence
from parity.backend.spec import BackendSpec, Setting
from parity.errors import BackendError
from parity.run.child import Child, Job
from parity.run.lane import EXIT_GRACE_S, Limits
from parity.run.pool import job
from parity.run.wire import Event, News, Task
from parity.store.recording import Environment

__all__ = ["Probed", "run_probes"]

_POLL_S = 0.05  # where the system cannot announce a child's end


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What a backend declares and what was found of it, by fact; what was not found, with the reason."""

    environment: Environment
    declared: Mapping[str, str]
    known: Mapping[str, str]
    unknown: Mapping[str, str]
    seconds: float

    def findings(self) -> list[tuple[str, str, str]]:
        """Return (fact, declared, probed) wherever the two disagree."""
        return differences(self.declared, self.known)

    def provenance(self) -> dict[str, str]:
        """Return what was found as facts of a golden set."""
        return {f"probe.{fact}": value for fact, value in self.known.items()}

    @property
    def exit_code(self) -> int:
        """1 when a declaration is contradicted; else 3 when nothing could be found, else 0."""
        return 1 if self.findings() else 0 if self.known else 3


def run_probes(
    spec: BackendSpec,
    setting: Setting,
    *,
    folder: Path,
    timeout_s: float = 60.0,
    names: Sequence[str] = tuple(PROBES),
    pause_s: float = 5.0,
) -> Probed:
    """Run probes, each limited to `timeout_s` without progress; logs and journal lie in `folder`.

    After a crash, a device that does not open again is tried once more after `pause_s`. Raises
    BackendError when the backend cannot be used here or never opens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    limits = Limits(run_s=timeout_s, compile_s=max(10 * timeout_s, 300.0))
    asked = _Interview(job(spec, setting, folder.resolve(), (), repeat=1, name="probe"), names, limits)
    asked.run(pause_s=pause_s)
    assert asked.environment is not None
    return Probed(
        environment=asked.environment,
        declared=asked.declared,
        known=asked.known,
        unknown=asked.unknown,
        seconds=time.monotonic() - began,
    )


class _Interview:
    """Children that follow each other until every probe has an answer or a reason."""

    def __init__(self, job: Job, names: Sequence[str], limits: Limits) -> None:
        self.environment: Environment | None = None
        self.declared: dict[str, str] = {}
        self.known: dict[str, str] = {}
        self.unknown: dict[str, str] = {}
        self._job = job
        self._limits = limits
        self._waiting = deque([DECLARED, *names])
        self._reason = ""  # why the latest child did not open
        self._failures = 0  # children in a row that answered nothing
        self._retired = False

    def run(self, *, pause_s: float) -> None:
        """Ask until nothing waits."""
        while self._waiting:
            if self._failures:
                time.sleep(pause_s)
            child = Child(self._job)
            how = "interrupted"
            try:
                for name in self._waiting:
                    child.send(Task(probe=name))
                child.finish()
                how = self._listen(child)
            finally:
                ending = child.end(grace_s=0.0 if how else EXIT_GRACE_S)
            if self._waiting:
                self._lose(child, how or ending)

    def _listen(self, child: Child) -> str:
        """Hear a child until it has ended or all is answered; returns why it must be ended, if so."""
        self._retired = False
        while True:
            entry = child.entry()
            limit_s = self._limits.of(entry.phase)
            left_s = max(entry.at_s, child.started_s) + limit_s - time.monotonic()
            if left_s <= 0:
                return f"no progress for {limit_s:g} s"
            with selectors.DefaultSelector() as selector:
                child.watch(selector)
                selector.select(left_s if hasattr(os, "pidfd_open") else min(left_s, _POLL_S))
            events, ended = child.events()
            for event in events:
                self._hear(event)
            if ended or self._retired or not self._waiting:
                return ""

    def _hear(self, event: Event) -> None:
        if event.news is News.READY:
            self.environment = event.environment
        elif event.news is News.UNUSABLE:
            self._reason, self._retired = event.text, True
        elif event.news is News.RETIRED:
            self._retired = True
        elif event.news is News.PROBED and event.evidence is not None:
            self._take(event.evidence)

    def _take(self, found: Evidence) -> None:
        name = self._waiting.popleft()
        self._failures, self._reason = 0, ""
        (self.declared if name == DECLARED else self.known).update(found.known)
        self.unknown.update(found.unknown)

    def _lose(self, child: Child, how: str) -> None:
        """Blame the probe that the journal names, or give up on a device that opens no more."""
        entry = child.entry()
        words = child.last_words(entry)
        what = how + (f"; last words: {words}" if words else "")
        if entry.step == self._waiting[0] and entry.phase.is_device:
            self._take(Evidence(unknown=dict.fromkeys(_facts(entry.step), what)))
            return
        if self._retired and not self._reason:
            return
        self._failures += 1
        reason = self._reason or f"{what} in phase {entry.phase.value}"
        if self.environment is None:
            raise BackendError(f"'{self._job.spec}' cannot be opened: {reason}")
        if self._failures > 1:
            lost = {
                fact: f"the device did not come back: {reason}" for n in self._waiting for fact in _facts(n)
            }
            self.unknown.update(lost)
            self._waiting.clear()


def _facts(name: str) -> tuple[str, ...]:
    return PROBES[name].facts if name in PROBES else (name,)
