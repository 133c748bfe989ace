from __future__ import annotations

import numpy as np
import pytest

X = np.arange(12).reshape(3, 4)


@pytest.fixture
def x(tensor):
    return tensor(X, "i64")


@pytest.mark.parametrize(
    "op, attrs, right, wrong",
    [
        ("roll", {"shift": 1, "dim": -1}, np.roll(X, 1, 1), np.roll(X, -1, 1)),
        ("roll", {"shift": 5, "dim": None}, np.roll(X, 5), np.roll(X, 1, 1)),
        ("roll", {"shift": -1001, "dim": 1}, np.roll(X, -1, 1), X),
        ("flip", {"dims": "0,-1"}, X[::-1, ::-1], X[::-1]),
        ("repeat", {"repeats": "1x2"}, np.hstack([X, X]), np.repeat(X, 2, 1)),
        ("repeat", {"repeats": "2x1x1"}, np.stack([X, X]), np.stack([X, X * 0])),
        ("pad", {"widths": "1,-2", "value": "7"}, [[7, *r[:2]] for r in X], [[0, *r[:2]] for r in X]),
        ("pad", {"widths": "-1,0,0,1", "value": "7"}, [*X[:, 1:], [7] * 3], [*X[:, :3], [7] * 3]),
        ("as_strided", {"shape": "2x3", "stride": "3x1", "offset": 2}, [[2, 3, 4], [5, 6, 7]], X[:2, :3]),
        ("as_strided", {"shape": "2x2", "stride": "0x4", "offset": 1}, [[1, 5]] * 2, [[1, 5], [1, 6]]),
        ("expand", {"shape": "2x3x4"}, np.stack([X, X]), np.stack([X, X[::-1]])),
    ],
)
def test_elements_are_where_the_formula_has_them(verdict, x, tensor, op, attrs, right, wrong):
    assert verdict(op, [x], tensor(right, "i64"), **attrs) == "within"
    assert verdict(op, [x], tensor(wrong, "i64"), **attrs) == "exceeds"


def test_stack_makes_a_dimension_where_it_is_asked(verdict, x, tensor):
    other = tensor(-X, "i64")
    assert verdict("stack", [x, other], tensor(np.stack([X, -X], -1), "i64"), dim=-1) == "within"
    assert verdict("stack", [x, other], tensor(np.stack([X, X], -1), "i64"), dim=-1) == "exceeds"
    assert verdict("stack", [x, other], tensor(np.concatenate([X, -X]), "i64"), dim=-1) == "exceeds"


def test_split_has_parts_of_its_sizes_one_of_nothing(judged, x, tensor):
    def verdicts(*parts):
        given = [tensor(part, "i64") for part in parts]
        return [each.verdict.value for each in judged("split", [x], given, sizes="1x0x3", dim=-1)]

    assert verdicts(X[:, :1], X[:, :0], X[:, 1:]) == ["within"] * 3
    assert verdicts(X[:, :1], X[:, :0], X[:, :3]) == ["within", "within", "exceeds"]
    assert "exceeds" in verdicts(X[:, :1], X[:, 1:2], X[:, 2:])


def test_pad_of_an_empty_tensor_holds_the_value(verdict, tensor):
    empty, full = tensor(np.empty((2, 0)), "f16"), tensor([[-np.inf] * 3] * 2, "f16")
    attrs = {"widths": "1,2", "value": "-inf"}
    assert verdict("pad", [empty], full, **attrs) == "within"
    assert verdict("pad", [empty], tensor(np.zeros((2, 3)), "f16"), **attrs) == "exceeds"


MOVE = {"target": "x[1:]", "source": "x[:-1]", "cloned": False}


def test_slice_move_reads_everything_before_it_writes(verdict, x, tensor):
    right = [X[0], X[0], X[1]]
    assert verdict("slice_move", [x], tensor(right, "i64"), **MOVE) == "within"
    copied_on = [X[0], X[0], X[0]]
    assert verdict("slice_move", [x], tensor(copied_on, "i64"), **MOVE) == "exceeds"
    assert verdict("slice_move", [x], x, **MOVE) == "exceeds"


@pytest.mark.parametrize("kind", ["f32", "bf16", "i64", "u8"])
def test_negate_view_changes_the_base_there_and_nowhere_else(verdict, tensor, kind):
    x = tensor(X, kind)
    right = X.copy()
    right[1:, 2] *= -1
    attrs = {"index": "x[1:, 2]", "swapped": False}
    assert verdict("negate_view", [x], tensor(right, kind), **attrs) == "within"
    assert verdict("negate_view", [x], x, **attrs) == "exceeds"
    assert verdict("negate_view", [x], tensor(-X, kind), **attrs) == "exceeds"
    turned = X.copy()
    turned[2, 1:] *= -1
    assert verdict("negate_view", [x], tensor(turned, kind), index="x[1:, 2]", swapped=True) == "within"


def test_a_negated_nan_may_have_any_payload_and_one_beside_it_only_its_own(verdict, bits):
    x = bits([0x7FC1, 0x7FC1, 0x3F80], "bf16")
    attrs = {"index": "x[1:]", "swapped": False}
    for nan in (0xFFC1, 0x7FC1, 0x7FC0):
        assert verdict("negate_view", [x], bits([0x7FC1, nan, 0xBF80], "bf16"), **attrs) == "within"
    assert verdict("negate_view", [x], bits([0x7FC0, 0xFFC1, 0xBF80], "bf16"), **attrs) == "exceeds"
    assert verdict("negate_view", [x], bits([0x7FC1, 0xFFC1, 0x3F80], "bf16"), **attrs) == "exceeds"


def test_a_boolean_view_is_inverted(verdict, tensor):
    x, right = tensor([True, False, True], "bool"), tensor([True, True, False], "bool")
    assert verdict("negate_view", [x], right, index="x[1:]", swapped=False) == "within"
    assert verdict("negate_view", [x], x, index="x[1:]", swapped=False) == "exceeds"


FAR = {"first": 9, "step": 2, "back": 4}


def test_far_rows_come_back_and_what_lies_before_them_is_nothing_or_another_row(verdict, x, tensor):
    # Rows 9, 11 and 13; 4 before them are 5 and 7, where nothing is, and 9.
    right = [*X, [0] * 4, [0] * 4, X[0]]
    assert verdict("far_rows", [x], tensor(right, "i64"), **FAR) == "within"
    wrapped = [*X, *X]
    assert verdict("far_rows", [x], tensor(wrapped, "i64"), **FAR) == "exceeds"
    lost = [*(X * 0), [0] * 4, [0] * 4, X[0]]
    assert verdict("far_rows", [x], tensor(lost, "i64"), **FAR) == "exceeds"
