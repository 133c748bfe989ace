from __future__ import annotations

import math

import pytest
import torch

from parity.case.dtype import DTYPES
from parity.judge.budget import Budget, rounded
from parity.judge.limits import FLIPS, RMS_FLOOR, hold, rms_limit


def budget(value, *, dtype="f32", hard=0.0, sigma=0.0, **more):
    value = torch.as_tensor(value, dtype=torch.float64)
    return Budget(
        dtype=DTYPES[dtype],
        value=value,
        hard=torch.full_like(value, hard),
        sigma=torch.full_like(value, sigma),
        **more,
    )


def held(got, budget):
    return hold(torch.as_tensor(got, dtype=torch.float64), budget)


def survival(x, n):
    """P(chi-square of n > x), by its closed forms: a sum for even n, with erfc for odd n."""
    if n % 2 == 0:
        return math.exp(-x / 2) * sum((x / 2) ** k / math.factorial(k) for k in range(n // 2))
    odd = sum((x / 2) ** (k + 0.5) / math.gamma(k + 1.5) for k in range((n - 1) // 2))
    return math.erfc(math.sqrt(x / 2)) + math.exp(-x / 2) * odd


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 11])
def test_rms_limit_of_few_outputs_leaves_one_in_a_million(n):
    chi2 = n * (rms_limit(n) / 1.5) ** 2
    assert survival(chi2, n) == pytest.approx(1e-6, rel=1e-6)


@pytest.mark.parametrize("n", [15, 16, 17, 1000, 10**9])
def test_rms_limit_of_many_outputs_is_its_floor(n):
    assert rms_limit(n) == pytest.approx(RMS_FLOOR, abs=0.05)


def test_rms_limit_falls_with_the_number_of_outputs():
    limits = [rms_limit(n) for n in range(1, 40)]
    assert limits == sorted(limits, reverse=True)


def test_an_error_of_the_bound_is_within_and_one_beyond_it_is_not():
    of = budget([1.0] * 64, hard=0.5, sigma=0.5)
    bound = float(of.total()[0][0])
    assert held([1.0] * 63 + [1.0 + bound], of).failures == ()
    beyond = held([1.0] * 63 + [1.0 + bound * 1.001], of)
    assert beyond.failures == ("worst |e|/B exceeds 1",)
    assert beyond.worst_index == (63,)


def test_an_error_that_only_its_rms_shows_fails_by_it():
    of = budget([1.0] * 64, hard=10.0, sigma=0.1)
    result = held([1.35] * 64, of)
    assert result.failures == ("rms e/sigma exceeds its limit",)
    assert result.rms == pytest.approx(3.5, rel=1e-6)
    assert held([1.29] * 64, of).failures == ()


def test_outputs_that_share_a_reduction_are_counted_once():
    of = budget([1.0] * 64, hard=10.0, sigma=0.1, independent=1)
    assert held([1.5] * 64, of).failures == ()
    assert held([1.75] * 64, of).failures == ("rms e/sigma exceeds its limit",)


def test_16_bit_results_that_all_err_by_half_a_step_fail_by_their_flips():
    value = 1 + torch.arange(512, dtype=torch.float64) / 2**12
    nearest = torch.round(value * 2**7) / 2**7
    up = torch.ceil(value * 2**7) / 2**7
    of = budget(value, dtype="bf16", hard=1e-6, sigma=1e-7)
    right = held(nearest, of)
    assert (right.failures, right.flips) == ((), 0)
    wrong = held(up, of)
    assert wrong.flips == int((up != nearest).sum())
    assert wrong.flips_limit < wrong.flips
    assert "more flips than rounding explains" in wrong.failures


def test_flips_are_not_counted_where_a_result_is_rounded_twice_or_has_32_bits():
    assert held([1.0], budget([1.0], dtype="bf16", roundings=2)).flips is None
    assert held([1.0], budget([1.0], dtype="f32")).flips is None


@pytest.mark.parametrize(
    "got, value",
    [
        (math.nan, 1.0),
        (1.0, math.nan),
        (math.inf, 1.0),
        (1.0, math.inf),
        (-math.inf, math.inf),
        (math.inf, math.nan),
        (math.nan, -math.inf),
        (0.0, math.inf),
    ],
)
def test_another_non_finite_pattern_exceeds_and_says_which(got, value):
    words = {math.inf: "inf", -math.inf: "-inf"}
    name = lambda x: "NaN" if math.isnan(x) else words.get(x, f"finite ({x:.6g})")  # noqa: E731
    result = held([1.0, got, 1.0], budget([1.0, value, 1.0]))
    assert result.failures[0] == f"1 of 3 elements {name(got)} where the oracle is {name(value)}"
    assert result.worst_index == (1,)


@pytest.mark.parametrize("same", [math.nan, math.inf, -math.inf])
def test_the_same_non_finite_pattern_is_within(same):
    assert held([1.0, same], budget([1.0, same])).failures == ()


def test_a_value_clearly_beyond_the_largest_must_be_infinite():
    most = DTYPES["f16"].max_finite
    assert held([math.inf], budget([2 * most], dtype="f16")).failures == ()
    assert "finite" in held([most], budget([2 * most], dtype="f16")).failures[0]


def test_a_value_clearly_below_the_largest_must_not_be_infinite():
    assert "inf where" in held([math.inf], budget([60_000.0], dtype="f16")).failures[0]


@pytest.mark.parametrize("got", [65504.0, math.inf])
def test_at_the_edge_of_the_range_the_largest_and_infinity_are_both_right(got):
    # Half a step beyond 65,504 rounds to infinity; within 1 of it an error decides.
    assert held([got], budget([65519.5], dtype="f16", hard=1.0)).failures == ()


def test_infinity_of_the_other_sign_is_wrong_at_the_edge_too():
    assert held([-math.inf], budget([65519.5], dtype="f16", hard=1.0)).failures


def test_free_elements_may_be_anything_and_are_counted_apart():
    free = torch.tensor([False, True, True])
    result = held([1.0, math.nan, 7.0], budget([1.0, 1.0, 1.0], free=free))
    assert (result.failures, result.free) == ((), 2)


def test_nan_is_right_only_where_it_is_said_to_be():
    of = budget([0.0, 0.0], nan_ok=torch.tensor([True, False]))
    assert held([math.nan, 0.0], of).failures == ()
    assert held([0.0, math.nan], of).failures


def test_flushed_results_are_zero_only_where_subnormals_are_flushed():
    small = DTYPES["f16"].min_normal / 2
    assert held([0.0], budget([small], dtype="f16")).failures
    assert held([0.0], budget([small], dtype="f16", flush=True)).failures == ()


def test_a_bound_that_is_not_finite_gives_no_room():
    value = torch.tensor([1.0], dtype=torch.float64)
    nan = torch.tensor([math.nan], dtype=torch.float64)
    broken = Budget(dtype=DTYPES["f32"], value=value, hard=nan, sigma=nan)
    assert held([1.0], broken).failures == ()
    assert held([1.5], broken).failures


def test_no_elements_hold_every_limit():
    result = held(torch.empty(0, 4), budget(torch.empty(0, 4)))
    assert (result.failures, result.worst_index, result.worst) == ((), None, 0.0)


def test_a_16_bit_result_that_rounds_no_value_within_the_bound_exceeds_however_near_it_is():
    step = 2**-7
    of = budget([1.90625 + 0.3 * step], dtype="bf16", hard=1e-6, sigma=1e-7)
    assert held([1.90625], of).failures == ()
    wrong = held([1.90625 + step], of)
    assert wrong.worst < 1
    assert wrong.failures == ("1 elements are the rounding of no value within the bound",)


def test_a_value_within_the_bound_of_a_tie_may_round_both_ways():
    of = budget([1 + 2**-8 + 1e-9], dtype="bf16", hard=1e-7, sigma=3e-8)
    for got in (1.0, 1 + 2**-7):
        assert held([got], of).failures == ()


def test_equal_values_near_a_tie_flip_together_and_are_within():
    of = budget([1 + 2**-8 + 1e-9] * 200, dtype="bf16", hard=1e-7, sigma=3e-8)
    result = held([1.0] * 200, of)
    assert (result.flips, result.failures) == (200, ())


def test_only_an_error_before_the_last_rounding_can_make_the_largest_value_infinite():
    assert held([math.inf], budget([65504.0], dtype="f16", hard=1.0)).failures
    assert held([math.inf], budget([65504.0], dtype="f16", hard=17.0)).failures == ()


def slowly(got, value, hard, sigma, of):
    """Flips, their limit and what is outside, with every element rounded: the rule as it is written."""
    near = torch.minimum(hard, 3 * sigma)
    _, exponent = torch.frexp(value)
    step = torch.ldexp(torch.ones_like(value), exponent.clamp(min=2 - of.bias) - 1 - of.mantissa_bits)
    outside = (got < rounded(value - hard, of)) | (got > rounded(value + hard, of))
    may = rounded(value - near, of) != rounded(value + near, of)
    mu = max(float((2 * near / step).clamp(max=1).sum()), float(may.sum()))
    limit = int(FLIPS[0] * mu + FLIPS[1] * math.sqrt(mu) + FLIPS[2])
    return int(outside.sum()), int((got != rounded(value, of)).sum()), limit


@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_elements_far_from_an_edge_are_counted_as_if_each_were_rounded(name):
    of, draw, seen = DTYPES[name], torch.Generator().manual_seed(1), set()
    for number in range(300):
        size = 2.0 ** float(torch.empty(()).uniform_(math.log2(of.min_subnormal) + 1, 12, generator=draw))
        value = torch.randn(64, generator=draw, dtype=torch.float64) * size
        if number % 3 == 0:  # just beside powers of two, where steps change
            near_one = 1 + (torch.rand(64, generator=draw, dtype=torch.float64) - 0.5) * of.unit_roundoff
            value = value.sign() * torch.exp2(value.abs().log2().round()) * near_one
        wide = 10.0 ** float(torch.empty(()).uniform_(-4, 0.5, generator=draw))
        hard = value.abs() * of.unit_roundoff * wide
        moved = value + hard * (2.2 * torch.rand(64, generator=draw, dtype=torch.float64) - 1.1)
        got, sigma = rounded(moved, of), hard / 3
        expected = slowly(got, value, hard, sigma, of)
        held = hold(got, Budget(dtype=of, value=value, hard=hard, sigma=sigma))
        said = [text for text in held.failures if "rounding of no value" in text]
        outside = int(said[0].split()[0]) if said else 0
        assert (outside, held.flips, held.flips_limit) == expected
        seen |= {("outside", outside > 0), ("flips", held.flips > 0)}
    assert len(seen) == 4, "the draws must show each outcome"
