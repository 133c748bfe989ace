"""The command as a user types it: a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

Parity = Callable[..., "subprocess.CompletedProcess[str]"]


def environment() -> dict[str, str]:
    """The variables of a user whose parity is this checkout."""
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), "COLUMNS": "80"}


@pytest.fixture
def parity(tmp_path: Path) -> Parity:
    """Run `parity ARGUMENTS` in an empty folder."""

    def run(*arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "parity", *arguments]
        return subprocess.run(
            command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golden root with the smoke cases of two families, recorded once."""
    root = tmp_path_factory.mktemp("recorded")
    command = [
        sys.executable,
        "-m",
        "parity",
        "record",
        "--backend",
        "cpu",
        "--suite",
        "smoke",
        "--golden",
        ".",
    ]
    done = subprocess.run(
        [*command, "ops/exp", "ops/topk"], cwd=root, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return root
