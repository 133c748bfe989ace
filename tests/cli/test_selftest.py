"""`parity selftest` as a user types it: a time box, a report, a process that is killed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Parity, environment

pytestmark = pytest.mark.needs_torch


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "parity", "selftest", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def children(pid: int) -> list[int]:
    """The processes that a process started and that run cases."""
    found = [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [n for n in found if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()]


def wait_for_child(process: subprocess.Popen[str]) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := children(process.pid):
            return found[0]
        time.sleep(0.05)
    raise AssertionError("no child was started")


def test_a_short_run_prints_the_table_and_writes_every_count(parity: Parity, tmp_path: Path) -> None:
    done = parity("selftest", "--seed", "5", "--time-box", "8", "--json", "card.json")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert re.search(r"^parity +0\.00 ", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1] == "next        parity selftest --seed 5 --time-box 80"
    document = json.loads((tmp_path / "card.json").read_text())
    # How many cases are done in time depends on the machine; what is said of them must agree.
    assert done.returncode == document["exit_code"] == (1 if document["broken"] else 0)
    assert ("outcome     kept on this seed" in done.stdout) == (not document["broken"])
    assert document["seed"] == 5 and 0 < document["judged"] < document["cases"]


def test_two_runs_have_different_seeds(parity: Parity) -> None:
    runs = [parity("selftest", "--time-box", "0.1") for _ in range(2)]
    assert all(re.search(r" [12] of [\d,]+ cases", run.stdout) for run in runs), runs[0].stdout
    seeds = {re.search(r"seed (\d+)", run.stdout)[1] for run in runs}  # type: ignore[index]
    assert len(seeds) == 2


def test_a_report_that_cannot_be_written_is_said_before_anything_runs(parity: Parity, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    done = parity("selftest", "--json", "there")
    assert done.returncode == 2 and "cannot write there: it is a folder" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="finds the children of a process in /proc")
def test_a_child_that_is_killed_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    process = started(tmp_path, "--seed", "5", "--time-box", "100")
    subprocess.run(["kill", "-9", str(wait_for_child(process))], check=True)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3 and "a process of the self-test died" in said
