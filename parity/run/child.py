"""One child process: started with the backend's variables, listened to, and ended with all its own.

It leads a session of its own, so that a kill reaches whatever it started and the terminal's
Ctrl-C reaches none of them. Does not know what a case is; `pool` does. POSIX only.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parity.run.journal import Entry, Phase, last_entry
from parity.run.wire import Event, Orders, Task

__all__ = ["Child", "Job"]

# Not `-m`, which puts the current folder first on the path: a `parity` or `numpy.py` that lies
# there would be imported instead. PYTHONSAFEPATH would reach the vendor's own Python tools too.
_START = "import sys; sys.path[:] = filter(None, sys.path); from parity.run.worker import main; main()"
_REAP_S = 10.0  # a child stuck in a driver cannot be killed; nothing waits for it longer
_LAST_WORDS_BYTES = 16384
_LAST_WORDS = 240  # characters of the log's end that a report can show
# What Python itself adds after a signal: the log keeps it, and the signal's name says as much.
_FAULTHANDLER = re.compile(r"^Fatal Python error: |^Extension modules: |^Current thread 0x", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every child of a lane is started with."""

    spec: str
    setting: str
    case_folders: tuple[Path, ...]
    folder: Path
    repeat: int
    environ: Mapping[str, str]
    name: str


class Child:
    """A worker process. Its log and journal are `<name>.log` and `<name>.journal` in the run folder."""

    def __init__(self, job: Job) -> None:
        self._token = secrets.token_hex(8)
        self._journal = job.folder / f"{job.name}.journal"
        self._log = job.folder / f"{job.name}.log"
        self._journal.unlink(missing_ok=True)
        self._buffer = b""
        self._exit_fd: int | None = None
        self.started_s = time.monotonic()
        self._events_fd, event_fd = os.pipe()
        os.set_blocking(self._events_fd, False)
        try:
            self._process = self._start(job, event_fd)
        except BaseException:
            os.close(self._events_fd)
            raise
        finally:
            os.close(event_fd)
        if hasattr(os, "pidfd_open"):
            self._exit_fd = os.pidfd_open(self._process.pid)
        self._send(
            Orders(
                spec=job.spec,
                setting=job.setting,
                case_folders=tuple(str(folder) for folder in job.case_folders),
                folder=str(job.folder),
                journal=str(self._journal),
                repeat=job.repeat,
                event_fd=event_fd,
                token=self._token,
                parent=os.getpid(),
            ).encode()
        )

    def _start(self, job: Job, event_fd: int) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            # Unbuffered, so that what is printed before a crash is in the log after it.
            return subprocess.Popen(
                [sys.executable, "-u", "-X", "faulthandler", "-c", _START],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(event_fd,),
                env=dict(job.environ),
                start_new_session=True,
            )

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        # A child that is gone is noticed by its end, not by its pipe.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def send(self, task: Task) -> None:
        """Give it a case."""
        self._send(task.encode())

    def finish(self) -> None:
        """Tell it that there are no more cases."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Let a selector wake up when it has news or ends."""
        selector.register(self._events_fd, selectors.EVENT_READ)
        if self._exit_fd is not None:
            selector.register(self._exit_fd, selectors.EVENT_READ)

    def events(self) -> tuple[list[Event], bool]:
        """Return the news so far, and whether it has ended or can tell nothing more."""
        ended = self._has_exited()  # asked first, so that what it said last is read below
        while True:
            try:
                chunk = os.read(self._events_fd, 65536)
            except BlockingIOError:
                break
            if not chunk:
                ended = True
                break
            self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        found = (Event.decode(line, self._token) for line in lines)
        return [event for event in found if event is not None], ended

    def _has_exited(self) -> bool:
        if self._exit_fd is None:
            return self._process.poll() is not None
        # Not reaped yet: until then its pid, and so its group's, cannot be another's.
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def entry(self) -> Entry:
        """Return what it was last about to do: opening, before it wrote anything down."""
        return last_entry(self._journal) or Entry(at_s=self.started_s, phase=Phase.OPEN)

    def last_words(self, entry: Entry) -> str:
        """Return the end of what it printed since the case of `entry` began, on one line."""
        with self._log.open("rb") as log:
            start = max(self._log_start, entry.log_bytes, log.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES)
            log.seek(start)
            text = log.read().decode(errors="replace")
        own = _FAULTHANDLER.search(text)
        lines = (text[: own.start()] if own else text).split("\n")
        words = ["".join(filter(str.isprintable, line)).strip() for line in lines]
        return " | ".join([line for line in words if line][-3:])[-_LAST_WORDS:]

    def end(self, *, grace_s: float = 0.0) -> str:
        """Kill it and what it started, after `grace_s` to end by itself.

        Returns how it ended, for a child that was expected to.
        """
        self._await_exit(grace_s)
        killed = not self._has_exited()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_S)
        self._close()
        if killed:
            return "closed its pipe, did not end and was killed"
        return _ending(self._process.returncode)

    def _await_exit(self, seconds: float) -> None:
        if self._exit_fd is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
            return
        with selectors.DefaultSelector() as selector:
            selector.register(self._exit_fd, selectors.EVENT_READ)
            selector.select(seconds)

    def _close(self) -> None:
        self.finish()
        os.close(self._events_fd)
        if self._exit_fd is not None:
            os.close(self._exit_fd)


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    if -status == signal.SIGKILL:
        return "SIGKILL from outside, as the kernel sends when memory runs out,"
    with contextlib.suppress(ValueError):  # real-time signals have no name
        return signal.Signals(-status).name
    return f"signal {-status}"
