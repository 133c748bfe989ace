from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from parity.run.module_recorder import observe
from parity.run.module_weights import weights_in
from tests.run.observed import Calls, Observed, same_bits

pytestmark = pytest.mark.needs_torch

X = torch.linspace(-2, 3, 12).reshape(3, 4)


def test_a_step_in_place_consumed_what_was_there_before():
    def run(x: Tensor) -> Tensor:
        y = x * 2
        y.add_(1)
        return y.sub_(y)

    seen = Observed(run, X)
    assert torch.equal(seen.consumed("./add"), X * 2)
    assert torch.equal(seen.value("./add"), X * 2 + 1)
    assert torch.equal(seen.consumed("./sub"), X * 2 + 1)
    assert torch.equal(seen.value("./sub"), torch.zeros_like(X))
    assert not any(record.mutates for record in seen.records)


def test_a_write_through_a_view_is_seen_by_who_reads_the_base():
    def run(x: Tensor) -> Tensor:
        base = x * 1.5
        base.view(-1)[2:5].mul_(10)
        base.data[0, 0] = 9.0
        return base.exp()

    seen = Observed(run, X)
    expected = X * 1.5
    expected.view(-1)[2:5] *= 10
    expected[0, 0] = 9.0
    assert torch.equal(seen.consumed("./exp"), expected)
    assert torch.equal(seen.value("./mul"), X * 1.5)


def test_an_argument_that_is_overwritten_later_is_recorded_as_it_was():
    def run(x: Tensor) -> Tensor:
        y = x * 2
        z = y + 1
        y.zero_()
        return z + y

    seen = Observed(run, X)
    assert torch.equal(seen.consumed("./add"), X * 2)
    assert torch.equal(seen.consumed("./add#2", 1), torch.zeros_like(X))


def test_writes_of_inference_tensors_are_seen_too():
    def run(x: Tensor) -> Tensor:
        y = x * 2
        y.add_(1)
        y[0] = 5.0
        return y * 3

    model = Calls(run)
    with torch.inference_mode(), observe(model) as recorder:
        model(X.clone())
    records, tensors = recorder.steps()
    held = {record.name: tensors[record.inputs[0].digest] for record in records if record.op != "module"}
    assert np.array_equal(held["./add"].array(), (X * 2).numpy())
    assert np.array_equal(held["./setitem"].array(), (X * 2 + 1).numpy())
    assert held["./mul#2"].array()[0].tolist() == [5.0] * 4


def test_memory_that_others_write_to_is_read_each_time():
    def run(x: Tensor) -> Tensor:
        y = x + 1
        shown = y.numpy()
        z = y * 1
        shown[0, 0] = 77.0
        return z + y

    seen = Observed(run, X)
    assert seen.consumed("./mul")[0, 0] == X[0, 0] + 1
    assert seen.consumed("./add#2", 1)[0, 0] == 77.0


def test_a_call_that_writes_to_an_argument_without_saying_so_says_that_it_did():
    class Silent(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.exp:
                args[0].mul_(2)
            return func(*args, **(kwargs or {}))

    model = Calls(lambda x: torch.exp(x * 1))
    with torch.no_grad(), Silent(), observe(model) as recorder:
        model(X)
    (_, record, _) = recorder.steps()[0]
    assert record.mutates == ("./mul",)


def test_memory_that_nobody_wrote_is_no_step_and_nothing_reads_it():
    def run(x: Tensor) -> Tensor:
        out = torch.empty(3, 8)
        out[:, :4] = x
        out[:, 4:] = 1.0
        torch.add(x, x, out=x.new_empty(3, 4))
        return out * 2

    seen = Observed(run, X)
    assert list(seen.ops.items())[:2] == [("./setitem", "copy"), ("./setitem#2", "torch:full")]
    assert torch.equal(seen.consumed("./setitem"), X)
    assert torch.equal(seen.value("./mul"), torch.cat([X, torch.ones(3, 4)], -1) * 2)


def test_statistics_that_a_norm_updates_are_given_and_weights_that_were_written_are_weights_no_more():
    norm = nn.BatchNorm1d(4)
    before = weights_in(copy.deepcopy(norm))
    seen = Observed(norm, X)
    seen.find = before
    record = seen.steps["./batch_norm"]
    assert [ref.role for ref in record.inputs] == ["activation", "weight", "weight", "weight", "weight"]
    assert torch.equal(seen.consumed("./batch_norm", 0), X)
    assert len(record.outputs) == 3
    assert all(map(same_bits, seen.run_again(record), [seen.tensor(ref) for ref in record.outputs]))
