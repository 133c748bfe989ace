"""Run cases in children, one lane for each device or job, and report every case exactly once.

Does not look into recordings; `judge` does.
"""

from __future__ import annotations

import dataclasses
import os
import selectors
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Case
from parity.errors import BackendError
from parity.run.child import Job
from parity.run.environment import child_environ
from parity.run.lane import EXIT_GRACE_S, Finished, Lane, Limits, Lost, State
from parity.store.folder import recording_path

__all__ = ["Finished", "job", "run_cases"]

_AHEAD = 4  # cases a child holds: the one that runs, and some so that it never waits for the next
_POLL_S = 0.05  # where the system cannot announce a child's end


def run_cases(
    cases: Sequence[Case],
    spec: BackendSpec,
    setting: Setting,
    *,
    folder: Path,
    case_folders: Sequence[Path],
    jobs: int = 1,
    timeout_s: float = 60.0,
    compile_timeout_s: float | None = None,
    repeat: int = 1,
    pause_s: float = 5.0,
) -> Iterator[Finished]:
    """Yield each case as it is done, in the order of completion; recordings lie below `folder`.

    `spec` with several indices gets one child for each, whatever `jobs` says. `timeout_s` is for
    one step without progress, and ten times as much, at least 300 s, for compiling one. After a
    crash, a device that does not open again is tried once more after `pause_s`. Raises
    BackendError when it cannot be used here or never opens. Closing the iterator ends every child.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    compile_s = max(10 * timeout_s, 300.0) if compile_timeout_s is None else compile_timeout_s
    limits = Limits(run_s=timeout_s, compile_s=compile_s)
    specs = [dataclasses.replace(spec, index=(i,)) for i in spec.index] or [spec] * max(jobs, 1)
    lost: Lost = {}  # whichever lane runs a case again must know
    lanes = [
        Lane(
            job(each, setting, folder, case_folders, repeat=repeat, name=f"worker-{number}"),
            limits=limits,
            pause_s=pause_s,
            lost=lost,
        )
        for number, each in enumerate(specs[: len(cases)])
    ]
    try:
        yield from _run(deque(cases), lanes, all_needed=bool(spec.index))
        for lane in lanes:
            lane.finish()
        for lane in lanes:
            lane.end(grace_s=EXIT_GRACE_S)
    finally:
        for lane in lanes:
            lane.end()


def job(
    spec: BackendSpec,
    setting: Setting,
    folder: Path,
    case_folders: Sequence[Path],
    *,
    repeat: int,
    name: str,
) -> Job:
    """Return what children of a backend are started with. Raises BackendError where it cannot be used."""
    backend = create(spec, setting)
    state = backend.available()
    if not state.ok:
        hint = f"; {state.hint}" if state.hint else ""
        raise BackendError(f"'{spec}' cannot be used here: {state.reason}{hint}")
    return Job(
        spec=str(spec),
        setting=setting.value,
        case_folders=tuple(Path(each).resolve() for each in case_folders),
        folder=folder,
        repeat=repeat,
        environ=child_environ(backend.env()),
        name=name,
    )


def _run(waiting: deque[Case], lanes: Sequence[Lane], *, all_needed: bool) -> Iterator[Finished]:
    while waiting or any(lane.held for lane in lanes):
        _check_opened(lanes, all_needed=all_needed)
        if all(lane.state is State.GONE for lane in lanes):
            for case in waiting:
                recording_path(lanes[0].job.folder, case.id).unlink(missing_ok=True)
                yield Finished(case=case, seconds=0.0, not_run=_why_gone(lanes))
            return
        for lane in lanes:
            _feed(lane, waiting, lanes=len(lanes))
        _wait(lanes, waiting)
        for lane in lanes:
            yield from lane.attend()
            if lane.state in {State.OFF, State.GONE}:
                waiting.extendleft(reversed(lane.held))
                lane.held.clear()


def _check_opened(lanes: Sequence[Lane], *, all_needed: bool) -> None:
    """Raise BackendError for a device that was named and never opened.

    Without indices all lanes share one device, and one that admits fewer children is no error.
    """
    never = [lane for lane in lanes if lane.state is State.GONE and lane.environment is None]
    if never and (all_needed or len(never) == len(lanes)):
        raise BackendError(f"'{never[0].job.spec}' cannot be opened: {never[0].reason}")


def _why_gone(lanes: Sequence[Lane]) -> str:
    return "; ".join(f"{lane.job.spec} {lane.reason}" for lane in lanes if lane.environment is not None)


def _feed(lane: Lane, waiting: deque[Case], *, lanes: int) -> None:
    if lane.state is State.OFF and waiting and time.monotonic() >= lane.start_at_s:
        lane.start()
    # Towards the end nothing is held back behind a slow case while another lane is idle.
    ahead = min(_AHEAD, max(1, len(waiting) // lanes))
    while lane.state is State.READY and waiting and len(lane.held) < ahead:
        lane.give(waiting.popleft())


def _wait(lanes: Sequence[Lane], waiting: deque[Case]) -> None:
    """Sleep until a child has news or ends, or a lane is due."""
    with selectors.DefaultSelector() as selector:
        # A lane that is off comes back only for a case.
        idle = {State.GONE} if waiting else {State.GONE, State.OFF}
        due_s = [lane.watch(selector) for lane in lanes if lane.state not in idle]
        timeout_s = max(0.0, min(due_s, default=0.0) - time.monotonic())
        selector.select(timeout_s if hasattr(os, "pidfd_open") else min(timeout_s, _POLL_S))
