from __future__ import annotations

import weakref

import numpy as np
import pytest

from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.dtype import dtype
from parity.case.inputs import generate
from parity.case.tensor import HostTensor
from parity.run import recorder
from parity.run.environment import environment
from parity.run.journal import Journal
from parity.run.passes import responds
from parity.store.recording import Failure, FailureKind

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture
def backend():
    backend = create(BackendSpec("faulty"), Setting.STRICT)
    backend.open()
    return backend


@pytest.fixture
def recorded(backend, case):
    def record(name, *, repeat=1):
        return recorder.record(case(name), backend, repeat=repeat, journal=Journal())

    return record


def crashed(text):
    return Failure(kind=FailureKind.CRASHED, text=text)


def unsupported(text):
    return Failure(kind=FailureKind.UNSUPPORTED, text=text)


def failures(recording):
    return {step.name: step.failure for step in recording.steps if step.failure is not None}


def values(recording, name):
    (output,) = recording.step(name).outputs
    return recording.tensors[output.digest].array()


def test_every_step_is_recorded_with_what_it_consumed_and_made(recorded, case, backend):
    recording = recorded("none:n=0")
    (x,) = generate(case("none:n=0")).values()
    first, second, needs, aside = recording.steps
    assert [step.name for step in recording.steps] == ["first", "healthy0", "needs", "aside"]
    assert first.inputs[0].digest == aside.inputs[0].digest == x.digest()
    assert first.inputs[0].role == "input"
    assert second.inputs == first.outputs
    assert needs.inputs == second.outputs
    assert second.outputs[0].role == "activation"
    np.testing.assert_array_equal(values(recording, "first"), np.tanh(x.array()))
    np.testing.assert_array_equal(values(recording, "needs"), np.tanh(np.tanh(np.tanh(x.array()))))
    assert recording.environment == environment(backend)
    assert recording.revision == case("none:n=0").revision
    assert not failures(recording)


def test_only_activations_are_stored(recorded):
    recording = recorded("none:n=0")
    outputs = {ref.digest for step in recording.steps for ref in step.outputs}
    assert recording.tensors.keys() == outputs
    assert recording.step("first").inputs[0].digest not in recording.tensors


def test_a_step_has_its_seconds_bytes_and_witness(recorded):
    step = recorded("none:n=0").step("first")
    assert step.seconds > 0
    assert step.bytes == 2 * 16 * 4
    assert step.flops == 0
    assert step.witness.executed[0].kind == "numpy"


def test_a_device_that_raises_crashed_in_its_own_words_and_steps_that_do_not_need_it_go_on(recorded):
    recording = recorded("raises")
    assert failures(recording) == {
        "raises": crashed("RuntimeError: out of luck in kernel 7"),
        "needs": crashed("not reached: needs 'raises'"),
    }
    assert recording.step("raises").outputs == ()
    assert values(recording, "aside").shape == (16,)


def test_a_failed_step_still_says_what_it_consumed(recorded):
    recording = recorded("raises")
    assert recording.step("raises").inputs == recording.step("first").outputs


@pytest.mark.parametrize(
    "fault, text",
    [
        ("async", "RuntimeError: launch failed"),
        ("unfetchable", "RuntimeError: copy failed"),
        ("out_of_memory", "MemoryError: tried to allocate 3 TiB"),
        ("no_outputs", "run returned 0 where 1 outputs are expected, as a tuple"),
        ("not_a_tuple", "run returned a ndarray where 1 outputs are expected, as a tuple"),
    ],
)
def test_whatever_fails_in_a_step_is_that_steps_failure(recorded, fault, text):
    assert failures(recorded(fault)) == {
        fault: crashed(text),
        "needs": crashed(f"not reached: needs '{fault}'"),
    }


def test_what_a_device_cannot_express_is_unsupported_and_so_is_what_needs_it(recorded):
    assert failures(recorded("unsupported")) == {
        "unsupported": unsupported("no kernel for tanh on this card"),
        "needs": unsupported("not reached: needs 'unsupported'"),
    }


def test_after_a_sticky_error_no_later_step_is_blamed(recorded):
    assert failures(recorded("sticky")) == {
        "sticky": crashed("RuntimeError: device-side assert triggered"),
        "needs": crashed("not reached: the device answered no more after step 'sticky'"),
        "aside": crashed("not reached: the device answered no more after step 'sticky'"),
    }


def test_a_device_responds_until_it_is_lost(backend, recorded):
    assert responds(backend)
    recorded("sticky")
    assert not responds(backend)


def test_a_step_that_overwrites_its_input_fails_and_the_next_is_held_to_what_it_consumed(recorded):
    recording = recorded("overwrites")
    step = recording.step("overwrites")
    assert failures(recording) == {"overwrites": crashed("overwrote its input 'a'")}
    assert step.mutates == ("a",)
    assert step.inputs == recording.step("first").outputs
    assert step.outputs


def test_bytes_are_those_that_were_fetched_though_the_device_shares_its_memory(
    recorded, backend, monkeypatch
):
    monkeypatch.setattr(backend, "get", lambda handle: HostTensor.of(handle, dtype("f32")))
    recording = recorded("overwrites")
    assert failures(recording) == {"overwrites": crashed("overwrote its input 'a'")}
    assert [tensor.digest() for tensor in recording.tensors.values()] == list(recording.tensors)


def test_a_put_that_shares_our_memory_does_not_hide_an_overwritten_input(recorded, backend, monkeypatch):
    monkeypatch.setattr(backend, "put", lambda tensor: tensor.storage)

    def run(_step, inputs):
        y = np.tanh(inputs[0])
        inputs[0][0] = 7
        return (y,)

    monkeypatch.setattr(backend, "run", run)
    recording = recorded("none:n=0")
    assert failures(recording)["first"] == crashed("overwrote its input 'x'")


def test_a_put_that_narrows_a_dtype_is_not_blamed_on_the_step(recorded):
    recording = recorded("narrow:fault=none")
    given, held = recording.step("first").inputs[0], recording.step("aside").inputs[0]
    assert failures(recording) == {
        "first": unsupported(
            f"put does not keep the bits of input 'x': f64[16] {given.digest[7:19]} came back as "
            f"f32[16] {held.digest[7:19]}, before any step ran"
        )
    }
    assert held.role == "activation"
    assert recording.tensors[held.digest].dtype.name == "f32"


@pytest.mark.parametrize("fault, name, shape", [("wrong_dtype", "f64", (16,)), ("wrong_shape", "f32", (1,))])
def test_an_output_of_the_wrong_kind_is_recorded_as_it_came(recorded, fault, name, shape):
    recording = recorded(fault)
    (output,) = recording.step(fault).outputs
    assert (output.dtype.name, output.shape) == (name, shape)
    assert not failures(recording)


def test_a_repeat_leaves_digests_and_no_second_copy_of_the_same_bytes(recorded):
    once, thrice = recorded("none:n=0"), recorded("none:n=0", repeat=3)
    assert [step.repeats for step in once.steps] == [()] * 4
    assert [step.repeats for step in thrice.steps] == [(step.outputs,) * 2 for step in thrice.steps]
    assert thrice.tensors.keys() == once.tensors.keys()


def test_a_result_that_differs_is_kept_and_what_it_feeds_is_no_repeat(recorded):
    recording = recorded("unstable", repeat=3)
    step = recording.step("unstable")
    digests = {ref.digest for run in (step.outputs, *step.repeats) for ref in run}
    assert len(digests) == 3
    assert digests < recording.tensors.keys()
    assert recording.step("needs").repeats == ()
    assert recording.step("aside").repeats == (recording.step("aside").outputs,) * 2


def test_a_failure_in_a_later_run_names_the_run(recorded, backend, monkeypatch):
    runs = []

    def run(step, inputs):
        runs.append(step.name)
        if runs.count("first") == 2:
            raise RuntimeError("only sometimes")
        return (np.tanh(inputs[0]),)

    monkeypatch.setattr(backend, "run", run)
    assert failures(recorded("none:n=0", repeat=3))["first"] == crashed(
        "run 2 of 3: RuntimeError: only sometimes"
    )
    assert runs.count("first") == 2


def test_a_mistake_in_a_case_file_is_no_failure_of_the_device(recorded, monkeypatch):
    def broken(case):
        raise ZeroDivisionError(case.id)

    monkeypatch.setattr(recorder, "generate", broken)
    with pytest.raises(ZeroDivisionError):
        recorded("none:n=0")


def test_compiling_does_not_count_as_the_steps_seconds(recorded):
    recording = recorded("compile")
    assert not failures(recording)
    assert recording.step("compile").seconds < 0.05


def test_a_case_that_is_done_is_forgotten_by_the_backend(recorded, backend):
    recorded("compile")
    assert backend.on_phase is None


def test_device_memory_is_freed_when_no_later_step_reads_it(backend, case, monkeypatch):
    class Handle:
        def __init__(self, array):
            self.array = array
            alive.add(self)

    def run(_step, inputs):
        counts.append(len(alive))
        return (Handle(np.tanh(inputs[0].array)),)

    alive, counts = weakref.WeakSet(), []
    monkeypatch.setattr(backend, "run", run)
    monkeypatch.setattr(backend, "put", lambda tensor, put=backend.put: Handle(put(tensor)))
    monkeypatch.setattr(backend, "get", lambda handle, get=backend.get: get(handle.array))
    recorder.record(case("none:n=0"), backend, journal=Journal())
    assert counts == [1, 2, 2, 1]


def test_the_journal_names_each_step_and_phase_before_it_begins(backend, case, tmp_path):
    journal = Journal(tmp_path / "journal")
    recorder.record(case("none:n=0"), backend, journal=journal)
    journal.close()
    lines = [line.split(",") for line in (tmp_path / "journal").read_text().splitlines() if line]
    entered = [(phase.strip(' "'), step.strip(' "')) for _, phase, _, step, _ in lines]
    assert entered == [
        *[("put", "first"), ("run", "first"), ("fetch", "first")],
        *[("run", "healthy0"), ("fetch", "healthy0"), ("run", "needs"), ("fetch", "needs")],
        *[("run", "aside"), ("fetch", "aside")],
    ]
