"""Whole runs of the command. Goldens are made here; nothing reads the shipped ones but one test."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from parity.case.catalog import SMOKE_ROWS
from parity.case.tensor import HostTensor
from parity.store import arrow
from parity.store.recording import Recording
from tests.cli.conftest import Parity, environment

pytestmark = pytest.mark.needs_torch


def golden_files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.arrow"))


@pytest.fixture
def copied(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "copied"))


def loose(recorded: Path, folder: Path) -> Path:
    """The recordings of a golden set as another host would send them: loose, each with its digest."""
    (base,) = [path.parent for path in recorded.rglob("manifest.toml")]
    for path in golden_files(recorded):
        recording = arrow.read(path, digest=digest_of(path))
        arrow.write(recording, folder / path.relative_to(base))
    return folder


def digest_of(path: Path) -> str:
    import hashlib

    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def changed(recording: Recording, change: float) -> Recording:
    """The same recording with every float result scaled, as a faulty device would have written it."""
    tensors, names = {}, {}
    for digest, tensor in recording.tensors.items():
        is_changed = tensor.dtype.name == "f32"
        kept = HostTensor.of(tensor.array() * np.float32(change), tensor.dtype) if is_changed else tensor
        names[digest] = kept.digest()
        tensors[names[digest]] = kept
    steps = []
    for step in recording.steps:
        outputs = tuple(dataclasses.replace(ref, digest=names[ref.digest]) for ref in step.outputs)
        steps.append(dataclasses.replace(step, outputs=outputs))
    return dataclasses.replace(recording, steps=tuple(steps), tensors=tensors)


def test_a_check_against_goldens_is_within_and_writes_every_report(
    parity: Parity, recorded: Path, tmp_path: Path
) -> None:
    case_arguments = ("ops/exp", "ops/topk", "--suite", "smoke", "--golden", str(recorded))
    done = parity("check", *case_arguments, "--json", "out/run.json", "--junit", "out/run.xml")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].startswith("reference   cpu, golden cpu")
    assert lines[2].startswith("target      cpu, run here, strict")
    assert lines[-1].startswith("next    parity check ")
    report = json.loads((tmp_path / "out/run.json").read_text())
    assert report["counts"] == {"within": len(golden_files(recorded))}
    assert report == json.loads((tmp_path / ".parity/last/run.json").read_text())
    for case in report["cases"]:
        assert all(step["inputs_digest"] for step in case["steps"])
        assert sum(step["elements"] for step in case["steps"]) > 0
    assert report["target"]["witness"]["executed"] > 0
    assert ElementTree.parse(tmp_path / "out/run.xml").getroot().get("failures") == "0"
    assert not list((tmp_path / ".parity").glob("run-*")), "the working folder is removed"


def test_recordings_are_judged_against_recordings_with_no_device(
    parity: Parity, recorded: Path, tmp_path: Path
) -> None:
    target = loose(recorded, tmp_path / "target")
    done = parity(
        "check", "ops/exp", "ops/topk", "--suite", "smoke", "--ref", str(recorded), "--target", str(target)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "target      " in done.stdout and "recordings" in done.stdout


def test_a_planted_fault_in_a_recording_exceeds(parity: Parity, recorded: Path, tmp_path: Path) -> None:
    target = loose(recorded, tmp_path / "target")
    for path in golden_files(target):
        arrow.write(changed(arrow.read(path), 1.0001), path)
    done = parity(
        "check", "ops/exp:dtype=f32", "--suite", "smoke", "--ref", "oracle", "--target", str(target)
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "EXCEEDS ops/exp:" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("--last-failed")


@pytest.mark.parametrize("fault", ["flip", "truncate", "empty", "digest", "missing"])
def test_a_damaged_golden_is_named_and_never_within(parity: Parity, copied: Path, fault: str) -> None:
    path = next(p for p in golden_files(copied) if "exp" in str(p))
    data = path.read_bytes()
    if fault == "flip":
        path.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    elif fault == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "digest":
        manifest = next(copied.rglob("manifest.toml"))
        manifest.write_text(manifest.read_text().replace(digest_of(path), "sha256:" + "0" * 64))
    else:
        path.unlink()
    arguments = ("ops/exp", "--suite", "smoke", "--ref", str(copied), "--target", str(copied))
    done = parity("check", *arguments)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "UNJUDGED ops/exp:" in done.stdout
    assert str(path.name)[:20] in done.stdout.replace("\n    ", "")
    assert "1 unjudged" in done.stdout


def test_a_damaged_manifest_is_exit_3_before_anything_runs(parity: Parity, copied: Path) -> None:
    manifest = next(copied.rglob("manifest.toml"))
    manifest.write_text(manifest.read_text()[:200] + "\n[[[")
    done = parity("check", "ops/exp", "--golden", str(copied))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"GoldenError: {manifest}")


def test_a_missing_reference_leaves_the_target_judged_and_is_exit_3(
    parity: Parity, recorded: Path, tmp_path: Path
) -> None:
    target = loose(recorded, tmp_path / "target")
    arguments = ("ops/exp", "ops/topk", "--suite", "smoke", "--target", str(target))
    subset = tmp_path / "subset"
    for path in golden_files(target):
        if "topk" in str(path):
            (subset / path.relative_to(target)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, subset / path.relative_to(target))
    done = parity("check", *arguments, "--ref", str(subset))
    assert done.returncode == 3, done.stdout + done.stderr
    report = json.loads((tmp_path / ".parity/last/run.json").read_text())
    assert set(report["counts"]) == {"within"}
    assert report["reference_counts"] == {"unjudged": SMOKE_ROWS}


def test_recording_twice_creates_once_and_never_overwrites(parity: Parity, copied: Path) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    done = parity("record", "ops/exp", "--suite", "smoke", "--backend", "cpu", "--golden", str(copied))
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_last_failed_runs_only_what_failed(parity: Parity, recorded: Path, tmp_path: Path) -> None:
    target = loose(recorded, tmp_path / "target")
    victim = next(p for p in golden_files(target) if "exp" in str(p) and "dtype=f32" in str(p))
    arrow.write(changed(arrow.read(victim), 1.01), victim)
    arguments = ("--ref", "oracle", "--target", str(target))
    assert parity("check", "ops/exp", "ops/topk", "--suite", "smoke", *arguments).returncode == 1
    again = parity("check", "--last-failed", *arguments)
    assert again.returncode == 1
    assert "1 exceeds, 1 cases" in again.stdout


def test_ctrl_c_prints_what_was_judged_and_leaves_no_child(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "parity", "check", "--suite", "ops", "--ref", "oracle"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A runner in the background ignores SIGINT, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - one call, no locks
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / ".parity").glob("run-*/target/**/*.arrow")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 3, stdout + stderr
    assert "interrupted: only the cases above were judged" in stdout
    assert "Traceback" not in stderr
    assert not children_in(tmp_path)
    assert not list((tmp_path / ".parity").glob("run-*"))


def children_in(folder: Path) -> list[str]:
    """Processes that still run parity's worker for a run in this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(folder):
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_a_time_box_says_what_it_left_out(parity: Parity, tmp_path: Path) -> None:
    done = parity("check", "--suite", "sample", "--ref", "oracle", "--time-box", "0.1")
    assert "selected cases were left out by --time-box: nothing is known of them" in done.stdout
    report = json.loads((tmp_path / ".parity/last/run.json").read_text())
    assert report["left_out"] + len(report["cases"]) > 300


def test_the_shipped_goldens_are_found_and_hold(parity: Parity) -> None:
    done = parity("check", "ops/embedding", "--suite", "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "golden cpu" in done.stdout.splitlines()[1]
