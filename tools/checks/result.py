"""What a check answers, and how a check runs a command. Does not print."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["CheckFailed", "Result", "run"]


class CheckFailed(Exception):
    """A command that a check needs has failed; the text is what it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`problems` are empty where the check holds; `note` is one line on what it looked at."""

    note: str = ""
    problems: tuple[str, ...] = ()


def run(command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Return what the command printed on both streams. Raises CheckFailed when it fails."""
    done = subprocess.run(
        command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        raise CheckFailed(f"$ {' '.join(command)}\n{done.stdout.rstrip()}\nexit code {done.returncode}")
    return done.stdout
