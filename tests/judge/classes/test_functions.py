from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest

INF, NAN = np.inf, np.nan
POINTS = [0.03125, 0.3, 0.99609375, 1.0, 2.5, 7.0]
U = 2.0**-24


def formulas(exact):
    """Each function in fifty digits."""
    return {
        "softplus": lambda x: (1 + x.exp()).ln(),
        "expm1": lambda x: x.exp() - 1,
        "log": Decimal.ln,
        "log1p": lambda x: (1 + x).ln(),
        "sin": exact.sin,
        "cos": exact.cos,
    }


@pytest.mark.parametrize("op", ["softplus", "expm1", "log", "log1p", "sin", "cos"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_values_are_those_of_fifty_digits_and_a_thousandth_off_exceeds(
    expected, verdict, tensor, values, exact, op, dtype
):
    x = tensor(POINTS, dtype)
    wanted = np.array([float(formulas(exact)[op](exact.of(v))) for v in values(x)])
    assert expected(op, x)[0].value.tolist() == pytest.approx(wanted.tolist(), rel=1e-13, abs=0)
    many = tensor(np.linspace(0.1, 3, 400), dtype)
    y = np.array([float(formulas(exact)[op](exact.of(v))) for v in values(many)])
    assert verdict(op, [many], tensor(y, dtype)) == "within"
    assert verdict(op, [many], tensor(y * 1.002 + 1e-3 * (dtype == "bf16"), dtype)) == "exceeds"


@pytest.mark.parametrize(
    "op, ulps, at",
    [("log", 3, 0.5), ("log1p", 2, 0.5), ("sin", 4, 2.0), ("cos", 4, 2.0), ("pow_scalar", 16, 3.0)],
)
def test_bounds_are_twice_the_last_places_of_the_opencl_table(expected, tensor, op, ulps, at):
    attrs = {"exponent": 3} if op == "pow_scalar" else {}
    (budget,) = expected(op, tensor([at], "f32"), **attrs)
    assert float(budget.hard[0]) == pytest.approx(2 * ulps * U * abs(float(budget.value[0])), rel=1e-9)
    assert float(budget.sigma[0]) == pytest.approx(float(budget.hard[0]) / 3, rel=1e-9)


def test_a_sine_keeps_its_places_at_large_angles(verdict, tensor, values, exact):
    x = tensor([1048576.25, 2.0**60], "f32")
    turn = 2 * Decimal("3.14159265358979323846264338327950288419716939937511")
    right = [float(exact.sin(exact.of(v) % turn)) for v in values(x)]
    assert verdict("sin", [x], tensor(right, "f32")) == "within"
    short = 1048576.25 - round(1048576.25 / (2 * math.pi)) * float(np.float32(2 * math.pi))
    assert verdict("sin", [x], tensor([math.sin(short), right[1]], "f32")) == "exceeds"


@pytest.mark.parametrize(
    "op, wrong", [("expm1", lambda x: np.exp(x) - 1), ("log1p", lambda x: np.log(1 + x))]
)
def test_what_cancels_near_0_exceeds(verdict, tensor, values, op, wrong):
    x = tensor(np.linspace(1e-4, 1e-2, 200), "f32")
    single = values(x).astype(np.float32)
    right = {"expm1": np.expm1, "log1p": np.log1p}[op](values(x))
    assert verdict(op, [x], tensor(right, "f32")) == "within"
    assert verdict(op, [x], tensor(wrong(single), "f32")) == "exceeds"


def test_a_softplus_whose_tail_is_cut_exceeds_and_beyond_40_it_is_x(verdict, tensor):
    assert (
        verdict("softplus", [tensor([-20.0, 50.0], "f32")], tensor([math.exp(-20), 50.0], "f32")) == "within"
    )
    assert verdict("softplus", [tensor([-20.0, 50.0], "f32")], tensor([0.0, 50.0], "f32")) == "exceeds"
    most = 3.4e38
    assert verdict("softplus", [tensor([most], "f32")], tensor([most], "f32")) == "within"
    assert verdict("softplus", [tensor([most], "f32")], tensor([INF], "f32")) == "exceeds"


@pytest.mark.parametrize(
    "op, given, legal, illegal",
    [
        ("log", [0.0, -1.0, INF], [-INF, NAN, INF], [-3.4e38, NAN, INF]),
        ("log1p", [-1.0, -2.0, INF], [-INF, NAN, INF], [-INF, -INF, INF]),
        ("expm1", [INF, -INF, NAN], [INF, -1.0, NAN], [INF, 0.0, NAN]),
        ("softplus", [INF, -INF, NAN], [INF, 0.0, NAN], [INF, NAN, NAN]),
        ("sin", [INF, 0.0, NAN], [NAN, 0.0, NAN], [0.0, 0.0, NAN]),
        ("sqrt", [INF, -0.0, -1.0], [INF, -0.0, NAN], [INF, 0.0, NAN]),
        ("reciprocal", [-0.0, INF, -INF], [-INF, 0.0, -0.0], [INF, 0.0, -0.0]),
        ("relu_squared", [NAN, -3.0, 2.0], [NAN, 0.0, 4.0], [0.0, 0.0, 4.0]),
    ],
)
def test_special_values(verdict, tensor, op, given, legal, illegal):
    x = tensor(given, "f32")
    assert verdict(op, [x], tensor(legal, "f32")) == "within"
    assert verdict(op, [x], tensor(illegal, "f32")) == "exceeds"


def test_a_root_is_correct_to_the_bit_unless_a_profile_says_how_far_it_is_off(verdict, declaring, tensor):
    x = tensor([2.0, 3.0, 5.0], "f32")
    y = np.sqrt(np.array([2.0, 3.0, 5.0])).astype(np.float32)
    one_off = np.nextafter(y, np.float32(9))
    assert verdict("sqrt", [x], tensor(y, "f32")) == "within"
    assert verdict("sqrt", [x], tensor(one_off, "f32")) == "exceeds"
    coarse = declaring("nothing", "sqrt", "f32", ulps={"sqrt": 1.0})
    assert verdict("sqrt", [x], tensor(one_off, "f32"), profile=coarse) == "within"
    assert verdict("sqrt", [x], tensor(y * (1 + 2**-20), "f32"), profile=coarse) == "exceeds"


def test_powers_have_the_special_values_of_c(verdict, tensor):
    a, b = tensor([1.0, NAN, -8.0, -2.0, 0.0], "f32"), tensor([NAN, 0.0, 3.0, 0.5, -1.0], "f32")
    assert verdict("pow", [a, b], tensor([1.0, 1.0, -512.0, NAN, INF], "f32")) == "within"
    assert verdict("pow", [a, b], tensor([NAN, 1.0, -512.0, NAN, INF], "f32")) == "exceeds"
    assert verdict("pow", [a, b], tensor([1.0, 1.0, 512.0, NAN, INF], "f32")) == "exceeds"


def test_a_root_of_minus_infinity_may_be_nan_and_integers_wrap(verdict, tensor):
    x = tensor([-INF, 4.0], "f32")
    for first, wanted in ((INF, "within"), (NAN, "within"), (0.0, "exceeds")):
        assert verdict("pow_scalar", [x], tensor([first, 2.0], "f32"), exponent=0.5) == wanted
    n = tensor([2**40 + 3], "i64")
    wrapped = (2**40 + 3) ** 3 % 2**64
    y = wrapped - 2**64 if wrapped >= 2**63 else wrapped
    assert verdict("pow_scalar", [n], tensor([y], "i64"), exponent=3) == "within"
    assert verdict("pow_scalar", [n], tensor([y + 1], "i64"), exponent=3) == "exceeds"


def test_a_difference_is_rounded_once(verdict, tensor):
    a, b = tensor([1.0, INF], "bf16"), tensor([2.0**-9, INF], "bf16")
    assert verdict("sub", [a, b], tensor([1 - 2.0**-9, NAN], "bf16")) == "within"
    assert verdict("sub", [a, b], tensor([1 + 2.0**-7, NAN], "bf16")) == "exceeds"
    assert verdict("sub", [a, b], tensor([1 - 2.0**-9, 0.0], "bf16")) == "exceeds"


def ranged(start, end, step, out="f32"):
    return {"start": start, "end": end, "step": step, "out": out}


def test_whole_numbers_are_exact_and_beyond_2_to_the_24_rounded_once(verdict, tensor):
    first = 2**24 - 2
    right = np.arange(first, first + 8).astype(np.float32)
    assert verdict("arange", [], tensor(right, "f32"), **ranged(first, first + 8, 1)) == "within"
    grown = np.add.accumulate(np.array([first, *[1] * 7], np.float32))
    assert verdict("arange", [], tensor(grown, "f32"), **ranged(first, first + 8, 1)) == "exceeds"
    assert verdict("arange", [], tensor(np.arange(5), "i64"), **ranged(0, 5, 1, "i64")) == "within"
    assert verdict("arange", [], tensor([0, 1, 2, 3, 5], "i64"), **ranged(0, 5, 1, "i64")) == "exceeds"


def test_a_base_rounded_in_16_bits_is_within_only_where_it_is_declared(verdict, declaring, tensor):
    i = np.arange(4096, 4160)
    base = np.where(i // 16 * 16 % 32 == 16, i // 16 * 16 - 16, i // 16 * 16)
    made = tensor(base + i % 16, "bf16")
    attrs = ranged(4096, 4160, 1, "bf16")
    assert verdict("arange", [], made, **attrs) == "exceeds"
    assert (
        verdict("arange", [], made, profile=declaring("base_rounded", "arange", "bf16", "32"), **attrs)
        == "within"
    )


def test_a_linspace_ends_at_its_end(verdict, tensor):
    attrs = {"start": 0.1, "end": 0.7, "steps": 8, "out": "f32"}
    right = np.linspace(0.1, 0.7, 8)
    assert verdict("linspace", [], tensor(right, "f32"), **attrs) == "within"
    missed = right.astype(np.float32)
    missed[-1] = np.nextafter(np.nextafter(missed[-1], np.float32(0)), np.float32(0))
    assert verdict("linspace", [], tensor(missed, "f32"), **attrs) == "exceeds"
    assert verdict("linspace", [], tensor(np.linspace(0.1, 0.7, 9)[:8], "f32"), **attrs) == "exceeds"


def test_a_step_in_16_bits_is_within_only_where_it_is_declared(verdict, declaring, tensor, values):
    attrs = {"start": 0.1, "end": 0.7, "steps": 400, "out": "bf16"}
    first, step, last = (float(values(tensor([v], "bf16"))[0]) for v in (0.1, 0.6 / 399, 0.7))
    i = np.arange(400)
    made = tensor(
        np.where(i < 200, first + values(tensor(i * step, "bf16")), last - (399 - i) * step), "bf16"
    )
    declared = declaring("intermediates_rounded", "linspace", "bf16", "bf16")
    assert verdict("linspace", [], made, **attrs) == "exceeds"
    assert verdict("linspace", [], made, profile=declared, **attrs) == "within"


def test_one_hot_triangles_and_grids_are_exact(verdict, judged, tensor):
    ids = tensor([[2, 0]], "i64")
    assert verdict("one_hot", [ids], tensor([[[0, 0, 1], [1, 0, 0]]], "i64"), classes=3) == "within"
    assert verdict("one_hot", [ids], tensor([[[0, 1, 0], [1, 0, 0]]], "i64"), classes=3) == "exceeds"
    attrs = {"rows": 2, "columns": 2, "offset": 0}
    assert verdict("tril_indices", [], tensor([[0, 1, 1], [0, 0, 1]], "i64"), **attrs) == "within"
    assert verdict("tril_indices", [], tensor([[0, 1, 1], [0, 1, 0]], "i64"), **attrs) == "exceeds"
    a, b = tensor([1.0, 2.0], "f32"), tensor([5.0, 6.0, 7.0], "f32")
    grids = np.meshgrid([1.0, 2.0], [5.0, 6.0, 7.0], indexing="ij")
    for indexing, wanted in (("ij", "within"), ("xy", "exceeds")):
        made = judged("meshgrid", [a, b], [tensor(g, "f32") for g in grids], indexing=indexing)
        assert {j.verdict.value for j in made} == {wanted}


@pytest.mark.parametrize("interleaved", [False, True])
def test_dimensions_beyond_those_turned_and_position_0_are_copies(verdict, tensor, interleaved):
    rng = np.random.Generator(np.random.PCG64(3))
    x = tensor(rng.standard_normal((1, 2, 8)), "f32")
    given = np.array(x.array(), np.float64)
    attrs = {"base": 100.0, "interleaved": interleaved, "turned": 4}
    right = given.copy()
    for i in range(2):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + 2)
        c, s = math.cos(9 * 100 ** (-i / 2)), math.sin(9 * 100 ** (-i / 2))
        right[0, 1, a], right[0, 1, b] = (
            given[0, 1, a] * c - given[0, 1, b] * s,
            given[0, 1, b] * c + given[0, 1, a] * s,
        )
    positions = tensor([0, 9], "i64")
    assert verdict("rope_partial", [x, positions], tensor(right, "f32"), **attrs) == "within"
    for where in ((0, 0, 1), (0, 1, 6)):
        moved = right.copy()
        moved[where] *= 1 + 2.0**-21
        assert verdict("rope_partial", [x, positions], tensor(moved, "f32"), **attrs) == "exceeds"


def test_the_sign_of_an_infinite_operand_is_free_where_the_angle_is_not_known_so_well(expected, tensor):
    x = tensor(np.full((1, 2, 4), INF), "f32")
    attrs = {"base": 10000.0, "interleaved": True, "turned": 4}
    (budget,) = expected("rope_partial", x, tensor([1, 2**20], "i64"), **attrs)
    assert budget.free[0, 0].tolist() == [False] * 4
    assert budget.free[0, 1, :2].tolist() == [False] * 2
