from __future__ import annotations

import numpy as np
import pytest
import torch

from parity.judge.limits import rms_limit


def rows(shape, *, shift=0.0):
    return np.random.Generator(np.random.PCG64(11)).standard_normal(shape) + shift


@pytest.fixture
def decimals(values, exact):
    """Elements of a tensor as decimals, nested as it is."""

    def nest(array):
        return [nest(row) for row in array] if array.ndim else exact.of(array)

    return lambda host: nest(values(host))


def test_rms_norm_is_that_of_fifty_digits(expected, tensor, decimals):
    x, g = tensor(rows((2, 5)), "f32"), tensor([1.0, -2.0, 0.5, 3.0, 1.5], "f32")
    value = expected("rms_norm", x, g, eps=1e-5)[0].value
    for found, row in zip(value.tolist(), decimals(x), strict=True):
        mean = sum(v * v for v in row) / 5
        r = 1 / (mean + type(mean)(1e-5)).sqrt()
        assert found == pytest.approx(
            [float(v * r * w) for v, w in zip(row, decimals(g), strict=True)], rel=1e-14
        )


def test_layer_norm_is_that_of_fifty_digits(expected, tensor, decimals):
    x, g, b = (
        tensor(t, "f32") for t in (rows((2, 4), shift=64.0), [1.0, -2.0, 0.5, 3.0], [0.1, 0.2, 0.3, 0.4])
    )
    value = expected("layer_norm", x, g, b, eps=1e-6)[0].value
    for found, row in zip(value.tolist(), decimals(x), strict=True):
        mu = sum(row) / 4
        r = 1 / (sum((v - mu) ** 2 for v in row) / 4 + type(mu)(1e-6)).sqrt()
        wanted = [float((v - mu) * r * w + c) for v, w, c in zip(row, decimals(g), decimals(b), strict=True)]
        assert found == pytest.approx(wanted, rel=1e-11)


def test_gain_and_bias_may_be_absent(expected, tensor):
    x, one = tensor(rows((2, 8)), "f32"), tensor(np.ones(8), "f32")
    assert torch.equal(
        expected("rms_norm", x, eps=1e-5)[0].value, expected("rms_norm", x, one, eps=1e-5)[0].value
    )
    plain = expected("layer_norm", x, eps=1e-5)[0].value
    assert torch.equal(plain, expected("layer_norm", x, one, None, eps=1e-5)[0].value)


def test_bound_of_rms_norm_is_the_formula(expected, tensor):
    (budget,) = expected("rms_norm", tensor(rows((1, 8)), "f32"), eps=1e-5)
    # c(8) = 8 + 2: half of the sum's error passes the root, 6 pays for the rest.
    wanted = budget.value.abs() * 2.0**-24 * (0.5 * (10 + 1) + 6)
    assert torch.allclose(budget.hard, wanted, rtol=1e-12)


def normed(x, *, eps=1e-5, n=None, mean=False):
    d = x - x.mean(-1, keepdims=True) if mean else x
    return d / np.sqrt((d * d).sum(-1, keepdims=True) / (n or x.shape[-1]) + eps)


@pytest.mark.parametrize("op, mean", [("rms_norm", False), ("layer_norm", True)])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
class TestEachNorm:
    def test_the_right_result_is_within(self, verdict, tensor, values, op, mean, dtype):
        x = tensor(rows((8, 64)), dtype)
        assert verdict(op, [x], tensor(normed(values(x), mean=mean), dtype), eps=1e-5) == "within"

    def test_another_epsilon_exceeds_where_it_counts(self, verdict, tensor, values, op, mean, dtype):
        x = tensor(rows((8, 64)) * 2**-8, dtype)
        wrong = tensor(normed(values(x), eps=1e-3, mean=mean), dtype)
        assert verdict(op, [x], wrong, eps=1e-5) == "exceeds"

    def test_a_divisor_that_counts_padding_exceeds(self, verdict, tensor, values, op, mean, dtype):
        x = tensor(rows((8, 60)), dtype)
        assert verdict(op, [x], tensor(normed(values(x), n=64, mean=mean), dtype), eps=1e-5) == "exceeds"

    def test_the_unbiased_variance_exceeds(self, verdict, tensor, values, op, mean, dtype):
        x = tensor(rows((8, 64)), dtype)
        assert verdict(op, [x], tensor(normed(values(x), n=63, mean=mean), dtype), eps=1e-5) == "exceeds"


def test_elements_of_a_row_share_one_root(judged, tensor, values):
    x = tensor(rows((3, 64)), "f32")
    assert judged("rms_norm", [x], [tensor(normed(values(x)), "f32")], eps=1e-5)[0].rms_limit == rms_limit(3)


def test_a_small_epsilon_is_seen_in_bf16_by_its_flips_alone(judged, tensor, values):
    x = tensor(rows((64, 256)), "bf16")
    wrong = tensor(normed(values(x), eps=1e-3), "bf16")
    result = judged("rms_norm", [x], [wrong], eps=1e-5)[0]
    assert result.rms < result.rms_limit
    assert result.flips > result.flips_limit
    assert result.verdict.value == "exceeds"


def test_a_rounding_before_the_gain_is_granted_where_declared(verdict, declaring, tensor, values):
    x, g = tensor(rows((16, 128)), "bf16"), tensor(rows(128), "bf16")
    inner = values(tensor(normed(values(x)), "bf16"))
    y = tensor(inner * values(g), "bf16")
    declared = declaring("normalized_rounded", "rms_norm", "bf16")
    assert verdict("rms_norm", [x, g], y, eps=1e-5) == "exceeds"
    assert verdict("rms_norm", [x, g], y, eps=1e-5, profile=declared) == "within"


def test_squares_that_leave_float32_are_free(judged, tensor):
    x = tensor([[1e30, 1.0], [1.0, 1.0]], "f32")
    for y in (np.inf, np.nan, 0.0):
        result = judged("rms_norm", [x], [tensor([[y, 0.0], [1.0, 1.0]], "f32")], eps=0.0)[0]
        assert (result.verdict.value, result.free) == ("within", 2)


def test_a_nan_makes_its_own_row_nan_and_no_other(verdict, tensor):
    x = tensor([[np.nan, 1.0], [1.0, 1.0]], "f32")
    assert verdict("rms_norm", [x], tensor([[np.nan, np.nan], [1.0, 1.0]], "f32"), eps=0.0) == "within"
    assert verdict("rms_norm", [x], tensor([[np.nan, np.nan], [np.nan, 1.0]], "f32"), eps=0.0) == "exceeds"
    assert verdict("rms_norm", [x], tensor([[np.nan, 1.0], [1.0, 1.0]], "f32"), eps=0.0) == "exceeds"


def test_a_constant_row_whose_squares_were_added_one_by_one_is_within(verdict, tensor):
    x = np.full((1, 4096), np.float32(0.1))
    total = np.add.accumulate(x * x, axis=-1, dtype=np.float32)[:, -1:]
    y = x / np.sqrt(total.astype(np.float64) / 4096 + 1e-5)
    assert verdict("rms_norm", [tensor(x, "f32")], tensor(y, "f32"), eps=1e-5) == "within"
    assert verdict("rms_norm", [tensor(x, "f32")], tensor(y * 1.001, "f32"), eps=1e-5) == "exceeds"


def test_the_layer_norm_of_one_element_is_its_bias(verdict, tensor):
    given = [tensor([[0.5]], "bf16"), tensor([2.0], "bf16"), tensor([0.25], "bf16")]
    assert verdict("layer_norm", given, tensor([[0.25]], "bf16"), eps=1e-12) == "within"
    assert verdict("layer_norm", given, tensor([[0.0]], "bf16"), eps=1e-12) == "exceeds"


WEIGHTED = {"eps": 1e-5, "offset": 0.0, "rounds_first": False}


def weighted(x, g, *, eps=1e-5, offset=0.0, kept=lambda n: n):
    return kept(x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)) * (g + offset)


@pytest.fixture
def weights(tensor, values):
    def make(dtype):
        given = [tensor(rows((33, 64)), dtype), tensor(1 + rows((64,)) / 4, dtype)]
        return given, [values(t) for t in given]

    return make


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_rounding_before_the_weight_is_emulated_and_left_wide_is_another_reading(
    held, tensor, values, weights, dtype
):
    given, exact = weights(dtype)
    first = WEIGHTED | {"rounds_first": True}
    chain = tensor(weighted(*exact, kept=lambda n: values(tensor(n, dtype))), dtype)
    wide = tensor(weighted(*exact), dtype)
    assert held("weighted_rms_norm", given, chain, **first) == ""
    assert held("weighted_rms_norm", given, wide, **first) == "not rounded before the weight"
    assert held("weighted_rms_norm", given, wide, **WEIGHTED) == ""
    assert held("weighted_rms_norm", given, chain, **WEIGHTED) is None


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_a_weighted_norm_with_a_planted_fault_exceeds(held, tensor, weights, offset, dtype):
    given, exact = weights(dtype)
    attrs = WEIGHTED | {"offset": offset}
    assert held("weighted_rms_norm", given, tensor(weighted(*exact, offset=offset), dtype), **attrs) == ""
    for wrong in ({"offset": 1 - offset}, {"offset": offset, "eps": 1e-2}):
        y = tensor(weighted(*exact, **wrong), dtype)
        assert held("weighted_rms_norm", given, y, **attrs) is None


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_a_rounding_in_the_middle_does_not_hide_an_epsilon(held, tensor, values, dtype):
    x, g = tensor(rows((65, 64)) / 8, dtype), tensor(1 + rows((64,)) / 4, dtype)

    def made(eps):
        kept = lambda n: values(tensor(n, dtype))  # noqa: E731 - one line
        return tensor(weighted(values(x), values(g), eps=eps, kept=kept), dtype)

    first = WEIGHTED | {"rounds_first": True}
    assert held("weighted_rms_norm", [x, g], made(1e-5), **first) == ""
    assert held("weighted_rms_norm", [x, g], made(1e-4), **first) is None
