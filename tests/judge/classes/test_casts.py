from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from parity.case.dtype import DTYPES

INF, NAN = np.inf, np.nan


def nearest(x, name, values, bits):
    """Codes of the numbers of a format that lie nearest to x: two of them for a tie."""
    dtype = DTYPES[name]
    codes = [c for c in range(1 << dtype.bits) if (c & ((1 << (dtype.bits - 1)) - 1)) <= dtype.max_code]
    codes = [c for c in codes if not (dtype.fnuz and c == 1 << (dtype.bits - 1))]
    numbers = values(bits(codes, name))
    apart = [abs(Fraction(float(v)) - Fraction(float(x))) for v in numbers]
    least = min(apart)
    return [c for c, d in zip(codes, apart, strict=True) if d == least]


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz"])
def test_a_cast_to_8_bits_gives_the_nearest_number_and_ties_go_to_even(verdict, tensor, bits, values, name):
    points = [0.3, -1.7, 5.03125, 17.0, 1.0625, 2.125, 0.001, 100.0]
    x = tensor(points, "f32")
    right = []
    for point in values(x):
        near = nearest(point, name, values, bits)
        right.append(next(c for c in near if len(near) == 1 or c % 2 == 0))
    assert verdict("cast", [x], bits(right, name), to=name) == "within"
    for i in range(len(right)):
        wrong = [c + (j == i) for j, c in enumerate(right)]
        assert verdict("cast", [x], bits(wrong, name), to=name) == "exceeds"


@pytest.mark.parametrize(
    "name, legal, illegal",
    [
        ("e4m3fn", [448.0, NAN], [416.0, 0.0]),
        ("e5m2", [57344.0, INF], [NAN, 49152.0]),
        ("e4m3fnuz", [240.0, NAN], [224.0, 0.0]),
    ],
)
def test_beyond_8_bits_saturation_and_the_formats_own_overflow_are_both_legal(
    verdict, tensor, name, legal, illegal
):
    x = tensor([1e6, 1.0], "f32")
    for y in legal:
        assert verdict("cast", [x], tensor([y, 1.0], name), to=name) == "within"
    for y in illegal:
        assert verdict("cast", [x], tensor([y, 1.0], name), to=name) == "exceeds"


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_beyond_16_bits_infinity_alone_is_legal(verdict, tensor, name):
    x = tensor([-1e300, 1.0], "f64")
    assert verdict("cast", [x], tensor([-INF, 1.0], name), to=name) == "within"
    assert verdict("cast", [x], tensor([-DTYPES[name].max_finite, 1.0], name), to=name) == "exceeds"


@pytest.mark.parametrize(
    "point, even, odd",
    [(1 + 2**-8, 1.0, 1 + 2**-7), (1 + 3 * 2**-8, 1 + 2**-6, 1 + 2**-7), (-(1 + 2**-8), -1.0, -(1 + 2**-7))],
)
def test_ties_go_to_even(verdict, tensor, point, even, odd):
    x = tensor([point], "f32")
    assert verdict("cast", [x], tensor([even], "bf16"), to="bf16") == "within"
    assert verdict("cast", [x], tensor([odd], "bf16"), to="bf16") == "exceeds"


def test_truncation_exceeds(verdict, tensor, bits):
    x = tensor([1 + 3 * 2**-9], "f32")
    assert verdict("cast", [x], tensor([1 + 2**-7], "bf16"), to="bf16") == "within"
    assert verdict("cast", [x], tensor([1.0], "bf16"), to="bf16") == "exceeds"


def test_a_nan_stays_a_nan_of_any_payload(verdict, tensor, bits):
    x = bits([0x7FC00001], "f32")
    assert verdict("cast", [x], bits([0x7FC0], "bf16"), to="bf16") == "within"
    assert verdict("cast", [x], bits([0x7FC1], "bf16"), to="bf16") == "within"
    assert verdict("cast", [x], tensor([1.0], "bf16"), to="bf16") == "exceeds"


def test_minus_zero_keeps_its_sign_where_the_format_has_it(verdict, tensor, bits):
    x = tensor([-0.0], "f32")
    assert verdict("cast", [x], bits([0x80], "e4m3fn"), to="e4m3fn") == "within"
    assert verdict("cast", [x], bits([0x00], "e4m3fn"), to="e4m3fn") == "exceeds"
    assert verdict("cast", [x], bits([0x00], "e4m3fnuz"), to="e4m3fnuz") == "within"


def test_a_variant_is_read_by_its_own_bias_and_not_by_another(verdict, tensor, bits):
    x = bits([0x40, 0x48], "e4m3fnuz")
    assert verdict("cast", [x], tensor([1.0, 2.0], "f32"), to="f32") == "within"
    assert verdict("cast", [x], tensor([2.0, 4.0], "f32"), to="f32") == "exceeds"


def test_floats_to_integers_are_cut_and_what_c_leaves_open_is_free(judged, tensor):
    x = tensor([2.9, -2.9, NAN, 1e30], "f32")
    right = judged("cast", [x], [tensor([2, -2, 77, -5], "i32")], to="i32")[0]
    assert (right.verdict.value, right.elements, right.free) == ("within", 2, 2)
    assert judged("cast", [x], [tensor([3, -2, 0, 0], "i32")], to="i32")[0].verdict.value == "exceeds"


def test_a_negative_number_to_an_unsigned_integer_is_free_but_minus_a_half_is_0(judged, tensor):
    x = tensor([-1.0, -0.5], "f32")
    assert judged("cast", [x], [tensor([255, 0], "u8")], to="u8")[0].free == 1
    assert judged("cast", [x], [tensor([0, 1], "u8")], to="u8")[0].verdict.value == "exceeds"


def test_integers_wrap(verdict, tensor):
    x = tensor([300, -129], "i32")
    assert verdict("cast", [x], tensor([44, 127], "i8"), to="i8") == "within"
    assert verdict("cast", [x], tensor([127, -128], "i8"), to="i8") == "exceeds"


def test_only_zeros_are_false(verdict, tensor):
    x = tensor([0.0, -0.0, 0.25, NAN, -INF], "f32")
    assert verdict("cast", [x], tensor([0, 0, 1, 1, 1], "bool"), to="bool") == "within"
    assert verdict("cast", [x], tensor([0, 1, 1, 1, 1], "bool"), to="bool") == "exceeds"
    assert verdict("cast", [x], tensor([0, 0, 0, 1, 1], "bool"), to="bool") == "exceeds"


def test_a_long_integer_is_rounded_once(verdict, tensor, bits):
    # 2^54 + 2^30 + 1 lies above the tie of two float32 numbers, but rounds to the tie in float64.
    number = 2**54 + 2**30 + 1
    x = tensor([number], "i64")
    above, below = np.float32(2**54 + 2**31), np.float32(2**54)
    assert verdict("cast", [x], tensor([above], "f32"), to="f32") == "within"
    assert verdict("cast", [x], tensor([below], "f32"), to="f32") == "exceeds"


def test_two_roundings_are_granted_where_declared(verdict, declaring, tensor):
    # 1 + 2^-4 + 2^-12 lies above a tie of e4m3fn, and on it once it is a bf16.
    x = tensor([1 + 2**-4 + 2**-12], "f32")
    once, twice = tensor([1.125], "e4m3fn"), tensor([1.0], "e4m3fn")
    declared = declaring("cast_through", "cast", "f32", "bf16")
    assert verdict("cast", [x], once, to="e4m3fn") == "within"
    assert verdict("cast", [x], twice, to="e4m3fn") == "exceeds"
    assert verdict("cast", [x], twice, to="e4m3fn", profile=declared) == "within"


def test_a_cast_to_its_own_dtype_moves_bits(verdict, bits):
    x = bits([0x7FC0BEEF], "f32")
    assert verdict("cast", [x], x, to="f32") == "within"
    assert verdict("cast", [x], bits([0x7FC00000], "f32"), to="f32") == "exceeds"
