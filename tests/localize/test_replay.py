"""Replays in children of their own, on simulated chips whose faults are planted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from parity.backend.spec import BackendSpec, Setting
from parity.case.inputs import generate
from parity.judge.verdict import Verdict
from parity.localize.replay import Replay, obstacle, replay
from parity.localize.sources import Sources
from parity.run.replayer import replaying
from parity.store.recording import Recording
from tests.localize.sides import case, recorded

pytestmark = pytest.mark.needs_torch

CASE = case("mlp:dtype=bf16")


@pytest.fixture(scope="module")
def reference() -> Recording:
    return recorded(CASE)


@pytest.fixture(scope="module")
def sources(reference: Recording) -> Sources:
    return Sources(recording=reference, inputs=generate(CASE))


def replayed(sources: Sources, folder: Path, *, on: str = "sim/gaudi2") -> Replay:
    with replaying(BackendSpec.parse(on), Setting.STRICT, folder=folder, pause_s=0.0) as replayer:
        return replay(sources, replayer)


def test_only_the_steps_with_the_fault_exceed(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARITY_SIM_FAULTS", "wrong_tile_edge@linear")
    found = replayed(sources, tmp_path)
    departing = {name for name, judged in found.judged.items() if judged.verdict.departs}
    # The other product has a K of whole tiles.
    assert departing == {"L00.up", "L01.up", "L02.up"}
    assert set(found.judged) == {step.name for step in CASE.steps} and not found.skipped


def test_a_crash_costs_its_step_and_no_other(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARITY_SIM_FAULTS", "segfault@silu")
    found = replayed(sources, tmp_path)
    verdicts = {name: judged.verdict for name, judged in found.judged.items()}
    assert {n for n, v in verdicts.items() if v is Verdict.CRASHED} == {"L00.act", "L01.act", "L02.act"}
    assert {n for n, v in verdicts.items() if v is Verdict.WITHIN} == {
        step.name for step in CASE.steps if not step.name.endswith("act")
    }
    assert "SIGSEGV in step 'L00.act'" in found.judged["L00.act"].note


def test_a_replay_has_the_names_and_the_inputs_of_the_reference(sources: Sources, tmp_path: Path) -> None:
    found = replayed(sources, tmp_path, on="cpu").recording
    reference = sources.recording
    assert [step.name for step in found.steps] == [step.name for step in reference.steps]
    for again, first in zip(found.steps, reference.steps, strict=True):
        assert [ref and ref.digest for ref in again.inputs] == [ref and ref.digest for ref in first.inputs]
        assert [ref.digest for ref in again.outputs] == [ref.digest for ref in first.outputs]
    assert not list(tmp_path.glob("given-*")), "what was handed to the child is removed"


def test_a_step_whose_input_nobody_has_is_skipped_by_name(reference: Recording, tmp_path: Path) -> None:
    inputs = {name: t for name, t in generate(CASE).items() if name != "L01.up"}
    found = replayed(Sources(recording=reference, inputs=inputs), tmp_path, on="cpu")
    assert found.skipped == {"L01.up": "input 'L01.up' is neither in the recording nor here"}
    assert "L01.up" not in found.judged and found.recording.step("L01.up") is None


def test_a_step_that_cannot_be_replayed_says_why(sources: Sources) -> None:
    step = sources.recording.steps[0]
    assert obstacle(step, sources) == ""
    moody = dataclasses.replace(step, replayable=False)
    assert "keeps a state of its own" in obstacle(moody, sources)
    opaque = dataclasses.replace(step, op="composite:jit")
    assert "nobody saw into" in obstacle(opaque, sources)


def test_another_tensor_of_the_same_name_is_not_believed(reference: Recording) -> None:
    inputs = generate(CASE)
    swapped = {**inputs, "L00.g": inputs["L01.g"]}
    sources = Sources(recording=reference, inputs=swapped)
    assert "neither in the recording nor here" in obstacle(reference.steps[0], sources)


def test_what_the_target_cannot_express_is_skipped_and_no_departure(sources: Sources, tmp_path: Path) -> None:
    steps = tuple(
        dataclasses.replace(s, op="torch:no.such.call") if s.name == "L00.act" else s
        for s in sources.recording.steps
    )
    unknown = dataclasses.replace(sources.recording, steps=steps)
    found = replayed(dataclasses.replace(sources, recording=unknown), tmp_path, on="openvino")
    assert set(found.skipped) == {"L00.act"}
    assert "has no torch implementation" in found.skipped["L00.act"]
