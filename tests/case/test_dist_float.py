from __future__ import annotations

import numpy as np
import pytest

from parity.case.dist_float import FLOAT_DISTRIBUTIONS, named_value
from parity.case.draw import Draw
from parity.case.dtype import DTYPES


def make(dist, shape=(16, 32), *, dtype="f32", **options):
    draw = Draw(key=f"ops/x:#{dist}", dtype=DTYPES[dtype], shape=shape, options=options)
    return FLOAT_DISTRIBUTIONS[dist].make(draw)


@pytest.mark.parametrize("dist", FLOAT_DISTRIBUTIONS)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (0, 3), (7,), (2, 3, 4, 5)])
def test_every_distribution_makes_float64_of_every_shape(dist, shape):
    made = np.asarray(make(dist, shape))
    assert made.dtype == np.float64
    assert made.shape == shape


def test_small_positive_and_shifted_are_made_of_the_normal_values_of_their_name():
    assert (make("small") * 1024 <= 5).all()
    assert (make("positive") >= 2.0**-6).all()
    assert abs(make("shifted").mean() - 64) < 0.2


def test_heavy_has_a_heavier_tail_than_a_normal_and_outlier_channels():
    value = make("heavy", (2000, 300))
    size = np.sort(np.median(np.abs(value), axis=0))
    assert (size[-3:] > 20).all()
    assert (size[:-3] < 2).all()
    plain = value[:, np.argsort(np.median(np.abs(value), axis=0))[:-3]]
    assert (np.abs(plain) > 6).mean() > 0.003
    assert np.abs(plain).max() <= 200


@pytest.mark.parametrize("last, channels", [(7, 0), (8, 1), (149, 1), (150, 2), (1000, 10)])
def test_heavy_has_one_outlier_channel_in_a_hundred_and_one_from_eight_on(last, channels):
    size = np.median(np.abs(make("heavy", (501, last))), axis=0)
    assert (size > 20).sum() == channels


def test_every_heavy_value_is_finite_in_float16():
    assert np.abs(make("heavy", (500, 512))).max() < 65504


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_cancel_pairs_almost_cancel_along_the_axis(axis):
    value = np.moveaxis(make("cancel", (6, 10, 8), axis=axis), axis, 0)
    first, second = value[0::2], value[1::2]
    assert (np.sign(first) == -np.sign(second)).all()
    ratio = np.abs(first + second) / np.abs(first)
    assert ratio.max() <= 2.0**-8
    assert ratio.max() > 2.0**-9


def test_cancel_and_paired_make_a_sum_of_products_that_nearly_cancels():
    a, b = make("cancel", (64,)), make("paired", (64,))
    assert abs(a @ b) < 2.0**-5 * (np.abs(a) @ np.abs(b))


def test_an_operand_that_is_not_paired_does_not_cancel():
    a, b = make("cancel", (64,)), make("normal", (64,))
    assert abs(a @ b) > 2.0**-5 * (np.abs(a) @ np.abs(b))


def test_a_last_odd_element_of_pairs_stays_as_drawn():
    draw = Draw(key="k", dtype=DTYPES["f32"], shape=(5,), options={})
    for dist in ("cancel", "paired"):
        assert FLOAT_DISTRIBUTIONS[dist].make(draw)[4] == draw.normal("value")[4]


def test_rows_of_special_hold_the_kinds_in_turn():
    value = make("special", (14, 257))
    tiny, normal, most = (DTYPES["f32"].min_subnormal, DTYPES["f32"].min_normal, DTYPES["f32"].max_finite)
    zeros = {0.0, tiny, -tiny, normal - tiny, -normal}
    for row in (0, 7):
        kinds = value[row]
        assert np.isnan(kinds).any() and (kinds == np.inf).any() and (kinds == -np.inf).any()
    for row in (1, 8):
        assert (np.abs(value[row]) <= 5).all() and not set(value[row].tolist()) & zeros
    for row in (2, 9):
        assert set(value[row].tolist()) >= zeros and np.isfinite(value[row]).all()
        assert np.signbit(value[row][value[row] == 0]).any() and not np.signbit(value[row]).all()
    for row, special in ((3, np.inf), (5, -np.inf)):
        assert (value[row] == special).any()
        assert (np.isfinite(value[row]) | (value[row] == special)).all()
    assert np.isnan(value[4]).any() and not np.isinf(value[4]).any()
    assert {most, -most} <= set(value[6].tolist()) and np.isfinite(value[6]).all()


def test_special_leaves_most_elements_normal():
    value = make("special", (700, 64))
    assert 0.75 < ((np.abs(value) <= 5) & (np.abs(value) > 1e-6)).mean() < 0.95


def test_every_row_of_special_but_the_clean_one_holds_something_special():
    value = make("special", (700, 2))
    untouched = np.isclose(np.abs(value), np.abs(make("special", (700, 2)))) & np.isfinite(value)
    special = ~untouched | (np.abs(value) < 1e-30) | (np.abs(value) > 1e30)
    assert special.any(axis=1).mean() == pytest.approx(6 / 7)


def test_rows_of_masked_are_clean_partly_and_wholly_minus_infinity_in_turn():
    hidden = make("masked", (8, 64)) == -np.inf
    assert hidden.any(axis=1).tolist() == [False, True, True, True] * 2
    assert hidden.all(axis=1).tolist() == [False, False, False, True] * 2


def test_sweep_goes_evenly_from_end_to_end():
    value = make("sweep", (101,), reach=50.0)
    assert value.tolist() == [float(i - 50) for i in range(101)]
    assert make("sweep", ()).tolist() == 0.0


def test_ties_nan_holds_nan_in_every_second_row_and_few_values():
    value = make("ties_nan", (20, 64))
    assert np.isnan(value).any(axis=1).tolist() == [True, False] * 10
    finite = set(value[np.isfinite(value)].tolist())
    assert finite == {-1.0, -0.5, 0.0, 0.5, 1.0}
    assert (value == np.inf).any() and (value == -np.inf).any()


def test_named_values_are_those_of_the_dtype():
    assert named_value("min", DTYPES["f16"]) == -65504.0
    assert named_value("max", DTYPES["e4m3fn"]) == 448.0
    assert named_value("-inf", DTYPES["f32"]) == -np.inf
    assert named_value(2, DTYPES["f32"]) == 2.0
