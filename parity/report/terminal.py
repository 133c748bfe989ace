"""The report that a person reads: marks, one block a departure, the counts, the next command.

Eighty columns of plain text; the door adds colour. Does not print: it returns lines.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from parity.judge.verdict import (
    CaseJudgement,
    Cause,
    EndToEnd,
    Outcome,
    OutputJudgement,
    StepJudgement,
    Verdict,
)
from parity.report import reasons
from parity.report.view import Run, SideView

__all__ = ["MARKS", "MAX_BLOCKS", "MAX_STEPS", "WIDTH", "block", "concise", "full"]

WIDTH = 80
MAX_BLOCKS = 20
MAX_STEPS = 4  # of one case

MARKS = {
    Verdict.CRASHED: "!",
    Verdict.TIMED_OUT: "!",
    Verdict.EXCEEDS: "X",
    Verdict.UNSTABLE: "~",
    Verdict.SUBSTITUTED: "p",
    Verdict.FELL_BACK: "f",
    Verdict.UNSUPPORTED: "u",
    Verdict.STALE: "S",
    Verdict.UNJUDGED: "?",
    Verdict.KNOWN: "k",
    Verdict.WITHIN: ".",
}


def full(run: Run, *, next_command: str, json_path: str) -> list[str]:
    """Return the whole report."""
    lines = [*_header(run), "", *_matrix(run), ""]
    failing = sorted((o for o in run.outcomes if _needs_block(o)), key=lambda o: o.gate.rank)
    for outcome in failing[:MAX_BLOCKS]:
        lines += [*block(outcome, run), ""]
    if len(failing) > MAX_BLOCKS:
        lines += [
            f"{len(failing) - MAX_BLOCKS:,} more; all of them: --output concise, or the JSON report",
            "",
        ]
    return [*lines, *_footer(run, next_command=next_command, json_path=json_path)]


def concise(run: Run, *, next_command: str, json_path: str) -> list[str]:
    """Return one line for each case that needs attention, then the counts."""
    lines = [_one_line(o) for o in run.outcomes if _needs_block(o)]
    return [*lines, *_footer(run, next_command=next_command, json_path=json_path)]


def _header(run: Run) -> list[str]:
    """Return who was compared with whom, on what."""
    cases = f"{len(run.outcomes):,} case{'' if len(run.outcomes) == 1 else 's'}"
    lines = [f"parity {run.version}    {cases}"]
    lines += _side("reference", run.reference)
    lines += _side("target", run.target)
    if run.reference.setting and run.target.setting and run.reference.setting != run.target.setting:
        lines += _field("note", f"the reference is {run.reference.setting}, the target {run.target.setting}")
    return lines


def _side(name: str, side: SideView) -> list[str]:
    return _field(name, ", ".join(p for p in (side.spec, side.origin, side.setting) if p))


def _field(name: str, text: str) -> list[str]:
    indent = " " * 12
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{name:<12}", subsequent_indent=indent, break_long_words=False
    )


def _needs_block(outcome: Outcome) -> bool:
    return outcome.gate.departs or outcome.gate is Verdict.UNJUDGED


def _matrix(run: Run) -> Iterator[str]:
    groups: dict[str, list[Outcome]] = {}
    for outcome in run.outcomes:
        groups.setdefault(outcome.case.path, []).append(outcome)
    for path, outcomes in groups.items():
        name = f"{path:<22} {len(outcomes):>4}  "
        marks = "".join(MARKS[o.verdict] for o in outcomes)
        room = WIDTH - len(name)
        for start in range(0, len(marks), room):
            yield (name if start == 0 else " " * len(name)) + marks[start : start + room]


def block(outcome: Outcome, run: Run) -> list[str]:
    """Return what is known of one case that is not within: the step, its measurements, what it means."""
    verdict, judgement = outcome.verdict, outcome.target
    lines = []
    if verdict.departs or verdict is Verdict.UNJUDGED:
        lines = [f"{verdict.value.upper().replace('_', ' ')} {outcome.case}"]
        if outcome.source:
            lines.append(f" --> {outcome.source}")
        lines += _steps(judgement, outcome.causes)
        if verdict is Verdict.STALE:
            lines += _bullet(
                f"declared to depart ({outcome.deviation}) but is within: remove the declaration"
            )
        if judgement.note:
            lines += _bullet(judgement.note)
    lines += _apart(outcome) if lines else []
    lines += _ends(outcome.ends) if lines and outcome.ends else []
    lines += _reference(outcome, run)
    if len(judgement.steps) > 1 and verdict.departs:
        sides = f"{run.reference.spec} {run.target.spec}"
        lines += _bullet(f"step by step: parity diff {sides} {outcome.case}{_setting(run)}")
    if verdict in (Verdict.EXCEEDS, Verdict.UNSTABLE, Verdict.CRASHED):
        repro = f"parity repro {outcome.case} --target {run.target.spec}{_setting(run)} -o repro"
        lines += _bullet(f"reproduce: {repro}")
    show = f"parity show {outcome.case}"
    return [*lines, *_bullet(f"what is computed and how it is judged: {show}")]


def _setting(run: Run) -> str:
    return " --production" if run.target.setting == "production" else ""


def _apart(outcome: Outcome) -> Iterator[str]:
    """Yield how far the sides are apart where a step departs, and at the end of the case."""
    departing = {step.name for step in outcome.target.steps if step.verdict is not Verdict.WITHIN}
    shown = [a for a in outcome.apart[:-1] if a.step in departing][:MAX_STEPS] + list(outcome.apart[-1:])
    for a in shown:
        where = a.output if a.output == a.step or len(outcome.target.steps) == 1 else f"{a.step} {a.output}"
        yield from _bullet(
            f"target and reference at {where}: {a.unequal:,} of {a.elements:,} elements differ, "
            f"largest difference {a.largest:.4g}, relative l2 {a.relative_l2:.4g}"
        )


def _ends(ends: EndToEnd) -> list[str]:
    """Say how far the scores of the whole run lie from exact ones."""
    text = f"end to end, {ends.positions} positions: mean KL {ends.kl[0]:.3g}"
    if ends.kl_limit is not None and ends.z is not None and ends.z_limit is not None:
        text += f" (limit {ends.kl_limit:.3g}), scores {ends.z:.2f} sigmas out (limit {ends.z_limit})"
    text += f", {ends.flips} best tokens changed"
    return _bullet(f"{text}, {ends.illegal} of them against the margin" if ends.illegal is not None else text)


def _reference(outcome: Outcome, run: Run) -> list[str]:
    reference = outcome.reference
    if reference is None or reference.verdict in (Verdict.WITHIN, Verdict.KNOWN):
        return []
    name = run.reference.spec
    if reference.verdict is Verdict.UNJUDGED:
        step = next((s.note for s in reference.steps if s.note), "")
        lines = [f"REFERENCE UNJUDGED {outcome.case}"] if outcome.verdict is Verdict.WITHIN else []
        return [*lines, *_bullet(f"reference {name}: {reference.note or step}")]
    if [s.verdict for s in reference.steps] == [s.verdict for s in outcome.target.steps]:
        return _bullet(f"the reference {name} departs too, at the same step: {reference.verdict.value}")
    lines = [f"REFERENCE {reference.verdict.value.upper().replace('_', ' ')} {outcome.case}"]
    lines += _steps(reference)
    return [*lines, *_bullet(f"{name} is itself judged by the oracle: the reference is wrong here")]


def _steps(judgement: CaseJudgement, causes: Sequence[Cause] = ()) -> list[str]:
    """Return the steps that are not within, the first few in full: on a broken chip every one departs."""
    lines: list[str] = []
    departing = [step for step in judgement.steps if step.verdict is not Verdict.WITHIN]
    for step in departing[:MAX_STEPS]:
        lines.append(f"  | step  {step.name}   {step.op}   {step.verdict.value}")
        for output in step.outputs:
            if output.verdict is not Verdict.WITHIN:
                lines += _output(output)
        if step.note:
            lines += _bullet(step.note)
        likely = next((cause for cause in causes if cause.step == step.name), None)
        if likely is not None:
            lines += _bullet(f"likely cause: {likely.text}")
    if len(departing) > MAX_STEPS:
        names = ", ".join(step.name for step in departing[MAX_STEPS : 2 * MAX_STEPS])
        more = ", …" if len(departing) > 2 * MAX_STEPS else ""
        lines += _bullet(f"{len(departing) - MAX_STEPS} more steps depart: {names}{more}")
    others = len(judgement.steps) - len(departing)
    if others and lines:
        lines += _bullet(f"the other {others} step{'s are' if others > 1 else ' is'} within")
    return lines


def _output(output: OutputJudgement) -> list[str]:
    lines = [f"  | output {output.name}   {output.dtype}{list(output.shape)}"]
    rows = [
        ("worst |e|/B", output.worst, 1.0),
        ("rms e/sigma", output.rms, output.rms_limit),
        ("flips", output.flips, output.flips_limit),
    ]
    rows = [row for row in rows if row[1] is not None]
    if rows:
        lines.append(f"  | {'':<14} {'measured':>12} {'limit':>10}")
    lines += [f"  | {name:<14} {_number(value):>12} {_number(limit):>10}" for name, value, limit in rows]
    if output.worst_index is not None:
        at = f"  | worst {list(output.worst_index)}"
        if output.oracle is not None and output.got is not None:
            at += f"   oracle {output.oracle:.9g}   got {output.got:.9g}"
        lines.append(at)
    return lines


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _bullet(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent="  = ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _one_line(outcome: Outcome) -> str:
    verdict = outcome.verdict
    judgement: CaseJudgement = outcome.target
    prefix = ""
    if not (verdict.departs or verdict is Verdict.UNJUDGED) and outcome.reference:
        verdict, judgement, prefix = outcome.reference.verdict, outcome.reference, "REFERENCE "
    step: StepJudgement | None = next((s for s in judgement.steps if s.verdict is not Verdict.WITHIN), None)
    what = f" {step.name}" if step else ""
    why = (step.note if step else "") or judgement.note
    for output in step.outputs if step else ():
        if output.worst is not None and output.worst > 1:
            why = f"worst {output.worst:.4g} > 1"
    where = f"{outcome.source}: " if outcome.source else ""
    return f"{where}{prefix}{verdict.value.upper()} {outcome.case}{what}: {why}"


def _footer(run: Run, *, next_command: str, json_path: str) -> list[str]:
    parts = [f"{n:,} {v.value.replace('_', ' ')}" for v, n in run.counts().items()]
    total = f"{len(run.outcomes):,} cases, {run.seconds:.1f} s"
    lines = textwrap.wrap(", ".join([*parts, total]), WIDTH)
    wrong = [f"{n:,} {v.value.replace('_', ' ')}" for v, n in run.reference_counts().items()]
    if wrong:
        lines += [f"reference {run.reference.spec}: {', '.join(wrong)}"]
    if run.deviations:
        lines.append(
            f"{run.deviations} deviation{'s' if run.deviations > 1 else ''} declared for {run.target.spec}"
        )
    if run.left_out:
        lines.append(f"{run.left_out:,} selected cases were left out by --time-box: nothing is known of them")
    if run.interrupted:
        lines.append("interrupted: only the cases above were judged")
    lines += reasons.lines(run.outcomes)
    lines += textwrap.wrap(_witness(run), WIDTH, subsequent_indent=" " * 8)
    lines.append(f"json    {json_path}")
    return [*lines, f"next    {next_command}"]


def _witness(run: Run) -> str:
    seen = run.target.witness
    ran = ", ".join(f"{p} {n:,}" for p, n in seen.precisions.items())
    text = f"witness {seen.executed:,} nodes ran on the target in {seen.steps:,} steps ({ran or 'none'})"
    if seen.host:
        text += f", {seen.host:,} elsewhere"
    return text if not seen.borrowed else f"{text}, {seen.borrowed:,} borrowed from the host library"
