from __future__ import annotations

import signal

import pytest
import torch

from parity.backend.sim import faults
from parity.backend.sim.faults import Fault, Faults, check_not_poisoned, parse
from parity.backend.spec import BackendSpec, Setting
from parity.case.catalog import Catalog
from parity.case.ids import Selector
from parity.errors import BackendError, UsageError
from parity.run.pool import run_cases
from parity.store import arrow


@pytest.fixture
def broken(simulate, monkeypatch):
    def opened(text):
        monkeypatch.setenv("PARITY_SIM_FAULTS", text)
        return simulate()

    return opened


def test_a_list_of_faults_is_read():
    assert parse("hang, slow_compile=0.5@matmul,segfault@#7,stale_padding@bmm@#2") == (
        Fault(name="hang"),
        Fault(name="slow_compile", seconds=0.5, op="matmul"),
        Fault(name="segfault", number=7),
        Fault(name="stale_padding", op="bmm", number=2),
    )
    assert parse("") == ()
    assert [str(f) for f in parse("poisoned@softmax@#3,kill")] == ["poisoned=5@softmax@#3", "kill"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("segfalt", "PARITY_SIM_FAULTS: unknown fault 'segfalt'; did you mean 'segfault'?; known: "),
        ("hang=3", "PARITY_SIM_FAULTS: 'hang' has no seconds; slow_compile, poisoned have"),
        ("hang@#x", "PARITY_SIM_FAULTS: 'hang@#x' is not a fault; write name[=seconds][@op][@#N]"),
        # Each of these would never strike, and a run that should fail would not.
        ("hang@#0", "PARITY_SIM_FAULTS: 'hang@#0' is not a fault; write name[=seconds][@op][@#N]"),
        (
            "kill@matmull",
            "PARITY_SIM_FAULTS: 'kill@matmull' names no op of the op table; did you mean 'matmul'?",
        ),
        (
            "poisoned=1..2",
            "PARITY_SIM_FAULTS: 'poisoned=1..2' is not a fault; write name[=seconds][@op][@#N]",
        ),
    ],
)
def test_what_is_no_fault_is_refused(text, message):
    with pytest.raises(UsageError) as error:
        parse(text)
    assert str(error.value).startswith(message)


def test_a_fault_strikes_its_step_alone():
    struck = []
    device = Faults(parse("slow_compile=0@exp@#3"))
    for op in ("exp", "tanh", "exp", "exp"):
        device.begin(op, phase=lambda name, op=op: struck.append((op, name)))
    assert struck == [("exp", "compile"), ("exp", "run")]


def test_a_stale_pad_adds_what_the_product_before_left_there(broken, run, tensor):
    backend = broken("stale_padding")
    first = [tensor([[1.0, 2.0, 3.0]], "f32"), tensor([[1.0], [1.0], [10.0]], "f32")]
    second = [tensor([[1.0, 1.0]], "f32"), tensor([[1.0], [1.0]], "f32")]
    assert run(backend, "matmul", first).y.item() == 33.0
    # K = 2 leaves column 2 of the tile, where 3 and 10 still lie.
    assert run(backend, "matmul", second).y.item() == 2.0 + 3.0 * 10.0
    whole = broken("")
    assert [run(whole, "matmul", x).y.item() for x in (first, second)] == [33.0, 2.0]


def test_a_stale_pad_of_whole_tiles_is_no_pad(broken, run, tensor):
    backend = broken("stale_padding")
    ones = [tensor([[1.0] * 16], "f32"), tensor([[1.0]] * 16, "f32")]
    assert [run(backend, "matmul", ones).y.item() for _ in range(2)] == [16.0, 16.0]


def test_a_mask_that_is_off_by_one_shows_the_next_key(broken, run, tensor):
    q, v = tensor([[[[0.0]] * 3]], "f32"), tensor([[[[1.0], [2.0], [6.0]]]], "f32")
    ask = {"causal": True, "window": None, "scale": None}
    assert run(broken(""), "attention", [q, q, v], **ask).y.ravel().tolist() == [1.0, 1.5, 3.0]
    assert run(broken("off_by_one_mask"), "attention", [q, q, v], **ask).y.ravel().tolist() == [1.5, 3.0, 3.0]


@pytest.mark.parametrize("kind", ["bool", "f32"])
def test_a_mask_given_as_a_tensor_is_off_by_one_too(broken, run, tensor, kind):
    q, v = tensor([[[[0.0]] * 3]], "f32"), tensor([[[[1.0], [3.0], [8.0]]]], "f32")
    seen = [[True, False, False], [True, False, False], [False, True, False]]
    hidden = [[0.0 if each else float("-inf") for each in row] for row in seen]
    mask = tensor(seen, "bool") if kind == "bool" else tensor(hidden, "f32")
    ask = {"causal": False, "window": None, "scale": None}
    got = run(broken("off_by_one_mask"), "attention", [q, q, v, mask], **ask).y
    assert got.ravel().tolist() == [2.0, 2.0, 5.5]


def test_a_wrong_tile_edge_leaves_out_the_last_terms(broken, run, tensor):
    ones = [tensor([[1.0] * 17], "f32"), tensor([[1.0]] * 17, "f32")]
    assert run(broken("wrong_tile_edge"), "matmul", ones).y.item() == 16.0
    assert run(broken(""), "matmul", ones).y.item() == 17.0


def test_a_sum_that_is_not_awaited_differs_from_call_to_call(broken, run, tensor):
    ones = [tensor([[1.0] * 32], "f32"), tensor([[1.0]] * 32, "f32")]
    backend = broken("nondeterminism")
    assert [run(backend, "matmul", ones).y.item() for _ in range(4)] == [32.0, 16.0, 32.0, 16.0]


def test_a_numeric_fault_changes_the_op_that_it_names_alone(broken, run, tensor):
    ones = [tensor([[[1.0] * 17]], "f32"), tensor([[[1.0]] * 17], "f32")]
    backend = broken("wrong_tile_edge@bmm")
    assert run(backend, "bmm", ones).y.item() == 16.0
    assert run(backend, "matmul", ones).y.item() == 17.0


def test_memory_that_is_out_is_torchs_own_exception(broken, run, tensor):
    with pytest.raises(torch.OutOfMemoryError, match="sim out of memory"):
        run(broken("out_of_memory@exp"), "exp", [tensor([0.0], "f32")])


class _Ended(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    "name, signum", [("segfault", signal.SIGSEGV), ("abort", signal.SIGABRT), ("kill", signal.SIGKILL)]
)
def test_a_crash_is_its_signal(monkeypatch, name, signum):
    def killed(pid, number):
        raise _Ended(number)

    monkeypatch.setattr(faults.os, "kill", killed)
    with pytest.raises(_Ended) as ended:
        Faults(parse(name)).begin("exp", phase=lambda _: None)
    assert ended.value.args == (signum,)


def test_a_poisoned_device_aborts_and_stays_shut_until_its_time(monkeypatch, tmp_path):
    def aborted():
        raise _Ended

    monkeypatch.setenv("PARITY_SIM_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(faults.os, "abort", aborted)
    now = 1000.0
    monkeypatch.setattr(faults.time, "time", lambda: now)
    check_not_poisoned()
    with pytest.raises(_Ended):
        Faults(parse("poisoned=7")).begin("exp", phase=lambda _: None)
    with pytest.raises(BackendError) as error:
        check_not_poisoned()
    assert str(error.value) == "the device is poisoned by a crash: it opens again in 7.0 s. Wait"
    now = 1007.5
    check_not_poisoned()


def test_an_open_meets_the_poison(monkeypatch, tmp_path, simulate):
    monkeypatch.setenv("PARITY_SIM_STATE", str(tmp_path))
    (tmp_path / "poisoned").write_text("1e12\n")
    with pytest.raises(BackendError, match="poisoned by a crash"):
        simulate()


CASES = '''
from parity.case.family import one, family, tensor

@family("made/exp", n=("1", "2", "3"))
def exp(p):
    """Nothing: it is there to be run."""
    x = tensor("x", "f32", (int(p.n),), "normal")
    return one("exp", x, result=x.shape)
'''


@pytest.fixture
def in_children(tmp_path, monkeypatch):
    """Run three cases of one op on the ideal chip with a fault; how each was lost, and in which step."""
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "made.py").write_text(CASES)

    def run(text, **limits):
        monkeypatch.setenv("PARITY_SIM_FAULTS", text)
        catalog = Catalog.load([tmp_path / "cases"])
        cases = catalog.select([Selector.parse("made/exp")], suite=None)
        finished = run_cases(
            cases,
            BackendSpec.parse("sim/ideal"),
            Setting.STRICT,
            folder=tmp_path / "run",
            case_folders=[tmp_path / "cases"],
            pause_s=0.0,
            **limits,
        )
        return [(f.failure and f.failure.kind.value, f.step, f.path) for f in finished]

    return run


def test_a_child_that_dies_is_a_crash_of_its_step_and_the_rest_is_recorded(in_children):
    lost = in_children("segfault@exp@#2")
    assert [(kind, step) for kind, step, _ in lost] == [(None, ""), ("crashed", "exp"), (None, "")]
    assert "SIGSEGV" in arrow.read(lost[1][2]).steps[0].failure.text


def test_a_child_that_hangs_is_timed_out_in_its_step(in_children):
    lost = in_children("hang@#3", timeout_s=0.5)
    assert [(kind, step) for kind, step, _ in lost] == [(None, ""), (None, ""), ("timed_out", "exp")]
