from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
import torch

from parity.judge.limits import rms_limit

ROWS = [[0.5, -1.25, 3.0, 2.75], [60.0, 59.0, -60.0, 0.0]]
INF, NAN = np.inf, np.nan
U = 2.0**-24


@pytest.fixture
def rows(tensor, values, exact):
    """Rows as a float32 tensor, and as decimals."""
    x = tensor(ROWS, "f32")
    return x, [[exact.of(v) for v in row] for row in values(x)]


def test_softmax_is_that_of_fifty_digits(expected, rows):
    x, decimals = rows
    value = expected("softmax", x, dim=-1)[0].value
    for found, row in zip(value.tolist(), decimals, strict=True):
        total = sum(v.exp() for v in row)
        assert found == pytest.approx([float(v.exp() / total) for v in row], rel=1e-13)


def test_log_softmax_and_logsumexp_are_those_of_fifty_digits(expected, rows):
    x, decimals = rows
    logs = [sum(v.exp() for v in row).ln() for row in decimals]
    value = expected("log_softmax", x, dim=-1)[0].value
    for found, row, log in zip(value.tolist(), decimals, logs, strict=True):
        assert found == pytest.approx([float(v - log) for v in row], rel=1e-13)
    assert expected("logsumexp", x, dim=-1, keepdim=False)[0].value.tolist() == pytest.approx(
        [float(log) for log in logs], rel=1e-14
    )


def test_bound_of_two_terms_is_the_formula(expected, tensor):
    (budget,) = expected("softmax", tensor([0.0, -1.0], "f32"), dim=0)
    d = [0.0, 1.0]
    e = [1.0, math.exp(-1)]
    p = [v / sum(e) for v in e]
    inherited = sum(q * (3 * x + 4) for q, x in zip(p, d, strict=True))
    # c(2) = 4; the exponential of 0 is 1 and may be held to less than the formula's 4.
    for found, q, x in zip(budget.hard.tolist(), p, d, strict=True):
        assert found <= q * U * (3 * x + 4 + inherited + 4 + 3) * (1 + 1e-9) + 1e-44
    assert float(budget.hard[1]) >= p[1] * U * (3 + 4 + 4 + 3)


def test_elements_of_a_row_share_one_sum(expected, judged, rows):
    x, _ = rows
    right = expected("softmax", x, dim=-1)[0].value.numpy().astype(np.float32)
    assert judged("softmax", [x], [_as(right, x)], dim=-1)[0].rms_limit == rms_limit(2)


def _as(array, like):
    return type(like).of(array, like.dtype)


@pytest.mark.parametrize(
    "row, softmax, log_softmax, logsumexp",
    [
        ([-INF, 0.0, 0.0], [0.0, 0.5, 0.5], [-INF, -math.log(2), -math.log(2)], math.log(2)),
        ([-INF, -INF, -INF], [NAN, NAN, NAN], [NAN, NAN, NAN], -INF),
        ([INF, 0.0, 1.0], [NAN, NAN, NAN], [NAN, NAN, NAN], INF),
        ([NAN, 0.0, 1.0], [NAN, NAN, NAN], [NAN, NAN, NAN], NAN),
    ],
)
def test_rows_that_are_not_finite_are_as_torch_documents(
    verdict, tensor, row, softmax, log_softmax, logsumexp
):
    x = tensor([row, [0.0, 0.0, 0.0]], "f32")
    third = [1 / 3] * 3
    assert verdict("softmax", [x], tensor([softmax, third], "f32"), dim=-1) == "within"
    logs = [-math.log(3)] * 3
    assert verdict("log_softmax", [x], tensor([log_softmax, logs], "f32"), dim=-1) == "within"
    sums = tensor([logsumexp, math.log(3)], "f32")
    assert verdict("logsumexp", [x], sums, dim=-1, keepdim=False) == "within"
    zeros = tensor([[0.0] * 3, third], "f32")
    if np.isnan(softmax).any():
        assert verdict("softmax", [x], zeros, dim=-1) == "exceeds"


def test_nothing_to_add_is_minus_infinity(verdict, tensor):
    nothing = tensor(np.empty((2, 0)), "f32")
    assert verdict("logsumexp", [nothing], tensor([-INF, -INF], "f32"), dim=1, keepdim=False) == "within"
    assert verdict("logsumexp", [nothing], tensor([0.0, -INF], "f32"), dim=1, keepdim=False) == "exceeds"


@pytest.fixture
def scores(tensor, values):
    """Normal scores, and what float64 makes of them."""
    x = tensor(np.random.Generator(np.random.PCG64(3)).standard_normal((20, 100)), "f32")
    e = np.exp(values(x))
    return x, e


def test_a_denominator_with_padding_in_it_exceeds(verdict, tensor, scores):
    x, e = scores
    assert verdict("softmax", [x], tensor(e / e.sum(-1, keepdims=True), "f32"), dim=-1) == "within"
    padded = e / (e.sum(-1, keepdims=True) + 12 * np.exp(0))
    assert verdict("softmax", [x], tensor(padded, "f32"), dim=-1) == "exceeds"


def test_another_dimension_exceeds(verdict, tensor, scores):
    x, e = scores
    assert verdict("softmax", [x], tensor(e / e.sum(0), "f32"), dim=0) == "within"
    assert verdict("softmax", [x], tensor(e / e.sum(0), "f32"), dim=-1) == "exceeds"


def test_exponentials_rounded_to_bf16_exceed_unless_declared(verdict, declaring, tensor, scores):
    x, e = scores
    y = e / e.sum(0)
    noisy = tensor(tensor_values(tensor(y, "bf16")), "f32")
    declared = declaring("inner_exp_rounded", "softmax", "f32", "bf16")
    assert verdict("softmax", [x], noisy, dim=0) == "exceeds"
    assert verdict("softmax", [x], noisy, dim=0, profile=declared) == "within"


def tensor_values(host):
    return (np.array(host.array()).astype(np.uint32) << 16).view(np.float32)


def test_declared_roundings_of_a_logarithm_widen_it(expected, declaring, scores):
    x, _ = scores
    plain = expected("logsumexp", x, dim=-1, keepdim=False)[0].hard
    for fact in ("intermediates_rounded", "log_sum_rounded"):
        profile = declaring(fact, "logsumexp", "f32", "bf16")
        assert (expected("logsumexp", x, dim=-1, keepdim=False, profile=profile)[0].hard > 1000 * plain).all()


def test_a_logarithm_of_a_softmax_that_underflowed_exceeds(verdict, tensor):
    x = tensor([[0.0, -200.0]], "f32")
    assert verdict("log_softmax", [x], tensor([[0.0, -200.0]], "f32"), dim=-1) == "within"
    assert verdict("log_softmax", [x], tensor([[0.0, -INF]], "f32"), dim=-1) == "exceeds"


def test_a_scalar_is_a_row_of_one(verdict, tensor):
    x = tensor(3.5, "f32")
    assert verdict("softmax", [x], tensor(1.0, "f32"), dim=-1) == "within"
    assert verdict("softmax", [x], tensor(0.99, "f32"), dim=-1) == "exceeds"
    assert verdict("logsumexp", [x], tensor(3.5, "f32"), dim=-1, keepdim=False) == "within"


def test_keepdim_keeps_the_dimension(expected, tensor):
    x = tensor(np.zeros((2, 3)), "f32")
    assert expected("logsumexp", x, dim=0, keepdim=True)[0].shape == (1, 3)
    assert expected("logsumexp", x, dim=0, keepdim=False)[0].shape == (3,)


def test_equal_scores_cancel_to_an_absolute_error(expected, tensor):
    """Near y = 0 the operands of x - max - log sum are large and their roundings do not shrink."""
    x = tensor([[1000.0, 900.0]], "f32")
    (budget,) = expected("log_softmax", x, dim=-1)
    assert float(budget.value[0, 0]) == pytest.approx(float(-Decimal(-100).exp()), rel=0.1, abs=1e-43)
    assert float(budget.hard[0, 0]) > U * 1000
    assert torch.isfinite(budget.hard).all()
