"""What each way of losing a child costs: the case and step that its journal names, and no other."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import pytest

from parity.run import lane
from parity.run.journal import Phase
from parity.run.lane import Finished, Limits
from parity.store import arrow
from parity.store.recording import Failure, FailureKind, Recording

KILLED = "SIGKILL from outside, as the kernel sends when memory runs out,"
LOST = {
    "abort": "SIGABRT in step 'abort' (phase run)",
    "exit_0": "ended with exit status 0 in step 'exit_0' (phase run)",
    "real_time": f"signal {signal.SIGRTMIN + 1} in step 'real_time' (phase run)",
    "segfault": "SIGSEGV in step 'segfault' (phase run); last words: about to read address 0",
    "sigkill": f"{KILLED} in step 'sigkill' (phase run)",
    "sys_exit": "ended with exit status 0 in step 'sys_exit' (phase run)",
    "leaves_a_child": f"{KILLED} in step 'leaves_a_child' (phase run)",
}
HUNG = {
    "compile_hang": "no progress for 3 s in step 'compile_hang' (phase compile)",
    "hang": "no progress for 2.5 s in step 'hang' (phase run); last words: waiting for the card",
}
# The child lives on after these.
SURVIVED = ("garbage", "reads_stdin", "raises", "out_of_memory", "unsupported", "wrong_dtype")


@dataclass
class Outcome:
    done: Finished
    recording: Recording


@pytest.fixture(scope="module")
def finished(module_plugin, run, case, tmp_path_factory) -> list[Finished]:
    """All faults in one run, healthy cases between them."""
    faults = [*LOST, *HUNG, "close_fds", "sticky", *SURVIVED]
    cases = [each for n, name in enumerate(faults) for each in (case(name), case(f"none:n={n}"))]
    folder = tmp_path_factory.mktemp("run")
    assert not module_plugin.pids("opened")
    return run(cases, folder, jobs=2, timeout_s=2.5, compile_timeout_s=3.0)


@pytest.fixture(scope="module")
def outcome(finished):
    return {str(each.case.id): Outcome(each, arrow.read(each.path)) for each in finished}


@pytest.fixture
def of_fault(outcome):
    return lambda fault: outcome[f"faults/at:fault={fault}"]


def test_every_case_is_reported_exactly_once(finished):
    ids = [str(each.case.id) for each in finished]
    assert len(ids) == 2 * (len(LOST) + len(HUNG) + 2 + len(SURVIVED))
    assert len(set(ids)) == len(ids)


def test_no_healthy_case_suffers(outcome):
    healthy = [each for name, each in outcome.items() if name.startswith("faults/none")]
    assert len(healthy) == len(LOST) + len(HUNG) + 2 + len(SURVIVED)
    for each in healthy:
        assert each.done.failure is None
        assert all(step.failure is None for step in each.recording.steps)


@pytest.mark.parametrize(
    "fault, kind, text",
    [
        *((fault, FailureKind.CRASHED, text) for fault, text in LOST.items()),
        *((fault, FailureKind.TIMED_OUT, text) for fault, text in HUNG.items()),
    ],
)
def test_a_lost_process_is_pinned_to_its_step(of_fault, fault, kind, text):
    lost = of_fault(fault)
    assert lost.done.failure == Failure(kind=kind, text=text)
    assert lost.done.step == fault
    assert [(step.name, step.failure) for step in lost.recording.steps] == [
        (fault, Failure(kind=kind, text=text)),
        ("needs", Failure(kind=kind, text=f"not reached: '{fault}' ended the process")),
        ("aside", Failure(kind=kind, text=f"not reached: '{fault}' ended the process")),
    ]


def test_the_recording_of_a_lost_case_has_the_case_and_environment_of_any_other(of_fault, outcome):
    lost, healthy = of_fault("segfault"), outcome["faults/none:n=0"]
    assert lost.recording.environment.profile == healthy.recording.environment.profile
    assert lost.recording.revision == lost.done.case.revision


def test_a_library_that_closes_every_descriptor_crashes_its_own_step(of_fault):
    lost = of_fault("close_fds").done
    assert lost.step == "close_fds"
    assert lost.failure.text.startswith(
        "ended with exit status 1 in step 'close_fds' (phase run); last words: "
    )
    assert lost.failure.text.endswith("OSError: [Errno 9] Bad file descriptor")


@pytest.mark.parametrize("fault", ["garbage", "reads_stdin"])
def test_a_library_that_writes_or_reads_everywhere_changes_nothing(of_fault, fault):
    assert of_fault(fault).done.failure is None
    assert all(step.failure is None for step in of_fault(fault).recording.steps)


@pytest.mark.parametrize("fault", SURVIVED)
def test_a_process_that_survives_its_fault_records_it_itself(of_fault, fault):
    assert of_fault(fault).done.failure is None
    assert len(of_fault(fault).recording.steps) == 4


@pytest.mark.usefixtures("plugin")
def test_a_child_that_can_tell_nothing_more_is_ended(run, case, tmp_path, monkeypatch):
    monkeypatch.setattr(lane, "EXIT_GRACE_S", 0.05)
    (done,) = run([case("closes_pipes")], tmp_path)
    assert done.failure == Failure(
        kind=FailureKind.CRASHED,
        text="closed its pipe, did not end and was killed in step 'closes_pipes' (phase run)",
    )


def test_what_a_lost_process_had_started_is_ended_with_it(of_fault, module_plugin, gone):
    assert of_fault("leaves_a_child").done.failure
    assert gone(int((module_plugin.state / "sleeper").read_text()))


def test_a_child_whose_device_answers_no_more_is_replaced(of_fault, module_plugin):
    assert of_fault("sticky").done.failure is None
    replaced = len(LOST) + len(HUNG) + len(["close_fds", "sticky"])
    # The two first children, and one for each that was lost; none for a lane with nothing left to do.
    assert replaced <= len(module_plugin.pids("opened")) <= 2 + replaced


def test_a_child_that_is_not_lost_may_clean_up(of_fault, module_plugin):
    # Those that were lost to a signal never got to their exit handlers; the others did.
    assert of_fault("raises")
    assert 1 <= len(module_plugin.pids("left")) < len(module_plugin.pids("opened"))


def test_no_child_is_left(finished, children, module_plugin):
    assert finished
    assert not children() & set(module_plugin.pids("opened"))


def test_each_phase_has_its_limit():
    limits = Limits(run_s=60.0, compile_s=600.0)
    assert {phase.value: limits.of(phase) for phase in Phase} == {
        "open": 120.0,
        "idle": 120.0,
        "generate": 120.0,
        "put": 60.0,
        "compile": 600.0,
        "run": 60.0,
        "fetch": 60.0,
        "write": 120.0,
    }


def test_a_case_is_either_recorded_or_not_run(case):
    with pytest.raises(ValueError, match="either recorded or not run, with the reason"):
        Finished(case=case("raises"), seconds=0.0)
