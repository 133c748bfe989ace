from __future__ import annotations

import numpy as np
import pytest

INDEX = [[1, 1, 0], [1, 0, 1]]
X = [[8.0, 2.0, 1.0], [3.0, 5.0, 7.0]]
SRC = [[0.5, 4.0, 16.0], [2.0, 32.0, 0.25]]
JOINS = {"sum": np.sum, "mean": np.mean, "prod": np.prod, "amin": np.min, "amax": np.max}


def right(reduce, own, x=X, src=SRC):
    y = np.array(x, np.float64)
    for i in range(2):
        for j in range(3):
            terms = [src[k][j] for k in range(2) if INDEX[k][j] == i]
            if terms:
                y[i, j] = JOINS[reduce]([x[i][j], *terms] if own else terms)
    return y


@pytest.fixture
def given(tensor):
    return lambda kind, x=X, src=SRC: [tensor(x, kind), tensor(INDEX, "i64"), tensor(src, kind)]


def attrs(reduce, own):
    return {"dim": 0, "reduce": reduce, "include_self": own}


@pytest.mark.parametrize("kind", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("reduce", list(JOINS))
def test_what_meets_is_reduced_with_or_without_an_elements_own_value(
    verdict, given, tensor, reduce, own, kind
):
    assert (
        verdict("scatter_reduce", given(kind), tensor(right(reduce, own), kind), **attrs(reduce, own))
        == "within"
    )
    other = tensor(right(reduce, not own), kind)
    assert verdict("scatter_reduce", given(kind), other, **attrs(reduce, own)) == "exceeds"


def test_an_element_that_nothing_meets_keeps_its_bits(verdict, tensor, bits):
    x, src = bits([0x7FC0BEEF, 0x80000000, 0], "f32"), tensor([1.0], "f32")
    kept = bits([0x7FC0BEEF, 0x80000000, 0x3F800000], "f32")
    for reduce in ("amax", "amin"):
        asked = [x, tensor([2], "i64"), src], attrs(reduce, False)
        assert verdict("scatter_reduce", asked[0], kept, **asked[1]) == "within"
        other = bits([0x7FC00000, 0x80000000, 0x3F800000], "f32")
        assert verdict("scatter_reduce", asked[0], other, **asked[1]) == "exceeds"


@pytest.mark.parametrize("reduce", ["sum", "prod", "mean", "amin", "amax"])
def test_a_nan_wins_every_reduction(verdict, given, tensor, reduce):
    src = [[0.5, np.nan, 16.0], [2.0, 32.0, 0.25]]
    wanted, lost = right(reduce, True, src=src), right(reduce, True)
    assert np.isnan(wanted[1, 1])
    asked = given("f32", src=src)
    assert verdict("scatter_reduce", asked, tensor(wanted, "f32"), **attrs(reduce, True)) == "within"
    assert verdict("scatter_reduce", asked, tensor(lost, "f32"), **attrs(reduce, True)) == "exceeds"


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_the_sign_of_a_zero_that_was_chosen_is_free(verdict, tensor, zero):
    asked = [tensor([-0.0], "f32"), tensor([0], "i64"), tensor([0.0], "f32")]
    assert verdict("scatter_reduce", asked, tensor([zero], "f32"), **attrs("amax", True)) == "within"


def test_integers_wrap(verdict, tensor):
    asked = [tensor([2**62], "i64"), tensor([0, 0], "i64"), tensor([2**62, 1], "i64")]
    assert verdict("scatter_reduce", asked, tensor([-(2**63) + 1], "i64"), **attrs("sum", True)) == "within"
    assert verdict("scatter_reduce", asked, tensor([2**63 - 1], "i64"), **attrs("sum", True)) == "exceeds"


def product(verdict, tensor, factors, y, kind="f32"):
    asked = [tensor([1.0], kind), tensor([0] * len(factors), "i64"), tensor(factors, kind)]
    return verdict("scatter_reduce", asked, tensor([y], kind), **attrs("prod", False))


def test_a_product_errs_by_one_rounding_less_than_it_has_factors(verdict, tensor):
    factors = [1.0 + k * 2.0**-23 for k in range(1, 9)]
    exact, u = float(np.prod(np.array(factors, np.float64))), 2.0**-24
    assert product(verdict, tensor, factors, exact * (1 + 2 * u)) == "within"
    assert product(verdict, tensor, factors, exact * (1 + 16 * u)) == "exceeds"


def test_a_product_that_overflows_in_some_order_is_not_compared_and_one_that_must_is(verdict, judged, tensor):
    asked = [tensor([1.0, 1.0], "f32"), tensor([0, 0, 0, 1], "i64"), tensor([1e30, 1e30, 1e-30, 2.0], "f32")]
    for y in (np.inf, 1e30, 7.0):
        (found,) = judged("scatter_reduce", asked, [tensor([y, 2.0], "f32")], **attrs("prod", False))
        assert (found.verdict.value, found.free) == ("within", 1)
    assert product(verdict, tensor, [1e30, 1e30], np.inf) == "within"
    assert product(verdict, tensor, [1e30, 1e30], 3e38) == "exceeds"
    assert product(verdict, tensor, [np.inf, 0.5], np.inf) == "within"
    assert product(verdict, tensor, [np.inf, 0.5], 1.0) == "exceeds"


def test_a_product_that_passes_the_subnormals_may_lose_what_they_lose(verdict, tensor):
    factors = [3.0 * 2.0**-100, 2.0**-49, 2.0**100]
    exact = 3.0 * 2.0**-49
    assert product(verdict, tensor, factors, exact) == "within"
    assert product(verdict, tensor, factors, 2.0 * 2.0**-49) == "within"  # 3 2^-149 loses nothing, order may
    assert product(verdict, tensor, [3.0 * 2.0**-100, 2.0**-9, 2.0**100], 2.0 * 2.0**-9) == "exceeds"


@pytest.mark.parametrize(
    "kind, whole, rest, from_stored",
    [("bf16", 1.25, 3 * 2.0**-10, 0.83203125), ("f16", 1.0, 3 * 2.0**-13, 0.66650390625)],
)
def test_a_mean_whose_sum_was_rounded_needs_a_declaration(
    verdict, tensor, declaring, kind, whole, rest, from_stored
):
    # The rest is lost from the sum in 16 bits, and without it the mean rounds to the number below.
    asked = [tensor([0.0], kind), tensor([0, 0, 0], "i64"), tensor([whole, whole, rest], kind)]
    profile = declaring("intermediates_rounded", "scatter_reduce", kind, kind)
    told, below = attrs("mean", False) | {"profile": profile}, tensor([from_stored], kind)
    assert verdict("scatter_reduce", asked, below, **attrs("mean", False)) == "exceeds"
    assert verdict("scatter_reduce", asked, below, **told) == "within"
    assert verdict("scatter_reduce", asked, tensor([from_stored * 0.98], kind), **told) == "exceeds"


def test_bincount_counts_in_int64_beyond_minlength(verdict, tensor):
    x = tensor([3, 1, 1, 5], "u8")
    right = [0, 2, 0, 1, 0, 1]
    assert verdict("bincount", [x], tensor(right, "i64"), minlength=2) == "within"
    assert verdict("bincount", [x], tensor([*right, 0, 0], "i64"), minlength=8) == "within"
    assert verdict("bincount", [x], tensor(right[:2], "i64"), minlength=2) == "exceeds"
    assert verdict("bincount", [x], tensor(right, "i32"), minlength=2) == "exceeds"
    assert verdict("bincount", [x], tensor([0, 1, 0, 1, 0, 1], "i64"), minlength=2) == "exceeds"


def test_bincount_adds_weights_in_any_order_and_loses_none(verdict, tensor):
    x, weights = tensor([0, 1, 0, 0], "i64"), tensor([1.0, 5.0, 2.0**-24, 2.0**-24], "f32")
    for first in (1.0, 1.0 + 2.0**-23):
        assert verdict("bincount", [x, weights], tensor([first, 5.0], "f32"), minlength=0) == "within"
    for wrong in ([2.0, 5.0], [1.0, 0.0], [3.0, 1.0]):
        assert verdict("bincount", [x, weights], tensor(wrong, "f32"), minlength=0) == "exceeds"
