"""`parity diff` as a user types it, on simulated chips with planted faults."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from parity.store import arrow
from parity.store.folder import recording_path
from tests.cli.conftest import CHECKOUT, Parity
from tests.localize.sides import case, recorded

pytestmark = pytest.mark.needs_torch

CASES = ("--cases", str(CHECKOUT / "tests/localize/cases"))


def test_the_ladder_of_a_planted_fault_is_printed_and_is_exit_1(
    parity: Parity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARITY_SIM_FAULTS", "wrong_tile_edge@linear")
    done = parity("diff", "cpu", "sim/ideal", "ladders/mlp:dtype=f32", *CASES)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "step              inherited           free run             replayed"
    rows = {line[:18].strip("> "): line for line in lines[2:20]}
    assert [line[2:6].strip() for line in lines if line.endswith("  EXCEEDS")] == ["up", "up", "up"]
    assert rows["act"].split()[4] == "0" and rows["act"].endswith("  same")
    assert "  = 3 of 15 steps depart; the first is L00.up (linear)" in lines
    assert lines[-1] == (
        "next    parity repro ladders/mlp:dtype=f32 --step L00.up --target sim/ideal --ref cpu "
        f"--cases {CASES[1]} -o repro"
    )
    assert max(len(line) for line in lines[:-1]) <= 80


def test_steps_that_depart_as_declared_are_known_as_in_a_check(
    parity: Parity, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(CHECKOUT / "tests/localize/cases", folder)
    entry = 'case = "ladders/mlp:dtype=f32"\nexpect = "exceeds"\ncause = "c"\nkind = "ours"\n'
    (folder / "deviations").mkdir()
    (folder / "deviations/sim.toml").write_text(f'[[deviation]]\n{entry}reason = "the edge, ticket 7"\n')
    monkeypatch.setenv("PARITY_SIM_FAULTS", "wrong_tile_edge@linear")
    words = ("ladders/mlp:dtype=f32", "--cases", str(folder))
    done = parity("diff", "cpu", "sim/ideal", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line[2:6].strip() for line in lines if line.endswith("  known")] == ["up", "up", "up"]
    assert "  = L00.up: declared: the edge, ticket 7" in lines
    assert "  = 3 of 15 steps depart, as declared; the others are within" in lines
    assert lines[-1].startswith("next    parity check ladders/mlp:dtype=f32 --ref cpu --target sim/ideal")
    assert parity("check", "ladders/mlp:dtype=f32", *words[1:], "--target", "sim/ideal").returncode == 0


def test_two_folders_are_compared_with_no_device(parity: Parity, tmp_path: Path) -> None:
    arguments = ("ladders/mlp:dtype=f32", *CASES)
    of = case("mlp:dtype=f32")
    for name in ("left", "right"):
        arrow.write(recorded(of), recording_path(tmp_path / name, of.id))
    done = parity("diff", "./left", "./right", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[1] == "                     rel_l2   rel_l2 rms/sigma worst |e|/B"
    assert "  = all 15 steps are within, 15 equal to the bit" in lines
    assert lines[-1].startswith("next    parity check ladders/mlp:dtype=f32 --ref ./left --target ./right")
    missing = parity("diff", "./left", "./right", "ladders/gelu", *CASES)
    assert missing.returncode == 3 and "Traceback" not in missing.stderr
    assert missing.stderr.startswith("GoldenError: './right' has no recording of ladders/gelu:dtype=f32")


def test_a_name_of_several_cases_or_none_is_exit_2(parity: Parity) -> None:
    several = parity("diff", "cpu", "cpu", "ladders/mlp", *CASES)
    assert (several.returncode, several.stdout) == (2, "")
    assert several.stderr.startswith("UsageError: ladders/mlp names 2 cases, such as ladders/mlp:dtype=bf16")
    none = parity("diff", "cpu", "cpu", "ladders/mlp:dtype=f64", *CASES)
    assert none.returncode == 2 and "no case matches ladders/mlp:dtype=f64" in none.stderr
    unknown = parity("diff", "cpu", "cpuu", "ladders/mlp:dtype=f32", *CASES)
    assert unknown.returncode == 2 and "did you mean 'cpu'" in unknown.stderr
