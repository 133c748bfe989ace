from __future__ import annotations

import json

import pytest

from parity.store import manifest

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


def test_a_target_is_needed(parity):
    done = parity("probe")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "UsageError: probe needs --target T, such as: parity probe --target cpu\n"


def test_an_unknown_backend_is_a_usage_error(parity):
    done = parity("probe", "--target", "cqu")
    assert done.returncode == 2
    assert done.stderr.startswith("UsageError: unknown backend 'cqu'; did you mean 'cpu'?")


def test_a_report_that_cannot_be_written_is_said_before_anything_runs(parity, tmp_path):
    done = parity("probe", "--target", "cpu", "--json", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"UsageError: cannot write {tmp_path}: it is a folder\n"


def test_goldens_know_what_their_device_was_probed_to_be(recorded):
    (path,) = recorded.glob("cpu/*/*/manifest.toml")
    environment = manifest.read(path).environment
    assert environment["probe.gelu"] == "erf"
    assert environment["probe.products.f32.accumulator"] == "f32"
    assert "probe.threads" not in environment  # what is unknown is not there
