"""The report card: what it promises, what breaks a promise, and what it says when nothing was tried."""

from __future__ import annotations

import itertools
import json

import pytest

from parity.judge import limits
from parity.report.selftest import lines
from parity.selftest import card as stage
from parity.selftest.card import MISSED, Card
from parity.selftest.criteria import BASELINES
from parity.selftest.problem import cases
from parity.selftest.suite import Kind, Trial
from parity.selftest.table import Tally


def tally(
    *, legitimate: int = 100, flagged: int = 0, real: int = 1000, missed: int = 0, cases=20, family="ops/sum"
):
    """Trials dealt out over cases, so that each has its share of what is missed."""

    def trials(kind, count, accepted):
        everything = dict.fromkeys(BASELINES, True) | {"derived": accepted}
        for number in range(count):
            yield Trial(
                seed=1,
                case=f"{family}:n={number % cases}",
                family=family,
                dtype="f32",
                dist="normal",
                name="way",
                kind=kind,
                accepted=everything,
            )

    found = Tally.of(trials(Kind.LEGITIMATE, legitimate - flagged, True))
    found.add(Tally.of(trials(Kind.LEGITIMATE, flagged, False)))
    found.add(Tally.of(trials(Kind.REAL, real - missed, False)))
    found.add(Tally.of(trials(Kind.REAL, missed, True)))
    return found


def card(found: Tally, **given) -> Card:
    return Card(seed=7, cases=10, judged=10, seconds=1.0, tally=found, **given)


def test_a_run_that_keeps_every_promise_is_exit_0():
    made = card(tally(missed=5))
    assert (made.exit_code, made.broken()) == (0, [])
    assert "outcome     kept on this seed" in list(lines(made, again="parity selftest"))


def test_one_honest_result_that_is_flagged_is_exit_1():
    made = card(tally(flagged=1))
    assert (made.exit_code, made.broken()) == (1, ["1 honest results were flagged"])


def test_a_miss_rate_is_above_its_promise_when_chance_does_not_explain_it():
    assert card(tally(real=10_000, missed=60)).broken() == []
    above = card(tally(real=10_000, missed=140))
    assert MISSED < 140 / 10_000
    assert above.broken() == ["all families: more than 0.8 % of real faults were missed"]
    assert above.exit_code == 1


def test_faults_that_one_case_misses_together_break_no_promise():
    found = tally(real=2000)
    found.add(tally(real=100, missed=60, cases=1, family="ops/odd"))
    assert card(found).broken() == []


def test_a_family_has_a_promise_of_its_own():
    found = tally(real=30_000, cases=600)
    found.add(tally(real=500, missed=40, family="ops/softcap"))
    assert card(found).broken() == ["ops/softcap: more than 3 % of real faults were missed"]


@pytest.mark.parametrize("nothing", [{"legitimate": 0}, {"real": 0}])
def test_nothing_tried_is_exit_3_and_says_so(nothing):
    made = card(tally(**nothing))
    assert made.exit_code == 3
    assert "outcome     nothing was tried: give it more time" in list(lines(made, again="parity selftest"))


def test_an_interrupted_run_is_said_to_be_one():
    assert any(
        "interrupted: 10 of 10 cases" in line for line in lines(card(tally(), interrupted=True), again="")
    )


def test_the_json_holds_every_count_and_what_was_promised():
    made = card(tally(flagged=2, missed=1))
    document = json.loads(json.dumps(made.to_json()))
    assert document["exit_code"] == 1 and document["seed"] == 7
    assert document["promise"] == {"false_alarms": 0, "missed": 0.008, "missed_of_a_family": 0.03}
    assert sum(row["n"] for row in document["rows"]) == 1100
    assert len(document["false_alarms"]) == 2 and len(document["misses"]) == 1


def test_no_line_is_wider_than_a_terminal_of_80_columns():
    found = tally(flagged=1, missed=700, family="ops/" + "a" * 30)
    assert max(map(len, lines(card(found), again="parity selftest"))) <= 80


def test_a_judge_that_is_made_too_strict_is_caught_by_its_card(monkeypatch):
    matmuls = [(c.nbytes, n) for n, c in enumerate(cases()) if str(c.id).startswith("ops/matmul:")]
    at = max(matmuls)[1]
    sound = stage.Tally.of(stage.trials(cases()[at], seed=1))
    assert not card(sound).broken()
    monkeypatch.setattr(limits, "RMS_FLOOR", 0.01)
    limits.rms_limit.cache_clear()
    strict = stage.Tally.of(stage.trials(cases()[at], seed=1))
    limits.rms_limit.cache_clear()
    assert card(strict).exit_code == 1


def test_every_family_comes_once_before_one_comes_twice_and_the_seed_decides_which_case():
    paths = [cases()[number].id.path for number in stage._order(1, production=False)]
    families = len(set(paths))
    assert len(set(paths[:families])) == families
    first, second = (stage._order(seed, production=False)[:families] for seed in (1, 2))
    assert first != second and stage._order(1, production=False)[:families] == first


def test_an_interrupt_ends_a_run_with_what_was_done():
    def interrupts():
        if next(done) == 2:
            raise KeyboardInterrupt

    done = itertools.count(1)
    made = stage.run(seed=1, on_case=interrupts)
    assert made.interrupted and made.judged == 2


def test_production_shapes_are_a_suite_of_their_own():
    assert {case.id.path.split("/")[0] for case in cases(production=True)} == {"production"}
