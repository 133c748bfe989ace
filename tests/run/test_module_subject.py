from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Case, Subject, SubjectKind
from parity.case.ids import CaseId
from parity.errors import GoldenError, UsageError
from parity.judge.traced import judge_steps
from parity.judge.verdict import Verdict
from parity.run.environment import environment
from parity.run.journal import Journal
from parity.run.subject import record_subject, weights_of
from parity.store import arrow
from parity.store.recording import FailureKind

pytestmark = pytest.mark.needs_torch

FOLDER = Path(__file__).parent / "module_targets"


def case(name: str, **options) -> Case:
    subject = Subject(kind=SubjectKind.MODULE, options={"target": f"targets_of_tests:{name}", **options})
    return Case(id=CaseId.parse("models/mine"), inputs=(), subject=subject, source=f"{FOLDER / 'case.py'}:1")


@pytest.fixture(scope="module")
def backend():
    backend = create(BackendSpec("cpu"), Setting.STRICT)
    backend.open()
    return backend


@pytest.fixture
def recorded(backend):
    def record(name, *, repeat=1, **options):
        return record_subject(
            case(name, **options),
            backend,
            repeat=repeat,
            journal=Journal(),
            environment=environment(backend),
        )

    return record


def judged(recording, target):
    calls = tuple(step for step in recording.steps if step.op != "module")
    found = judge_steps(dataclasses.replace(recording, steps=calls), weights=weights_of(case(target)))
    return {step.name: step.verdict for step in found}


def digests(refs):
    return [(ref.name, ref.digest) for ref in refs]


def test_every_call_of_a_module_is_recorded_and_judged_alone(recorded):
    recording = recorded("mlp")
    assert judged(recording, "mlp") == {
        "up/linear": Verdict.WITHIN,
        "./silu": Verdict.WITHIN,
        "down/linear": Verdict.WITHIN,
        "./add": Verdict.WITHIN,
    }


def test_an_error_of_one_call_is_seen_at_that_call_alone(recorded):
    recording = recorded("mlp")
    (silu,) = (step for step in recording.steps if step.name == "./silu")
    held = recording.tensors[silu.outputs[0].digest]
    other = dataclasses.replace(held, storage=held.storage * 1.001)
    wrong = dataclasses.replace(silu, outputs=(dataclasses.replace(silu.outputs[0], digest=other.digest()),))
    changed = dataclasses.replace(
        recording,
        steps=tuple(wrong if step is silu else step for step in recording.steps),
        tensors={**recording.tensors, other.digest(): other},
    )
    verdicts = judged(changed, "mlp")
    assert [name for name, verdict in verdicts.items() if verdict is Verdict.EXCEEDS] == ["./silu"]


@pytest.mark.parametrize("target", ["named", "held"])
def test_inputs_may_be_named_or_held_by_an_object(recorded, target):
    assert digests(recorded(target).results) == digests(recorded("mlp").results)


def test_a_run_that_nobody_watches_gives_the_same_results(recorded):
    recording = recorded("mlp")
    assert digests(recording.unobserved) == digests(recording.results)
    assert [ref.name for ref in recording.results] == ["output"]


def test_a_module_that_computes_otherwise_when_it_is_watched_is_found_out(recorded):
    recording = recorded("shy")
    assert [ref.name for ref in recording.unobserved] == ["output"]
    assert digests(recording.unobserved) != digests(recording.results)


def test_a_recording_of_a_module_can_be_written_and_read_back(recorded, tmp_path):
    recording = recorded("mlp")
    path = tmp_path / "module.arrow"
    arrow.write(recording, path)
    again = arrow.read(path)
    assert again.steps == recording.steps
    assert set(again.tensors) == set(recording.tensors)


def test_repeated_runs_are_held_against_the_first(recorded):
    recording = recorded("mlp", repeat=2)
    calls = [step for step in recording.steps if step.op != "module"]
    assert all(step.repeats == (step.outputs,) for step in calls)


def test_state_that_is_kept_between_runs_is_named_and_no_blame_of_the_observer(recorded):
    recording = recorded("counting")
    (root,) = (step for step in recording.steps if step.name == ".")
    assert not root.replayable
    assert root.attrs["reason"] == (
        "gives other results on the same inputs, first seen in what './add' reads: "
        "state that is kept between runs"
    )
    assert recording.unobserved == ()


def test_chance_is_named(recorded):
    recording = recorded("noisy")
    (root,) = (step for step in recording.steps if step.name == ".")
    assert root.attrs["reason"] == (
        "gives other results on the same inputs, first seen in what '1/dropout' gives of the same inputs"
    )
    assert not recording.step("1/dropout").replayable


def test_the_call_that_cannot_be_done_ends_the_run(recorded):
    recording = recorded("breaking")
    (failed,) = (step for step in recording.steps if step.failure)
    assert (failed.name, failed.failure.kind) == ("./matmul", FailureKind.CRASHED)
    assert failed.failure.text == "RuntimeError: mat1 and mat2 shapes cannot be multiplied (3x8 and 3x8)"
    assert recording.step("./add").outputs
    assert recording.results == ()


def test_an_error_between_calls_is_said_to_be_after_the_last_one(recorded):
    recording = recorded("raising")
    assert recording.steps[-1].name == "after ./add"
    assert recording.steps[-1].failure.text == "KeyError: 'no such expert'"


def test_at_module_depth_there_are_modules_alone(recorded):
    recording = recorded("mlp", depth="module")
    assert [(step.name, step.op) for step in recording.steps] == [
        ("up", "module"),
        ("down", "module"),
        (".", "module"),
    ]


def test_floats_of_model_and_inputs_are_made_the_type_that_is_asked(recorded):
    recording = recorded("mlp", dtype="bf16")
    assert {ref.dtype.name for step in recording.steps for ref in step.outputs} == {"bf16"}
    found = judge_steps(
        dataclasses.replace(recording, steps=recording.steps[:1]),
        weights=weights_of(case("mlp", dtype="bf16")),
    )
    assert [step.verdict for step in found] == [Verdict.WITHIN]


def test_weights_that_are_not_here_are_said_to_be_missing():
    with pytest.raises(GoldenError, match=r"^the weights of models/mine are not here: .*raised OSError"):
        weights_of(case("failing"))


def usage_error(record, *arguments, **options) -> str:
    with pytest.raises(UsageError) as caught:
        record(*arguments, **options)
    return str(caught.value).replace(str(FOLDER), "HERE")


def test_options_that_make_no_sense_are_refused(recorded):
    where = "HERE/case.py:1: models/mine"
    assert usage_error(recorded, "mlp", deph="op") == (
        f"{where}: a module has no option 'deph'; did you mean 'depth'?"
    )
    assert usage_error(recorded, "mlp", depth="layer") == f"{where}: depth is op or module, got 'layer'"


@pytest.mark.parametrize(
    "target,text",
    [
        ("targets_of_tests:mlq", ": targets_of_tests has no 'mlq'; did you mean 'mlp'?"),
        (
            "targets_of_test:mlp",
            ": there is no module 'targets_of_test' here; did you mean 'targets_of_tests'?",
        ),
        ("targets_of_tests", " is not written package.module:callable"),
        ("targets_of_tests:not_a_function", " is a int, not a callable"),
        ("targets_of_tests:failing", " raised OSError: the weights are not here"),
        (
            "targets_of_tests:nothing",
            (
                " returned int, not (model, args, kwargs) with a torch.nn.Module, nor an object with .model "
                "and .inputs"
            ),
        ),
    ],
)
def test_a_target_that_is_none_is_named_with_what_is_near(recorded, target, text):
    assert usage_error(recorded, "", target=target) == f"HERE/case.py:1: models/mine: target '{target}'{text}"
