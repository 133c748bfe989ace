"""Reproductions, run as their reader runs them: a Python of its own that has torch and no parity."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.case.case import Case
from parity.case.inputs import generate
from parity.errors import GoldenError, UsageError
from parity.judge.judge import judge
from parity.judge.traced import judge_steps
from parity.judge.verdict import CaseJudgement, Verdict
from parity.localize.look import Looked
from parity.localize.reproduce import Nothing, Reproduced, reproduce
from parity.localize.sources import Sources, self_contained
from parity.localize.trial import Trials
from parity.store import arrow
from parity.store.recording import Failure, FailureKind, Recording
from tests.localize.sides import Here, backend, case, recorded

# Whoever gets the two files has no parity: importing it fails here.
ALONE = """
import runpy, sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "parity":
            raise ImportError("there is no parity here")
sys.meta_path.insert(0, Without())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-W", "error", "-c", ALONE, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def looked(of: Case, target: Recording) -> Looked:
    inputs = generate(of)
    return Looked(
        case=of,
        target=target,
        judgement=judge(of, target, inputs=inputs),
        sources=Sources(recording=target, inputs=inputs),
    )


def written(
    name: str, folder: Path, *, step: str | None = None, synthetic: bool = False, **faults: Callable
) -> Reproduced:
    """What `parity repro` writes when a backend in this process has these faults."""
    of = case(name)
    found = looked(of, recorded(of, **faults))
    trials = Trials(Here(backend(**faults)), found.target)
    return reproduce(found, step=step, trials=trials, folder=folder, synthetic=synthetic)


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Reproduced:
    folder = tmp_path_factory.mktemp("scaled")
    return written("mlp:dtype=bf16", folder, L01_up=lambda y: y * 1.1)


def test_a_defect_of_torch_is_shown_live_and_small(tmp_path: Path) -> None:
    """torch 2.13 on a CPU overflows in gelu: x (1 + erf) is formed before it is halved."""
    if not torch.nn.functional.gelu(torch.full((64,), 2.5e38)).isinf().any():
        pytest.skip("this torch has mended gelu; cases/deviations/cpu.toml says which had not")
    found = written("gelu:dtype=f32", tmp_path)
    assert (found.step, found.verdict) == ("gelu", Verdict.EXCEEDS)
    (x,) = arrow.read(found.written.tensors).steps[0].inputs
    assert x is not None and x.shape[0] == 1 and x.shape[1] <= 2
    done = run(found.written.script)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "got inf   recorded inf" in done.stdout
    assert done.stdout.splitlines()[-1] == "the fault is there"


def test_what_was_recorded_is_shown_and_a_healthy_device_is_told(scaled: Reproduced) -> None:
    there, gone = run(scaled.written.script, "--recorded"), run(scaled.written.script)
    assert there.returncode == 1, there.stdout + there.stderr
    assert there.stdout.splitlines()[-1] == "the fault is there"
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert gone.stdout.splitlines()[-1] == "the fault is gone"


def test_the_numbers_are_those_of_the_judge(scaled: Reproduced) -> None:
    recording = arrow.read(scaled.written.tensors)
    held = {ref.name: recording.tensors[ref.digest] for ref in recording.steps[1].outputs}
    at = (0, 0)
    value, bound = (held[f"L01.up.y.{role}"].array()[at] for role in ("value", "bound"))
    got = held["L01.up.y.recorded"].array().astype(np.uint32)[at] << 16
    share = abs(np.uint32(got).view(np.float32) - value) / bound
    text = run(scaled.written.script, "--recorded").stdout
    (line,) = [line for line in text.splitlines() if line.startswith("  worst |e|/B ") and ">" not in line]
    assert float(line.split()[2].replace(",", "")) == pytest.approx(share, rel=1e-4)


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "another"])
def test_a_damaged_file_of_tensors_is_named(scaled: Reproduced, tmp_path: Path, damage: str) -> None:
    script = tmp_path / scaled.written.script.name
    script.write_text(scaled.written.script.read_text())
    tensors = tmp_path / scaled.written.tensors.name
    data = scaled.written.tensors.read_bytes()
    if damage == "flipped":
        tensors.write_bytes(data[:900] + bytes([data[900] ^ 1]) + data[901:])
    elif damage == "cut":
        tensors.write_bytes(data[:500])
    elif damage == "another":
        other = arrow.read(scaled.written.tensors)
        arrow.write(dataclasses.replace(other, revision="sha256:" + "0" * 64), tensors)
    done = run(script)
    assert (done.returncode, "Traceback" in done.stderr) == (3, False)
    words = {"missing": "No such file", "another": "is another file than the one that was written"}
    assert f"cannot run: {tensors}: " in done.stderr
    assert words.get(damage, "is damaged or cut short. Copy it again") in done.stderr


def test_a_device_that_is_not_there_is_exit_3(scaled: Reproduced) -> None:
    done = run(scaled.written.script, "--device", "cuda:7")
    assert (done.returncode, "Traceback" in done.stderr) == (3, False)
    assert done.stderr.startswith("cannot run: no device 'cuda:7' here: ")


def test_an_argument_that_it_does_not_have_is_exit_2(scaled: Reproduced) -> None:
    assert run(scaled.written.script, "--no-such").returncode == 2


def test_synthetic_inputs_hold_nothing_of_the_recorded_ones(tmp_path: Path) -> None:
    of = case("mlp:dtype=f32")
    found = written("mlp:dtype=f32", tmp_path, synthetic=True, L01_up=lambda y: y * 1.1)
    inside = arrow.read(found.written.tensors)
    assert any("Inputs are of our own making" in sentence for sentence in found.said)
    house = {t.digest() for t in generate(of).values()} | set(recorded(of).tensors)
    assert not house & set(inside.tensors)
    values = np.concatenate([t.array().reshape(-1) for t in generate(of).values()])
    (x, w) = (inside.tensors[ref.digest] for ref in inside.steps[0].inputs if ref is not None)
    assert not np.isin(x.array(), values).any() and not np.isin(w.array(), values).any()
    assert run(found.written.script, "--recorded").returncode == 1


def test_no_inputs_of_our_own_is_said_honestly(tmp_path: Path) -> None:
    of = case("mlp:dtype=f32")
    (held,) = [s for s in recorded(of).steps if s.name == "L01.up"]
    first = float(recorded(of).tensors[held.outputs[0].digest].array()[0, 0])

    def only_here(y):
        return torch.where(y == first, y * 2, y)

    with pytest.raises(Nothing, match=r"no inputs of our own show step 'L01.up' with the same likely cause"):
        written("mlp:dtype=f32", tmp_path, synthetic=True, L01_up=only_here)
    assert not list(tmp_path.iterdir())


def test_a_target_that_is_a_folder_is_not_shrunk_and_says_so(tmp_path: Path) -> None:
    of = case("mlp:dtype=bf16")
    found = looked(of, recorded(of, L01_up=lambda y: y * 1.1))
    made = reproduce(found, step=None, trials=None, folder=tmp_path)
    assert made.inputs == "L01.norm.y bf16[5, 72]  L01.up bf16[96, 72]"
    assert made.said[0].startswith("The target was a folder of recordings: shapes are as recorded")
    assert run(made.written.script, "--recorded").returncode == 1
    with pytest.raises(Nothing, match="the target of ladders/mlp:dtype=bf16 is a folder"):
        reproduce(found, step=None, trials=None, folder=tmp_path / "more", synthetic=True)


def test_a_step_that_departs_only_inside_its_run_is_shown_as_recorded(tmp_path: Path) -> None:
    of = case("mlp:dtype=bf16")
    found = looked(of, recorded(of, L01_up=lambda y: y * 1.1))
    made = reproduce(found, step=None, trials=Trials(Here(backend()), found.target), folder=tmp_path)
    assert made.said[0].startswith("Run alone on the same inputs step 'L01.up' is within")
    assert made.inputs == "L01.norm.y bf16[5, 72]  L01.up bf16[96, 72]"


def test_nothing_that_departs_is_nothing_to_reproduce(tmp_path: Path) -> None:
    of = case("mlp:dtype=f32")
    found = looked(of, recorded(of))
    with pytest.raises(Nothing, match="no step of ladders/mlp:dtype=f32 departs on cpu"):
        reproduce(found, step=None, trials=None, folder=tmp_path)
    with pytest.raises(Nothing, match=r"step 'L00.up' of ladders/mlp:dtype=f32 is within"):
        reproduce(found, step="L00.up", trials=None, folder=tmp_path)
    with pytest.raises(UsageError, match=r"has no step 'L00.upp'; did you mean 'L00.up'\?"):
        reproduce(found, step="L00.upp", trials=None, folder=tmp_path)
    assert issubclass(Nothing, GoldenError)


def test_a_step_that_ended_its_process_is_run_in_one_of_its_own(tmp_path: Path) -> None:
    of = case("mlp:dtype=f32")
    whole = recorded(of)
    crashed = dataclasses.replace(
        whole,
        steps=tuple(
            dataclasses.replace(s, failure=Failure(kind=FailureKind.CRASHED, text="SIGABRT"), outputs=())
            if s.name == "L02.res"
            else s
            for s in whole.steps
        ),
        tensors={d: t for d, t in whole.tensors.items() if d != whole.steps[-1].outputs[0].digest},
    )
    made = reproduce(looked(of, crashed), step=None, trials=None, folder=tmp_path)
    assert (made.step, made.verdict) == ("L02.res", Verdict.CRASHED)
    assert run(made.written.script, "--recorded").returncode == 1
    done = run(made.written.script)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "the fault is gone")
    text = made.written.script.read_text()
    made.written.script.write_text(text.replace("STEP = torch.add", "STEP = lambda *x: os.abort()"))
    done = run(made.written.script)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the process ended with -6" in done.stdout


def swapped(y):
    return y.flip(-1)


@pytest.mark.parametrize("step", ["lower", "largest"])
def test_an_exact_result_and_one_of_several_right_ones_are_there_and_gone(tmp_path: Path, step: str) -> None:
    found = written("exact:dtype=f32", tmp_path, step=step, **{step: swapped})
    there, gone = run(found.written.script, "--recorded"), run(found.written.script)
    assert there.returncode == 1, there.stdout + there.stderr
    assert gone.returncode == 0, gone.stdout + gone.stderr


def test_a_call_of_torch_is_written_as_a_call_of_torch(tmp_path: Path) -> None:
    call = '{"function":"nn.functional.softplus","args":[{"tensor":0}],"kwargs":{"beta":1.5},"writes":[]}'
    of = case("exact:dtype=f32")
    lower = recorded(of).steps[0]
    step = dataclasses.replace(
        lower, name="called", op="torch:nn.functional.softplus", attrs={"call": call}, failure=None
    )
    given = dataclasses.replace(recorded(of), steps=(step,), tensors={})
    sources = Sources(recording=given, inputs=generate(of))
    target = Here(backend(called=swapped)).replay(self_contained(sources, [step]))
    sources = dataclasses.replace(sources, recording=target)
    judged = tuple(judge_steps(target, weights=sources.find))
    found = Looked(
        case=of,
        target=target,
        judgement=CaseJudgement(verdict=judged[0].verdict, steps=judged),
        sources=sources,
    )
    trials = Trials(Here(backend(called=swapped)), target)
    made = reproduce(found, step=None, trials=trials, folder=tmp_path)
    assert made.verdict is Verdict.EXCEEDS
    assert "torch.nn.functional.softplus(x[0], beta=1.5)" in made.written.script.read_text()
    there, gone = run(made.written.script, "--recorded"), run(made.written.script)
    assert there.returncode == 1, there.stdout + there.stderr
    assert gone.returncode == 0, gone.stdout + gone.stderr
