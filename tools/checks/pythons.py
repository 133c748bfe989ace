"""Every Python that is at hand, found by running `python3.N` rather than by believing its name.

A version manager's shim may stand on PATH and refuse to run; where the manager can be asked for all
of its versions at once, it is. Does not install anything.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from checks.result import CheckFailed, run

__all__ = ["Python", "new_environment", "pythons"]

OLDEST = (3, 10)
# Beyond any that exists, so that a new one is found without a change here.
NEWEST_MINOR = 30
ASK = "import ensurepip, sys, venv; print(sys.executable, *sys.version_info[:3])"


@dataclass(frozen=True, slots=True, kw_only=True)
class Python:
    """One interpreter; `path` is its own, not a shim's."""

    path: str
    version: tuple[int, int, int]

    def __str__(self) -> str:
        return ".".join(map(str, self.version))


def pythons() -> list[Python]:
    """Return one working Python of each minor version from 3.10 on, oldest first.

    One without `venv` is not at hand: nothing could be installed for it.
    """
    found = [_ask(sys.executable, os.environ)]
    for minor in range(OLDEST[1], NEWEST_MINOR):
        candidates = [_ask(path, env) for path in _on_path(f"python3.{minor}") for env in _environments()]
        found += [python for python in candidates if python and python.version[1] == minor]
    by_minor: dict[int, Python] = {}
    for python in found:
        if python and python.version[:2] >= OLDEST:
            by_minor.setdefault(python.version[1], python)
    return [by_minor[minor] for minor in sorted(by_minor)]


def new_environment(python: Python | None, folder: Path) -> Path:
    """Make an empty virtual environment in a new folder and return its interpreter."""
    run([python.path if python else sys.executable, "-m", "venv", str(folder)], cwd=folder.parent)
    return folder / "bin" / "python"


def _on_path(name: str) -> list[str]:
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return [path for folder in folders if (path := shutil.which(name, path=folder))]


def _environments() -> list[dict[str, str]]:
    plain = dict(os.environ)
    try:
        versions = run(["pyenv", "versions", "--bare"], cwd=Path.cwd()).split()
    except (CheckFailed, OSError):
        return [plain]
    return [plain, {**plain, "PYENV_VERSION": os.pathsep.join(versions)}]


def _ask(path: str, env: dict[str, str] | os._Environ[str]) -> Python | None:
    try:
        done = subprocess.run([path, "-c", ASK], env=env, text=True, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()
    if done.returncode or len(words) != len(("path", "major", "minor", "micro")):
        return None
    return Python(path=words[0], version=(int(words[1]), int(words[2]), int(words[3])))
