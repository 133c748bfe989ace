from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
import torch

POINTS = [-6.5, -2.0, -0.75, -1e-3, 0.0, 1e-6, 0.3, 1.0, 2.5, 7.0]
INF, NAN = np.inf, np.nan
ROOT = (2 / Decimal(math.pi)).sqrt()


def formulas(exact):
    """Each function in fifty digits."""

    def gelu_tanh(x):
        return x / 2 * (1 + exact.tanh(ROOT * (x + Decimal("0.044715") * x**3)))

    return {
        "exp": exact.exp,
        "sigmoid": exact.sigmoid,
        "tanh": exact.tanh,
        "erf": exact.erf,
        "silu": lambda x: x * exact.sigmoid(x),
        "gelu_erf": lambda x: x / 2 * (1 + exact.erf(x / Decimal(2).sqrt())),
        "gelu_tanh": gelu_tanh,
    }


OPS = ("exp", "sigmoid", "tanh", "erf", "silu", "gelu_erf", "gelu_tanh")


@pytest.mark.parametrize("op", OPS)
def test_value_is_that_of_fifty_digits(expected, tensor, values, exact, op):
    x = tensor(POINTS, "f32")
    value = expected(op, x)[0].value.tolist()
    wanted = [float(formulas(exact)[op](exact.of(v))) for v in values(x)]
    assert value == pytest.approx(wanted, rel=1e-13, abs=0)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_the_rounded_value_is_within_and_one_per_mille_off_is_not(verdict, tensor, values, exact, op, dtype):
    x = tensor(np.linspace(-3, 3, 400), dtype)
    y = np.array([float(formulas(exact)[op](exact.of(v))) for v in values(x)])
    assert verdict(op, [x], tensor(y, dtype)) == "within"
    assert verdict(op, [x], tensor(y * 1.001, dtype)) == "exceeds"


def test_swiglu_is_silu_of_the_gate_times_up(expected, tensor, exact):
    gate, up = tensor([-1.5, 2.0], "f32"), tensor([3.0, -0.25], "f32")
    wanted = [float(Decimal(g) * exact.sigmoid(Decimal(g)) * Decimal(u)) for g, u in ((-1.5, 3), (2, -0.25))]
    assert expected("swiglu", gate, up)[0].value.tolist() == pytest.approx(wanted, rel=1e-14)


def test_gate_and_up_swapped_exceed(verdict, tensor, values):
    rng = np.random.Generator(np.random.PCG64(2))
    gate, up = (tensor(rng.standard_normal(300), "bf16") for _ in range(2))
    g, u = values(gate), values(up)
    assert verdict("swiglu", [gate, up], tensor(g / (1 + np.exp(-g)) * u, "bf16")) == "within"
    assert verdict("swiglu", [gate, up], tensor(u / (1 + np.exp(-u)) * g, "bf16")) == "exceeds"


@pytest.mark.parametrize(
    "op, given, legal, illegal",
    [
        ("exp", [INF, -INF, 200.0], [INF, 0.0, INF], [INF, 0.0, 3.4e38]),
        ("exp", [NAN, 0.0, 1.0], [NAN, 1.0, math.e], [0.0, 1.0, math.e]),
        ("sigmoid", [INF, -INF, 0.0], [1.0, 0.0, 0.5], [NAN, 0.0, 0.5]),
        ("tanh", [INF, -INF, 0.0], [1.0, -1.0, 0.0], [1.0, 1.0, 0.0]),
        ("erf", [INF, -INF, NAN], [1.0, -1.0, NAN], [1.0, -1.0, 0.0]),
        ("rsqrt", [INF, 0.0, -0.0], [0.0, INF, -INF], [0.0, INF, INF]),
        ("rsqrt", [-1.0, -INF, NAN], [NAN, NAN, NAN], [1.0, NAN, NAN]),
        ("silu", [INF, -INF, 0.0], [INF, 0.0, 0.0], [NAN, 0.0, 0.0]),
        ("silu", [INF, -INF, 0.0], [INF, NAN, 0.0], [INF, -INF, 0.0]),
        ("gelu_erf", [INF, -INF, 0.0], [INF, NAN, 0.0], [NAN, 0.0, 0.0]),
        ("gelu_tanh", [INF, -INF, 0.0], [INF, 0.0, 0.0], [INF, 0.5, 0.0]),
    ],
)
def test_at_infinity_the_limit_is_right_and_where_0_meets_infinity_nan_too(
    verdict, tensor, op, given, legal, illegal
):
    x = tensor(given, "f32")
    assert verdict(op, [x], tensor(legal, "f32")) == "within"
    assert verdict(op, [x], tensor(illegal, "f32")) == "exceeds"


def test_swiglu_of_a_vanishing_gate_and_an_infinite_up_may_be_nan(verdict, tensor):
    gate, up = tensor([-1000.0, 1.0], "f32"), tensor([INF, 1.0], "f32")
    y = 1 / (1 + math.exp(-1))
    assert verdict("swiglu", [gate, up], tensor([NAN, y], "f32")) == "within"
    assert verdict("swiglu", [gate, up], tensor([0.0, NAN], "f32")) == "exceeds"


def test_exact_and_tanh_gelu_are_told_apart(verdict, tensor, values, exact):
    x = tensor(np.linspace(-4, 4, 200), "f32")
    both = {
        op: [float(formulas(exact)[op](exact.of(v))) for v in values(x)] for op in ("gelu_erf", "gelu_tanh")
    }
    assert verdict("gelu_erf", [x], tensor(both["gelu_tanh"], "f32")) == "exceeds"
    assert verdict("gelu_tanh", [x], tensor(both["gelu_erf"], "f32")) == "exceeds"


def test_the_far_tail_where_1_plus_exp_overflows_may_be_0(verdict, tensor):
    x = tensor([-95.0, 0.0], "f32")
    assert verdict("sigmoid", [x], tensor([0.0, 0.5], "f32")) == "within"
    assert verdict("silu", [x], tensor([-0.0, 0.0], "f32")) == "within"
    assert verdict("sigmoid", [tensor([-80.0, 0.0], "f32")], tensor([0.0, 0.5], "f32")) == "exceeds"


def test_flushed_exponentials_are_granted_where_declared(verdict, declaring, tensor):
    x = tensor([-95.0, 0.0], "f32")
    flushed = tensor([0.0, 1.0], "f32")
    assert verdict("exp", [x], flushed) == "exceeds"
    assert verdict("exp", [x], flushed, profile=declaring("exp_flushes", "exp", "f32")) == "within"


def test_ulps_come_from_the_profile(expected, declaring, tensor):
    x = tensor([0.5, 2.0], "f32")
    plain = expected("tanh", x)[0].hard
    coarse = declaring("nothing", "tanh", "f32", ulps={"tanh": 50.0})
    assert torch.allclose(expected("tanh", x, profile=coarse)[0].hard, 10 * plain)


def test_exponentials_beneath_the_normal_range_may_be_two_of_its_steps_off(verdict, tensor, values):
    x = tensor(np.linspace(-103, -95, 200), "f32")
    y = np.exp(values(x)).astype(np.float32)
    for steps, wanted in ((0, "within"), (1, "within"), (4, "exceeds")):
        moved = (y.view(np.uint32) + np.uint32(steps)).view(np.float32)
        assert verdict("exp", [x], tensor(moved, "f32")) == wanted


def test_where_the_sigmoid_is_1_its_exponential_costs_nothing(verdict, tensor):
    x = tensor([3e30], "f32")
    assert verdict("silu", [x], tensor([3e30], "f32")) == "within"
    assert verdict("silu", [x], tensor([3e30 * 0.9999], "f32")) == "exceeds"


def test_a_sigmoid_that_is_flushed_before_1_plus_exp_overflows_exceeds(verdict, tensor, values):
    x = tensor([-88.0], "f32")
    assert verdict("sigmoid", [x], tensor(1 / (1 + np.exp(-values(x))), "f32")) == "within"
    assert verdict("sigmoid", [x], tensor([0.0], "f32")) == "exceeds"


def test_rsqrt_is_the_reciprocal_of_the_square_root_to_four_roundings(expected, tensor):
    x = tensor([4.0, 0.3, 1e-40, 3e38], "f32")
    (budget,) = expected("rsqrt", x)
    wanted = [float(1 / Decimal(float(v)).sqrt()) for v in x.array()]
    assert budget.value.tolist() == pytest.approx(wanted, rel=1e-14)
    assert budget.hard.tolist() == pytest.approx([4 * 2.0**-24 * v for v in wanted], rel=1e-12)
    assert budget.sigma.tolist() == pytest.approx([4 / 3 * 2.0**-24 * v for v in wanted], rel=1e-12)


def test_an_estimate_without_its_newton_step_exceeds(verdict, tensor, values):
    x = tensor(np.linspace(0.5, 8, 300), "f32")
    y = 1 / np.sqrt(values(x))
    estimate = y * (1 + 2.0**-12 * np.sin(9 * values(x)))
    refined = estimate * (1.5 - 0.5 * values(x) * estimate**2)
    assert verdict("rsqrt", [x], tensor(refined, "f32")) == "within"
    assert verdict("rsqrt", [x], tensor(estimate, "f32")) == "exceeds"


def test_a_subnormal_taken_for_zero_by_rsqrt_exceeds(verdict, tensor):
    x = tensor([2.0**-140], "f32")
    assert verdict("rsqrt", [x], tensor([2.0**70], "f32")) == "within"
    assert verdict("rsqrt", [x], tensor([INF], "f32")) == "exceeds"


def test_erf_has_the_bound_of_sixteen_last_places(expected, tensor):
    (budget,) = expected("erf", tensor([0.5, 2.0], "f32"))
    wanted = [math.erf(0.5), math.erf(2.0)]
    assert budget.hard.tolist() == pytest.approx([32 * 2.0**-24 * v for v in wanted], rel=1e-12)
    assert budget.sigma.tolist() == pytest.approx([32 / 3 * 2.0**-24 * v for v in wanted], rel=1e-12)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_an_erf_with_an_absolute_error_alone_exceeds_near_0(verdict, tensor, values, dtype):
    x = tensor([1e-3, 1e-4, 1e-5, 3e-6, 1e-6], dtype)
    right = np.array([math.erf(v) for v in values(x)])
    assert verdict("erf", [x], tensor(right, dtype)) == "within"
    # Abramowitz and Stegun 7.1.26: what 1 - p(t) e^(-x^2) leaves.
    assert verdict("erf", [x], tensor(right + 1.5e-7, dtype)) == "exceeds"


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_a_tanh_gelu_for_the_exact_one_is_caught_in_every_dtype(verdict, tensor, values, exact, dtype):
    x = tensor(np.random.Generator(np.random.PCG64(4)).standard_normal(400), dtype)
    other = [float(formulas(exact)["gelu_tanh"](exact.of(v))) for v in values(x)]
    assert verdict("gelu_erf", [x], tensor(other, dtype)) == "exceeds"


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_a_tanh_gelu_is_hidden_where_16_bits_round_both_to_the_same(verdict, tensor, values, exact, dtype):
    x = tensor([0.03125, 0.0625, -0.0625, 0.125], dtype)
    both = [[float(formulas(exact)[op](exact.of(v))) for v in values(x)] for op in ("gelu_erf", "gelu_tanh")]
    assert tensor(both[0], dtype).digest() == tensor(both[1], dtype).digest()
    assert verdict("gelu_erf", [x], tensor(both[1], dtype)) == "within"
