from __future__ import annotations

import pytest
import torch

from parity.backend.base import Unsupported
from parity.backend.sim.chip import Gap, Quirk
from parity.backend.sim.device import using


@pytest.fixture
def lazy(simulate):
    backend = simulate(mode="lazy")
    with using(backend._engine), torch.no_grad():
        yield backend


def ones(*shape):
    return torch.ones(*shape).to("sim")


def test_a_graph_is_compiled_once_for_each_shape(lazy, run, tensor):
    def ask(count):
        run(lazy, "exp", [tensor([0.0] * count, "f32")])
        return lazy.recompiles()

    assert [ask(count) for count in (2, 2, 3, 2, 3, 4)] == [1, 1, 2, 2, 2, 3]


def test_another_operation_or_constant_is_another_graph(lazy):
    x = ones(3)
    lazy.synchronize()
    before = lazy.recompiles()
    for function in (torch.exp, torch.tanh, lambda t: t + 1, lambda t: t + 2, torch.exp):
        function(x)
        lazy.synchronize()
    assert lazy.recompiles() - before == 4


def test_the_same_operations_on_other_slots_are_another_graph(lazy):
    x, y = ones(3), ones(3)
    lazy.synchronize()
    before = lazy.recompiles()
    torch.sub(x, y)
    lazy.synchronize()
    torch.sub(y, x)
    lazy.synchronize()
    assert lazy.recompiles() - before == 1
    torch.sub(x, x)
    lazy.synchronize()
    assert lazy.recompiles() - before == 2


def test_nothing_runs_before_somebody_looks(lazy):
    x = ones(2)
    y = x + 1
    assert y.elements is None
    assert y.cpu().tolist() == [2.0, 2.0]
    assert y.elements is not None


def test_an_empty_tape_is_no_graph(lazy):
    lazy.synchronize()
    lazy.synchronize()
    assert lazy.recompiles() == 0


def test_what_the_host_overwrites_later_is_taken_as_it_was(lazy):
    host = torch.ones(2)
    x = ones(2)
    x.copy_(host)
    host.zero_()
    assert x.cpu().tolist() == [1.0, 1.0]


def test_writes_in_place_are_seen_in_their_order(lazy):
    x = ones(2)
    y = x * 3
    x.add_(1)
    z = x * 3
    assert (y.cpu().tolist(), z.cpu().tolist()) == ([3.0, 3.0], [6.0, 6.0])


def test_a_compile_has_a_phase_of_its_own(lazy, run, tensor):
    phases = []
    lazy.on_phase = phases.append
    run(lazy, "exp", [tensor([0.0], "f32")])
    run(lazy, "exp", [tensor([0.0], "f32")])
    assert phases == ["compile", "run"]


def test_a_refusal_comes_when_the_operation_is_called(simulate, run, tensor):
    missing = Quirk(name="q", text="t", source="s", gaps=(Gap(ops=("exp",)),))
    with pytest.raises(Unsupported, match="aten::exp is not supported"):
        run(simulate(missing, mode="lazy"), "exp", [tensor([0.0], "f32")])


def test_a_fallback_is_counted_for_the_step_that_taped_it(simulate, run, tensor):
    missing = Quirk(name="q", text="t", source="s", gaps=(Gap(ops=("exp",), runs_on="cpu"),))
    backend = simulate(missing, mode="lazy")
    assert [n.kind for n in run(backend, "exp", [tensor([0.0], "f32")]).witness.host] == ["aten::exp"]
    assert run(backend, "tanh", [tensor([0.0], "f32")]).witness.host == ()


def test_eager_mode_counts_no_graphs(simulate):
    assert simulate().recompiles() is None
