"""The child's side: open one backend, run the cases and probes that arrive on stdin, tell of them.

Everything that a device does wrong ends in a recording, or ends this process and is pinned by
its journal. What goes wrong in a case file or in our own code is reported as such. Started by
`child`, not by hand.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Container
from pathlib import Path
from typing import BinaryIO

from parity.backend.base import Backend
from parity.backend.probe import DECLARED, declaration, evidence
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Case
from parity.case.catalog import Catalog
from parity.case.ids import CaseId
from parity.errors import ParityError, UsageError
from parity.run.environment import environment
from parity.run.journal import Journal, Phase
from parity.run.passes import Phased, responds
from parity.run.recorder import record
from parity.run.replay import replay
from parity.run.wire import Event, News, Orders, Task
from parity.store.arrow import read, write
from parity.store.folder import recording_path
from parity.store.recording import Environment, Failure, FailureKind, Recording

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run until stdin ends, the device is lost or the pool is gone."""
    commands = _private_stdin()
    line = commands.readline()
    if not line:
        return
    orders = Orders.decode(line)
    _end_with(orders.parent)
    journal = Journal(Path(orders.journal))
    journal.enter(Phase.OPEN)

    def tell(event: Event) -> None:
        os.write(orders.event_fd, event.encode(orders.token))

    try:
        catalog = Catalog.load([Path(folder) for folder in orders.case_folders])
        backend = create(BackendSpec.parse(orders.spec), Setting(orders.setting))
        backend.open()
        opened = environment(backend)
    except Exception as error:  # noqa: BLE001  # an SDK may raise anything, and each is a reason
        traceback.print_exc()
        # The launcher puts the same words before whatever any backend says.
        said = _reason(error).removeprefix(f"'{orders.spec}' cannot be opened: ")
        tell(Event(news=News.UNUSABLE, text=said))
        return
    journal.enter(Phase.IDLE)
    tell(Event(news=News.READY, environment=opened))
    _serve(commands, orders, catalog, backend, opened, journal, tell)


def _private_stdin() -> BinaryIO:
    # A vendor library that reads stdin must not eat the tasks.
    commands = os.fdopen(os.dup(0), "rb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return commands


def _end_with(parent: int) -> None:
    """Die when the pool does, even inside a hung kernel; the end of stdin serves elsewhere.

    Linux sends the signal when the pool's *thread* ends: a pool is used by the thread that made it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the pool is gone")


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ParityError) else f"{type(error).__name__}: {error}".strip(": ")


def _serve(
    commands: BinaryIO,
    orders: Orders,
    catalog: Catalog,
    backend: Backend,
    opened: Environment,
    journal: Journal,
    tell: Callable[[Event], None],
) -> None:
    for line in iter(commands.readline, b""):
        task, began = Task.decode(line), time.perf_counter()
        if task.probe:
            if not _probe(task.probe, backend, journal, tell):
                return
            continue
        journal.enter(Phase.GENERATE, case=task.case)
        try:
            if task.replay:
                recording = replay(read(Path(task.replay)), backend, journal=journal, environment=opened)
            else:
                case = _case(catalog, task)
                lost = {
                    step: Failure(kind=FailureKind(k), text=text) for step, (k, text) in task.lost.items()
                }
                recording = record(
                    case, backend, repeat=orders.repeat, journal=journal, environment=opened, lost=lost
                )
            journal.enter(Phase.WRITE, case=task.case)
            write(recording, recording_path(Path(orders.folder), CaseId.parse(task.case)))
        except Exception as error:  # noqa: BLE001  # the recorder has caught what is the device's
            traceback.print_exc()
            crashed, news, text = False, News.NOT_RUN, f"parity could not record it: {_reason(error)}"
        else:
            crashed, news, text = _crashed(recording, task.lost), News.RECORDED, ""
            del recording  # large ones would not fit beside the next case
        journal.enter(Phase.IDLE)
        seconds = time.perf_counter() - began
        tell(Event(news=news, case=task.case, text=text, seconds=seconds))
        if crashed and not responds(backend):
            tell(Event(news=News.RETIRED))
            return


def _probe(name: str, backend: Backend, journal: Journal, tell: Callable[[Event], None]) -> bool:
    """Answer one probe; whether the device can be asked for more."""
    journal.enter(Phase.GENERATE, step=name)
    if isinstance(backend, Phased):
        backend.on_phase = lambda phase: journal.enter(Phase(phase), step=name)
    journal.enter(Phase.RUN, step=name)
    found = declaration(backend) if name == DECLARED else evidence(backend, name)
    journal.enter(Phase.IDLE)
    tell(Event(news=News.PROBED, text=name, evidence=found))
    if found.failed and not responds(backend):
        tell(Event(news=News.RETIRED))
        return False
    return True


def _case(catalog: Catalog, task: Task) -> Case:
    case = catalog.get(CaseId.parse(task.case))
    if case.revision != task.revision:
        raise UsageError(f"{case.where} changed while the run was going on; run it again")
    return case


def _crashed(recording: Recording, before: Container[str]) -> bool:
    return any(
        step.failure and step.failure.kind is FailureKind.CRASHED and step.name not in before
        for step in recording.steps
    )
