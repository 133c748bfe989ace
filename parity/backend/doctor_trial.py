"""Import a package in a process of its own, with a time limit, and say how that ended.

A broken torch or plugin can raise, hang, or end its process: the child is what it takes down. Does
not know what the packages are for; `doctor` does. POSIX only, as `run.child` is.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

__all__ = ["AUTOLOAD", "AUTOLOAD_GROUP", "Trial", "attempt", "main"]

# `import torch` loads every entry point of the group unless the variable is 0 (DEVICES.md 3.0).
AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
AUTOLOAD_GROUP = "torch.backends"
# The child searches where this process searches, so both speak of the same files.
_START = (
    "import json, sys; order = json.loads(sys.argv[1]); sys.path[:] = order['path']; "
    "from parity.backend.doctor_trial import main; main(order)"
)
_REAP_S = 10.0  # a child stuck in a driver cannot be killed; nothing waits for it longer
_WORDS = 400  # characters of an exception's text that a finding can show


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How an attempt ended: `failure` is empty where everything was imported.

    `answers` holds the version that each module says it has and what each question returned,
    without those that had no answer; `warnings` are what was warned of meanwhile.
    """

    failure: str = ""
    answers: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failure


def attempt(
    *modules: str,
    autoload: bool = True,
    backend: str = "",
    questions: Sequence[str] = (),
    timeout_s: float,
) -> Trial:
    """Import modules in order, then load the entry point `backend`, then ask `module:function:argument`.

    `autoload=False` keeps torch from loading plugins by itself; True leaves it as the user has it.
    """
    environ = {**os.environ, **({} if autoload else {AUTOLOAD: "0"})}
    order = {"modules": modules, "backend": backend, "questions": questions}
    with tempfile.TemporaryDirectory(prefix="parity-doctor-", ignore_cleanup_errors=True) as folder:
        result = Path(folder) / "result.json"
        text = json.dumps({**order, "path": list(filter(None, sys.path)), "result": str(result)})
        ending = _run([sys.executable, "-c", _START, text], environ=environ, timeout_s=timeout_s)
        if ending or not result.is_file():
            return Trial(failure=ending or "ended the process with exit status 0")
        return Trial(**json.loads(result.read_text()))


def _run(command: Sequence[str], *, environ: Mapping[str, str], timeout_s: float) -> str:
    """Return how the command ended, empty for exit status 0."""
    process = subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        status = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return f"did not end within {timeout_s:g} s"
    finally:
        # Also what it started: a plugin's helper would outlive the question.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_REAP_S)
    if status >= 0:
        return f"ended the process with exit status {status}" if status else ""
    with contextlib.suppress(ValueError):  # real-time signals have no name
        return f"ended the process with {signal.Signals(-status).name}"
    return f"ended the process with signal {-status}"


def main(order: Mapping[str, object]) -> None:
    """Be the child: do what the order says and write a `Trial` where it says."""
    answers: dict[str, str] = {}
    failure = ""
    modules, questions = order["modules"], order["questions"]
    assert isinstance(modules, list) and isinstance(questions, list)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for name in modules:
                answers[name] = str(getattr(importlib.import_module(name), "__version__", ""))
            for point in entry_points(group=AUTOLOAD_GROUP):
                if point.name == order["backend"]:
                    point.load()()
        except BaseException as error:  # noqa: BLE001 - a plugin may raise SystemExit as well
            failure = _one_line(f"{type(error).__name__}: {error}")
    if not failure:
        answers |= _ask(questions)
    seen = [_one_line(str(warning.message)) for warning in caught]
    trial = Trial(failure=failure, answers=answers, warnings=seen)
    Path(str(order["result"])).write_text(json.dumps(asdict(trial)))
    # Not through the plugin's exit handlers: how it shuts down was not asked.
    os._exit(0)


def _ask(questions: Sequence[str]) -> dict[str, str]:
    answers = {}
    for question in questions:
        module, name, argument = question.split(":")
        with contextlib.suppress(Exception):  # a version without this function does not answer
            answer = getattr(importlib.import_module(module), name)(argument)
            if answer is not None:
                answers[question] = str(answer)
    return answers


def _one_line(text: str) -> str:
    joined = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return joined if len(joined) <= _WORDS else f"{joined[:_WORDS]}…"
