from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from parity.backend.spec import BackendSpec, Setting
from parity.errors import BackendError, UsageError
from parity.run.environment import child_environ
from parity.run.pool import run_cases
from parity.store import arrow
from parity.store.folder import Store, recording_path

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture
def healthy(case):
    return lambda count: [case(f"none:n={n}") for n in range(count)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def test_cases_come_back_with_recordings_that_a_store_reads(run, healthy, folder):
    finished = run(healthy(5), folder)
    assert [each.case for each in finished] == healthy(5)
    store = Store.open(folder)
    assert len(store.cases()) == 5
    for each in finished:
        assert each.path == recording_path(folder, each.case.id)
        assert store.load(each.case).steps[0].outputs
        assert each.seconds > 0


def test_repeat_reaches_the_child(run, healthy, folder):
    (done,) = run(healthy(1), folder, repeat=2)
    assert [len(step.repeats) for step in arrow.read(done.path).steps] == [1, 1, 1, 1]


def test_the_backends_variables_are_set_before_the_childs_python_starts(plugin, run, healthy, folder):
    (done,) = run(healthy(1), folder)
    # Read from what the kernel keeps of the child's start, not from os.environ.
    assert arrow.read(done.path).environment.provenance == {
        "FAULTY_DEVICE": "FAULTY_DEVICE=",
        "FAULTY_SETTING": "FAULTY_SETTING=strict",
        "FAULTY_STATE": f"FAULTY_STATE={plugin.state}",
    }


def test_each_device_that_is_named_has_a_child_of_its_own(plugin, run, case, folder):
    # Each of the two cases waits until another process runs the other.
    cases = [case("meets"), *(case(f"none:n={n}") for n in range(4)), case("meets_too:n=1")]
    finished = run(cases, folder, spec="faulty:2-3", jobs=1)
    environments = [arrow.read(each.path).environment for each in finished]
    assert {each.backend for each in environments} == {"faulty:2", "faulty:3"}
    assert {each.provenance["FAULTY_DEVICE"] for each in environments} == {
        "FAULTY_DEVICE=2",
        "FAULTY_DEVICE=3",
    }
    assert len(plugin.pids("opened")) == 2


@pytest.mark.needs_torch
def test_torch_on_the_cpu_runs_in_a_child(run, healthy, folder):
    (done,) = run(healthy(1), folder, spec="cpu")
    recording = arrow.read(done.path)
    assert [step.failure for step in recording.steps] == [None] * 4
    assert recording.steps[0].witness.executed[0].kind == "aten::tanh"
    assert "torch" in recording.environment.provenance


def test_no_more_children_start_than_there_are_cases(plugin, run, healthy, folder):
    run(healthy(1), folder, jobs=4)
    assert len(plugin.pids("opened")) == 1


def test_no_cases_start_no_child(run, folder):
    assert run([], folder) == []


def test_a_backend_that_is_not_there_is_one_error_with_its_remedy(plugin, run, healthy, folder):
    (plugin.state / "unplugged").touch()
    with pytest.raises(BackendError) as error:
        run(healthy(3), folder)
    assert str(error.value) == "'faulty' cannot be used here: no card in the slot; plug it in"


def test_a_backend_that_does_not_open_is_one_error_with_its_reason(plugin, run, healthy, folder, children):
    (plugin.state / "opens").write_text("0")
    with pytest.raises(BackendError) as error:
        run(healthy(3), folder, jobs=2)
    assert str(error.value) == "'faulty' cannot be opened: RuntimeError: device is busy"
    assert not children()


def test_a_device_that_was_named_and_does_not_open_is_an_error_though_another_does(
    plugin, run, case, folder, children
):
    (plugin.state / "busy(1,)").touch()
    # Neither case ends before two processes run one, so the device that opens cannot do all.
    with pytest.raises(BackendError) as error:
        run([case("meets"), case("meets_too:n=1")], folder, spec="faulty:0-1")
    assert str(error.value) == "'faulty:1' cannot be opened: RuntimeError: device is busy"
    assert not children()


def test_a_device_that_admits_one_child_serves_two_jobs(plugin, run, healthy, folder):
    (plugin.state / "opens").write_text("1")
    assert [each.not_run for each in run(healthy(6), folder, jobs=2)] == [""] * 6


def test_a_device_that_does_not_come_back_leaves_the_other_cases_unjudged(plugin, run, case, healthy, folder):
    (plugin.state / "opens_after_poison").write_text("0")
    first, *others = healthy(4)
    finished = run([first, case("poison"), *others], folder)
    assert [str(each.case.id) for each in finished] == [
        "faults/none:n=0",
        "faults/at:fault=poison",
        *(str(each.id) for each in others),
    ]
    assert finished[1].step == "poison"
    reason = "faulty did not come back after faults/at:fault=poison: RuntimeError: device is busy"
    assert [(each.path, each.not_run) for each in finished[2:]] == [(None, reason)] * 3
    assert (plugin.state / "opens").read_text() == "-2"  # it was tried once more


def test_a_device_that_needs_a_moment_after_a_crash_gets_it(plugin, run, case, healthy, folder):
    (plugin.state / "opens_after_poison").write_text("0")
    # The first attempt finds the device busy and, as it leaves, free again.
    (plugin.state / "recovers").touch()
    finished = run([case("poison"), *healthy(2)], folder)
    assert [bool(each.not_run) for each in finished] == [False, False, False]


def test_an_older_recording_of_a_case_that_is_lost_does_not_stay(plugin, run, case, healthy, folder):
    stale = recording_path(folder, healthy(3)[2].id)
    run(healthy(3), folder)
    assert stale.exists()
    (plugin.state / "opens_after_poison").write_text("0")
    run([case("poison"), *healthy(3)], folder)
    assert not stale.exists()


def test_an_older_recording_of_a_case_that_is_not_run_does_not_stay(run, case, folder):
    stale = recording_path(folder, case("moody:n=1").id)
    stale.parent.mkdir(parents=True)
    stale.touch()
    assert run([case("moody:n=1")], folder)[0].not_run
    assert not stale.exists()


def test_a_case_file_that_changes_under_the_run_blames_no_device(run, case, folder):
    (done,) = run([case("moody:n=1")], folder)
    assert done.path is None
    assert done.not_run.startswith("parity could not record it: ")
    assert done.not_run.endswith("faults/moody:n=1 changed while the run was going on; run it again")


def test_a_case_folder_that_is_not_there_is_said_at_once(healthy, folder, tmp_path):
    running = run_cases(
        healthy(1), BackendSpec("faulty"), Setting.STRICT, folder=folder, case_folders=[tmp_path / "none"]
    )
    with pytest.raises(BackendError, match="no folder of case files at "):
        next(running)


def test_an_unknown_backend_is_refused_before_anything_runs(run, healthy, folder):
    with pytest.raises(UsageError, match="unknown backend 'faultless'"):
        run(healthy(1), folder, spec="faultless")


def test_closing_the_iterator_ends_every_child_and_keeps_what_was_done(
    case, healthy, folder, case_folder, children
):
    cases = [healthy(1)[0], case("hang"), case("compile_hang")]
    running = run_cases(
        cases, BackendSpec("faulty"), Setting.STRICT, folder=folder, case_folders=[case_folder], jobs=2
    )
    done = next(running)
    assert children()
    running.close()
    assert not children()
    assert arrow.read(done.path).steps


def test_the_child_finds_the_same_parity_from_any_folder(run, healthy, folder, tmp_path, monkeypatch):
    (tmp_path / "parity").mkdir()
    (tmp_path / "parity" / "__init__.py").write_text("raise SystemExit('the wrong parity')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    monkeypatch.chdir(tmp_path)
    (done,) = run(healthy(1), folder)
    assert done.path is not None


SCRIPT = """
import signal, sys
from pathlib import Path
from parity.backend.spec import BackendSpec, Setting
from parity.case.catalog import Catalog
from parity.case.ids import CaseId
from parity.run.pool import run_cases

cases, folder = map(Path, sys.argv[1:])
catalog = Catalog.load([cases])
chosen = [catalog.get(CaseId.parse(name)) for name in ("faults/none:n=0", "faults/at:fault=hang")]
# A shell starts what runs in the background with this signal ignored, the tests too.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    for done in run_cases(chosen, BackendSpec("faulty"), Setting.STRICT, folder=folder, case_folders=[cases]):
        print(done.case.id, flush=True)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.fixture
def script(case_folder, folder):
    """A process of its own that has one case done and hangs in the next."""
    command = [sys.executable, "-c", SCRIPT, str(case_folder), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=child_environ({})) as process:
        try:
            assert process.stdout.readline() == "faults/none:n=0\n"
            yield process
        finally:
            process.kill()


def test_ctrl_c_ends_every_child_and_keeps_what_was_done(script, plugin, healthy, folder, gone):
    (child,) = plugin.pids("opened")
    script.send_signal(2)
    assert script.stdout.read() == "interrupted\n"
    assert script.wait() == 0
    assert gone(child)
    assert arrow.read(recording_path(folder, healthy(1)[0].id)).steps


def test_the_death_of_the_parent_ends_a_child_that_hangs(script, plugin, gone):
    (child,) = plugin.pids("opened")
    script.kill()
    script.wait()
    assert gone(child)


def descriptors():
    return sorted(file.name for file in Path("/proc/self/fd").iterdir())


def test_the_run_leaves_no_descriptor_open(run, case, healthy, folder):
    run(healthy(1), folder)
    before = descriptors()
    run([case("segfault"), *healthy(2)], folder, jobs=2)
    assert descriptors() == before
