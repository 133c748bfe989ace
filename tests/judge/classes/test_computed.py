from __future__ import annotations

import dataclasses

import pytest
import torch

from parity.case.op import OPS
from parity.judge.budget import Question
from parity.judge.classes.computed import CHAINS, Computed, keep
from parity.judge.oracle import answers


@pytest.fixture
def question(plain, tensor):
    x = tensor([1.0], "bf16")
    return Question(
        op="gated", inputs=(), raw=(x,), attrs={}, profile=plain, stored=frozenset({"activation"})
    )


def of(value, hard):
    value, hard = (torch.tensor(t, dtype=torch.float64) for t in (value, hard))
    return Computed(value=value, hard=hard, variance=(hard / 3).square())


def test_a_value_near_no_edge_is_known_exactly_once_it_is_stored(question):
    kept = keep(question, of([1 + 2**-9, 1 + 2**-7], [2**-12, 2**-12]), "activation")
    assert kept.value.tolist() == [1.0, 1 + 2**-7]
    assert kept.hard.tolist() == [0.0, 0.0] and kept.variance.tolist() == [0.0, 0.0]


def test_a_value_near_an_edge_may_be_either_neighbour(question):
    kept = keep(question, of([1 + 2**-8 - 2**-14], [2**-12]), "activation")
    assert kept.value.tolist() == [1.0] and kept.hard.tolist() == [2**-7]
    assert float(kept.variance) >= (2**-8) ** 2


def test_what_a_reading_does_not_store_stays_as_it_is(question):
    made = of([1 + 2**-9], [2**-12])
    assert keep(question, made, "product") is made
    assert keep(dataclasses.replace(question, stored=frozenset()), made, "activation") is made


def test_what_overflows_where_it_is_stored_is_infinite_and_where_it_may_is_unbounded(question):
    kept = keep(question, of([4e38, 3.3961e38], [1e30, 1e35]), "activation")
    assert kept.value[0] == torch.inf and kept.hard[0] == 0
    assert kept.hard[1] == torch.inf


def test_every_chain_is_of_an_op_and_the_first_answer_stores_nothing(plain, tensor):
    assert set(CHAINS) <= set(OPS)
    x = tensor([[1.0, 2.0]], "bf16")
    readings = [a.reading for a in answers("gated", [x], {"activation": "silu"}, plain)]
    assert readings == ["", "every intermediate stored"]


def test_in_the_type_of_the_accumulator_there_is_one_reading(plain, tensor):
    x = tensor([[1.0, 2.0]], "f32")
    assert [a.reading for a in answers("gated", [x], {"activation": "silu"}, plain)] == [""]
