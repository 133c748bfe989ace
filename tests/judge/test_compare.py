from __future__ import annotations

import numpy as np
import pytest
import torch

from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor
from parity.judge.budget import Exact, SetValued
from parity.judge.compare import compare
from parity.judge.verdict import Verdict

EXCEEDS, WITHIN = Verdict.EXCEEDS, Verdict.WITHIN


@pytest.fixture
def exactly(tensor):
    """Judge one output that must equal a tensor."""

    def ask(got, wanted, **options):
        return compare((got,), ("y",), (Exact(bits=wanted, **options),))[0]

    return ask


def test_equal_bits_are_within_and_every_element_is_counted(exactly, tensor):
    x = tensor([[1.0, 2.0], [3.0, 4.0]], "f32")
    judged = exactly(x, x)
    assert (judged.verdict, judged.elements, judged.free, judged.note) == (WITHIN, 4, 0, "")


def test_one_wrong_bit_exceeds_and_is_named_with_both_values(exactly, tensor):
    judged = exactly(tensor([1.0, 2.0, 2.0], "f16"), tensor([1.0, 2.0, 3.0], "f16"))
    assert judged.verdict is EXCEEDS
    assert (judged.worst_index, judged.oracle, judged.got) == ((2,), 3.0, 2.0)
    assert judged.note == "1 of 3 elements wrong: must be equal to the bit"


def test_minus_zero_is_not_zero(exactly, tensor):
    assert exactly(tensor([0.0], "bf16"), tensor([-0.0], "bf16")).verdict is EXCEEDS


def test_another_nan_payload_is_another_number(exactly, bits):
    a, b = bits([0x7FC00000], "f32"), bits([0x7FC00001], "f32")
    assert exactly(a, b).verdict is EXCEEDS
    assert exactly(a, b, any_nan=True).verdict is WITHIN


def test_any_nan_does_not_excuse_a_nan_in_place_of_a_number(exactly, tensor):
    assert exactly(tensor([np.nan], "f32"), tensor([1.0], "f32"), any_nan=True).verdict is EXCEEDS
    assert exactly(tensor([1.0], "f32"), tensor([np.nan], "f32"), any_nan=True).verdict is EXCEEDS


def test_each_element_may_be_one_of_its_alternatives(exactly, tensor):
    a, b = tensor([1.0, 2.0], "f32"), tensor([10.0, 20.0], "f32")
    assert exactly(tensor([1.0, 20.0], "f32"), a, alternatives=(b,)).verdict is WITHIN
    assert exactly(tensor([20.0, 1.0], "f32"), a, alternatives=(b,)).verdict is EXCEEDS


def test_free_elements_are_not_counted_as_compared(exactly, tensor):
    judged = exactly(tensor([1, 99], "i32"), tensor([1, 2], "i32"), free=torch.tensor([False, True]))
    assert (judged.verdict, judged.elements, judged.free) == (WITHIN, 1, 1)


def test_a_layout_does_not_matter_to_equality(exactly, tensor):
    x = tensor([[1.0, 2.0], [3.0, 4.0]], "f32")
    turned = HostTensor(dtype=x.dtype, storage=x.storage, shape=(2, 2), stride=(1, 2))
    assert exactly(turned, tensor([[1.0, 3.0], [2.0, 4.0]], "f32")).verdict is WITHIN


def test_an_empty_output_is_within_with_nothing_compared(exactly, tensor):
    empty = tensor(np.empty((0, 3)), "f32")
    judged = exactly(empty, empty)
    assert (judged.verdict, judged.elements) == (WITHIN, 0)


def test_a_scalar_is_compared(exactly, tensor):
    assert exactly(tensor(1.0, "f32"), tensor(1.0, "f32")).elements == 1
    assert exactly(tensor(2.0, "f32"), tensor(1.0, "f32")).worst_index == ()


def test_another_dtype_exceeds_and_says_which(exactly, tensor):
    judged = exactly(tensor([1.0], "bf16"), tensor([1.0], "f16"))
    assert (judged.verdict, judged.note, judged.elements) == (EXCEEDS, "dtype is bf16, expected f16", 0)


def test_another_shape_exceeds_and_says_which(exactly, tensor):
    judged = exactly(tensor([[1.0]], "f32"), tensor([1.0], "f32"))
    assert (judged.verdict, judged.note) == (EXCEEDS, "shape is [1, 1], expected [1]")


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_outputs_exceeds(tensor, count):
    x = tensor([1.0], "f32")
    judged = compare((x,) * count, ("a", "b", "c")[:count], (Exact(bits=x), Exact(bits=x)))
    assert {j.verdict for j in judged} == {EXCEEDS}
    assert judged[0].note == f"gave {count} outputs, expected 2"


def _set(dtype, shape, wrong):
    return SetValued(dtype=DTYPES[dtype], shape=shape, wrong=wrong, rule="even")


def test_a_set_valued_output_is_held_against_its_rule(tensor):
    even = _set("i64", (3,), lambda outputs: outputs[0].array() % 2 == 1)
    right = compare((tensor([0, 2, 4], "i64"),), ("y",), (even,))[0]
    wrong = compare((tensor([0, 3, 4], "i64"),), ("y",), (even,))[0]
    assert right.verdict is WITHIN
    assert (wrong.verdict, wrong.worst_index, wrong.note) == (EXCEEDS, (1,), "1 of 3 elements wrong: even")


def test_a_set_valued_output_is_refused_beside_one_of_the_wrong_form(tensor):
    def never(_outputs):
        raise AssertionError("its rule reads outputs of the right form only")

    sets = (_set("f32", (1,), never), _set("i64", (1,), never))
    judged = compare((tensor([1.0], "f32"), tensor([1], "i32")), ("values", "indices"), sets)
    assert [j.note for j in judged] == [
        "another output of this step has the wrong form",
        "dtype is i32, expected i64",
    ]


def test_a_rounded_output_reports_every_measurement(judged, tensor):
    result = judged("sum", [tensor([1.0, 2.0, 4.0], "bf16")], [tensor(7.0, "bf16")], dim=-1, keepdim=False)[0]
    assert (result.verdict, result.elements, result.worst, result.rms, result.flips) == (
        WITHIN,
        1,
        0.0,
        0.0,
        0,
    )
    assert result.rms_limit == pytest.approx(7.337, abs=1e-3)


def test_the_worst_element_of_a_rounded_output_is_shown_with_its_oracle(judged, tensor):
    x = tensor([[1.0, 2.0], [3.0, 4.0]], "f32")
    result = judged("sum", [x], [tensor([3.0, 7.5], "f32")], dim=-1, keepdim=False)[0]
    assert (result.verdict, result.worst_index, result.oracle, result.got) == (EXCEEDS, (1,), 7.0, 7.5)
