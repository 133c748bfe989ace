"""`parity selftest` as a user types it: a time box, a report, an interrupt."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Parity, environment

pytestmark = pytest.mark.needs_torch


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
    # A time box ends a run early; how many short cases fit into it depends on the seed and the machine.
    assert all(re.search(r" \d{1,2} of [\d,]+ cases", run.stdout) for run in runs), runs[0].stdout
    seeds = {re.search(r"seed (\d+)", run.stdout)[1] for run in runs}  # type: ignore[index]
    assert len(seeds) == 2


def test_a_report_that_cannot_be_written_is_said_before_anything_runs(parity: Parity, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    done = parity("selftest", "--json", "there")
    assert done.returncode == 2 and "cannot write there: it is a folder" in done.stderr


def test_an_interrupt_ends_it_with_a_report_of_what_was_done(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "parity", "selftest", "--seed", "5", "--time-box", "100", "-j", "2"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while " cases" not in process.stderr.readline():  # the first sign of progress
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert "interrupted: " in printed and process.returncode in (0, 1, 3)
    assert "nothing was tried" not in printed
