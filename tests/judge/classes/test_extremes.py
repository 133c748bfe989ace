from __future__ import annotations

import numpy as np
import pytest

NAN, INF = np.nan, np.inf
OVER = {"dim": -1, "keepdim": False}


def test_extremes_are_values_of_the_row(verdict, tensor):
    x = tensor([[1.0, -7.0, 3.0], [-2.0, -9.0, -4.0]], "bf16")
    assert verdict("amax", [x], tensor([3.0, -2.0], "bf16"), **OVER) == "within"
    assert verdict("amax", [x], tensor([3.0, 0.0], "bf16"), **OVER) == "exceeds"
    assert verdict("amin", [x], tensor([-7.0, -9.0], "bf16"), **OVER) == "within"
    assert verdict("amin", [x], tensor([1.0, -9.0], "bf16"), **OVER) == "exceeds"
    assert verdict("amax", [x], tensor([[1.0, -7.0, 3.0]], "bf16"), dim=0, keepdim=True) == "within"


@pytest.mark.parametrize("op", ["amax", "amin"])
def test_a_nan_is_the_extreme_and_zeros_have_either_sign(verdict, tensor, op):
    x = tensor([[1.0, NAN, INF], [0.0, -0.0, 0.0]], "f32")
    for zero in (0.0, -0.0):
        assert verdict(op, [x], tensor([NAN, zero], "f32"), **OVER) == "within"
    assert verdict(op, [x], tensor([INF, 0.0], "f32"), **OVER) == "exceeds"
    assert verdict(op, [x], tensor([1.0, 0.0], "f32"), **OVER) == "exceeds"


@pytest.mark.parametrize("op, best, tied, beside", [("max", 7.0, [1, 2], 0), ("min", -3.0, [0, 3], 1)])
def test_the_index_is_that_of_any_extreme(judged, tensor, op, best, tied, beside):
    x = tensor([-3.0, 7.0, 7.0, -3.0], "f32")

    def said(value, index):
        made = judged(op, [x], [tensor(value, "f32"), tensor(index, "i64")], **OVER)
        return [j.verdict.value for j in made]

    for index in tied:
        assert said(best, index) == ["within", "within"]
    assert said(best, beside) == ["within", "exceeds"]
    assert said(best, 4) == ["within", "exceeds"]
    assert said(best, -1) == ["within", "exceeds"]
    assert said(best + 1, tied[0]) == ["exceeds", "within"]


def test_the_index_of_a_nan_points_at_one(judged, tensor):
    x = tensor([1.0, NAN, -5.0], "f16")
    for index, wanted in ((1, "within"), (2, "exceeds"), (0, "exceeds")):
        made = judged("min", [x], [tensor(NAN, "f16"), tensor(index, "i64")], **OVER)
        assert made[1].verdict.value == wanted


def test_integers_that_are_one_float64_are_told_apart(verdict, tensor):
    x = tensor([2**53, 2**53 + 1], "i64")
    assert verdict("amax", [x], tensor(2**53 + 1, "i64"), **OVER) == "within"
    assert verdict("amax", [x], tensor(2**53, "i64"), **OVER) == "exceeds"


def test_argsort_gives_an_order_and_keeps_ties_where_asked(verdict, tensor):
    x = tensor([2.0, 1.0, 2.0, NAN], "f32")
    up = {"dim": -1, "descending": False}
    assert verdict("argsort", [x], tensor([1, 0, 2, 3], "i64"), **up, stable=True) == "within"
    assert verdict("argsort", [x], tensor([1, 2, 0, 3], "i64"), **up, stable=False) == "within"
    assert verdict("argsort", [x], tensor([1, 2, 0, 3], "i64"), **up, stable=True) == "exceeds"
    assert verdict("argsort", [x], tensor([1, 0, 0, 3], "i64"), **up, stable=False) == "exceeds"
    assert verdict("argsort", [x], tensor([3, 1, 0, 2], "i64"), **up, stable=False) == "exceeds"
