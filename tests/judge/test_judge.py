from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parity.backend.base import Node, Witness
from parity.case.case import Case, Step, TensorSpec
from parity.case.dtype import DTYPES
from parity.case.ids import CaseId
from parity.case.inputs import generate
from parity.case.tensor import HostTensor
from parity.errors import GoldenError
from parity.judge.judge import judge
from parity.judge.verdict import Verdict
from parity.store.recording import Failure, FailureKind


@pytest.fixture
def altered(case, recorded):
    """Judge the right recording with facts of one of its steps changed, and more tensors."""

    def ask(number=0, *, tensors=(), **changes):
        recording = recorded(case)
        steps = list(recording.steps)
        steps[number] = dataclasses.replace(steps[number], **changes)
        stored = {**recording.tensors, **{t.digest(): t for t in tensors}}
        return judge(case, dataclasses.replace(recording, steps=tuple(steps), tensors=stored))

    return ask


@pytest.fixture
def wrong(case, recorded):
    """The running sum, with one element that is off."""
    y = next(iter(recorded(case).tensors.values()))
    array = np.array(y.array())
    array[2, 3] += 1
    return HostTensor.of(array, y.dtype)


def test_a_right_recording_is_within_and_shows_what_supports_it(case, recorded):
    result = judge(case, recorded(case))
    assert [s.verdict for s in result.steps] == [Verdict.WITHIN, Verdict.WITHIN]
    assert (result.verdict, result.elements) == (Verdict.WITHIN, 32 + 8)
    total = result.steps[0]
    assert total.evidence.inputs_digest.startswith("sha256:")
    assert (total.formula, total.seconds) == ("cumsum", 0.5)


def test_a_recording_of_another_case_is_refused(case, recorded):
    with pytest.raises(GoldenError, match="is not of test/two"):
        judge(case, dataclasses.replace(recorded(case), case="test/three"))


def test_a_recording_of_another_revision_is_refused_by_name(case, recorded):
    other = dataclasses.replace(recorded(case), revision="sha256:" + "1" * 64)
    with pytest.raises(GoldenError) as refused:
        judge(case, other)
    assert str(refused.value) == (
        f"recording of test/two (revision {'1' * 12}) is not of test/two "
        f"(revision {case.revision[7:19]}); record it again from this revision of the case"
    )


def test_a_step_that_was_not_recorded_is_unjudged(case, recorded):
    recording = recorded(case)
    result = judge(case, dataclasses.replace(recording, steps=recording.steps[:1]))
    assert result.verdict is Verdict.UNJUDGED
    assert (result.steps[1].verdict, result.steps[1].note) == (Verdict.UNJUDGED, "not recorded")


def test_an_input_that_the_case_does_not_generate_leaves_its_step_unjudged(altered, ref, tensor):
    other = ref("x", tensor(np.zeros((4, 8)), "f32"))
    result = altered(inputs=(other,))
    assert result.steps[0].note.startswith("activation 'x' is another one here: ")
    assert result.verdict is Verdict.UNJUDGED


def test_an_input_of_another_name_leaves_its_step_unjudged(altered, case, ref):
    result = altered(inputs=(ref("renamed", generate(case)["x"]),))
    assert result.steps[0].verdict is Verdict.UNJUDGED


def test_an_input_that_is_absent_on_one_side_leaves_its_step_unjudged(altered):
    assert altered(inputs=(None,)).steps[0].note == "input 'x' is absent on one side"


def test_another_number_of_inputs_leaves_its_step_unjudged(altered):
    assert altered(inputs=()).steps[0].note == "recorded with 0 inputs, the case has 1"


def test_other_attributes_leave_their_step_unjudged(altered):
    result = altered(attrs={"dim": 0})
    assert result.steps[0].note == "recorded with another op or attributes than the case has"


def test_another_op_leaves_its_step_unjudged(altered):
    assert altered(op="sum").steps[0].verdict is Verdict.UNJUDGED


def test_an_unknown_op_is_unjudged(altered):
    assert altered(op="conv17").steps[0].note == "op 'conv17' is not known to this version"


def test_a_step_that_changed_its_input_is_unjudged(altered):
    assert altered(mutates=("x",)).steps[0].note == "changed its input 'x'"


def test_an_output_under_another_name_leaves_its_step_unjudged(altered, case, recorded, ref):
    y = next(iter(recorded(case).tensors.values()))
    assert altered(outputs=(ref("x", y),)).steps[0].note == "recorded other outputs than the case names"


def test_an_output_whose_bytes_are_missing_leaves_its_step_unjudged(altered, ref, wrong):
    assert altered(outputs=(ref("y", wrong),)).steps[0].note == "output 'y' is not in the recording"


def test_a_wrong_element_exceeds_and_only_its_own_step(altered, case, recorded, ref, wrong):
    result = altered(outputs=(ref("y", wrong),), tensors=[wrong])
    assert result.steps[0].verdict is Verdict.EXCEEDS
    assert result.steps[0].outputs[0].worst_index == (2, 3)
    # The next step read the right sum, which this one did not give.
    assert result.steps[1].verdict is Verdict.UNJUDGED


def test_a_step_is_judged_on_what_the_step_before_really_gave(case, recorded, ref, wrong):
    recording = recorded(case)
    row = HostTensor.of(np.array(wrong.array()[1]), wrong.dtype)
    steps = (
        dataclasses.replace(recording.steps[0], outputs=(ref("y", wrong),)),
        dataclasses.replace(recording.steps[1], inputs=(ref("y", wrong),), outputs=(ref("z", row),)),
    )
    stored = {t.digest(): t for t in (wrong, row)}
    result = judge(case, dataclasses.replace(recording, steps=steps, tensors=stored))
    assert [s.verdict for s in result.steps] == [Verdict.EXCEEDS, Verdict.WITHIN]


@pytest.mark.parametrize("kind", list(FailureKind))
def test_a_failure_is_the_verdict_of_its_step_in_the_devices_words(altered, kind):
    result = altered(failure=Failure(kind=kind, text="signal 11"), outputs=())
    assert (result.steps[0].verdict.value, result.steps[0].note) == (kind.value, "signal 11")
    assert result.verdict is Verdict(kind.value)


def test_runs_that_differ_are_unstable_when_one_of_them_exceeds(altered, ref, wrong):
    result = altered(repeats=((ref("y", wrong),),), tensors=[wrong])
    assert result.steps[0].verdict is Verdict.UNSTABLE
    assert "2 different results in 2 runs" in result.steps[0].note


def test_runs_that_differ_within_the_budget_are_within_and_say_so(altered, case, recorded, ref):
    y = next(iter(recorded(case).tensors.values()))
    other = np.array(y.array())
    other[0, 5] = np.nextafter(other[0, 5], np.float32(9))
    near = HostTensor.of(other, y.dtype)
    result = altered(repeats=((ref("y", near),), (ref("y", y),)), tensors=[near])
    assert result.steps[0].verdict is Verdict.WITHIN
    assert result.steps[0].note == "2 different results in 3 runs"


def test_a_repeated_run_whose_bytes_are_missing_leaves_the_step_unjudged(altered, ref, wrong):
    assert altered(repeats=((ref("y", wrong),),)).steps[0].verdict is Verdict.UNJUDGED


@pytest.mark.parametrize(
    "witness, verdict",
    [
        (None, Verdict.UNJUDGED),
        (Witness(), Verdict.FELL_BACK),
        (Witness(executed=(Node(kind="k", device="npu", precision="bf16"),)), Verdict.SUBSTITUTED),
    ],
)
def test_right_bits_without_a_right_witness_are_not_within(altered, witness, verdict):
    assert altered(witness=witness).verdict is verdict


def test_a_float64_result_is_unjudged_by_a_float64_oracle(recorded, case):
    x = TensorSpec(name="x", dtype=DTYPES["f64"], shape=(4, 8))
    wide = dataclasses.replace(case, inputs=(x,))
    assert judge(wide, _recorded_in_f64(wide, recorded(case))).steps[0].outputs[0].note == (
        "a float64 result cannot be judged by a float64 oracle"
    )


def _recorded_in_f64(case, like):
    given = generate(case)["x"]
    y = HostTensor.of(np.cumsum(given.array(), -1), given.dtype)
    z = HostTensor.of(np.array(y.array()[1]), given.dtype)
    steps = []
    for step, read, made in zip(like.steps, (given, y), (y, z), strict=True):
        changed = {
            "inputs": (_like(step.inputs[0], read),),
            "outputs": (_like(step.outputs[0], made),),
            "witness": Witness(executed=(Node(kind="k", device="cpu", precision="f64"),)),
        }
        steps.append(dataclasses.replace(step, **changed))
    stored = {t.digest(): t for t in (y, z)}
    return dataclasses.replace(like, revision=case.revision, steps=tuple(steps), tensors=stored)


def _like(ref, tensor):
    return dataclasses.replace(ref, dtype=tensor.dtype, digest=tensor.digest())


def test_a_case_of_which_every_output_is_empty_is_unjudged(recorded, case, ref):
    x = TensorSpec(name="x", dtype=DTYPES["f32"], shape=(0, 8))
    total = Step(name="total", op="cumsum", inputs=("x",), outputs=("y",), attrs={"dim": -1})
    empty = Case(id=CaseId.parse("test/empty"), inputs=(x,), steps=(total,))
    given = generate(empty)["x"]
    record = dataclasses.replace(
        recorded(case).steps[0], inputs=(ref("x", given),), outputs=(ref("y", given),)
    )
    recording = dataclasses.replace(
        recorded(case),
        case=str(empty.id),
        revision=empty.revision,
        steps=(record,),
        tensors={given.digest(): given},
    )
    result = judge(empty, recording)
    assert (result.verdict, result.note) == (
        Verdict.UNJUDGED,
        "every output is empty: nothing was compared",
    )


def test_a_result_that_a_declared_reading_explains_is_within_and_names_it(case, recorded, ref, declaring):
    profile = declaring("inputs_rounded", "cumsum", "f32", "11")
    recording = recorded(case, profile=profile)
    x = generate(case)["x"]
    narrow = (np.array(x.array()).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    y = HostTensor.of(np.cumsum(narrow, -1, dtype=np.float32), x.dtype)
    z = HostTensor.of(np.array(y.array()[1]), x.dtype)
    steps = (
        dataclasses.replace(recording.steps[0], outputs=(ref("y", y),)),
        dataclasses.replace(recording.steps[1], inputs=(ref("y", y),), outputs=(ref("z", z),)),
    )
    stored = {t.digest(): t for t in (y, z)}
    result = judge(case, dataclasses.replace(recording, steps=steps, tensors=stored))
    assert result.verdict is Verdict.WITHIN
    assert result.steps[0].note == "inputs truncated to 11 significand bits"
    undeclared = dataclasses.replace(
        recording, steps=steps, tensors=stored, environment=recorded(case).environment
    )
    assert judge(case, undeclared).verdict is Verdict.EXCEEDS
