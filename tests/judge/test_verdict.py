from __future__ import annotations

import dataclasses
import itertools

import pytest

from parity.backend.base import Node, Witness
from parity.case.ids import CaseId
from parity.judge.verdict import (
    CaseJudgement,
    Evidence,
    Outcome,
    OutputJudgement,
    StepJudgement,
    Verdict,
    worst,
)

WITHIN = Verdict.WITHIN
NODE = Node(kind="mm", device="cpu", precision="f32")
DIGEST = "sha256:" + "0" * 64
CASE = CaseId.parse("ops/matmul")


def output(verdict=WITHIN, *, elements=6, free=0, shape=(2, 3)):
    return OutputJudgement(name="y", dtype="f32", shape=shape, verdict=verdict, elements=elements, free=free)


def evidence(*, elements=6, digest=DIGEST, executed=(NODE,), host=()):
    witness = Witness(executed=executed, host=host)
    return Evidence(elements=elements, inputs_digest=digest, witness=witness)


def step(verdict=WITHIN, **more):
    given = {"outputs": (output(),), "evidence": evidence()} | more
    return StepJudgement(name="s", op="matmul", verdict=verdict, **given)


def test_what_is_compared_in_full_is_within():
    case = CaseJudgement(verdict=WITHIN, steps=(step(),))
    outcome = Outcome(case=CASE, source="", verdict=WITHIN, target=case)
    assert (case.elements, outcome.gate) == (6, WITHIN)


FABRICATED = {
    "an output of which a part was compared": lambda: output(elements=5),
    "an output of which nothing was compared": lambda: output(elements=0),
    "evidence without a digest of the inputs": lambda: evidence(digest=""),
    "evidence with a digest of another kind": lambda: evidence(digest="md5:0"),
    "evidence that nothing ran": lambda: evidence(executed=()),
    "evidence that a part ran on the host": lambda: evidence(host=(NODE,)),
    "a step without evidence": lambda: step(evidence=None),
    "a step without outputs": lambda: step(outputs=(), evidence=evidence(elements=0)),
    "a step with an output that exceeds": lambda: step(outputs=(output(), output(Verdict.EXCEEDS))),
    "a step with an output that is unjudged": lambda: step(outputs=(output(Verdict.UNJUDGED),)),
    "a step whose evidence counts more than was compared": lambda: step(evidence=evidence(elements=7)),
    "a step whose evidence counts less than was compared": lambda: step(evidence=evidence(elements=5)),
    "a case without steps": lambda: CaseJudgement(verdict=WITHIN),
    "a case with a step that is not within": lambda: CaseJudgement(
        verdict=WITHIN, steps=(step(), step(Verdict.FELL_BACK))
    ),
    "a case of empty outputs": lambda: CaseJudgement(
        verdict=WITHIN,
        steps=(step(outputs=(output(shape=(0, 3), elements=0),), evidence=evidence(elements=0)),),
    ),
    "an outcome whose target exceeds": lambda: Outcome(
        case=CASE, source="", verdict=WITHIN, target=CaseJudgement(verdict=Verdict.EXCEEDS)
    ),
    "an outcome whose target is unjudged": lambda: Outcome(
        case=CASE, source="", verdict=WITHIN, target=CaseJudgement(verdict=Verdict.UNJUDGED)
    ),
}


@pytest.mark.parametrize("what", FABRICATED)
def test_no_within_can_be_built_from(what):
    with pytest.raises(ValueError, match=r"within|evidence"):
        FABRICATED[what]()


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not WITHIN])
def test_what_is_not_within_needs_no_evidence(verdict):
    bare = StepJudgement(name="s", op="matmul", verdict=verdict)
    assert CaseJudgement(verdict=verdict, steps=(bare,)).elements == 0


def test_a_judgement_cannot_be_turned_into_within_afterwards():
    exceeds = step(Verdict.EXCEEDS, evidence=None)
    with pytest.raises(ValueError, match="without evidence"):
        dataclasses.replace(exceeds, verdict=WITHIN)
    with pytest.raises(dataclasses.FrozenInstanceError):
        exceeds.verdict = WITHIN
    with pytest.raises(ValueError, match="within only when every step is"):
        dataclasses.replace(CaseJudgement(verdict=Verdict.EXCEEDS, steps=(exceeds,)), verdict=WITHIN)


def test_an_output_that_is_free_throughout_is_within_but_makes_no_case_so():
    free = output(elements=0, free=6)
    judged = step(outputs=(free,), evidence=evidence(elements=0))
    with pytest.raises(ValueError, match="an element was compared"):
        CaseJudgement(verdict=WITHIN, steps=(judged,))


def test_verdicts_are_ordered_from_worst_to_best():
    assert [v.value for v in sorted(Verdict, key=lambda v: v.rank)] == [
        "crashed",
        "timed_out",
        "exceeds",
        "unstable",
        "substituted",
        "fell_back",
        "unsupported",
        "stale",
        "unjudged",
        "known",
        "within",
    ]


@pytest.mark.parametrize("a, b", list(itertools.combinations(Verdict, 2)))
def test_the_worse_of_two_decides(a, b):
    assert worst([a, b]) is worst([b, a]) is a


def test_nothing_judged_is_unjudged():
    assert worst([]) is Verdict.UNJUDGED


def test_what_fails_a_run_is_worse_than_unjudged():
    assert [v.value for v in Verdict if not v.departs] == ["unjudged", "known", "within"]


def test_a_bad_reference_decides_the_exit_code_of_a_target_within():
    good = CaseJudgement(verdict=WITHIN, steps=(step(),))
    bad = CaseJudgement(verdict=Verdict.EXCEEDS)
    outcome = Outcome(case=CASE, source="", verdict=WITHIN, target=good, reference=bad)
    assert outcome.gate is Verdict.EXCEEDS
