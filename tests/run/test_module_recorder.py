from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.nn.functional import softmax

from parity.run.module_recorder import observe
from parity.store.recording import FailureKind
from tests.run.observed import Calls, Observed

pytestmark = pytest.mark.needs_torch

X = torch.linspace(-2, 3, 12).reshape(3, 4)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 8)
        self.down = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.silu(self.up(x)))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


# Names.


def test_steps_are_named_by_module_path_and_function_in_the_order_of_the_run():
    assert list(Observed(Stack(), X).ops.items()) == [
        ("layers.0.up/linear", "linear"),
        ("layers.0/silu", "silu"),
        ("layers.0.down/linear", "linear"),
        ("layers.0/add", "add"),
        ("layers.1.up/linear", "linear"),
        ("layers.1/silu", "silu"),
        ("layers.1.down/linear", "linear"),
        ("layers.1/add", "add"),
        ("norm/layer_norm", "layer_norm"),
    ]


def test_the_second_call_of_a_function_in_one_invocation_has_a_number_of_its_own():
    assert list(Observed(lambda x: (x + 1) * 2 + 3, X).ops) == ["./add", "./mul", "./add#2"]


def test_an_operator_a_method_and_a_call_in_place_are_named_alike():
    ways = [lambda x: x + X, lambda x: torch.add(x, X), lambda x: (x[:]).clone().add_(X)]
    assert [list(Observed(way, X).ops)[-1] for way in ways] == ["./add"] * 3


def test_what_one_side_does_more_shifts_the_name_of_nothing_else():
    class Fused(Block):
        def forward(self, x: Tensor) -> Tensor:
            up = self.up(x)
            return x + self.down(up * torch.sigmoid(up))

    ours, theirs = Stack(), Stack()
    theirs.layers[0].__class__ = Fused
    one, two = Observed(ours, X), Observed(theirs, X)
    assert set(one.steps) - set(two.steps) == {"layers.0/silu"}
    assert set(two.steps) - set(one.steps) == {"layers.0/sigmoid", "layers.0/mul"}
    module = one.steps["layers.0"], two.steps["layers.0"]
    assert [record.op for record in module] == ["module", "module"]
    torch.testing.assert_close(one.value("layers.0"), two.value("layers.0"))


def test_a_shared_module_has_the_path_by_which_it_is_called_and_counts_its_invocations():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first
            self.inner = nn.Sequential(self.first)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.first(self.first(x)))

    run = Observed(Shared(), X)
    assert list(run.ops) == ["first/linear", "first@2/linear", "inner.0/linear"]
    assert {record.inputs[1].name for record in run.calls} == {"first.weight"}


def test_code_outside_of_modules_is_said_to_be():
    model = nn.Linear(4, 4)
    with torch.no_grad(), observe(model) as recorder:
        model(X * 2)
    records, _ = recorder.steps()
    assert [record.name for record in records] == ["outside/mul", "./linear", "."]


# What is seen.


def test_a_function_imported_by_name_is_seen():
    assert Observed(lambda x: softmax(x, -1), X).ops == {"./softmax": "softmax"}


def test_with_recording_off_nothing_is_installed():
    model = Stack()

    def installed():
        hooks = [m._forward_hooks or m._forward_pre_hooks for m in model.modules()]
        return any(hooks), torch._C._len_torch_function_stack(), [m.forward for m in model.modules()]

    before = installed()
    assert Observed(model, X).records
    assert installed() == before
    assert before[:2] == (False, 0)


def test_observing_leaves_nothing_behind_when_the_model_raises():
    model = Calls(lambda x: x @ x)
    with pytest.raises(RuntimeError), observe(model):
        model(X)
    assert torch._C._len_torch_function_stack() == 0
    assert not model._forward_hooks


def test_views_and_questions_are_no_steps_and_a_step_says_which_layout_it_saw():
    def viewing(x: Tensor) -> Tensor:
        y = x.view(4, 3).transpose(0, 1)[None].expand(2, 3, 4).detach()
        assert y.dim() == 3 and y.size(0) == 2 and not y.is_contiguous()
        return F.dropout(y, 0.5, training=False) * y

    run = Observed(viewing, X)
    (ref, _) = run.steps["./mul"].inputs
    assert list(run.ops) == ["./mul"]
    assert (ref.shape, ref.stride, ref.offset) == ((2, 3, 4), (0, 1, 3), 0)
    assert ref.name == "input.args.0[2x3x4 by 0x1x3 at 0]"


def test_modules_give_what_they_were_given_and_gave_by_the_names_of_their_parameters():
    @dataclass
    class Out:
        first: Tensor
        rest: dict[str, list[Tensor]]

    class Nested(nn.Module):
        def forward(self, x: Tensor, *, pair: tuple[Tensor, Tensor], scale: float = 1.0) -> Out:
            return Out(x + pair[0], {"more": [pair[1] * scale]})

    run = Observed(Nested(), X, pair=(X + 1, X + 2), scale=0.5)
    record = run.steps["."]
    assert [ref.name for ref in record.inputs] == ["x", "pair.0", "pair.1"]
    assert [ref.name for ref in record.outputs] == ["output.first", "output.rest.more.0"]
    assert torch.equal(run.value(".", 1), (X + 2) * 0.5)
    assert [ref.name for ref in run.recorder.results()] == ["output.first", "output.rest.more.0"]


def test_an_argument_that_a_module_changes_is_among_what_it_gives():
    class Cache:
        def __init__(self) -> None:
            self.keys = torch.zeros(0, 4)
            self.rows = torch.zeros(3, 4)

    class Caching(nn.Module):
        def forward(self, x: Tensor, cache: Cache) -> Tensor:
            cache.keys = torch.cat([cache.keys, x])
            cache.rows[1] = x[0]
            return x + 1

    run = Observed(Caching(), X, cache=Cache())
    record = run.steps["."]
    assert [ref.name for ref in record.inputs] == ["x", "cache.keys", "cache.rows"]
    assert [ref.name for ref in record.outputs] == [
        "output",
        "output.changed.cache.keys",
        "output.changed.cache.rows",
    ]
    assert torch.equal(run.consumed(".", 2), torch.zeros(3, 4))
    assert torch.equal(run.value(".", 2)[1], X[0])


def test_the_call_that_raised_is_a_failed_step():
    model = Calls(lambda x: (x + 1) @ x)
    with pytest.raises(RuntimeError), torch.no_grad(), observe(model) as recorder:
        model(X)
    first, failed = recorder.steps()[0]
    assert (first.name, failed.name, failed.op) == ("./add", "./matmul", "torch:Tensor.matmul")
    assert failed.failure.kind is FailureKind.CRASHED
    assert failed.failure.text == "RuntimeError: mat1 and mat2 shapes cannot be multiplied (3x4 and 3x4)"


def test_an_exception_that_the_model_itself_catches_is_no_failed_step():
    def run(x: Tensor) -> Tensor:
        try:
            return x @ x
        except RuntimeError:
            return x @ x.T

    assert [record.failure for record in Observed(run, X).calls] == [None]


# How much is kept.


def test_at_module_depth_there_are_modules_alone():
    run = Observed(Stack(), X, depth="module")
    assert {record.op for record in run.records} == {"module"}
    assert list(run.steps)[:4] == ["layers.0.up", "layers.0.down", "layers.0", "layers.1.up"]
    assert torch.equal(run.value("layers.0"), run.consumed("layers.1"))
    assert torch.equal(run.value("."), run.output)


def test_only_the_modules_that_are_wanted_are_kept():
    model = Stack()
    with torch.no_grad(), observe(model, keep=lambda path: path.startswith("layers.1")) as recorder:
        model(X)
    records, tensors = recorder.steps()
    assert {record.name.split("/")[0] for record in records} == {"layers.1", "layers.1.up", "layers.1.down"}
    assert records[0].inputs[0].name == "layers.0/add"
    assert {ref.digest for ref in recorder.results()} <= set(tensors)


def test_a_depth_that_does_not_exist_is_refused():
    with (
        pytest.raises(ValueError, match=r"^depth must be op or module, got 'layer'$"),
        observe(Stack(), "layer"),
    ):
        pass


def test_on_the_meta_device_steps_have_shapes_and_no_values():
    model = nn.Linear(4, 4, device="meta")
    with observe(model) as recorder:
        model(torch.empty(3, 4, device="meta"))
    records, tensors = recorder.steps()
    assert [record.op for record in records] == ["linear", "module"]
    assert records[0].outputs[0].shape == (3, 4)
    assert not tensors


def test_each_step_has_the_evidence_of_its_call_and_is_entered_before_it_begins():
    entered: list[str] = []
    model = Stack()
    with torch.no_grad(), observe(model, enter=entered.append) as recorder:
        model(X)
    records = [record for record in recorder.steps()[0] if record.op != "module"]
    assert entered == [record.name for record in records]
    assert [node.kind for node in records[0].witness.executed] == ["aten::addmm"]
    assert records[0].flops == 2 * 3 * 4 * 8
    assert all(record.witness.executed and record.seconds is not None for record in records)
