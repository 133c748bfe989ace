"""From a case that departs to the reproduction of one step: choose it, ask again, shrink, write.

What could not be done, such as shrinking for a target that is only a folder, is said in the result and
in the file. Does not print.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parity.case.tensor import HostTensor
from parity.errors import GoldenError, UsageError, near_miss
from parity.judge.verdict import Cause, StepJudgement, Verdict
from parity.localize.cause import CauseKind
from parity.localize.diagnose import diagnose
from parity.localize.evidence import reproduction
from parity.localize.look import Looked
from parity.localize.repro import Written, write
from parity.localize.shrink import shrink
from parity.localize.synthetic import variants
from parity.localize.trial import Ran, Trial, Trials
from parity.store.recording import StepRecord

__all__ = ["Nothing", "Reproduced", "reproduce"]

_SHOWN = (Verdict.CRASHED, Verdict.TIMED_OUT, Verdict.EXCEEDS, Verdict.UNSTABLE, Verdict.UNSUPPORTED)
_AT_ONCE = 8  # synthetic inputs that are tried in one file


class Nothing(GoldenError):
    """There is nothing to reproduce, or no inputs of ours show it; the text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduced:
    """What was written, of which step, and in sentences what was and was not done."""

    written: Written
    step: str
    op: str
    verdict: Verdict
    inputs: str
    said: tuple[str, ...]


def reproduce(
    looked: Looked,
    *,
    step: str | None,
    trials: Trials | None,
    folder: Path,
    synthetic: bool = False,
    timeout_s: float = 60.0,
) -> Reproduced:
    """Write the reproduction of a step, by default the first that departs, into `folder`.

    `trials` ask the target again, None where it is only a recording. Raises Nothing, GoldenError when
    what the step consumed is not at hand, and UsageError for a step that the case does not have.
    """
    judged = _chosen(looked, step)
    record, consumed, recorded = _found(looked, judged)
    trial = Trial.of(record, consumed)
    as_recorded = Ran(
        trial=trial,
        record=record,
        outputs=recorded,
        judgement=judged,
        environment=looked.target.environment,
    )
    if trials is None:
        if synthetic:
            raise Nothing(
                f"no inputs of our own were looked for: the target of {looked.case.id} is a folder, and "
                "they must be tried on the device. Name the backend as --target"
            )
        ran, causes = as_recorded, _causes(as_recorded)
        said = ["The target was a folder of recordings: shapes are as recorded, nothing was run again."]
    else:
        ran, causes, said = _again(as_recorded, trials, synthetic=synthetic)
    found = reproduction(looked, ran, causes, said, timeout_s=timeout_s)
    return Reproduced(
        written=write(found, folder),
        step=record.name,
        op=record.op,
        verdict=found.verdict,
        inputs=ran.trial.shapes(),
        said=(*said, *(f"Likely cause: {cause.text}." for cause in causes[:1])),
    )


def _chosen(looked: Looked, step: str | None) -> StepJudgement:
    """Return the step that is asked for, or the first that departs and can be shown."""
    steps = {judged.name: judged for judged in looked.judgement.steps}
    if step is None:
        departing = [j for j in steps.values() if j.verdict.departs and not j.note.startswith("not reached")]
        if not departing:
            raise Nothing(f"no step of {looked.case.id} departs on {looked.target.environment.backend}")
        chosen = next((j for j in departing if j.verdict in _SHOWN), departing[0])
    elif step in steps:
        chosen = steps[step]
    else:
        raise UsageError(f"{looked.case.id} has no step '{step}'{near_miss(step, steps)}")
    if not chosen.verdict.departs:
        raise Nothing(f"step '{chosen.name}' of {looked.case.id} is {chosen.verdict.value}: nothing to show")
    if chosen.verdict not in _SHOWN:
        raise Nothing(
            f"step '{chosen.name}' {chosen.verdict.value.replace('_', ' ')}: {chosen.note}. That is what the "
            "backend says of itself, and no numbers can show it"
        )
    return chosen


def _found(
    looked: Looked, judged: StepJudgement
) -> tuple[StepRecord, tuple[HostTensor | None, ...], tuple[HostTensor, ...]]:
    """Return a step, what it consumed and what it gave; of one that left nothing, as on the reference."""
    record = looked.target.step(judged.name)
    recorded: tuple[HostTensor, ...] = ()
    sources = looked.sources
    if record is not None and not isinstance(made := sources.produced(record), str):
        recorded = made
    lacks = record is None or not record.inputs or isinstance(sources.consumed(record), str)
    if lacks and looked.reference is not None:
        sources = dataclasses.replace(sources, recording=looked.reference)
        record = looked.reference.step(judged.name)
    if record is None or (not record.inputs and record.failure is not None):
        raise GoldenError(
            f"nothing is known of what step '{judged.name}' consumed, since its process ended: "
            "name a reference that has it, such as --ref cpu"
        )
    consumed = sources.consumed(record)
    if isinstance(consumed, str):
        raise GoldenError(f"step '{judged.name}' cannot be reproduced: {consumed}")
    return dataclasses.replace(record, failure=None, repeats=()), consumed, recorded


def _again(as_recorded: Ran, trials: Trials, *, synthetic: bool) -> tuple[Ran, tuple[Cause, ...], list[str]]:
    """Ask the target for the step alone, then for ever smaller ones while it departs."""
    judged = as_recorded.judgement
    (ran,) = trials.run([as_recorded.trial])
    if ran.judgement.verdict is judged.verdict:
        # Before anything is cut away: of a single element many formulas are right.
        causes = _causes(ran)
        ran, said = _made_small(ran, causes, trials, synthetic=synthetic)
        return ran, causes, said
    words = (
        f"Run alone on the same inputs step '{judged.name}' is {ran.judgement.verdict.value}: it departs "
        "only inside its run"
    )
    if synthetic:
        raise Nothing(f"{words}, so no inputs of our own were looked for")
    return as_recorded, _causes(as_recorded), [f"{words}, and what was recorded there is shown."]


def _made_small(
    ran: Ran, causes: Sequence[Cause], trials: Trials, *, synthetic: bool
) -> tuple[Ran, list[str]]:
    said = []
    if synthetic:
        ran, words = _of_our_own(ran, causes, trials)
        said.append(words)
    if ran.judgement.verdict is Verdict.TIMED_OUT:
        return ran, [*said, "Not shrunk: each try would wait for the time limit."]
    found = shrink(ran, trials)
    if found.ran.trial.numel == ran.trial.numel:
        op = ran.trial.record.op
        words = f"Not shrunk: {found.trials} cuts were tried, and on none of them does it depart."
        return found.ran, [*said, words if found.trials else f"Not shrunk: nobody knows how to cut {op}."]
    return found.ran, [*said, f"Shrunk from {ran.trial.shapes()} by {found.trials} tries."]


def _of_our_own(ran: Ran, causes: Sequence[Cause], trials: Trials) -> tuple[Ran, str]:
    """Return the step on inputs of our own with the same verdict and likely cause."""
    wanted = _kind(causes)
    tried = 0
    others: set[str] = set()
    pending = variants(ran.trial)
    while batch := list(itertools.islice(pending, _AT_ONCE)):
        tried += len(batch)
        for (words, _), found in zip(batch, trials.run([trial for _, trial in batch]), strict=True):
            if found.judgement.verdict is not ran.judgement.verdict:
                continue
            kind = _kind(_causes(found))
            if kind == wanted:
                return (
                    found,
                    f"Inputs are of our own making: {words}; no weight and no prompt is in this file.",
                )
            others.add(kind)
    also = f"; on some of them it departs, but looks like {', '.join(sorted(others))}" if others else ""
    raise Nothing(
        f"no inputs of our own show step '{ran.trial.record.name}' with the same likely cause ({wanted}): "
        f"{tried} were tried{also}. Without --synthetic the recorded ones are written"
    )


def _kind(causes: Sequence[Cause]) -> str:
    return causes[0].kind if causes else CauseKind.UNKNOWN.value


def _causes(ran: Ran) -> tuple[Cause, ...]:
    if not ran.outputs or ran.judgement.verdict is not Verdict.EXCEEDS:
        return ()
    try:
        return diagnose(ran.trial.record, ran.trial.consumed, ran.outputs, ran.environment.profile)
    except Exception:  # noqa: BLE001  # a guess that fails must not cost the reproduction
        return ()
