from __future__ import annotations

import dataclasses

from parity.judge.verdict import Apart, CaseJudgement, Verdict
from parity.report import terminal
from parity.report.view import Run
from tests.report.conftest import EXCEEDING, departing, outcome, run_of, within

FULL = """\
parity 0.1.0    4 cases
reference   cpu, golden cpu/avx512, 2026-11-20, strict
target      hpu, run here, strict

ops/softmax               2  .X
ops/sort                  2  f.

EXCEEDS ops/softmax:dtype=f16,shape=2x8
 --> cases/ops/softmax.py:7
  | step  softmax   softmax   exceeds
  | output y   bf16[2, 8]
  |                    measured      limit
  | worst |e|/B           41.25          1
  | rms e/sigma           17.75          3
  | flips                14,231         12
  | worst [1, 3]   oracle 0.25   got 0.249023438
  = worst |e|/B exceeds 1; rms e/sigma exceeds its limit
  = reproduce: parity repro ops/softmax:dtype=f16,shape=2x8 --target hpu -o
    repro
  = what is computed and how it is judged: parity show
    ops/softmax:dtype=f16,shape=2x8

FELL BACK ops/sort:dtype=bf16
 --> cases/ops/softmax.py:7
  | step  softmax   softmax   fell_back
  = aten::sort ran on cpu, not on the target
  = what is computed and how it is judged: parity show ops/sort:dtype=bf16

REFERENCE UNJUDGED ops/sort:dtype=f16
  = reference cpu: golden: has no recording of it
  = what is computed and how it is judged: parity show ops/sort:dtype=f16

1 exceeds, 1 fell back, 2 within, 4 cases, 2.2 s
reference cpu: 1 unjudged
witness 1 nodes ran on the target in 1 steps (bf16 1)
json    .parity/last/run.json
next    parity check --last-failed"""


def full(run: Run) -> list[str]:
    return terminal.full(run, next_command="parity check --last-failed", json_path=".parity/last/run.json")


def test_the_whole_report_reads_like_this(mixed: Run) -> None:
    assert "\n".join(full(mixed)) == FULL


def test_no_line_of_prose_is_wider_than_eighty_columns(mixed: Run) -> None:
    assert max(map(len, full(mixed))) <= terminal.WIDTH


def test_concise_is_one_line_for_each_case_that_needs_attention(mixed: Run) -> None:
    lines = terminal.concise(mixed, next_command="n", json_path="j")
    assert lines[:3] == [
        "cases/ops/softmax.py:7: EXCEEDS ops/softmax:dtype=f16,shape=2x8 softmax: worst 41.25 > 1",
        (
            "cases/ops/softmax.py:7: FELL_BACK ops/sort:dtype=bf16 softmax: "
            "aten::sort ran on cpu, not on the target"
        ),
        "cases/ops/softmax.py:7: REFERENCE UNJUDGED ops/sort:dtype=f16: golden: has no recording of it",
    ]


def test_every_verdict_has_a_mark_and_only_within_is_a_dot() -> None:
    assert set(terminal.MARKS) == set(Verdict)
    assert [v for v, mark in terminal.MARKS.items() if mark == "."] == [Verdict.WITHIN]


def test_a_reference_that_departs_alone_gets_a_block_of_its_own() -> None:
    text = "\n".join(full(run_of(outcome("ops/a:x=1", within(), EXCEEDING))))
    assert "REFERENCE EXCEEDS ops/a:x=1" in text
    assert "cpu is itself judged by the oracle: the reference is wrong here" in text


def test_a_reference_that_departs_at_the_same_step_is_one_line() -> None:
    lines = full(run_of(outcome("ops/a:x=1", EXCEEDING, EXCEEDING)))
    assert "  = the reference cpu departs too, at the same step: exceeds" in lines
    assert not any(line.startswith("REFERENCE") for line in lines)


def test_a_case_left_out_or_interrupted_is_said() -> None:
    text = "\n".join(full(run_of(outcome("ops/a:x=1", within()), left_out=7, interrupted=True)))
    assert "7 selected cases were left out by --time-box: nothing is known of them" in text
    assert "interrupted: only the cases above were judged" in text


def test_long_rows_of_marks_wrap_at_eighty_columns() -> None:
    lines = full(run_of(*(outcome(f"ops/a:x={i}", within()) for i in range(120))))
    rows = [line for line in lines if set(line[29:]) == {"."}]
    assert sum(line[29:].count(".") for line in rows) == 120
    assert max(map(len, rows)) == terminal.WIDTH


def test_a_long_list_of_departures_says_how_many_are_not_shown() -> None:
    case = departing(Verdict.UNSUPPORTED, note="no")
    lines = full(run_of(*(outcome(f"ops/a:x={i}", case) for i in range(terminal.MAX_BLOCKS + 3))))
    assert "3 more; all of them: --output concise, or the JSON report" in lines


def test_an_unjudged_case_gives_its_reason() -> None:
    case = CaseJudgement(verdict=Verdict.UNJUDGED, note="the device did not come back")
    assert "  = the device did not come back" in full(run_of(outcome("ops/a:x=1", case)))


def test_how_far_the_sides_are_apart_is_said_of_a_departure() -> None:
    between = Apart(step="softmax", output="y", elements=16, unequal=9, largest=0.25, relative_l2=0.0125)
    text = " ".join(full(run_of(dataclasses.replace(outcome("ops/a:x=1", EXCEEDING), apart=(between,)))))
    assert "target and reference at y: 9 of 16 elements differ, largest difference 0.25," in text
    assert "relative l2 0.0125" in text
