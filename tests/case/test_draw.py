from __future__ import annotations

import hashlib

import numpy as np
import pytest

from parity.case.draw import Draw, key_text, normal_from_bits, words
from parity.case.dtype import DTYPES
from parity.case.ids import CaseId
from parity.case.quantiles import KNOTS

MASK = 2**64 - 1


def philox(key, counter, *, multiplier=0xCA5A826395121157):
    """Philox4x64-10 of Salmon, Moraes, Dror and Shaw (SC 2011), written from the paper."""
    a, b, c, d = counter, 0, 0, 0
    low, high = key & MASK, key >> 64
    for _ in range(10):
        p, q = 0xD2E7470EE14C6C93 * a, multiplier * c
        a, b, c, d = (q >> 64) ^ b ^ low, q & MASK, (p >> 64) ^ d ^ high, p & MASK
        low, high = (low + 0x9E3779B97F4A7C15) & MASK, (high + 0xBB67AE8584CAA73B) & MASK
    return [a, b, c, d]


def documented_words(text, count, **changed):
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    return [philox(key, 1 + i // 4, **changed)[i % 4] for i in range(count)]


def draw(shape=(4, 8), **options):
    return Draw(key="ops/x:#x", dtype=DTYPES["f32"], shape=shape, options=options)


def test_words_are_philox_as_the_documentation_says():
    text = "ops/softmax:dtype=bf16,shape=8x1024#x"
    assert words(text, "value", 23).tolist() == documented_words(f"{text}/value", 23)


def test_a_philox_with_another_multiplier_gives_other_words():
    text = "ops/softmax:#x"
    assert words(text, "value", 4).tolist() != documented_words(f"{text}/value", 4, multiplier=3)


def test_a_longer_draw_begins_with_the_shorter_one():
    assert words("a", "value", 100)[:7].tolist() == words("a", "value", 7).tolist()


def test_layout_and_mode_are_not_in_the_key_and_every_other_parameter_is():
    case = CaseId.parse("ops/softmax:dtype=bf16,layout=strided,mode=graph,shape=8x1024")
    assert key_text(case, "x") == "ops/softmax:dtype=bf16,shape=8x1024#x"
    assert key_text(CaseId.parse("ops/softmax"), "x") == "ops/softmax:#x"


@pytest.mark.parametrize(
    "other", ["ops/softmax:dtype=f16#x", "ops/softmin:dtype=bf16#x", "ops/softmax:dtype=bf16#y"]
)
def test_another_path_parameter_or_tensor_gives_other_words(other):
    assert words("ops/softmax:dtype=bf16#x", "value", 4).tolist() != words(other, "value", 4).tolist()


def test_another_lane_gives_other_words():
    assert words("a", "value", 4).tolist() != words("a", "z1", 4).tolist()


@pytest.mark.parametrize(
    "bits, units",
    [
        (0, 0),
        (1 << 63, 0),
        (1 << 53, KNOTS[1]),
        ((1 << 63) | (5 << 53), -KNOTS[5]),
        ((7 << 53) | (1 << 52), KNOTS[7] + (KNOTS[8] - KNOTS[7]) // 2),
        (1 << 33, KNOTS[1] >> 20),
        ((1 << 33) - 1, 0),
        (MASK >> 1, KNOTS[1023] + ((KNOTS[1024] - KNOTS[1023]) * (2**20 - 1) >> 20)),
    ],
)
def test_a_normal_is_a_signed_knot_and_a_fraction_of_the_gap(bits, units):
    value = normal_from_bits(np.array([bits], dtype=np.uint64))
    assert value.dtype == np.float64
    assert value.tolist() == [units / 2**40]


def test_a_zero_normal_has_no_sign():
    assert not np.signbit(normal_from_bits(np.array([1 << 63], dtype=np.uint64)))[0]


def test_normals_have_the_moments_of_a_standard_normal():
    value = normal_from_bits(words("moments", "value", 200_000))
    assert abs(value.mean()) < 0.01
    assert abs(value.std() - 1) < 0.01
    # The last of 1024 segments is straight up to 5, a little heavier than the normal's tail.
    assert abs((value**4).mean() - 3) < 0.25


def test_hits_mark_about_one_in_n_and_one_at_least_in_each_row():
    marked = draw((500, 64)).hits("where", 8)
    # One in 8, and the smallest word of the row, which is seldom a multiple of 8.
    assert abs(marked.mean() - (1 / 8 + 7 / 8 / 64)) < 0.01
    assert draw((500, 3)).hits("where", 1000).any(axis=1).all()


def test_a_scalar_is_hit_and_an_empty_tensor_has_nothing_to_hit():
    assert draw(()).hits("where", 8).all()
    assert draw((3, 0)).hits("where", 8).shape == (3, 0)


def test_below_reaches_both_ends_and_nothing_else():
    value = draw((1000,)).below("value", 3)
    assert set(value.tolist()) == {0, 1, 2}


def test_unit_is_a_multiple_of_two_to_the_minus_53_below_one():
    value = draw((1000,)).unit("value")
    assert ((value >= 0) & (value < 1)).all()
    assert (value * 2.0**53 == np.floor(value * 2.0**53)).all()


def test_rows_and_columns_count_the_last_dimension():
    assert draw((2, 1, 2)).row().tolist() == [[[0, 0]], [[1, 1]]]
    assert draw((2, 1, 2)).column().tolist() == [[[0, 1]], [[0, 1]]]
    assert draw(()).row().shape == ()
