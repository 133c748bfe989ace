"""The story of a check, in the order in which it happens: choose cases, record, judge, report.

Does not print; `cli` does.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import parity
from parity.case.case import Case
from parity.case.inputs import generate
from parity.case.tensor import HostTensor
from parity.errors import GoldenError, ParityError, UsageError
from parity.judge import deviations as declared
from parity.judge.apart import apart
from parity.judge.deviations import Deviation
from parity.judge.end_to_end import judge_scores, scores_in
from parity.judge.judge import judge
from parity.judge.traced import Weights
from parity.judge.verdict import Apart, CaseJudgement, Cause, EndToEnd, Outcome, Verdict, worst
from parity.localize.localize import localize
from parity.report.view import Run, SideView, WitnessSummary
from parity.run.judges import Judges
from parity.run.side import Result, Side, paired
from parity.run.subject import ends_of, steps_of, weights_of
from parity.store.recording import Recording

__all__ = ["DIAGNOSED", "Progress", "check", "most_informative_first"]

DIAGNOSED = 20  # departing cases of a run whose causes are sought: as many as the report shows in full

Progress = Callable[[Outcome], None]


def check(
    cases: Sequence[Case],
    *,
    reference: Side | None,
    target: Side,
    deviations: Mapping[str, Sequence[Deviation]] = MappingProxyType({}),
    jobs: int = 1,
    time_box_s: float | None = None,
    on_outcome: Progress = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Run:
    """Judge each case on both sides and return the run; Ctrl-C ends it with what was judged so far.

    `reference` is None for the oracle alone; `deviations` are those declared of each family; `jobs` is
    how many processes may judge. `stopped` is asked after each case: an interrupt can be lost inside a
    library's callback. Raises BackendError when a side cannot be used here.
    """
    tally = _Tally(
        reference=_view(reference, cases),
        target=_view(target, cases),
        cases=len(cases),
        on_outcome=on_outcome,
    )
    started = time.monotonic()
    ordered = most_informative_first(cases) if time_box_s is not None else list(cases)
    judge_one = functools.partial(_judge, deviations=dict(deviations))
    try:
        with (
            closing(paired(ordered, reference, target)) as results,  # type: ignore[type-var]  # a generator
            Judges[_Pair, Outcome](judge_one, processes=jobs - 1) as judges,
        ):
            for theirs, ours in results:
                pair = _Pair(theirs=theirs, ours=ours, diagnose=tally.diagnosed < DIAGNOSED)
                for answered, outcome in judges.give(pair, left=tally.left):
                    tally.add(answered, outcome)
                if stopped():
                    tally.interrupted = True
                    break
                if time_box_s is not None and time.monotonic() - started > time_box_s:
                    break
            if not tally.interrupted:
                for answered, outcome in judges.rest():
                    tally.add(answered, outcome)
    except KeyboardInterrupt:
        tally.interrupted = True
    order = {case.id: position for position, case in enumerate(cases)}
    done = sorted(tally.outcomes, key=lambda outcome: order[outcome.case])
    return Run(
        version=parity.__version__,
        reference=tally.reference,
        target=tally.target,
        outcomes=tuple(done),
        deviations=len(deviations.get(target.spec().family, ())),
        left_out=0 if tally.interrupted else len(cases) - len(done),
        interrupted=tally.interrupted,
        seconds=time.monotonic() - started,
        framework_s=tally.framework_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """What both sides gave for one case, and whether causes are sought if it departs."""

    theirs: Result | None
    ours: Result
    diagnose: bool


@dataclass(slots=True, kw_only=True)
class _Tally:
    reference: SideView
    target: SideView
    cases: int
    on_outcome: Progress
    outcomes: list[Outcome] = field(default_factory=list)
    interrupted: bool = False
    framework_s: float = 0.0
    diagnosed: int = 0

    @property
    def left(self) -> int:
        return self.cases - len(self.outcomes)

    def add(self, pair: _Pair, outcome: Outcome) -> None:
        """Count one outcome, and see what its recordings say of the sides."""
        self.target = _seen(self.target, pair.ours.recording)
        if pair.theirs is not None:
            self.reference = _seen(self.reference, pair.theirs.recording)
        steps_s = sum(s.seconds or 0.0 for s in outcome.target.steps)
        self.framework_s += max(pair.ours.seconds - steps_s, 0.0)
        self.diagnosed += bool(outcome.causes)
        self.outcomes.append(outcome)
        self.on_outcome(outcome)


def _judge(pair: _Pair, *, deviations: Mapping[str, Sequence[Deviation]]) -> Outcome:
    started = time.perf_counter()
    theirs, ours = pair.theirs, pair.ours
    case = ours.case
    given = _given(case)
    target = alone = _side(case, ours, given)
    ends = None if isinstance(given, ParityError) else _ends(case, ours, target)
    lacking = _lacking(case, theirs, ours)
    if lacking and not target.verdict.departs:
        note = f"the reference has step '{lacking}', which was not recorded here: nothing is known of it"
        target = replace(target, verdict=worst([target.verdict, Verdict.UNJUDGED]), note=target.note or note)
    if ends is not None and ends.verdict.departs:
        note = target.note
        if not target.verdict.departs:
            note = f"end to end {ends.note}, though no step alone departs: the error lies between steps"
        target = replace(target, verdict=worst([target.verdict, ends.verdict]), note=note)
    verdict, entry = _declared(case, target, ours.recording, deviations)
    reference = None
    if theirs is not None:
        # On one machine both sides often are the same to the bit, and so is what is said of them.
        judged = alone if _are_same(theirs.recording, ours.recording) else _side(case, theirs, given)
        reference = _known_of(case, theirs, judged, deviations)
    causes = _causes(case, target, ours, given) if verdict.departs and pair.diagnose else ()
    return Outcome(
        case=case.id,
        source=case.source,
        verdict=verdict,
        target=target,
        reference=reference,
        seconds=ours.seconds + time.perf_counter() - started,
        deviation=entry.reason if entry else "",
        apart=_apart(theirs, ours),
        causes=causes,
        ends=ends,
    )


def _ends(case: Case, result: Result, judgement: CaseJudgement) -> EndToEnd | None:
    """Judge the scores of an engine case; None where it has none, or where its steps gave nothing."""
    if case.subject is None or result.recording is None or judgement.verdict.rank < Verdict.EXCEEDS.rank:
        return None
    scores = scores_in(result.recording)
    ends = ends_of(case) if scores is not None else None
    if ends is None or scores is None:
        return None
    return judge_scores(scores, oracle=ends.oracle, samples=ends.samples, followed=ends.followed)


def _apart(theirs: Result | None, ours: Result) -> tuple[Apart, ...]:
    if theirs is None or theirs.recording is None or ours.recording is None:
        return ()
    return apart(theirs.recording, ours.recording)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """What a case gives to whoever runs or judges it, made on this host."""

    inputs: Mapping[str, HostTensor]
    weights: Weights
    steps: tuple[str, ...] | None


def _given(case: Case) -> _Given | ParityError:
    # What this host lacks, such as a checkpoint or a package, is never blamed on a device.
    try:
        return _Given(inputs=generate(case), weights=weights_of(case), steps=steps_of(case))
    except (GoldenError, UsageError) as error:
        return error


def _side(case: Case, result: Result, given: _Given | ParityError) -> CaseJudgement:
    if result.recording is None:
        return CaseJudgement(verdict=Verdict.UNJUDGED, note=result.reason)
    if isinstance(given, ParityError):
        return CaseJudgement(verdict=Verdict.UNJUDGED, note=str(given))
    return judge(case, result.recording, inputs=given.inputs, weights=given.weights, steps=given.steps)


def _causes(
    case: Case, judgement: CaseJudgement, result: Result, given: _Given | ParityError
) -> tuple[Cause, ...]:
    if result.recording is None or isinstance(given, ParityError):
        return ()
    return localize(case, judgement, result.recording, inputs=given.inputs, weights=given.weights)


def _lacking(case: Case, theirs: Result | None, ours: Result) -> str:
    """Return the first step of a subject that only the reference has: another device may not leave it out."""
    if case.subject is None or theirs is None or theirs.recording is None or ours.recording is None:
        return ""
    there = {step.name for step in ours.recording.steps}
    return next((step.name for step in theirs.recording.steps if step.name not in there), "")


def _are_same(theirs: Recording | None, ours: Recording | None) -> bool:
    """Whether two recordings differ in nothing that a judgement of steps looks at."""
    if theirs is None or ours is None or len(theirs.steps) != len(ours.steps):
        return False
    if theirs.environment.profile != ours.environment.profile or theirs.tensors.keys() != ours.tensors.keys():
        return False
    ends = [(r.case, r.revision, r.results, r.unobserved) for r in (theirs, ours)]
    pairs = zip(theirs.steps, ours.steps, strict=True)
    return ends[0] == ends[1] and all(replace(a, seconds=None) == replace(b, seconds=None) for a, b in pairs)


def _known_of(
    case: Case, result: Result, judgement: CaseJudgement, deviations: Mapping[str, Sequence[Deviation]]
) -> CaseJudgement:
    """Return a reference's judgement; what is declared of it is known. Stale is said of targets."""
    verdict, entry = _declared(case, judgement, result.recording, deviations)
    if entry is None or verdict is not Verdict.KNOWN:
        return judgement
    return replace(judgement, verdict=verdict, note=f"declared: {entry.reason}")


def _declared(
    case: Case,
    judgement: CaseJudgement,
    recording: Recording | None,
    deviations: Mapping[str, Sequence[Deviation]],
) -> tuple[Verdict, Deviation | None]:
    if recording is None:
        return judgement.verdict, None
    return declared.apply_to_run(deviations, case.id, judgement.verdict, recording.environment)


def _view(side: Side | None, cases: Sequence[Case]) -> SideView:
    if side is None:
        return SideView(spec="oracle", origin="float64, no recording needed")
    setting = side.live.setting.value if side.live else side.store.kind.setting if side.store else ""
    return SideView(spec=side.name, origin=side.describe(cases), setting=setting)


def _seen(view: SideView, recording: Recording | None) -> SideView:
    """Return a view that knows the environment and the witnesses of one more recording."""
    if recording is None:
        return view
    witness: WitnessSummary = view.witness
    for step in recording.steps:
        if step.witness is not None:
            witness = witness.plus(step.witness)
    if view.environment:
        return replace(view, witness=witness)
    environment = recording.environment
    return replace(
        view,
        setting=environment.setting,
        environment=dict(environment.provenance),
        profile=environment.profile.to_json(),
        witness=witness,
    )


def most_informative_first(cases: Sequence[Case]) -> list[Case]:
    """Order cases so that every family comes early: the first case of each, then the second, …"""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.id.path, []).append(case)
    ranks = itertools.zip_longest(*groups.values())
    return [case for rank in ranks for case in rank if case is not None]
