"""`parity repro` as a user types it; tests/localize/test_repro.py runs what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import CHECKOUT, Parity

pytestmark = pytest.mark.needs_torch

CASES = ("--cases", str(CHECKOUT / "tests/localize/cases"))


def test_the_first_step_that_departs_is_written_small(
    parity: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARITY_SIM_FAULTS", "wrong_tile_edge@linear")
    done = parity("repro", "ladders/mlp:dtype=f32", "--target", "sim/ideal", "-o", "out", *CASES)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "EXCEEDS L00.up   linear"
    assert lines[1] == "  | inputs  L00.norm.y f32[1, 18]  L00.up f32[1, 18]"
    assert lines[2].startswith("  = Shrunk from L00.norm.y f32[5, 72]  L00.up f32[96, 72] by ")
    assert lines[-1] == "next    python out/repro-ladders-mlp-L00.up.py"
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "repro-ladders-mlp-L00.up.py",
        "repro-ladders-mlp-L00.up.arrow",
    }


def test_a_crash_needs_a_reference_that_has_its_inputs(
    parity: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARITY_SIM_FAULTS", "segfault@silu")
    arguments = ("repro", "ladders/mlp:dtype=f32", "--target", "sim/ideal", "-o", "out", *CASES)
    done = parity(*arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "GoldenError: nothing is known of what step 'L00.act' consumed, since its process ended: "
        "name a reference that has it, such as --ref cpu\n"
    )
    assert not (tmp_path / "out").exists()


def test_nothing_that_departs_and_a_wrong_step_write_nothing(parity: Parity, tmp_path: Path) -> None:
    arguments = ("repro", "ladders/mlp:dtype=f32", "--target", "cpu", "-o", "out", *CASES)
    done = parity(*arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "Nothing: no step of ladders/mlp:dtype=f32 departs on cpu\n"
    wrong = parity(*arguments, "--step", "L00.upp")
    assert wrong.returncode == 2 and "did you mean 'L00.up'" in wrong.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    taken = parity(*arguments[:5], "file", *CASES)
    assert taken.returncode == 2 and "UsageError: -o file: is not a folder" in taken.stderr
