"""The machine-readable report, version 1. Every key is documented in the README.

Non-finite numbers are written as the strings "nan", "inf" and "-inf": JSON has none.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parity.errors import UsageError
from parity.judge.verdict import CaseJudgement, Outcome, OutputJudgement, StepJudgement, Verdict
from parity.report.view import Run, SideView

__all__ = ["VERSION", "dumps", "failed_ids", "to_json"]

VERSION = 1


def dumps(run: Run) -> str:
    """Return the report as text that any JSON parser reads."""
    return json.dumps(_plain(to_json(run)), indent=1, allow_nan=False) + "\n"


def to_json(run: Run) -> dict[str, Any]:
    """Return the report as plain data."""
    return {
        "version": VERSION,
        "parity": run.version,
        "exit_code": run.exit_code,
        "reference": _side(run.reference),
        "target": _side(run.target),
        "counts": {v.value: n for v, n in run.counts().items()},
        "reference_counts": {v.value: n for v, n in run.reference_counts().items()},
        "deviations": run.deviations,
        "left_out": run.left_out,
        "interrupted": run.interrupted,
        "seconds": run.seconds,
        "framework_seconds": run.framework_s,
        "cases": [_case(o) for o in run.outcomes],
    }


def _side(side: SideView) -> dict[str, Any]:
    return {
        "spec": side.spec,
        "origin": side.origin,
        "setting": side.setting,
        "environment": dict(side.environment),
        "profile": dict(side.profile),
        "witness": asdict(side.witness),
    }


def _case(outcome: Outcome) -> dict[str, Any]:
    return {
        "id": str(outcome.case),
        "source": outcome.source,
        "verdict": outcome.verdict.value,
        "seconds": outcome.seconds,
        "deviation": outcome.deviation,
        "note": outcome.target.note,
        "steps": [_step(s) for s in outcome.target.steps],
        "apart": [asdict(a) for a in outcome.apart],
        "causes": [asdict(cause) for cause in outcome.causes],
        "end_to_end": None
        if outcome.ends is None
        else asdict(outcome.ends) | {"verdict": outcome.ends.verdict.value},
        "reference": _reference(outcome.reference),
    }


def _reference(judgement: CaseJudgement | None) -> dict[str, Any] | None:
    if judgement is None:
        return None
    steps = [_step(s) for s in judgement.steps if s.verdict is not Verdict.WITHIN]
    return {"verdict": judgement.verdict.value, "note": judgement.note, "steps": steps}


def _step(step: StepJudgement) -> dict[str, Any]:
    def largest(values: list[float | None]) -> float | None:
        # NaN is the worst value of all and must not lose against a number.
        present = [v for v in values if v is not None]
        return max(present, key=lambda v: (math.isnan(v), v), default=None)

    return {
        "name": step.name,
        "op": step.op,
        "verdict": step.verdict.value,
        "worst": largest([o.worst for o in step.outputs]),
        "rms": largest([o.rms for o in step.outputs]),
        "flips": largest([o.flips for o in step.outputs]),
        "elements": step.evidence.elements if step.evidence else sum(o.elements for o in step.outputs),
        "inputs_digest": step.evidence.inputs_digest if step.evidence else None,
        "seconds": step.seconds,
        "bytes": step.bytes,
        "flops": step.flops,
        "formula": step.formula,
        "note": step.note,
        "outputs": [_output(o) for o in step.outputs],
    }


def _output(output: OutputJudgement) -> dict[str, Any]:
    data = {name: getattr(output, name) for name in OutputJudgement.__dataclass_fields__}
    return data | {"verdict": output.verdict.value}


def _plain(value: Any) -> Any:
    """Replace non-finite floats by their names, tuples by lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def failed_ids(path: Path) -> list[str]:
    """Return the ids of a written report whose case, or its reference, was not within or known.

    Raises UsageError for a file that is not such a report.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']}, this is for {VERSION}")
        fine = {Verdict.WITHIN.value, Verdict.KNOWN.value}
        return [
            case["id"]
            for case in data["cases"]
            if {case["verdict"], (case["reference"] or {"verdict": "within"})["verdict"]} - fine
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is not a report of this version ({error}); run parity check again"
        ) from None
