"""Processes that judge beside the launcher, where a run has more to judge than one process keeps up with.

They never open a device, and begin only when what is left pays for their start. What one of them does not
answer, because it died or raised, is judged by the launcher: a verdict is lost nowhere. Knows nothing of
what is judged.
"""

from __future__ import annotations

import copyreg
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import MappingProxyType, TracebackType
from typing import Any, Generic, TypeVar

__all__ = ["Judges"]

_Task = TypeVar("_Task")
_Answer = TypeVar("_Answer")

_WORTH_S = 10.0  # of judging that is left; a process starts in 2 to 3, most of it importing torch
_AHEAD = 2  # tasks that a process holds: the one it judges, and one so that it never waits
_END_S = 2.0


def _read_only(values: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(values)


# Cases hold mappings that nobody may change, which Python does not pickle by itself.
copyreg.pickle(MappingProxyType, lambda proxy: (_read_only, (dict(proxy),)))


class Judges(Generic[_Task, _Answer]):
    """Answers tasks here and in at most `processes` more. `judge` and the tasks must be picklable."""

    def __init__(self, judge: Callable[[_Task], _Answer], *, processes: int) -> None:
        self._judge, self._processes = judge, processes
        self._others: list[_Other[_Task, _Answer]] = []
        self._answered, self._busy_s = 0, 0.0

    def __enter__(self) -> Judges[_Task, _Answer]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for other in self._others:
            other.end()

    def give(self, task: _Task, *, left: int) -> Iterator[tuple[_Task, _Answer]]:
        """Take one task and yield what is answered by now; `left` is how many tasks may still come."""
        self._start_if_worth(left)
        free = next((other for other in self._others if other.has_room), None)
        if free is None or not free.give(task):
            yield self._answer(task)
        for other in self._others:
            yield from self._answers(other, wait=False)

    def rest(self) -> Iterator[tuple[_Task, _Answer]]:
        """Wait for what other processes hold and yield it."""
        for other in self._others:
            yield from self._answers(other, wait=True)

    def _start_if_worth(self, left: int) -> None:
        if len(self._others) >= self._processes or not self._answered:
            return
        each_s = self._busy_s / self._answered
        if each_s * left / (1 + len(self._others)) > _WORTH_S:
            try:
                self._others.append(_Other(self._judge))
            except OSError:  # no process to be had: then without it
                self._processes = len(self._others)

    def _answer(self, task: _Task) -> tuple[_Task, _Answer]:
        began = time.monotonic()
        answer = self._judge(task)
        self._answered, self._busy_s = self._answered + 1, self._busy_s + time.monotonic() - began
        return task, answer

    def _answers(self, other: _Other[_Task, _Answer], *, wait: bool) -> Iterator[tuple[_Task, _Answer]]:
        for task, answer in other.answers(wait=wait):
            yield self._answer(task) if answer is None else (task, answer[0])


class _Other(Generic[_Task, _Answer]):
    """One more process and what it holds."""

    def __init__(self, judge: Callable[[_Task], _Answer]) -> None:
        self._held: deque[_Task] = deque()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess | None = context.Process(target=_serve, args=(judge, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    @property
    def has_room(self) -> bool:
        return self._process is not None and len(self._held) < _AHEAD

    def give(self, task: _Task) -> bool:
        """Hand over a task; False where the process is no more."""
        try:
            self._pipe.send(task)
        except OSError:
            return False
        self._held.append(task)
        return True

    def answers(self, *, wait: bool) -> Iterator[tuple[_Task, tuple[_Answer] | None]]:
        """Yield held tasks as they are answered, with None where they will not be."""
        while self._held and (wait or self._process is None or self._pipe.poll()):
            yield self._held[0], self._received()
            self._held.popleft()

    def end(self) -> None:
        """End the process, whatever it does."""
        self._pipe.close()
        if self._process is not None:
            self._process.terminate()
            self._process.join(_END_S)
            self._process = None

    def _received(self) -> tuple[_Answer] | None:
        if self._process is None:
            return None
        try:
            answer: tuple[_Answer] | None = self._pipe.recv()
        except (EOFError, OSError):
            self._process = None
            return None
        return answer


def _serve(judge: Callable[[Any], Any], pipe: Connection) -> None:
    """Answer tasks until the other end of the pipe closes, as it does when the launcher dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the launcher's to hear
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, tasks), daemon=True).start()
    while True:
        task = tasks.get()
        try:
            answer = (judge(task),)
        except Exception:  # noqa: BLE001  # whatever it is, the launcher meets it too, and says so
            answer = None
        pipe.send(answer)


def _receive(pipe: Connection, tasks: queue.SimpleQueue[Any]) -> None:
    # Always read, so that two large messages in opposite directions never wait for each other.
    try:
        while True:
            tasks.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)
