from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from parity.backend.profile import Accumulator, Rounding
from parity.case.dtype import DTYPES
from parity.judge.budget import Budget, coherent, growth, sum_error

F32 = Accumulator(dtype=DTYPES["f32"])
U = 2.0**-24


def of_sum(terms, *, accumulator=F32, exact_terms=True, outputs=1):
    x = torch.tensor(terms, dtype=torch.float64)
    return sum_error(
        terms=len(terms),
        magnitude=x.abs().sum(),
        squares=x.square().sum(),
        total=x.sum(),
        outputs=outputs,
        accumulator=accumulator,
        exact_terms=exact_terms,
    )


def test_growth_of_few_terms_is_their_number_and_two():
    assert float(growth(5, outputs=1)) == 7


def test_one_term_is_added_to_nothing():
    assert growth(torch.tensor([0.0, 1.0, 2.0]), outputs=1).tolist() == [0.0, 0.0, 4.0]
    assert [float(t) for t in of_sum([3.0])] == [0.0, 0.0]


def test_growth_of_many_terms_is_lambda_times_the_root_of_their_number():
    # lambda(1) = sqrt(2 ln(2e6)) = 5.38677
    assert float(growth(10_000, outputs=1)) == pytest.approx(538.677 + 2, abs=0.01)


def test_growth_pays_for_more_outputs_by_the_root_of_a_logarithm():
    one, many = (float(growth(10**6, outputs=n)) - 2 for n in (1, 1000))
    assert many / one == pytest.approx(math.sqrt(math.log(2e9) / math.log(2e6)))


def test_sum_of_hand_computed_terms_has_the_bound_of_the_formula():
    hard, variance = of_sum([1.0, -2.0, 4.0])
    # n = 3, S = 7, q = 21, s = 3.
    assert float(hard) == pytest.approx((3 + 2) * U * 7)
    assert float(variance) == pytest.approx((0.42 * U) ** 2 * (3 * (21 / 6 + 9 / 3) + 9))


def test_inexact_terms_cost_one_rounding_each():
    hard, variance = of_sum([1.0, -2.0, 4.0], exact_terms=False)
    exact_hard, exact_variance = of_sum([1.0, -2.0, 4.0])
    assert float(hard - exact_hard) == pytest.approx(U * 7)
    assert float(variance - exact_variance) == pytest.approx((0.42 * U) ** 2 * 21)


def test_a_block_accumulator_rounds_once_a_block():
    blocked = Accumulator(dtype=DTYPES["f32"], block=16)
    hard, _ = of_sum([1.0, -1.5] * 32, accumulator=blocked)
    assert float(hard) == pytest.approx((4 + 2) * U * 80)


def test_an_accumulator_that_rounds_to_zero_errs_linearly():
    cut = Accumulator(dtype=DTYPES["f32"], rounding=Rounding.TO_ZERO)
    hard, _ = of_sum([1.0, -2.0, 4.0], accumulator=cut)
    assert float(hard) == pytest.approx((3 + 2 + 2 * 3) * U * 7)


def test_a_narrow_accumulator_has_its_own_unit():
    bf16, f32 = (
        of_sum([1.0, 2.0, 3.0], accumulator=Accumulator(dtype=DTYPES[n]))[0] for n in ("bf16", "f32")
    )
    assert float(bf16 / f32) == 2.0**16


def of_equal_terms(number, n):
    """Error of adding n equal float32 terms one by one, the bound on it and its sigma."""
    term = np.float32(number)
    computed = float(np.add.accumulate(np.full(n, term, np.float32), dtype=np.float32)[-1])
    error = abs(Fraction(computed) - n * Fraction(float(term)))
    hard, variance = of_sum([float(term)] * n)
    return error, float(hard) + U * n * float(term), math.sqrt(float(variance))


EQUAL = pytest.mark.parametrize("number", [0.1, 1 / 3, 1.7, 0.9999, 123.456])


@EQUAL
@pytest.mark.parametrize("n", [33, 257, 4096])
def test_equal_terms_added_one_by_one_stay_within_the_bound_and_three_sigma(number, n):
    error, bound, sigma = of_equal_terms(number, n)
    assert error <= bound
    assert error <= 3 * sigma, "T2 of one output allows more than this"


@pytest.mark.parametrize("order", [1, -1])
def test_random_terms_added_one_by_one_stay_within_the_bound(order):
    terms = np.random.Generator(np.random.PCG64(7)).standard_normal(2000).astype(np.float32)[::order]
    computed = float(np.add.accumulate(terms, dtype=np.float32)[-1])
    error = abs(Fraction(computed) - sum(map(Fraction, terms.tolist())))
    hard, variance = of_sum(terms.tolist())
    assert error <= float(hard)
    assert error <= 5 * math.sqrt(float(variance))


def test_terms_that_differ_are_not_coherent():
    x = torch.tensor([1.0, 1.1, 0.9, 1.0], dtype=torch.float64)
    assert float(coherent(terms=4, squares=x.square().sum(), total=x.sum(), unit=U)) == 0
    same = torch.ones(4, dtype=torch.float64)
    assert float(coherent(terms=4, squares=same.square().sum(), total=same.sum(), unit=U)) > 0


def test_a_budget_adds_the_last_rounding_and_the_smallest_step():
    def one(x):
        return torch.tensor([x], dtype=torch.float64)

    budget = Budget(dtype=DTYPES["bf16"], value=one(-2.0), hard=one(0.5), sigma=one(0.25))
    u, eta = 2.0**-8, 2.0**-133
    bound, sigma = (float(t) for t in budget.total())
    assert bound == pytest.approx(0.5 + u * (1 + u) * 2 + eta)
    assert sigma == pytest.approx(math.sqrt(0.25**2 + (0.42 * u * 2) ** 2))
    twice = Budget(dtype=DTYPES["bf16"], value=one(-2.0), hard=one(0.5), sigma=one(0.25), roundings=2)
    assert float(twice.total()[0]) - bound == pytest.approx(u * (1 + u) * 2)


def test_flushed_results_may_lose_the_smallest_normal():
    zero = torch.zeros(1, dtype=torch.float64)
    budget = Budget(dtype=DTYPES["f16"], value=zero, hard=zero, sigma=zero, flush=True)
    assert float(budget.total()[0]) == DTYPES["f16"].min_normal
