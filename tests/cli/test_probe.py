from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from parity.store import manifest
from tests.cli.conftest import environment

pytestmark = pytest.mark.needs_torch  # in the processes that it starts


def test_the_cpu_is_what_it_declares(parity, tmp_path):
    done = parity("probe", "--target", "cpu", "--json", "found/probe.json")
    assert done.returncode == 0, done.stderr
    first, *_, counts, last = done.stdout.splitlines()
    assert first == "parity 0.1.0    probe of cpu, strict"
    assert ", 0 not, " in counts
    assert last == "next    parity check --target cpu"
    assert "gelu                          erf            erf            yes" in done.stdout
    data = json.loads((tmp_path / "found" / "probe.json").read_text())
    assert data["probed"]["int64"] == "i64" and data["findings"] == []
    # Its work is gone.
    assert not list((tmp_path / ".parity").glob("run-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_and_leaves_no_child(tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-m", "parity", "probe", "--target", "sim/ideal"],
        cwd=tmp_path,
        env={**environment(), "PARITY_SIM_FAULTS": "hang"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A runner in the background ignores SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - one call, no locks
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / ".parity").glob("run-*/*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (3, "", "interrupted before it was done\n")
    assert not list((tmp_path / ".parity").glob("run-*"))


def test_a_target_is_needed(parity):
    done = parity("probe")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "UsageError: probe needs --target T, such as: parity probe --target cpu\n"


def test_an_unknown_backend_is_a_usage_error(parity):
    done = parity("probe", "--target", "cqu")
    assert done.returncode == 2
    assert done.stderr.startswith("UsageError: unknown backend 'cqu'; did you mean 'cpu'?")


def test_what_cannot_be_opened_is_said_once(parity, monkeypatch):
    monkeypatch.setenv("PARITY_SIM_PATH", "mode")
    done = parity("probe", "--target", "sim/gaudi2+lazy")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("BackendError: 'sim/gaudi2+lazy' cannot be opened: torch ")


def test_a_report_that_cannot_be_written_is_said_before_anything_runs(parity, tmp_path):
    done = parity("probe", "--target", "cpu", "--json", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"UsageError: cannot write {tmp_path}: it is a folder\n"


def test_goldens_know_what_their_device_was_probed_to_be(recorded):
    (path,) = recorded.glob("cpu/*/*/manifest.toml")
    environment = manifest.read(path).environment
    assert environment["probe.gelu"] == "erf"
    assert environment["probe.products.f32.accumulator"] == "f32"
    # What is unknown is not there.
    found = {value for name, value in environment.items() if name.startswith("probe.")}
    assert found.isdisjoint({"", "unknown", "None"})
