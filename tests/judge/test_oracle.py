from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from parity.backend.profile import Accumulator, Profile
from parity.case.dtype import DTYPES
from parity.case.op import OPS
from parity.judge.judge import formula
from parity.judge.oracle import CLASSES, answers, to_float64


def test_every_op_of_the_table_has_a_class_and_no_other():
    assert set(CLASSES) == set(OPS)


@pytest.mark.parametrize("op", sorted(OPS))
def test_every_class_says_in_its_docstring_how_it_judges(op):
    assert len(formula(op)) > 20


def test_an_unknown_op_has_no_formula():
    assert formula("conv17") == "no budget is known for this op"


def exact(code, dtype):
    """The value of a float code as a fraction, from the definition of the format."""
    sign = -1 if code >> (dtype.bits - 1) else 1
    exponent = code >> dtype.mantissa_bits & (2**dtype.exponent_bits - 1)
    fraction = Fraction(code & (2**dtype.mantissa_bits - 1), 2**dtype.mantissa_bits)
    power = max(exponent, 1) - dtype.bias
    return sign * (fraction + (exponent > 0)) * Fraction(2) ** power


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "e4m3fn", "e5m2", "e4m3fnuz", "e4m3_gaudi2"])
def test_floats_are_read_as_their_exact_values(name, bits):
    dtype = DTYPES[name]
    codes = [0, 1, 2, 3, dtype.max_code - 1, dtype.max_code, 1 << (dtype.mantissa_bits or 1)]
    codes += [c | 1 << (dtype.bits - 1) for c in codes if c]
    found = to_float64(bits(codes, name)).tolist()
    assert [Fraction(x) for x in found] == [exact(c, dtype) for c in codes]


def test_minus_zero_infinities_and_nan_are_read_as_such(bits):
    found = to_float64(bits([0x80000000, 0x7F800000, 0xFF800000, 0x7FA00001], "f32")).numpy()
    assert np.signbit(found[0]) and found[0] == 0
    assert found[1] == np.inf and found[2] == -np.inf and np.isnan(found[3])


def test_integers_and_booleans_are_read_as_they_are(tensor):
    assert to_float64(tensor([2**62, -5], "i64")).tolist() == [2**62, -5]
    assert to_float64(tensor([True, False], "bool")).tolist() == [True, False]


def test_the_inputs_are_not_written_to(tensor):
    x = tensor([1.0, 2.0], "f32")
    to_float64(x).fill_(7)
    assert x.array().tolist() == [1.0, 2.0]


ATTRS = {"dim": -1, "keepdim": False}


def readings(profile, *tensors, op="sum", **attrs):
    return [a.reading for a in answers(op, tensors, attrs or ATTRS, profile)]


def test_a_plain_profile_has_one_reading(plain, tensor):
    assert readings(plain, tensor([1.0], "f32")) == [""]


def test_a_declared_input_rounding_is_emulated_rather_than_granted(declaring, tensor):
    profile = declaring("inputs_rounded", "matmul", "f32", "11")
    a, b = tensor([[1 + 2**-12]], "f32"), tensor([[1.0]], "f32")
    budgets = [x.expected[0] for x in answers("matmul", (a, b), {}, profile)]
    assert [float(budget.value) for budget in budgets] == [1 + 2**-12, 1.0, 1.0]
    assert all(float(budget.hard) < 2**-20 for budget in budgets)


def test_a_rounded_input_ties_to_even_and_a_truncated_one_is_cut(declaring, tensor):
    profile = declaring("inputs_rounded", "sum", "f32", "11")
    found = [
        float(x.expected[0].value) for x in answers("sum", (tensor([1 + 3 * 2**-11], "f32"),), ATTRS, profile)
    ]
    assert found == [1 + 3 * 2**-11, 1 + 2 * 2**-10, 1 + 2**-10]


def test_flushed_inputs_are_a_reading_of_their_own(declaring, tensor):
    tiny = DTYPES["bf16"].min_normal / 2
    profile = declaring("inputs_flushed", "sum", "bf16")
    found = [
        float(x.expected[0].value) for x in answers("sum", (tensor([tiny, 1.0], "bf16"),), ATTRS, profile)
    ]
    assert found == [1.0 + tiny, 1.0]


def test_a_declaration_for_another_op_or_dtype_gives_no_reading(declaring, tensor):
    profile = declaring("inputs_rounded", "matmul", "f32", "11")
    assert readings(profile, tensor([1.0], "f32")) == [""]
    other = declaring("inputs_rounded", "sum", "f32", "11")
    assert readings(other, tensor([1.0], "bf16")) == [""]


def test_a_device_that_flushes_results_may_give_zero_for_a_subnormal(verdict, tensor):
    flushing = Profile(accumulator=Accumulator(dtype=DTYPES["f32"]), flush_subnormals=True)
    tiny = tensor([DTYPES["f16"].min_normal / 4, 0.0], "f16")
    zero = tensor(0.0, "f16")
    assert verdict("sum", [tiny], zero, **ATTRS) == "exceeds"
    assert verdict("sum", [tiny], zero, profile=flushing, **ATTRS) == "within"


def test_an_op_without_a_class_is_refused(plain, tensor):
    with pytest.raises(KeyError):
        next(answers("conv17", (tensor([1.0], "f32"),), {}, plain))


def test_a_reading_that_is_named_comes_first_and_none_is_lost(plain, tensor):
    gate = tensor(np.linspace(-3, 3, 8).reshape(2, 4), "bf16")

    def names(**first):
        return [a.reading for a in answers("gated", (gate,), {"activation": "silu"}, plain, **first)]

    usual = names()
    assert len(usual) > 1
    for name in usual:
        found = names(first=name)
        assert found[0] == name and sorted(found) == sorted(usual)
    assert names(first="a reading of another op") == usual


@pytest.mark.parametrize("first", ["", "single tokens: nothing stored; longer segments: products stored"])
def test_two_ways_side_by_side_can_come_first(plain, tensor, first):
    draw = np.random.default_rng(0)
    q, k, v = (tensor(draw.standard_normal((4, 1, 8)), "bf16") for _ in range(3))
    slots = tensor(np.array([0, 1, 2, 3]), "i64")
    segments = tensor(np.array([[0, 3, 0], [3, 1, 0]]), "i64")
    attrs = {"scale": 0.35, "window": None, "softcap": None}
    found = [
        a.reading for a in answers("paged_attention", (q, k, v, slots, segments), attrs, plain, first=first)
    ]
    assert found[0] == first and len(found) == len(set(found)) == 5 + 5 * 4
