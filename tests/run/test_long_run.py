"""200 cases with every way to die at random steps: each is named, all else is judged, nothing is left."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs_torch

CHECKOUT = Path(__file__).parents[2]
HERE = Path(__file__).parent
FATAL = {
    "abort": ("crashed", "SIGABRT"),
    "exit_0": ("crashed", "exit status 0"),
    "hang": ("timed_out", "no progress"),
    "out_of_memory": ("crashed", "MemoryError: tried to allocate 3 TiB"),
    "poison": ("crashed", "SIGKILL"),
    "raises": ("crashed", "RuntimeError: out of luck in kernel 7"),
    "segfault": ("crashed", "SIGSEGV"),
    "sigkill": ("crashed", "SIGKILL"),
}


def planned(seed):
    """Return {case: (step, fault)}: each fault once, at a random step of a random case."""
    draw = random.Random(seed)
    cases = draw.sample(range(200), len(FATAL))
    return {f"{n:03}": (draw.randrange(4), fault) for n, fault in zip(cases, FATAL, strict=True)}


@pytest.fixture
def long_run(tmp_path):
    """Check the 200 cases on the faulty device; returns the process and the report."""

    def run(plan, *options):
        state = tmp_path / "state"
        state.mkdir()
        (state / "opens_after_poison").write_text("0")
        (state / "recovers").touch()
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(HERE / "plugin"), str(CHECKOUT))),
            "FAULTY_STATE": str(state),
            "LONG_PLAN": ",".join(f"{case}={step}:{fault}" for case, (step, fault) in plan.items()),
        }
        command = [sys.executable, "-m", "parity", "check", "--ref", "oracle", "--target", "faulty"]
        done = subprocess.run(
            [*command, "--cases", str(HERE / "long"), "long", "--json", "run.json", *options],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done, json.loads((tmp_path / "run.json").read_text()), state

    return run


def alive(state):
    """Pids of processes that were started with this state folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes()
        except OSError:
            continue
        if f"FAULTY_STATE={state}".encode() in environ.split(b"\0"):
            found.append(int(process.name))
    return found


@pytest.mark.parametrize("seed, jobs", [(1, "1"), (2, "2")])
def test_every_loss_is_pinned_to_its_step_and_every_other_case_is_judged(long_run, seed, jobs):
    plan = planned(seed)
    done, report, state = long_run(plan, "-j", jobs, "--timeout", "5")
    assert done.returncode == 1, done.stderr
    lost = {
        case["id"].removeprefix("long/run:n="): case
        for case in report["cases"]
        if case["verdict"] != "within"
    }
    assert {name: case["verdict"] for name, case in lost.items()} == {
        name: FATAL[fault][0] for name, (_, fault) in plan.items()
    }
    for name, (place, fault) in plan.items():
        (step,) = [s for s in lost[name]["steps"] if s["name"] == fault]
        assert step["verdict"] == FATAL[fault][0]
        assert FATAL[fault][1] in step["note"]
        before = [s["name"] for s in lost[name]["steps"][:place]]
        assert before == [f"step{i}" for i in range(place)]
    assert report["counts"]["within"] == 200 - len(plan)
    assert alive(state) == []


def test_without_a_planned_fault_all_are_within(long_run):
    done, report, state = long_run({})
    assert (done.returncode, report["counts"]) == (0, {"within": 200})
    assert alive(state) == []
