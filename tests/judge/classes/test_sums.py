from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from parity.case.layout import place
from parity.judge.budget import Budget, Exact

A = [[1.5, -2.25, 1 / 3], [4.0, 0.1, -7.0]]
B = [[0.7, 1.0], [-3.0, 0.3], [2.0, 1e-3]]
U = 2.0**-24
SUM = {"dim": -1, "keepdim": False}


def product(a, b):
    """Matrix product of nested lists of fractions."""
    return [
        [sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*b, strict=True)] for row in a
    ]


@pytest.fixture
def fractions(values):
    """Exact elements of a tensor, nested as it is."""

    def nest(array):
        return [nest(row) for row in array] if array.ndim else Fraction(float(array))

    return lambda host: nest(values(host))


def test_matmul_is_the_product_and_its_bound_that_of_its_terms(expected, tensor, fractions):
    a, b = tensor(A, "f32"), tensor(B, "f32")
    (budget,) = expected("matmul", a, b)
    exact = product(fractions(a), fractions(b))
    sizes = product([[abs(x) for x in r] for r in fractions(a)], [[abs(x) for x in r] for r in fractions(b)])
    for i in range(2):
        for j in range(2):
            assert float(budget.value[i, j]) == pytest.approx(float(exact[i][j]), rel=1e-15)
            # c(3) + 1 for products that are rounded: 3 + 2 + 1.
            assert float(budget.hard[i, j]) == pytest.approx(6 * U * float(sizes[i][j]))


def test_products_of_bf16_are_exact_in_float32(expected, tensor):
    inexact, exact = (expected("matmul", tensor(A, d), tensor(B, d))[0].hard for d in ("f32", "bf16"))
    assert torch.allclose(inexact / exact, torch.tensor(6 / 5).double(), rtol=0.02)


def test_linear_transposes_its_weight_and_adds_its_bias(expected, tensor, fractions):
    x, w, bias = tensor(A, "f32"), tensor(np.transpose(B), "f32"), tensor([10.0, -20.0], "f32")
    value = expected("linear", x, w, bias)[0].value
    exact = product(fractions(x), fractions(tensor(B, "f32")))
    assert float(value[1, 1]) == pytest.approx(float(exact[1][1] - 20), rel=1e-15)
    assert torch.equal(expected("linear", x, w, None)[0].value, expected("linear", x, w)[0].value)


def test_addmm_scales_both_and_ignores_the_addend_where_beta_is_0(expected, tensor):
    a, b = tensor(A, "f32"), tensor(B, "f32")
    plain = expected("matmul", a, b)[0].value
    c = tensor([[1.0, np.nan], [np.inf, 2.0]], "f32")
    assert torch.equal(expected("addmm", c, a, b, alpha=-0.5, beta=0.0)[0].value, -0.5 * plain)
    row = tensor([1.0, 2.0], "f32")
    scaled = expected("addmm", row, a, b, alpha=2.0, beta=3.0)[0].value
    assert torch.allclose(scaled, 2 * plain + torch.tensor([3.0, 6.0]).double())


@pytest.mark.parametrize("op, share", [("sum", 1), ("mean", Fraction(1, 3))])
def test_sum_and_mean_are_exact(expected, tensor, fractions, op, share):
    x = tensor(A, "f32")
    value = expected(op, x, dim=1, keepdim=True)[0].value
    assert value.shape == (2, 1)
    for found, row in zip(value[:, 0], fractions(x), strict=True):
        assert float(found) == pytest.approx(float(sum(row) * share), rel=1e-15)


def test_the_sum_of_nothing_is_0_and_its_mean_nan(verdict, tensor):
    nothing = tensor(np.empty((2, 0)), "f32")
    assert verdict("sum", [nothing], tensor([0.0, 0.0], "f32"), **SUM) == "within"
    assert verdict("sum", [nothing], tensor([0.0, np.nan], "f32"), **SUM) == "exceeds"
    assert verdict("mean", [nothing], tensor([np.nan, np.nan], "f32"), **SUM) == "within"
    assert verdict("mean", [nothing], tensor([0.0, 0.0], "f32"), **SUM) == "exceeds"


def test_cumsum_bounds_each_prefix_by_its_own_terms(expected, tensor):
    (budget,) = expected("cumsum", tensor([1.0, -2.0, 4.0], "f32"), dim=0)
    assert budget.value.tolist() == [1.0, -1.0, 3.0]
    # c(n) u S for n = 2 and 3.
    assert budget.hard[1:].tolist() == pytest.approx([4 * U * 3, 5 * U * 7])


def test_scatter_add_bounds_elements_by_what_meets_there_and_copies_the_rest(expected, tensor):
    x, index, src = tensor([1.0, 2.0, 3.0], "f32"), tensor([0, 0], "i64"), tensor([10.0, -5.0], "f32")
    (budget,) = expected("scatter_add", x, index, src, dim=0)
    assert budget.value.tolist() == [6.0, 2.0, 3.0]
    assert budget.hard.tolist() == [pytest.approx(5 * U * 16), 0.0, 0.0]


def test_index_put_that_adds_is_a_sum(expected, tensor):
    x, index = tensor([[1.0, 1.0], [2.0, 2.0]], "f32"), tensor([-1, 1], "i64")
    (budget,) = expected("index_put", x, index, tensor([[1.0, 2.0], [3.0, 4.0]], "f32"), accumulate=True)
    assert budget.value.tolist() == [[1.0, 1.0], [6.0, 8.0]]
    assert budget.hard[0].tolist() == [0.0, 0.0]


def test_a_sum_that_overflows_in_some_order_is_free_and_not_counted(judged, tensor):
    most = 3.4e38
    x = tensor([[most, most, -most, -most], [1.0, 2.0, 3.0, 4.0]], "f32")
    for y in (np.inf, np.nan, 0.0):
        result = judged("sum", [x], [tensor([y, 10.0], "f32")], **SUM)[0]
        assert (result.verdict.value, result.elements, result.free) == ("within", 1, 1)


def test_a_nan_among_the_terms_is_never_free(verdict, tensor):
    x = tensor([3.4e38, 3.4e38, np.nan], "f32")
    assert verdict("sum", [x], tensor(np.inf, "f32"), **SUM) == "exceeds"
    assert verdict("sum", [x], tensor(np.nan, "f32"), **SUM) == "within"


def noise(shape):
    return np.random.Generator(np.random.PCG64(5)).standard_normal(shape)


def test_a_dropped_term_exceeds(verdict, tensor):
    x = noise(2000)
    assert verdict("sum", [tensor(x, "f32")], tensor(x.sum(), "f32"), **SUM) == "within"
    assert verdict("sum", [tensor(x, "f32")], tensor(x[:-1].sum(), "f32"), **SUM) == "exceeds"


def test_bf16_inputs_of_a_float32_product_exceed_and_float32_ones_do_not(verdict, tensor, values):
    a, b = noise((16, 256)), noise((256, 16))
    full, narrow = ([values(tensor(t, d)) for t in (a, b)] for d in ("f32", "bf16"))
    given = [tensor(a, "f32"), tensor(b, "f32")]
    assert verdict("matmul", given, tensor(full[0] @ full[1], "f32")) == "within"
    assert verdict("matmul", given, tensor(narrow[0] @ narrow[1], "f32")) == "exceeds"


def test_a_bias_added_twice_exceeds(verdict, tensor):
    x, w, bias = noise((3, 64)), noise((5, 64)), noise(5)
    given = [tensor(t, "bf16") for t in (x, w, bias)]
    right = tensor(_linear(given), "bf16")
    wrong = tensor(_linear(given, times=2), "bf16")
    assert verdict("linear", given, right) == "within"
    assert verdict("linear", given, wrong) == "exceeds"


def _linear(given, *, times=1):
    x, w, bias = (
        (np.array(t.array()).astype(np.uint32) << 16).view(np.float32).astype(np.float64) for t in given
    )
    return x @ w.T + times * bias


def test_a_declared_narrow_accumulator_is_granted_and_an_undeclared_one_is_not(verdict, declaring, tensor):
    x = np.abs(noise(256)) + 0.1
    total = np.float64(0)
    for term in x:
        code = np.float32(total + term).view(np.uint32)
        total = np.float64(((code + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32))
    given, got = [tensor(x, "f32")], tensor(total, "f32")
    declared = declaring("accumulates_in", "sum", "f32", "bf16")
    assert verdict("sum", given, got, **SUM) == "exceeds"
    assert verdict("sum", given, got, profile=declared, **SUM) == "within"


def test_a_declared_rounding_before_the_bias_widens_what_is_no_contiguous_matrix_alone(
    expected, declaring, tensor
):
    profile = declaring("product_rounded", "linear", "bf16", "bf16")
    dense, w, bias = tensor(noise((2, 3, 8)), "bf16"), tensor(noise((4, 8)), "bf16"), tensor(noise(4), "bf16")
    apart = place(np.array(dense.array()), dense.dtype, "strided")
    plain = expected("linear", dense, w, bias)[0].hard
    assert torch.equal(expected("linear", dense, w, bias, profile=profile)[0].hard, plain)
    assert (expected("linear", apart, w, bias, profile=profile)[0].hard > 2 * plain).all()


def test_products_beneath_the_normal_range_have_steps_of_their_own(verdict, tensor, values):
    a, b = tensor(noise((8, 256)) * 1e-22, "f32"), tensor(noise((256, 8)) * 1e-21, "f32")
    products = (values(a)[:, :, None] * values(b)[None]).astype(np.float32)
    assert verdict("matmul", [a, b], tensor(products.sum(1, dtype=np.float64), "f32")) == "within"
    assert verdict("matmul", [a, b], tensor(np.zeros((8, 8)), "f32")) == "exceeds"


def test_a_sum_beside_the_largest_number_that_cannot_overflow_is_not_free(judged, tensor):
    x = tensor([-np.finfo(np.float32).max] + [1.0] * 30, "f32")
    right = judged("sum", [x], [tensor(-np.finfo(np.float32).max, "f32")], **SUM)[0]
    assert (right.verdict.value, right.free) == ("within", 0)
    assert judged("sum", [x], [tensor(0.0, "f32")], **SUM)[0].verdict.value == "exceeds"


WHOLE = [[2.0**21 + 1, -3.5], [0.0, 2.0**-8]]


def test_a_float64_product_that_never_rounds_is_judged_to_the_bit(verdict, tensor):
    a, b = tensor(WHOLE, "f64"), tensor([[2.0**22 - 1], [4.0]], "f64")
    right = [[(2.0**21 + 1) * (2.0**22 - 1) - 14.0], [2.0**-6]]
    assert verdict("matmul", [a, b], tensor(right, "f64")) == "within"
    for wrong in (np.array(right, np.float32), np.nextafter(right, np.inf)):
        assert verdict("matmul", [a, b], tensor(wrong, "f64")) == "exceeds"


def test_a_zero_of_a_float64_product_has_either_sign(verdict, tensor):
    a, b = tensor([[1.0, -1.0]], "f64"), tensor([[3.0], [3.0]], "f64")
    assert [verdict("matmul", [a, b], tensor([[z]], "f64")) for z in (0.0, -0.0)] == ["within"] * 2


@pytest.mark.parametrize("a, b", [([[1 / 3, 1.0]], [[1 / 3], [1.0]]), ([[2.0**40, 1.0]], [[2.0**40], [1.0]])])
def test_a_float64_product_that_may_round_is_no_exact_one(expected, tensor, a, b):
    (found,) = expected("matmul", tensor(a, "f64"), tensor(b, "f64"))
    assert isinstance(found, Budget)


@pytest.mark.parametrize("bad", [np.inf, np.nan, 0.0])
def test_a_float64_product_without_a_finite_term_is_no_exact_one(expected, tensor, bad):
    (found,) = expected("matmul", tensor([[bad, 0.0]], "f64"), tensor([[1.0], [1.0]], "f64"))
    assert isinstance(found, Budget)


def test_the_last_place_of_a_product_decides_whether_it_rounds(expected, tensor):
    def found(size):
        return expected("matmul", tensor([[size, 1.0]], "f64"), tensor([[1.0], [1.0]], "f64"))[0]

    assert isinstance(found(2.0**53 - 2), Exact)
    assert isinstance(found(2.0**53), Budget)


def test_a_flushed_product_widens_what_is_expected_as_well(expected, declaring, tensor):
    a, b = tensor([[1.0]], "bf16"), tensor([[1.0]], "bf16")
    plain = expected("matmul", a, b)[0]
    flushed = expected("matmul", a, b, profile=declaring("products_flushed", "matmul", "bf16"))[0]
    lost = 2.0**-126
    assert float(flushed.hard - plain.hard) == pytest.approx(lost)
    assert float(flushed.sigma) == pytest.approx(lost / 3**0.5)
