from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

INF, NAN = np.inf, np.nan
OVER = {"dim": -1, "keepdim": False}


def exact_variance(row, correction):
    terms = [Fraction(float(v)) for v in row]
    mean = sum(terms) / len(terms)
    return float(sum((t - mean) ** 2 for t in terms) / (len(terms) - correction))


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("shift", [0.0, 64.0])
def test_variance_is_that_of_fractions_and_another_divisor_exceeds(
    verdict, tensor, values, correction, shift
):
    rng = np.random.Generator(np.random.PCG64(1))
    x = tensor(rng.standard_normal((7, 90)) + shift, "f32")
    y = np.array([exact_variance(row, correction) for row in values(x)])
    attrs = OVER | {"correction": correction}
    assert verdict("var", [x], tensor(y, "f32"), **attrs) == "within"
    assert verdict("var", [x], tensor(y * 90 / 89, "f32"), **attrs) == "exceeds"


def welford(row):
    mean, squares = np.float32(0), np.float32(0)
    for i, v in enumerate(row.astype(np.float32), 1):
        delta = np.float32(v - mean)
        mean = np.float32(mean + delta / np.float32(i))
        squares = np.float32(squares + delta * np.float32(v - mean))
    return squares / len(row)


def test_welfords_updates_are_within_where_one_pass_cancels(verdict, tensor, values):
    rng = np.random.Generator(np.random.PCG64(2))
    x = tensor(rng.standard_normal((9, 200)) + 64, "f32")
    rows = values(x).astype(np.float32)
    attrs = OVER | {"correction": 0}
    assert verdict("var", [x], tensor([welford(row) for row in rows], "f32"), **attrs) == "within"
    mean = rows.mean(-1, dtype=np.float32)
    one_pass = (rows * rows).mean(-1, dtype=np.float32) - mean * mean
    assert verdict("var", [x], tensor(one_pass, "f32"), **attrs) == "exceeds"


def test_variance_of_equal_terms_is_0_and_of_too_few_nan(verdict, tensor):
    x = tensor(np.full((2, 9), 0.1), "f32")
    assert verdict("var", [x], tensor([0.0, 0.0], "f32"), **OVER, correction=1) == "within"
    assert verdict("var", [x], tensor([0.0, 1e-9], "f32"), **OVER, correction=1) == "exceeds"
    one = tensor([[3.0]], "f32")
    assert verdict("var", [one], tensor([NAN], "f32"), **OVER, correction=1) == "within"
    assert verdict("var", [one], tensor([0.0], "f32"), **OVER, correction=1) == "exceeds"


def test_squares_that_overflow_are_free_unless_the_variance_is_infinite(judged, tensor):
    x = tensor([[3e19, -3e19, 0.0], [3e38, -3e38, 0.0], [1.0, 2.0, 3.0]], "f32")
    (made,) = judged("var", [x], [tensor([INF, INF, 1.0], "f32")], **OVER, correction=1)
    assert made.verdict.value == "within"
    (made,) = judged("var", [x], [tensor([9e38, 3e38, 1.0], "f32")], **OVER, correction=1)
    assert made.verdict.value == "exceeds"


def test_a_norm_is_the_root_of_the_squares(verdict, tensor):
    x = tensor([[3.0, 4.0], [5.0, 12.0], [0.0, 0.0]], "bf16")
    assert verdict("norm", [x], tensor([5.0, 13.0, 0.0], "bf16"), **OVER) == "within"
    assert verdict("norm", [x], tensor([7.0, 13.0, 0.0], "bf16"), **OVER) == "exceeds"
    assert verdict("norm", [x], tensor([5.0, 13.0, 1e-30], "bf16"), **OVER) == "exceeds"


def test_squares_that_overflow_or_vanish_in_f16_exceed(verdict, tensor):
    x = tensor([[300.0, 400.0], [3e-5, 4e-5]], "f16")
    y = np.sqrt((np.array(x.array(), np.float64) ** 2).sum(-1))
    assert verdict("norm", [x], tensor(y, "f16"), **OVER) == "within"
    assert verdict("norm", [x], tensor([INF, y[1]], "f16"), **OVER) == "exceeds"
    assert verdict("norm", [x], tensor([y[0], 0.0], "f16"), **OVER) == "exceeds"


def test_squares_beneath_the_range_of_the_accumulator_may_vanish(verdict, tensor):
    x = tensor([[1e-25, 1e-25], [1e30, 0.0]], "f32")
    right = [np.sqrt(2) * 1e-25, 1e30]
    for y, wanted in ((right, "within"), ([0.0, INF], "within"), ([1e-22, 1e30], "exceeds")):
        assert verdict("norm", [x], tensor(y, "f32"), **OVER) == wanted


def grouped(x, groups, eps):
    rows = x.reshape(x.shape[0], groups, -1)
    mean, var = rows.mean(-1, keepdims=True), rows.var(-1, keepdims=True)
    return ((rows - mean) / np.sqrt(var + eps)).reshape(x.shape)


def test_a_group_is_its_neighbouring_channels(verdict, tensor, values):
    rng = np.random.Generator(np.random.PCG64(4))
    x = tensor(rng.standard_normal((2, 6, 20)) * np.arange(1, 7)[:, None], "f32")
    g, b = tensor(np.arange(1.0, 7.0), "f32"), tensor(np.linspace(-1, 1, 6), "f32")
    gain, bias = values(g)[:, None], values(b)[:, None]
    attrs = {"groups": 2, "eps": 1e-5}
    right = grouped(values(x), 2, 1e-5) * gain + bias
    assert verdict("group_norm", [x, g, b], tensor(right, "f32"), **attrs) == "within"
    dealt = grouped(values(x)[:, [0, 2, 4, 1, 3, 5]], 2, 1e-5)[:, [0, 3, 1, 4, 2, 5]] * gain + bias
    assert verdict("group_norm", [x, g, b], tensor(dealt, "f32"), **attrs) == "exceeds"
    assert (
        verdict("group_norm", [x, None, None], tensor(grouped(values(x), 2, 1e-5), "f32"), **attrs)
        == "within"
    )


def test_a_group_norm_of_one_group_is_a_layer_norm(expected, tensor):
    rng = np.random.Generator(np.random.PCG64(5))
    x = rng.standard_normal((3, 8))
    (whole,) = expected("group_norm", tensor(x[..., None], "f32"), groups=1, eps=1e-5)
    (rows,) = expected("layer_norm", tensor(x, "f32"), eps=1e-5)
    assert np.allclose(whole.value[..., 0], rows.value, rtol=1e-13)
    # The folded form of its kernels costs 2 u |g r| (|x| + |mu|) more.
    assert (whole.hard[..., 0] > rows.hard).all()
    assert (whole.hard[..., 0] < 6 * rows.hard + 1e-6).all()


def test_a_running_product_is_rounded_once_an_element(verdict, tensor, values):
    rng = np.random.Generator(np.random.PCG64(6))
    x = tensor(1 + rng.standard_normal((4, 50)) * 0.01, "f32")
    right = np.cumprod(values(x), -1)
    assert verdict("cumprod", [x], tensor(right, "f32"), dim=-1) == "within"
    single = np.multiply.accumulate(values(x).astype(np.float32), axis=-1)
    assert verdict("cumprod", [x], tensor(single, "f32"), dim=-1) == "within"
    assert verdict("cumprod", [x], tensor(right * (1 + 2e-5), "f32"), dim=-1) == "exceeds"


def test_a_first_element_and_a_zero_are_exact(verdict, tensor):
    x = tensor([3.0, 0.0, 5.0], "f32")
    assert verdict("cumprod", [x], tensor([3.0, 0.0, 0.0], "f32"), dim=0) == "within"
    assert verdict("cumprod", [x], tensor([3.0, 0.0, 1e-30], "f32"), dim=0) == "exceeds"


def test_runs_that_leave_the_range_are_free_or_lose_their_smallest_step(judged, tensor):
    x = tensor([1e30, 1e30, 1e-30, 1e-30], "f32")
    (made,) = judged("cumprod", [x], [tensor([1e30, INF, INF, NAN], "f32")], dim=0)
    assert (made.verdict.value, made.free) == ("within", 3)
    small = tensor([1e-30, 1e-30, 1e30, 1e30], "f32")
    for y, wanted in (([1e-30, 0.0, 0.0, 0.0], "within"), ([1e-30, 1e-40, 0.0, 0.0], "exceeds")):
        (made,) = judged("cumprod", [small], [tensor(y, "f32")], dim=0)
        assert made.verdict.value == wanted
