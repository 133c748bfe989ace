from __future__ import annotations

import dataclasses

import pytest

from parity.localize.alignment import Pair, between_steps, pairs
from parity.store.recording import Recording
from tests.localize.sides import case, recorded

pytestmark = pytest.mark.needs_torch


@pytest.fixture(scope="module")
def whole() -> Recording:
    return recorded(case("mlp:dtype=f32"))


def without(recording: Recording, *names: str) -> Recording:
    return dataclasses.replace(recording, steps=tuple(s for s in recording.steps if s.name not in names))


def renamed(recording: Recording, old: str, **changed: object) -> Recording:
    steps = tuple(dataclasses.replace(s, **changed) if s.name == old else s for s in recording.steps)
    return dataclasses.replace(recording, steps=steps)


def test_steps_are_matched_by_name_whatever_their_number(whole: Recording) -> None:
    found = pairs(whole, without(whole, "L00.norm", "L01.act"), [])
    assert [pair.name for pair in found] == [step.name for step in whole.steps]
    assert [pair.name for pair in found if pair.target is None] == ["L00.norm", "L01.act"]


def test_a_step_of_the_reference_alone_stands_where_it_ran(whole: Recording) -> None:
    target = renamed(whole, "L01.act", name="L01.fused")
    names = [pair.name for pair in pairs(whole, target, [])]
    assert names.index("L01.act") == names.index("L01.up") + 1
    assert {"L01.act", "L01.fused"} < set(names)


def test_another_op_or_attribute_under_one_name_is_named(whole: Recording) -> None:
    (other,) = [p for p in pairs(whole, renamed(whole, "L01.act", op="tanh"), []) if p.name == "L01.act"]
    assert not other.matches
    assert list(other.differences()) == [
        "is silu on the reference and tanh on the target: not compared as one step"
    ]
    (other,) = [
        p for p in pairs(whole, renamed(whole, "L01.norm", attrs={"eps": 1e-5}), []) if p.name == "L01.norm"
    ]
    assert not other.matches
    assert list(other.differences()) == [
        "has other attributes on the reference and on the target: eps 1e-06 and 1e-05"
    ]


def test_a_weight_that_is_another_one_is_named() -> None:
    of = case("mlp:dtype=f32")
    whole = recorded(of)
    (step,) = [s for s in whole.steps if s.name == "L00.up"]
    as_weight = tuple(
        dataclasses.replace(r, role="weight") if r and r.name == "L00.up" else r for r in step.inputs
    )
    reference = renamed(whole, "L00.up", inputs=as_weight)
    other = tuple(
        dataclasses.replace(r, digest="sha256:" + "0" * 64) if r and r.role == "weight" else r
        for r in as_weight
    )
    (pair,) = [p for p in pairs(reference, renamed(whole, "L00.up", inputs=other), []) if p.name == "L00.up"]
    (note,) = pair.differences()
    assert note.startswith("weight 'L00.up' is another one on the reference: ")
    assert note.endswith(", not 000000000000")


def test_equal_sides_have_no_error_between_steps(whole: Recording) -> None:
    assert between_steps(pairs(whole, whole, [])) == frozenset()


def test_an_error_that_a_step_made_is_not_blamed_on_what_lies_between() -> None:
    of = case("mlp:dtype=f32")
    target = recorded(of, L00_act=lambda y: y * 1.5)
    assert between_steps(pairs(recorded(of), target, [])) == frozenset()


def test_an_input_that_differs_though_its_maker_agrees_is_between_the_steps(whole: Recording) -> None:
    (step,) = [s for s in whole.steps if s.name == "L01.up"]
    swapped = renamed(whole, "L01.up", inputs=(_other(whole, "L00.norm"), step.inputs[1]))
    assert between_steps(pairs(whole, swapped, [])) == frozenset({"L01.up"})


def test_an_input_that_no_step_made_is_blamed_only_while_all_before_it_agree() -> None:
    of = case("mlp:dtype=f32")
    whole = recorded(of)
    (step,) = [s for s in whole.steps if s.name == "L01.act"]
    assert step.inputs[0] is not None
    glued = dataclasses.replace(step.inputs[0], digest="sha256:" + "1" * 64)
    before = renamed(whole, "L01.act", inputs=(dataclasses.replace(glued, digest="sha256:" + "2" * 64),))
    assert between_steps(pairs(before, renamed(whole, "L01.act", inputs=(glued,)), [])) == {"L01.act"}
    wrong = recorded(of, L00_act=lambda y: y * 1.5)
    found = between_steps(pairs(before, renamed(wrong, "L01.act", inputs=(glued,)), []))
    assert "L01.act" not in found


def test_a_pair_without_results_is_never_the_same(whole: Recording) -> None:
    first = whole.steps[0]
    empty = dataclasses.replace(first, outputs=())
    assert Pair(name=first.name, reference=first, target=first).is_same
    assert not Pair(name=first.name, reference=empty, target=empty).is_same
    assert not Pair(name=first.name, reference=first, target=None).is_same


def _other(recording: Recording, name: str):
    (ref,) = next(step for step in recording.steps if step.name == name).outputs
    return ref
