from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from parity.case.ids import Selector
from parity.judge.deviations import Deviation, Kind
from parity.judge.judge import judge
from parity.judge.verdict import CaseJudgement, Verdict
from parity.localize.ladder import Ladder, Rung, ladder, relative_l2
from parity.localize.replay import Replay
from parity.localize.sources import Sources, self_contained
from parity.run.journal import Journal
from parity.run.replay import replay
from parity.store.recording import Failure, FailureKind, Recording
from tests.localize.sides import backend, case, recorded

pytestmark = pytest.mark.needs_torch

CASE = case("mlp:dtype=f32")


@pytest.fixture(scope="module")
def reference() -> Recording:
    return recorded(CASE)


def scaled(y):
    return y * 1.001


def of(
    reference: Recording | None, target: Recording, judgement: CaseJudgement | None = None
) -> dict[str, Rung]:
    return by_name(seen(reference, target, judgement))


def seen(reference: Recording | None, target: Recording, judgement: CaseJudgement | None = None) -> Ladder:
    judgement = judge(CASE, target) if judgement is None else judgement
    return ladder(CASE.id, reference=reference, target=target, judgement=judgement)


def by_name(made: Ladder) -> dict[str, Rung]:
    return {rung.step: rung for rung in made.rungs}


def changed(recording: Recording, name: str, **fields: object) -> Recording:
    steps = tuple(dataclasses.replace(s, **fields) if s.name == name else s for s in recording.steps)
    return dataclasses.replace(recording, steps=steps)


def without(judgement: CaseJudgement, name: str) -> CaseJudgement:
    return dataclasses.replace(
        judgement, verdict=Verdict.UNJUDGED, steps=tuple(s for s in judgement.steps if s.name != name)
    )


def test_equal_sides_are_the_same_at_every_step(reference: Recording) -> None:
    made = seen(reference, reference)
    assert made.verdict is Verdict.WITHIN and made.exit_code == 0
    assert all(rung.same and rung.free == rung.inherited == 0 for rung in made.rungs)
    assert [rung.step for rung in made.rungs] == [step.name for step in CASE.steps]


def test_a_fault_shows_at_its_step_and_is_carried_by_those_after_it(reference: Recording) -> None:
    made = seen(reference, recorded(CASE, L01_up=scaled))
    rungs = by_name(made)
    assert made.verdict is Verdict.EXCEEDS and made.exit_code == 1
    assert [rung.step for rung in made.departing()] == ["L01.up"]
    culprit, carrier = rungs["L01.up"], rungs["L01.act"]
    assert culprit.inherited == 0 and culprit.free == pytest.approx(1e-3, rel=0.01)
    assert culprit.introduced is not None and culprit.introduced.worst > 1
    assert carrier.inherited == culprit.free and carrier.free > 0
    assert carrier.introduced is not None and carrier.introduced.worst < 1
    assert carrier.verdict is Verdict.WITHIN and not carrier.same
    assert rungs["L00.up"].same


def test_without_a_reference_the_introduced_error_is_known_all_the_same() -> None:
    made = seen(None, recorded(CASE, L01_up=scaled))
    assert not made.has_reference
    assert [rung.step for rung in made.departing()] == ["L01.up"]
    assert all(rung.free is None and rung.inherited is None for rung in made.rungs)


def test_a_replay_frees_the_steps_after_a_fault_of_what_they_inherited(reference: Recording) -> None:
    target = recorded(CASE, L01_up=scaled)
    given = self_contained(Sources(recording=reference, inputs=_inputs()), reference.steps)
    again = replay(given, backend(L01_up=scaled), journal=Journal(), environment=reference.environment)
    judged = {s.name: s for s in _judged(again, given)}
    made = by_name(
        ladder(
            CASE.id,
            reference=reference,
            target=target,
            judgement=judge(CASE, target),
            replayed=Replay(recording=again, judged=judged, skipped={}),
        )
    )
    culprit, carrier = made["L01.up"], made["L01.act"]
    assert culprit.replayed is not None and culprit.replayed.verdict is Verdict.EXCEEDS
    assert culprit.replayed.relative_l2 == pytest.approx(1e-3, rel=0.01)
    assert carrier.free > 0 and carrier.replayed is not None
    assert carrier.replayed.relative_l2 == 0 and carrier.same


def test_a_step_that_is_missing_on_a_side_is_named_and_never_within(reference: Recording) -> None:
    lacking = dataclasses.replace(reference, steps=tuple(s for s in reference.steps if s.name != "L01.act"))
    made = of(lacking, reference, judge(CASE, reference))
    assert made["L01.act"].verdict is Verdict.UNJUDGED
    assert made["L01.act"].notes == (
        "the reference has no such step: judged on its own inputs only, compared with nothing",
    )
    made = of(reference, lacking, judge(CASE, lacking))
    assert made["L01.act"].verdict is Verdict.UNJUDGED
    assert made["L01.act"].notes == ("the target has no such step: it was not judged",)


def test_another_op_under_the_same_name_is_never_within(reference: Recording) -> None:
    other = changed(reference, "L01.act", op="tanh")
    made = seen(other, reference, judge(CASE, reference))
    assert made.verdict is Verdict.UNJUDGED and made.exit_code == 3
    assert by_name(made)["L01.act"].verdict is Verdict.UNJUDGED


def test_a_step_that_nobody_judged_is_never_within(reference: Recording) -> None:
    made = of(reference, reference, without(judge(CASE, reference), "L01.act"))
    assert made["L01.act"].verdict is Verdict.UNJUDGED
    with pytest.raises(ValueError, match="nobody judged it"):
        Rung(step="x", op="silu", verdict=Verdict.WITHIN)


def test_nan_in_the_reference_itself_is_named(reference: Recording) -> None:
    import torch

    nan = recorded(CASE, L01_up=lambda y: torch.where(y > 1, torch.nan, y))
    made = of(nan, reference, judge(CASE, reference))
    (note,) = made["L01.up"].notes
    assert note.startswith("the reference itself gave NaN in ")
    assert note.endswith(" of 480 of 'L01.up.y'")


def test_a_reference_that_is_itself_wrong_is_named(reference: Recording) -> None:
    wrong = recorded(CASE, L01_up=scaled)
    made = ladder(
        CASE.id,
        reference=wrong,
        target=reference,
        judgement=judge(CASE, reference),
        theirs=judge(CASE, wrong),
    )
    noted = {rung.step: rung.notes for rung in made.rungs if rung.notes}
    assert set(noted) == {"L01.up"} and made.verdict is Verdict.WITHIN
    assert noted["L01.up"][0].startswith("the reference itself departs from the oracle here: worst |e|/B")


def test_a_reference_that_failed_there_is_named(reference: Recording) -> None:
    failed = changed(
        reference, "L01.act", failure=Failure(kind=FailureKind.CRASHED, text="SIGSEGV"), outputs=()
    )
    rung = of(failed, reference, judge(CASE, reference))["L01.act"]
    assert rung.notes == ("the reference has no result: crashed: SIGSEGV",)
    assert rung.free is None and not rung.same


def test_another_setting_of_the_reference_is_said(reference: Recording) -> None:
    environment = dataclasses.replace(reference.environment, setting="production")
    made = seen(dataclasses.replace(reference, environment=environment), reference)
    assert made.notes == ("the reference is production, the target strict",)


def test_what_lies_between_steps_is_flagged(reference: Recording) -> None:
    (step,) = [s for s in reference.steps if s.name == "L01.up"]
    (other,) = reference.steps[0].outputs
    target = changed(reference, "L01.up", inputs=(other, step.inputs[1]))
    rung = of(reference, target, judge(CASE, reference))["L01.up"]
    assert rung.glue and rung.inherited > 0
    (note,) = rung.notes
    assert note == (
        "its inputs differ, but the steps that made them agree to the bit: "
        "what happens between those steps and this one does not"
    )


def test_the_distance_is_relative_to_the_reference(reference: Recording) -> None:
    tensor = next(iter(reference.tensors.values()))
    assert relative_l2(tensor, tensor) == 0


def _declared(expect: Verdict) -> dict[str, tuple[Deviation, ...]]:
    entry = Deviation(
        case=Selector.parse("ladders/mlp"), expect=expect, cause="c", kind=Kind.OURS, reason="ticket 7"
    )
    return {"cpu": (entry,)}


def test_a_step_that_departs_as_declared_is_known_and_says_why(reference: Recording) -> None:
    target = recorded(CASE, L01_up=scaled)
    made = ladder(
        CASE.id,
        reference=reference,
        target=target,
        judgement=judge(CASE, target),
        deviations=_declared(Verdict.EXCEEDS),
    )
    known = {rung.step: rung.notes for rung in made.rungs if rung.verdict is Verdict.KNOWN}
    assert known == {"L01.up": ("declared: ticket 7",)}
    assert (made.verdict, made.exit_code, made.departing()) == (Verdict.KNOWN, 0, ())


def test_a_departure_of_another_kind_than_declared_stays_one(reference: Recording) -> None:
    target = recorded(CASE, L01_up=scaled)
    made = ladder(
        CASE.id,
        reference=reference,
        target=target,
        judgement=judge(CASE, target),
        deviations=_declared(Verdict.UNSTABLE),
    )
    assert (made.verdict, made.exit_code) == (Verdict.EXCEEDS, 1)


def test_what_is_declared_hides_neither_another_step_nor_a_missing_reference(reference: Recording) -> None:
    target = recorded(CASE, L01_up=scaled)
    judgement = judge(CASE, target)
    steps = tuple(
        dataclasses.replace(s, verdict=Verdict.FELL_BACK, note="on the host") if s.name == "L00.act" else s
        for s in judgement.steps
    )
    lacking = dataclasses.replace(reference, steps=tuple(s for s in reference.steps if s.name != "L01.up"))
    made = ladder(
        CASE.id,
        reference=lacking,
        target=target,
        judgement=dataclasses.replace(judgement, steps=steps),
        deviations=_declared(Verdict.EXCEEDS),
    )
    rungs = by_name(made)
    assert rungs["L00.act"].verdict is made.verdict is Verdict.FELL_BACK
    assert rungs["L01.up"].verdict is Verdict.UNJUDGED


def test_what_departs_in_a_replay_alone_is_not_what_was_declared(reference: Recording) -> None:
    target = recorded(CASE, L01_up=scaled)
    given = self_contained(Sources(recording=reference, inputs=_inputs()), reference.steps)
    again = replay(given, backend(L00_up=scaled), journal=Journal(), environment=reference.environment)
    judged = {s.name: s for s in _judged(again, given)}
    made = ladder(
        CASE.id,
        reference=reference,
        target=target,
        judgement=judge(CASE, target),
        replayed=Replay(recording=again, judged=judged, skipped={}),
        deviations=_declared(Verdict.EXCEEDS),
    )
    assert [rung.step for rung in made.departing()] == ["L00.up"]
    assert by_name(made)["L01.up"].verdict is Verdict.KNOWN and made.exit_code == 1


def test_a_declared_departure_that_is_gone_is_stale(reference: Recording) -> None:
    made = ladder(
        CASE.id,
        reference=reference,
        target=reference,
        judgement=judge(CASE, reference),
        deviations=_declared(Verdict.EXCEEDS),
    )
    assert (made.verdict, made.exit_code) == (Verdict.STALE, 1)
    assert made.notes == ("declared to be exceeds, and is not: ticket 7",)


def test_a_reference_that_departs_as_declared_is_named_so(reference: Recording) -> None:
    wrong = recorded(CASE, L01_up=scaled)
    made = ladder(
        CASE.id,
        reference=wrong,
        target=dataclasses.replace(
            reference, environment=dataclasses.replace(reference.environment, backend="sim/ideal")
        ),
        judgement=judge(CASE, reference),
        theirs=judge(CASE, wrong),
        deviations=_declared(Verdict.EXCEEDS),
    )
    assert by_name(made)["L01.up"].notes == (
        "the reference itself departs from the oracle here: as declared: ticket 7",
    )


def _inputs() -> Mapping[str, object]:
    from parity.case.inputs import generate

    return generate(CASE)


def _judged(again: Recording, given: Recording):
    from parity.judge.traced import judge_steps

    return judge_steps(again, weights=Sources(recording=given).find)
