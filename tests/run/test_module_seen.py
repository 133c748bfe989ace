from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from tests.run.observed import Calls, Observed

pytestmark = pytest.mark.needs_torch

X = torch.linspace(-2, 3, 12).reshape(3, 4)


def reasons(run: Observed) -> dict[str, object]:
    return {record.op: record.attrs["reason"] for record in run.calls if not record.replayable}


def test_a_vmapped_region_is_one_step():
    run = Observed(lambda x: torch.vmap(lambda row: torch.tanh(row) * 2)(x) + 1, X)
    assert run.ops == {"./functorch": "composite:functorch", "./add": "add"}
    assert torch.equal(run.consumed("./functorch"), X)
    assert torch.equal(run.value("./functorch"), torch.tanh(X) * 2)
    assert reasons(run) == {"composite:functorch": "runs as one piece"}


def test_a_scripted_module_is_one_step(scripted):
    run = Observed(nn.Sequential(scripted, nn.Tanh()), X)
    assert run.ops == {"0": "composite:scripted", "1/tanh": "tanh"}
    assert torch.equal(run.value("0"), X * 2)


def test_the_result_of_a_scripted_function_is_that_of_code_that_nobody_sees(scripted):
    run = Observed(lambda x: scripted(x) + 1, X)
    assert run.ops == {"./unseen": "composite:unseen", "./add": "add"}
    assert reasons(run) == {"composite:unseen": "made by code that calls no torch function"}


def test_a_scripted_result_that_no_step_reads_is_not_lost(scripted):
    assert Observed(lambda x: scripted(x), X).ops == {"./unseen": "composite:unseen"}  # noqa: PLW0108 - see Calls


@pytest.fixture
def scripted():
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer torch would have something else used
        return torch.jit.script(Twice())


def test_a_compiled_module_is_one_step():
    compiled = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), backend="eager")
    run = Observed(nn.Sequential(compiled, nn.Tanh()), X)
    assert run.ops == {"0": "composite:compiled", "1/tanh": "tanh"}
    assert torch.equal(run.value("0"), compiled(X))


def test_a_compiled_function_is_one_step():
    compiled = torch.compile(lambda x: torch.tanh(x) * 2, backend="eager")
    run = Observed(lambda x: compiled(x) + 1, X)
    assert run.ops == {"./compiled": "composite:compiled", "./add": "add"}


def test_a_tensor_that_came_from_elsewhere_is_not_taken_for_a_computed_one():
    table = np.ones(4, dtype=np.float32)
    run = Observed(lambda x: x + torch.from_numpy(table), X)
    assert run.ops == {"./unseen": "composite:unseen", "./add": "add"}


def test_a_tensor_that_the_model_holds_is_known():
    model = Calls(lambda x: x + model.table)
    model.table = torch.ones(4)
    run = Observed(model, X)
    assert [ref.name for ref in run.steps["./add"].inputs] == ["input.args.0", "attribute...table"]


def test_a_call_that_draws_random_numbers_says_so():
    run = Observed(lambda x: F.dropout(x, 0.5, training=True) + torch.rand(4) + x.bernoulli(0.5), X)
    assert reasons(run) == {
        "torch:nn.functional.dropout": "draws random numbers",
        "torch:rand": "draws random numbers",
        "torch:Tensor.bernoulli": "draws random numbers",
    }


def test_a_call_on_what_a_recording_cannot_hold_is_one_step():
    run = Observed(lambda x: x.to_sparse().to_dense() + 1, X)
    assert list(run.ops.items()) == [
        ("./to_sparse", "composite:to_sparse"),
        ("./to_dense", "composite:to_dense"),
        ("./add", "add"),
    ]


def test_an_operator_of_somebody_else_is_one_step_with_what_it_wrote():
    @torch.library.custom_op("parity_tests::fill", mutates_args={"out"})
    def thrice(x: Tensor, out: Tensor) -> None:
        out.copy_(x * 3)

    def run(x: Tensor) -> Tensor:
        out = torch.zeros(3, 4)
        thrice(x, out)
        return out + 1

    seen = Observed(run, X)
    assert list(seen.ops.values()) == ["torch:zeros", "composite:fill", "add"]
    assert torch.equal(seen.consumed("./fill", 1), torch.zeros(3, 4))
    assert torch.equal(seen.value("./fill"), X * 3)


def test_the_calls_of_a_function_with_a_gradient_of_its_own_are_seen():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    assert Observed(lambda x: Twice.apply(x) + 1, X).ops == {"./mul": "mul", "./add": "add"}
