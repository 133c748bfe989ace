from __future__ import annotations

import pytest

from parity.judge.verdict import CaseJudgement, Verdict
from parity.report.view import Run
from tests.report.conftest import departing, outcome, run_of, within

UNJUDGED = CaseJudgement(verdict=Verdict.UNJUDGED, note="why")


def test_nothing_judged_is_exit_3() -> None:
    assert run_of().exit_code == 3


def test_all_within_is_exit_0() -> None:
    assert run_of(outcome("ops/a:x=1", within(), within())).exit_code == 0


@pytest.mark.parametrize("verdict", [v for v in Verdict if v.departs])
def test_every_departure_is_exit_1_even_beside_an_unjudged_case(verdict: Verdict) -> None:
    assert (
        run_of(outcome("ops/a:x=1", departing(verdict, note="n")), outcome("ops/b:x=1", UNJUDGED)).exit_code
        == 1
    )


def test_an_unjudged_case_is_exit_3() -> None:
    assert run_of(outcome("ops/a:x=1", within()), outcome("ops/b:x=1", UNJUDGED)).exit_code == 3


def test_a_missing_reference_is_exit_3_though_the_target_is_within() -> None:
    assert run_of(outcome("ops/a:x=1", within(), UNJUDGED)).exit_code == 3


def test_a_wrong_reference_is_exit_1_though_the_target_is_within() -> None:
    assert run_of(outcome("ops/a:x=1", within(), departing(Verdict.EXCEEDS, note="n"))).exit_code == 1


def test_an_interrupted_run_is_never_exit_0() -> None:
    assert run_of(outcome("ops/a:x=1", within()), interrupted=True).exit_code == 3


def test_counts_are_worst_first_and_leave_out_what_did_not_occur(mixed: Run) -> None:
    assert list(mixed.counts().items()) == [(Verdict.EXCEEDS, 1), (Verdict.FELL_BACK, 1), (Verdict.WITHIN, 2)]
    assert mixed.reference_counts() == {Verdict.UNJUDGED: 1}
