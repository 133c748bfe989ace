"""Outcomes made by hand, one for each thing that a report must show."""

from __future__ import annotations

import pytest

from parity.backend.base import Node, Witness
from parity.case.ids import CaseId
from parity.judge.verdict import CaseJudgement, Evidence, Outcome, OutputJudgement, StepJudgement, Verdict
from parity.report.view import Run, SideView, WitnessSummary

WITNESS = Witness(executed=(Node(kind="aten::softmax", device="cpu", precision="bf16"),))


def output(**changed: object) -> OutputJudgement:
    fields: dict[str, object] = {
        "name": "y",
        "dtype": "bf16",
        "shape": (2, 8),
        "verdict": Verdict.WITHIN,
        "elements": 16,
        "worst": 0.5,
        "worst_index": (1, 3),
        "oracle": 0.25,
        "got": 0.2490234375,
        "rms": 0.9,
        "rms_limit": 3.0,
        "flips": 1,
        "flips_limit": 12,
    }
    return OutputJudgement(**{**fields, **changed})  # type: ignore[arg-type]  # the test's own fields


def within() -> CaseJudgement:
    evidence = Evidence(elements=16, inputs_digest="sha256:00", witness=WITNESS)
    step = StepJudgement(
        name="softmax",
        op="softmax",
        verdict=Verdict.WITHIN,
        outputs=(output(),),
        evidence=evidence,
        seconds=0.5,
    )
    return CaseJudgement(verdict=Verdict.WITHIN, steps=(step,))


def departing(verdict: Verdict, *outputs: OutputJudgement, note: str) -> CaseJudgement:
    step = StepJudgement(name="softmax", op="softmax", verdict=verdict, outputs=outputs, note=note)
    return CaseJudgement(verdict=verdict, steps=(step,))


EXCEEDING = departing(
    Verdict.EXCEEDS,
    output(verdict=Verdict.EXCEEDS, worst=41.25, rms=17.75, flips=14_231),
    note="worst |e|/B exceeds 1; rms e/sigma exceeds its limit",
)


def outcome(name: str, target: CaseJudgement, reference: CaseJudgement | None = None) -> Outcome:
    return Outcome(
        case=CaseId.parse(name),
        source="cases/ops/softmax.py:7",
        verdict=target.verdict,
        target=target,
        reference=reference,
        seconds=1.0,
    )


def run_of(*outcomes: Outcome, **changed: object) -> Run:
    fields: dict[str, object] = {
        "version": "0.1.0",
        "reference": SideView(spec="cpu", origin="golden cpu/avx512, 2026-11-20", setting="strict"),
        "target": SideView(
            spec="hpu",
            origin="run here",
            setting="strict",
            witness=WitnessSummary(steps=1, executed=1, precisions={"bf16": 1}),
        ),
        "outcomes": outcomes,
        "seconds": 2.25,
    }
    return Run(**{**fields, **changed})  # type: ignore[arg-type]  # the test's own fields


@pytest.fixture
def mixed() -> Run:
    """One case within, one that exceeds, one that fell back, one whose reference is missing."""
    missing = CaseJudgement(verdict=Verdict.UNJUDGED, note="golden: has no recording of it")
    fell_back = departing(Verdict.FELL_BACK, note="aten::sort ran on cpu, not on the target")
    return run_of(
        outcome("ops/softmax:dtype=bf16,shape=2x8", within(), within()),
        outcome("ops/softmax:dtype=f16,shape=2x8", EXCEEDING, within()),
        outcome("ops/sort:dtype=bf16", fell_back, within()),
        outcome("ops/sort:dtype=f16", within(), missing),
    )
