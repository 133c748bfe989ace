from __future__ import annotations

import numpy as np
import pytest

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    "op, right, wrong",
    [
        ("floor_divide", [-4.0, 3.0, -4.0, 3.0], [-3.0, 3.0, -3.0, 3.0]),
        ("trunc_divide", [-3.0, 3.0, -3.0, 3.0], [-4.0, 3.0, -4.0, 3.0]),
        ("remainder", [0.5, 1.5, -0.5, -1.5], [-1.5, 1.5, 1.5, -1.5]),
    ],
)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_signs_are_those_of_the_definition(verdict, tensor, op, right, wrong, dtype):
    a, b = tensor([-7.5, 7.5, 7.5, -7.5], dtype), tensor([2.0, 2.0, -2.0, -2.0], dtype)
    assert verdict(op, [a, b], tensor(right, dtype)) == "within"
    assert verdict(op, [a, b], tensor(wrong, dtype)) == "exceeds"


def test_a_quotient_beside_a_whole_number_may_be_either(verdict, tensor):
    # float32's 0.1 is more than a tenth: 1 / 0.1 is below 10 by less than it can be rounded to.
    a, b = tensor([1.0], "f32"), tensor([0.1], "f32")
    for y, wanted in (
        (9.0, "within"),
        (10.0, "within"),
        (11.0, "exceeds"),
        (8.0, "exceeds"),
        (9.5, "exceeds"),
    ):
        assert verdict("floor_divide", [a, b], tensor([y], "f32")) == wanted
        assert verdict("trunc_divide", [a, b], tensor([y], "f32")) == wanted
    tenth = float(np.float32(0.1))
    for y, wanted in (
        (1 - 9 * tenth, "within"),
        (1 - 10 * tenth, "within"),
        (0.0, "exceeds"),
        (0.05, "exceeds"),
    ):
        assert verdict("remainder", [a, b], tensor([y], "f32")) == wanted


def test_an_exact_quotient_has_one_whole_part(verdict, tensor):
    a, b = tensor([6.0, -6.0, 5.5], "f32"), tensor([2.0, 2.0, 2.0], "f32")
    assert verdict("floor_divide", [a, b], tensor([3.0, -3.0, 2.0], "f32")) == "within"
    for wrong in ([2.0, -3.0, 2.0], [3.0, -4.0, 2.0], [3.0, -3.0, 3.0]):
        assert verdict("floor_divide", [a, b], tensor(wrong, "f32")) == "exceeds"
    assert verdict("remainder", [a, b], tensor([0.0, -0.0, 1.5], "f32")) == "within"
    assert verdict("remainder", [a, b], tensor([2.0, 0.0, 1.5], "f32")) == "exceeds"


def test_a_remainder_of_a_large_quotient_is_exact(verdict, tensor):
    a, b = tensor([2.0**30, 1e9], "f32"), tensor([3.0, 7.0], "f32")
    assert verdict("remainder", [a, b], tensor([2.0**30 % 3, 1e9 % 7], "f32")) == "within"
    product = np.float32(7) * np.floor(np.float32(1e9) / np.float32(7))
    assert verdict("remainder", [a, b], tensor([2.0**30 % 3, 1e9 - float(product)], "f32")) == "exceeds"


@pytest.mark.parametrize(
    "op, legal, illegal",
    [
        ("floor_divide", [INF, -INF, NAN, 0.0, -1.0, INF], [0.0, -INF, NAN, 0.0, -1.0, INF]),
        ("floor_divide", [INF, -INF, NAN, 0.0, 0.0, NAN], [INF, -INF, NAN, -1.0, 0.0, NAN]),
        ("trunc_divide", [INF, -INF, NAN, 0.0, -0.0, INF], [INF, -INF, NAN, 0.0, -1.0, INF]),
        ("remainder", [NAN, NAN, NAN, 5.0, INF, NAN], [5.0, NAN, NAN, 5.0, INF, NAN]),
        ("remainder", [NAN, NAN, NAN, 5.0, NAN, NAN], [NAN, NAN, 0.0, 5.0, NAN, NAN]),
    ],
)
def test_division_by_0_and_infinities(verdict, tensor, op, legal, illegal):
    a = tensor([5.0, -5.0, 0.0, 5.0, -5.0, INF], "f32")
    b = tensor([0.0, 0.0, 0.0, INF, INF, 2.0], "f32")
    assert verdict(op, [a, b], tensor(legal, "f32")) == "within"
    assert verdict(op, [a, b], tensor(illegal, "f32")) == "exceeds"


def test_integers_have_one_result_beyond_what_floats_hold(verdict, tensor):
    a, b = tensor([2**60 + 1, -(2**60) - 1], "i64"), tensor([3, 3], "i64")
    whole = [(2**60 + 1) // 3, (-(2**60) - 1) // 3]
    assert verdict("floor_divide", [a, b], tensor(whole, "i64")) == "within"
    assert verdict("floor_divide", [a, b], tensor([whole[0] + 1, whole[1]], "i64")) == "exceeds"
    assert verdict("trunc_divide", [a, b], tensor([whole[0], -whole[0]], "i64")) == "within"
    assert verdict("trunc_divide", [a, b], tensor(whole, "i64")) == "exceeds"
    assert verdict("remainder", [a, b], tensor([(2**60 + 1) % 3, (-(2**60) - 1) % 3], "i64")) == "within"
    assert verdict("remainder", [a, b], tensor([(2**60 + 1) % 3, -2], "i64")) == "exceeds"


def test_what_c_leaves_undefined_is_free_and_never_counts(judged, tensor):
    a, b = tensor([5, -(2**63), 9], "i64"), tensor([0, -1, 2], "i64")
    (made,) = judged("floor_divide", [a, b], [tensor([77, 77, 4], "i64")])
    assert (made.verdict.value, made.elements, made.free) == ("within", 1, 2)


@pytest.mark.parametrize("op, y", [("floor_divide", 5.0), ("trunc_divide", 5.0)])
def test_a_quotient_rounded_to_16_bits_is_right_only_where_it_is_declared(verdict, declaring, tensor, op, y):
    # 2.0 / 0.400390625 is 4.995, and 5 in eight bits.
    a, b = tensor([2.0], "bf16"), tensor([0.400390625], "bf16")
    declared = declaring("intermediates_rounded", op, "bf16", "bf16")
    assert verdict(op, [a, b], tensor([4.0], "bf16")) == "within"
    assert verdict(op, [a, b], tensor([y], "bf16")) == "exceeds"
    if op == "trunc_divide":
        assert verdict(op, [a, b], tensor([y], "bf16"), profile=declared) == "within"
    assert verdict(op, [a, b], tensor([6.0], "bf16"), profile=declared) == "exceeds"


def test_a_division_with_last_places_of_its_own_may_fall_short(verdict, declaring, tensor):
    a, b = tensor([6.0], "f32"), tensor([2.0], "f32")
    coarse = declaring("nothing", "floor_divide", "f32", ulps={"div": 2.0})
    for op, y in (("floor_divide", 2.0), ("trunc_divide", 2.0), ("remainder", 2.0)):
        assert verdict(op, [a, b], tensor([y], "f32")) == "exceeds"
        assert verdict(op, [a, b], tensor([y], "f32"), profile=coarse) == "within"
