from __future__ import annotations

from statistics import NormalDist

from parity.case.quantiles import KNOTS, SCALE_BITS


def wrong_knots(knots):
    """Knots that are not the nearest integer to what Python's own inverse gives, or out of order."""
    scale = 2**SCALE_BITS
    expected = [round(NormalDist().inv_cdf(0.5 + k / 2048) * scale) for k in range(1024)] + [5 * scale]
    off = [k for k, (knot, value) in enumerate(zip(knots, expected, strict=True)) if abs(knot - value) > 1]
    return off + [k for k in range(1024) if knots[k] >= knots[k + 1]]


def test_every_knot_is_the_half_normal_quantile_and_the_last_is_five():
    assert len(KNOTS) == 1025
    assert wrong_knots(KNOTS) == []
    assert KNOTS[0] == 0
    assert KNOTS[-1] == 5 * 2**40


def test_a_knot_that_is_off_by_two_units_is_found():
    knots = list(KNOTS)
    knots[512] += 2
    assert wrong_knots(knots) == [512]


def test_two_knots_in_the_wrong_order_are_found():
    knots = list(KNOTS)
    knots[7], knots[8] = knots[8], knots[7]
    assert set(wrong_knots(knots)) >= {7, 8}
