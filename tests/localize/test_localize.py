from __future__ import annotations

import pytest
import torch

from parity.case.catalog import Catalog, builtin_cases
from parity.case.inputs import generate
from parity.judge.judge import judge
from parity.judge.verdict import CaseJudgement, OutputJudgement, StepJudgement, Verdict
from parity.localize import localize as subject
from parity.localize.localize import MAX_STEPS, localize, walk_down
from tests.localize.sides import case, recorded

pytestmark = pytest.mark.needs_torch

CASE = case("mlp:dtype=f32")


def step(name: str, verdict: Verdict, *worst: float | None, note: str = "") -> StepJudgement:
    outputs = tuple(
        OutputJudgement(name="y", dtype="f32", shape=(1,), verdict=verdict, elements=1, worst=w)
        for w in worst
    )
    return StepJudgement(name=name, op="linear", verdict=verdict, outputs=outputs, note=note)


def test_departing_steps_stand_worst_first_and_earlier_first_among_equals() -> None:
    steps = (
        step("little", Verdict.EXCEEDS, 2.0),
        step("fine", Verdict.UNJUDGED),
        step("much", Verdict.EXCEEDS, 40.0),
        step("as_much", Verdict.EXCEEDS, 40.0),
        step("bits", Verdict.EXCEEDS, None),
        step("nan", Verdict.EXCEEDS, float("nan")),
        step("crashed", Verdict.CRASHED),
        step("after", Verdict.CRASHED, note="not reached: needs 'crashed'"),
    )
    found = walk_down(CaseJudgement(verdict=Verdict.CRASHED, steps=steps))
    assert [s.name for s in found] == ["crashed", "bits", "nan", "much", "as_much", "little"]


def test_the_step_that_made_the_error_is_diagnosed_and_none_that_carried_it() -> None:
    target = recorded(CASE, L01_up=lambda y: y * 1.5)
    causes = localize(CASE, judge(CASE, target), target, inputs=generate(CASE))
    assert {cause.step for cause in causes} == {"L01.up"}
    assert causes[0].kind == "scale" and causes[0].explained == causes[0].failing > 0


def test_a_diagnosis_that_fails_costs_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no idea")

    monkeypatch.setattr(subject, "diagnose", fails)
    target = recorded(CASE, L01_up=lambda y: y * 1.5)
    (cause,) = localize(CASE, judge(CASE, target), target, inputs=generate(CASE))
    assert (cause.step, cause.kind) == ("L01.up", "unknown")
    assert cause.text == "no diagnosis: RuntimeError: no idea (ladders/mlp:dtype=f32)"


def test_on_a_broken_chip_only_the_first_steps_are_diagnosed() -> None:
    faults = {f"L0{layer}_{name}": lambda y: y * 1.5 for layer in range(3) for name in ("up", "act", "down")}
    target = recorded(CASE, **faults)
    causes = localize(CASE, judge(CASE, target), target, inputs=generate(CASE))
    names = list(dict.fromkeys(cause.step for cause in causes))
    assert names == ["L00.up", "L00.act", "L00.down", "L01.up", "L01.act"] and len(names) == MAX_STEPS


@pytest.mark.parametrize("op", ["amax", "argmax", "max"])
def test_a_wrong_result_of_one_element_is_diagnosed(op: str) -> None:
    """Of an array of no dimensions numpy gives scalars, which torch does not take."""
    catalog = Catalog.load([builtin_cases()])
    alone = next(
        catalog.get(each)
        for each in catalog.ids()
        if each.path == f"ops/{op}" and {("shape", "257"), ("keepdim", "no")} <= set(each.params)
    )
    target = recorded(alone, **{alone.steps[0].name: lambda y: torch.full_like(y, 7)})
    causes = localize(alone, judge(alone, target), target, inputs=generate(alone))
    assert causes and all("no diagnosis" not in cause.text for cause in causes)
