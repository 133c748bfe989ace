from __future__ import annotations

import json
from pathlib import Path

import pytest

from parity.errors import UsageError
from parity.judge.verdict import Verdict
from parity.report import json as report
from parity.report.view import Run
from tests.report.conftest import departing, outcome, output, run_of


def test_the_report_has_the_documented_keys(mixed: Run) -> None:
    data = json.loads(report.dumps(mixed))
    assert data["version"] == 1
    assert data["exit_code"] == 1
    assert data["counts"] == {"exceeds": 1, "fell_back": 1, "within": 2}
    assert data["reference_counts"] == {"unjudged": 1}
    assert set(data["target"]) == {"spec", "origin", "setting", "environment", "profile", "witness"}
    assert data["target"]["witness"] == {
        "steps": 1,
        "executed": 1,
        "host": 0,
        "borrowed": 0,
        "precisions": {"bf16": 1},
    }
    case = data["cases"][1]
    assert case["id"] == "ops/softmax:dtype=f16,shape=2x8"
    assert case["verdict"] == "exceeds"
    step = case["steps"][0]
    documented = {"name", "verdict", "worst", "rms", "flips", "seconds", "bytes", "flops", "note"}
    assert documented <= set(step)
    assert (step["worst"], step["rms"], step["flips"]) == (41.25, 17.75, 14231)


def test_numbers_that_json_does_not_have_are_words() -> None:
    case = departing(
        Verdict.EXCEEDS, output(verdict=Verdict.EXCEEDS, worst=float("nan"), got=float("-inf")), note="n"
    )
    data = json.loads(report.dumps(run_of(outcome("ops/a:x=1", case))), parse_constant=pytest.fail)
    assert data["cases"][0]["steps"][0]["worst"] == "nan"
    assert data["cases"][0]["steps"][0]["outputs"][0]["got"] == "-inf"


def test_failed_ids_are_those_where_either_side_was_not_within(mixed: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(report.dumps(mixed))
    assert report.failed_ids(path) == [
        "ops/softmax:dtype=f16,shape=2x8",
        "ops/sort:dtype=bf16",
        "ops/sort:dtype=f16",
    ]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 2, "cases": []}', '{"version": 1, "cases": [{}]}']
)
def test_a_file_that_is_not_a_report_is_a_usage_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(
        UsageError, match=r"run\.json is not a report of this version .*run parity check again"
    ):
        report.failed_ids(path)
