from __future__ import annotations

import math
import operator
from fractions import Fraction

import numpy as np
import pytest

from parity.backend.profile import Accumulator, Profile
from parity.case.dtype import DTYPES, encode
from parity.judge.oracle import answers

INF, NAN = np.inf, np.nan
OF_TWO = {"add": operator.add, "mul": operator.mul, "div": operator.truediv}


def nearest(exact, dtype):
    """A fraction rounded once, to nearest with ties to even, by the definition of the format."""
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    step = Fraction(2) ** (max(exponent, 1 - dtype.bias) - dtype.mantissa_bits)
    rounded = round(exact / step) * step
    if abs(rounded) > Fraction(dtype.max_finite):
        return INF if exact > 0 else -INF
    return float(rounded)


def random_codes(dtype, seed, count=3000):
    """Finite operands of every exponent, subnormals and the largest ones among them."""
    codes = np.random.Generator(np.random.PCG64(seed)).integers(0, 2 ** (dtype.bits - 1), count, np.uint64)
    codes = codes % np.uint64(dtype.max_code) + np.uint64(1)
    return codes | (codes & np.uint64(1)) << np.uint64(dtype.bits - 1)


@pytest.mark.parametrize("op", OF_TWO)
@pytest.mark.parametrize("name", ["f64", "f32", "bf16", "f16"])
def test_the_result_is_the_exact_one_rounded_once(expected, bits, values, op, name):
    dtype = DTYPES[name]
    a, b = (bits(random_codes(dtype, seed), name) for seed in (1, 2))
    found = values(expected(op, a, b)[0].bits).tolist()
    pairs = zip(values(a).tolist(), values(b).tolist(), strict=True)
    wanted = [OF_TWO[op](Fraction(x), Fraction(y)) for x, y in pairs]
    assert found == [nearest(exact, dtype) if exact else 0.0 for exact in wanted]


@pytest.mark.parametrize("op", OF_TWO)
@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_a_kernel_that_computes_16_bits_in_float32_gives_the_same_bits(verdict, bits, values, op, name):
    dtype = DTYPES[name]
    a, b = (bits(random_codes(dtype, seed, 50_000), name) for seed in (3, 4))
    numpy_op = {"add": np.add, "mul": np.multiply, "div": np.divide}[op]
    with np.errstate(all="ignore"):
        in_f32 = numpy_op(values(a).astype(np.float32), values(b).astype(np.float32))
    assert verdict(op, [a, b], bits(encode(in_f32.astype(np.float64), dtype), name)) == "within"


@pytest.mark.parametrize("op", OF_TWO)
@pytest.mark.parametrize("name", ["f64", "f32", "bf16", "f16"])
def test_one_element_a_last_place_off_exceeds(verdict, expected, tensor, bits, op, name):
    a, b = tensor([1.5, 3.0, -7.0], name), tensor([2.0, 1 / 3, 0.7], name)
    right = np.array(expected(op, a, b)[0].bits.array()).view(f"u{DTYPES[name].itemsize}")
    assert verdict(op, [a, b], bits(right, name)) == "within"
    assert verdict(op, [a, b], bits(right + np.array([0, 0, 1], right.dtype), name)) == "exceeds"


@pytest.mark.parametrize(
    "op, a, b, legal, illegal",
    [
        ("add", INF, -INF, NAN, 0.0),
        ("add", -0.0, 0.0, 0.0, -0.0),
        ("add", -0.0, -0.0, -0.0, 0.0),
        ("add", 3e38, 3e38, INF, 3.4028235e38),
        ("mul", 0.0, INF, NAN, 0.0),
        ("mul", -0.0, 5.0, -0.0, 0.0),
        ("mul", 1e-30, 1e-10, 1e-40, 0.0),
        ("mul", 1e-30, -1e-30, -0.0, 0.0),
        ("div", 0.0, 0.0, NAN, 0.0),
        ("div", 1.0, -0.0, -INF, INF),
        ("div", 1.0, INF, 0.0, NAN),
        ("div", 7.0, 2.0, 3.5, 3.0),
        ("div", 1e-38, 1e-40, 100.00001, INF),
    ],
)
def test_special_operands_have_the_result_of_ieee_754(verdict, expected, tensor, op, a, b, legal, illegal):
    given = [tensor([a], "f32"), tensor([b], "f32")]
    right = expected(op, *given)[0].bits
    assert float(right.array()[0]) == pytest.approx(legal, rel=1e-4, nan_ok=True)
    assert verdict(op, given, tensor([legal], "f32") if math.isnan(legal) else right) == "within"
    assert verdict(op, given, tensor([illegal], "f32")) == "exceeds"


def test_a_nan_may_have_any_payload(verdict, tensor, bits):
    given = [tensor([INF], "f32"), tensor([-INF], "f32")]
    assert verdict("add", given, bits([0xFFC0BEEF], "f32")) == "within"


def test_a_product_with_the_reciprocal_exceeds_unless_its_ulps_are_declared(verdict, tensor, declaring):
    rng = np.random.Generator(np.random.PCG64(5))
    a, b = (rng.standard_normal(500).astype(np.float32) for _ in range(2))
    given, got = [tensor(a, "f32"), tensor(b, "f32")], tensor(a * (np.float32(1) / b), "f32")
    assert verdict("div", given, tensor(a / b, "f32")) == "within"
    assert verdict("div", given, got) == "exceeds"
    declared = declaring("nothing", "div", "f32", ulps={"div": 2.5})
    assert verdict("div", given, got, profile=declared) == "within"
    assert verdict("div", given, tensor(a / b * (1 + 2.0**-20), "f32"), profile=declared) == "exceeds"


def test_a_declared_division_has_the_bound_of_its_ulps(expected, tensor, declaring):
    declared = declaring("nothing", "div", "f32", ulps={"div": 2.5})
    (budget,) = expected("div", tensor([3.0], "f32"), tensor([2.0], "f32"), profile=declared)
    assert float(budget.hard) == pytest.approx(5 * 2.0**-24 * 1.5, rel=1e-12)
    assert float(budget.sigma) == pytest.approx(5 * 2.0**-24 * 1.5 / 3, rel=1e-12)


@pytest.mark.parametrize("op", ["add", "mul", "div"])
def test_a_subnormal_result_may_be_zero_where_that_is_declared(verdict, declaring, tensor, op):
    a, b = {
        "add": (3e-38, -2.5e-38),
        "mul": (1e-20, -1e-20),
        "div": (-1e-20, 1e20),
    }[op]
    given, zero = [tensor([a], "f32"), tensor([b], "f32")], tensor([0.0 if op == "add" else -0.0], "f32")
    assert verdict(op, given, zero) == "exceeds"
    assert verdict(op, given, zero, profile=declaring("results_flushed", op, "f32")) == "within"
    flushing = Profile(accumulator=Accumulator(dtype=DTYPES["f32"]), flush_subnormals=True)
    assert verdict(op, given, zero, profile=flushing) == "within"
    assert verdict(op, given, tensor([1e-39], "f32"), profile=flushing) == "exceeds"


def test_integers_wrap_at_64_bits(verdict, tensor):
    a, b = [2**63 - 1, 2**40 + 1, -(2**62)], [1, 2**33, 4]
    given = [tensor(a, "i64"), tensor(b, "i64")]
    total, product = [-(2**63), 2**40 + 2**33 + 1, -(2**62) + 4], [2**63 - 1, 2**33, 0]
    for op, right in (("add", total), ("mul", product)):
        assert verdict(op, given, tensor(right, "i64")) == "within"
    low = [int(np.int64(n).astype(np.int32)) for n in total]
    assert verdict("add", given, tensor(low, "i64")) == "exceeds"
    assert verdict("add", given, tensor([2**63 - 1, *total[1:]], "i64")) == "exceeds"
    assert (
        verdict("add", given, tensor(np.array(total).astype(np.float64).astype(np.int64), "i64")) == "exceeds"
    )


@pytest.mark.parametrize("op", ["add", "mul"])
def test_float64_computed_as_float32_exceeds(verdict, tensor, bits, op):
    rng = np.random.Generator(np.random.PCG64(6))
    a, b = rng.standard_normal((2, 50))
    right = {"add": a + b, "mul": a * b}[op]
    given = [tensor(a, "f64"), tensor(b, "f64")]
    assert verdict(op, given, tensor(right, "f64")) == "within"
    assert verdict(op, given, tensor(right.astype(np.float32), "f64")) == "exceeds"


def test_operands_are_broadcast(verdict, tensor):
    row, column = tensor([[1.0, 2.0, 4.0]], "bf16"), tensor([[1.0], [-1.0]], "bf16")
    assert verdict("div", [row, column], tensor([[1.0, 2.0, 4.0], [-1.0, -2.0, -4.0]], "bf16")) == "within"
    assert verdict("div", [row, column], tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]], "bf16")) == "exceeds"


def test_subnormal_operands_read_as_zero_are_a_reading_of_their_own(plain, declaring, tensor):
    given = (tensor([1e-39, -1e-39], "f32"), tensor([1e5, 1e5], "f32"))
    declared = declaring("inputs_flushed", "mul", "f32")
    found = [a.expected[0].bits.array().tolist() for a in answers("mul", given, {}, declared)]
    assert found[0] == pytest.approx([1e-34, -1e-34], rel=1e-5)
    assert [math.copysign(1, v) if v == 0 else v for v in found[1]] == [1.0, -1.0]
    assert len(list(answers("mul", given, {}, plain))) == 1
