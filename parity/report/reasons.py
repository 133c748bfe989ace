"""Why samples of torch's own ops were not judged, counted: a sweep has thousands, cases hide how many.

Does not print: it returns lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from parity.case.opinfo import is_opinfo
from parity.judge.verdict import Outcome, StepJudgement, Verdict

__all__ = ["lines", "reason"]

_SHOWN = 12


def lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield how many samples were judged, and the commonest reasons for the rest; of none, nothing."""
    steps = [step for o in outcomes if is_opinfo(o.case.path) for step in o.target.steps]
    if not steps:
        return
    reasons = Counter(reason(step) for step in steps if step.verdict is Verdict.UNJUDGED)
    judged = len(steps) - reasons.total()
    yield f"samples {judged:,} of {len(steps):,} judged, {100 * judged / len(steps):.1f} %"
    for text, count in reasons.most_common(_SHOWN):
        yield f"        {count:>6,}  {text[:64]}"
    if len(reasons) > _SHOWN:
        rest = reasons.total() - sum(count for _, count in reasons.most_common(_SHOWN))
        yield f"        {rest:>6,}  for {len(reasons) - _SHOWN} more reasons, in the JSON report"


def reason(step: StepJudgement) -> str:
    """Return why a step was not judged, once where several outputs have the same."""
    note = step.note or next((o.note for o in step.outputs if o.note), "")
    return note.partition(";")[0]
