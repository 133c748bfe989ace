"""What ops that are composed of several in ONNX give at their edges; their values: `expected_indexing`."""

import numpy as np
import pytest

from parity.backend.base import Unsupported
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting

pytest.importorskip("onnx", reason="pip install 'chip-parity[onnxruntime]'")
pytest.importorskip("onnxruntime", reason="pip install 'chip-parity[onnxruntime]'")

from parity.backend.runtimes.onnx_ops import ONNX_OPS

NAN = float("nan")
TYPES = ["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool"]


@pytest.fixture(scope="module")
def runtime():
    backend = create(BackendSpec("onnxruntime"), Setting.STRICT)
    backend.open()
    return backend


def test_nothing_is_counted_in_minlength_zeros(runtime, run, tensor):
    ran = run(runtime, "bincount", [tensor(np.zeros(0), "i64"), None], minlength=3)
    assert (ran.outputs[0].dtype.name, ran.y.tolist()) == ("i64", [0, 0, 0])
    weighted = run(runtime, "bincount", [tensor(np.zeros(0), "u8"), tensor(np.zeros(0), "f32")], minlength=2)
    assert (weighted.outputs[0].dtype.name, weighted.y.tolist()) == ("f32", [0, 0])


def test_more_numbers_than_minlength_are_all_counted(runtime, run, tensor):
    ran = run(runtime, "bincount", [tensor([5, 0, 5], "u8"), None], minlength=2)
    assert ran.y.tolist() == [1, 0, 0, 0, 0, 2]


@pytest.mark.parametrize("right, places", [(False, [2, 0, 1]), (True, [3, 1, 2])])
def test_nan_belongs_after_every_number(runtime, run, tensor, right, places):
    row = tensor([-1.0, 2.0, NAN], "f32")
    ran = run(runtime, "searchsorted", [row, tensor([NAN, -1.0, 2.0], "f32")], right=right)
    assert ran.y.tolist() == places


def test_whole_numbers_beyond_float64_are_told_apart(runtime, run, tensor):
    row, value = tensor([2**53, 2**53 + 1], "i64"), tensor([2**53 + 1], "i64")
    assert run(runtime, "searchsorted", [row, value], right=False).y.tolist() == [1]


@pytest.mark.parametrize("own", [True, False])
def test_what_no_term_meets_is_no_mean_but_a_copy(runtime, run, tensor, own):
    x, index = tensor([-0.0, np.inf, 3.0], "f32"), tensor([2, 2], "i64")
    src = tensor([6.0, 9.0], "f32")
    ran = run(runtime, "scatter_reduce", [x, index, src], dim=0, reduce="mean", include_self=own)
    assert ran.y.tolist() == [-0.0, np.inf, 6.0 if own else 7.5]
    assert np.signbit(ran.y[0])


def test_padding_is_no_token(runtime, run, tensor):
    logits, padding = tensor([[2.0, -2.0]], "f32"), tensor([[2, 2, 2]], "i64")
    rules = {"repetition": 2.0, "frequency": 1.0, "presence": 1.0}
    for tokens in (padding, tensor(np.zeros((1, 0)), "i64")):
        assert run(runtime, "penalties", [logits, tokens], **rules).y.tolist() == [[2, -2]]


@pytest.mark.parametrize("name", TYPES)
def test_far_rows_are_found_whatever_the_type(runtime, run, tensor, name):
    x = tensor([[1, 0], [0, 1], [1, 1]], name)
    ran = run(runtime, "far_rows", [x], first=40_000, step=2, back=4)
    assert ran.y.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0], [0, 0], [1, 0]]


def test_a_negated_view_of_booleans_is_their_opposite(runtime, run, tensor):
    ran = run(runtime, "negate_view", [tensor([[1, 0], [1, 1]], "bool")], index="x[1:]", swapped=True)
    assert ran.y.tolist() == [[True, True], [True, False]]


def test_rows_that_overlap_are_moved_as_they_were(runtime, run, tensor):
    x = tensor([1.0, 2.0, 3.0, 4.0], "f32")
    ran = run(runtime, "slice_move", [x], target="x[1:]", source="x[:-1]", cloned=False)
    assert ran.y.tolist() == [1, 1, 2, 3]


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_both_ends_of_a_range_are_met(runtime, run, steps):
    ran = run(runtime, "linspace", [], start=0.1, end=0.7, steps=steps, out="f32")
    ends = [float(np.float32(0.1))] + [float(np.float32(0.7))] * (steps > 1)
    assert [ran.y[0], ran.y[-1]][: len(ends)] == ends
    assert ran.outputs[0].shape == (steps,)


# An op of a later opset than the others.


def test_a_running_product_is_one_node_of_opset_26(runtime, run, tensor):
    ran = run(runtime, "cumprod", [tensor([2.0, 3.0, 4.0], "f32")], dim=0)
    assert ran.y.tolist() == [2, 6, 24]
    assert [(node.kind, node.precision) for node in ran.witness.executed] == [("CumProd", "f32")]


@pytest.mark.parametrize(
    "opset, words",
    [
        (99, r"^onnx [0-9.]+ does not know opset 99$"),
        (27, r"^ONNX Runtime: ONNX Runtime only \*guarantees\* support .* Opset 27 is under development"),
    ],
)
def test_an_opset_that_is_newer_than_what_is_installed_is_unsupported(
    runtime, run, tensor, monkeypatch, opset, words
):
    def later(g, x):
        g.opset = opset
        return g("Exp", x)

    monkeypatch.setitem(ONNX_OPS, "exp", later)
    with pytest.raises(Unsupported, match=words):
        run(runtime, "exp", [tensor([[float(opset)]], "f32")])
