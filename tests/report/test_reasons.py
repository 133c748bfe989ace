"""Why samples of torch's own ops were not judged, counted in the report."""

from __future__ import annotations

from parity.backend.base import Node, Witness
from parity.case.ids import CaseId
from parity.judge.verdict import CaseJudgement, Evidence, Outcome, OutputJudgement, StepJudgement, Verdict
from parity.report.reasons import lines

WITNESS = Witness(executed=(Node(kind="aten::tan", device="cpu", precision="f32"),))


def within(name):
    output = OutputJudgement(name="y", dtype="f32", shape=(2,), verdict=Verdict.WITHIN, elements=2)
    evidence = Evidence(elements=2, inputs_digest="sha256:0", witness=WITNESS)
    return StepJudgement(
        name=name, op="torch:tan", verdict=Verdict.WITHIN, outputs=(output,), evidence=evidence
    )


def unjudged(name, note):
    return StepJudgement(name=name, op="torch:tan", verdict=Verdict.UNJUDGED, note=note)


def outcome(path, *steps):
    judgement = CaseJudgement(verdict=Verdict.UNJUDGED, steps=steps)
    return Outcome(case=CaseId(path), source="", verdict=Verdict.UNJUDGED, target=judgement)


def test_reasons_are_counted_over_all_cases_commonest_first():
    found = [
        outcome("opinfo/tan", within("0"), unjudged("1", "gives no tensor"), unjudged("2", "a; a")),
        outcome("opinfo/sin", unjudged("0", "a"), *(within(str(n)) for n in range(1, 5))),
    ]
    assert list(lines(found)) == [
        "samples 5 of 8 judged, 62.5 %",
        "             2  a",
        "             1  gives no tensor",
    ]


def test_what_has_no_room_is_counted_together():
    steps = [unjudged(str(n), f"reason {n}") for n in range(15)]
    assert list(lines([outcome("opinfo/tan", *steps)]))[-1] == (
        "             3  for 3 more reasons, in the JSON report"
    )
    assert len(list(lines([outcome("opinfo/tan", *steps)]))) == 14


def test_other_suites_say_nothing_of_it():
    assert list(lines([outcome("ops/tanh", unjudged("0", "no"))])) == []
