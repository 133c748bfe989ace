"""Replay on a backend in children: what a crash or a hang costs is the step that it happened in.

The next child carries on with the rest, as in a run. Does not judge.
"""

from __future__ import annotations

import dataclasses
import os
import selectors
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Case, Subject, SubjectKind
from parity.case.ids import CaseId
from parity.case.tensor import HostTensor
from parity.errors import BackendError
from parity.run.lane import EXIT_GRACE_S, Finished, Lane, Limits, State
from parity.run.pool import job
from parity.store import arrow
from parity.store.recording import Environment, Failure, FailureKind, Recording, StepRecord

__all__ = ["Replayer", "replaying"]

_LOSSES = 8  # processes that one replay may cost, each a pause and a start of the device
_BYTES = 1 << 28  # of inputs in one file: it is written, mapped and held by the child
_POLL_S = 0.05  # where the system cannot announce a child's end


@contextmanager
def replaying(
    spec: BackendSpec, setting: Setting, *, folder: Path, timeout_s: float = 60.0, pause_s: float = 5.0
) -> Iterator[Replayer]:
    """Yield a replayer whose child lives as long as the block. Raises BackendError as `run_cases` does."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    limits = Limits(run_s=timeout_s, compile_s=max(10 * timeout_s, 300.0))
    lane = Lane(job(spec, setting, folder, (), repeat=1, name="replay"), limits=limits, pause_s=pause_s)
    replayer = Replayer(lane)
    try:
        yield replayer
        lane.finish()
        lane.end(grace_s=EXIT_GRACE_S)
    finally:
        lane.end()


class Replayer:
    """Runs recorded steps on one backend, in one child after another. Made by `replaying`."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._number = 0

    def replay(self, recording: Recording) -> Recording:
        """Return what the backend makes of each step alone; `recording.tensors` holds what they consumed.

        A step that ended its process has a Failure, as in a run. Raises BackendError when the backend
        does not open, or could not be asked for a reason of ours, which the text names.
        """
        steps: dict[str, StepRecord] = {}
        tensors: dict[str, HostTensor] = {}
        losses = 0
        waiting = list(recording.steps)
        while waiting:
            part = _at_most(waiting, recording, budget=_BYTES)
            found, lost = self._ask(_of(part, recording))
            if found is not None:
                steps.update((step.name, step) for step in found.steps)
                tensors.update(found.tensors)
            if lost is not None:
                losses += 1
                steps[lost.name] = lost
            if losses > _LOSSES:
                words = f"not replayed: {losses} processes were lost before it"
                failure = Failure(kind=FailureKind.CRASHED, text=words)
                steps.update((s.name, _failed(s, failure)) for s in waiting if s.name not in steps)
            waiting = [step for step in waiting if step.name not in steps]
        environment = self._lane.environment
        assert environment is not None, "a backend that answered has opened"
        return _whole(recording, environment, steps, tensors)

    def _ask(self, recording: Recording) -> tuple[Recording | None, StepRecord | None]:
        """Return what came back of some steps, or the one that ended the process."""
        self._number += 1
        path = self._lane.job.folder / f"given-{self._number}.arrow"
        arrow.write(recording, path)
        try:
            done = self._run(_carrier(recording), path)
        finally:
            path.unlink(missing_ok=True)
        if done.path is None:
            raise BackendError(f"'{self._lane.job.spec}' could not replay {recording.case}: {done.not_run}")
        if done.failure is None:
            return arrow.read(done.path), None
        lost = next(step for step in recording.steps if step.name == done.step)
        return None, _failed(lost, done.failure)

    def _run(self, case: Case, path: Path) -> Finished:
        lane = self._lane
        while True:
            if lane.state is State.GONE:
                raise BackendError(f"'{lane.job.spec}' cannot be opened: {lane.reason}")
            if lane.state is State.OFF and time.monotonic() >= lane.start_at_s:
                lane.start()
            if lane.state is State.READY and not lane.held:
                lane.give(case, replay=str(path))
            with selectors.DefaultSelector() as selector:
                timeout_s = max(0.0, lane.watch(selector) - time.monotonic())
                selector.select(timeout_s if hasattr(os, "pidfd_open") else min(timeout_s, _POLL_S))
            finished = lane.attend()
            if finished:
                return finished[0]
            if lane.state in {State.OFF, State.GONE}:
                lane.held.clear()


def _carrier(recording: Recording) -> Case:
    # A lane asks a case for its id alone, and for steps, which a subject does not list.
    return Case(
        id=CaseId.parse(recording.case),
        inputs=(),
        subject=Subject(kind=SubjectKind.MODULE, options={}),
    )


def _at_most(steps: Sequence[StepRecord], recording: Recording, *, budget: int) -> list[StepRecord]:
    """Return the first steps whose inputs fit into one file, at least one."""
    part: list[StepRecord] = []
    held: set[str] = set()
    for step in steps:
        held |= {ref.digest for ref in step.inputs if ref is not None}
        if part and sum(recording.tensors[digest].nbytes for digest in held) > budget:
            break
        part.append(step)
    return part


def _of(steps: Sequence[StepRecord], recording: Recording) -> Recording:
    needed = {ref.digest for step in steps for ref in step.inputs if ref is not None}
    return Recording(
        case=recording.case,
        revision=recording.revision,
        environment=recording.environment,
        steps=tuple(dataclasses.replace(step, repeats=(), failure=None, seconds=None) for step in steps),
        tensors={digest: recording.tensors[digest] for digest in needed},
    )


def _failed(step: StepRecord, failure: Failure) -> StepRecord:
    return StepRecord(
        name=step.name, op=step.op, attrs=step.attrs, inputs=step.inputs, outputs=(), failure=failure
    )


def _whole(
    recording: Recording,
    environment: Environment,
    steps: dict[str, StepRecord],
    tensors: dict[str, HostTensor],
) -> Recording:
    return Recording(
        case=recording.case,
        revision=recording.revision,
        environment=environment,
        steps=tuple(steps[step.name] for step in recording.steps),
        tensors=tensors,
    )
