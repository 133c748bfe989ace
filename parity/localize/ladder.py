"""The steps of a case in order, both sides beside each other: who made an error, who carried it.

Steps are matched by name. One that only one side has, or that is another op there, is a rung that
says so and is never within. Does not run anything: `replay` does, and `judge` has judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from parity.case.ids import CaseId
from parity.case.tensor import HostTensor
from parity.judge.deviations import Deviation
from parity.judge.end_to_end_cache import Caches, compare_caches
from parity.judge.measure import difference
from parity.judge.oracle import to_float64
from parity.judge.verdict import CaseJudgement, StepJudgement, Verdict, worst
from parity.localize.alignment import Pair, between_steps, pairs
from parity.localize.declared import Declared, declared_of
from parity.localize.replay import Replay
from parity.store.recording import Recording, StepRecord, TensorRef

__all__ = ["Isolated", "Ladder", "Rung", "ladder", "relative_l2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolated:
    """Error that a step made by itself on known inputs, the largest over its outputs.

    `worst` is max |e| / B, `rms` that of e / sigma; None where the result must be exact. `relative_l2`
    is the distance from the reference's result of the same inputs, None where there is none.
    """

    verdict: Verdict
    worst: float | None = None
    rms: float | None = None
    flips: int | None = None
    relative_l2: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One step. `free` is the relative l2 distance of what the sides gave, `inherited` of what they consumed.

    `introduced` is the target's error on its own inputs, `replayed` on the reference's. `same` says that
    the target gave the reference's bits, replayed if it was, else in the free run; `glue` that inputs
    differ whose makers agree to the bit.
    """

    step: str
    op: str
    verdict: Verdict
    same: bool = False
    glue: bool = False
    free: float | None = None
    inherited: float | None = None
    introduced: Isolated | None = None
    replayed: Isolated | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.verdict is Verdict.WITHIN and self.introduced is None and self.replayed is None:
            raise ValueError(f"step '{self.step}' cannot be within: nobody judged it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """All rungs in order. `verdict` is the worst of them and of the case; `caches` says how far the keys and
    values that both sides stored lie apart, None without a reference or where nothing was stored."""

    case: CaseId
    verdict: Verdict
    rungs: tuple[Rung, ...]
    has_reference: bool
    has_replay: bool
    notes: tuple[str, ...] = ()
    caches: Caches | None = None

    @property
    def exit_code(self) -> int:
        """1 when something departs, else 3 when something is not judged, else 0."""
        if self.verdict.departs:
            return 1
        return 3 if self.verdict is Verdict.UNJUDGED else 0

    def departing(self) -> tuple[Rung, ...]:
        """Return the rungs that are worse than unjudged, in order."""
        return tuple(rung for rung in self.rungs if rung.verdict.departs)


def ladder(
    case: CaseId,
    *,
    reference: Recording | None,
    target: Recording,
    judgement: CaseJudgement,
    replayed: Replay | None = None,
    theirs: CaseJudgement | None = None,
    notes: Sequence[str] = (),
    deviations: Mapping[str, Sequence[Deviation]] = MappingProxyType({}),
) -> Ladder:
    """Return the ladder of two recordings of one case; `judgement` is that of the target.

    `reference` is None where there is only the oracle; then only introduced errors are known. `theirs` is
    the reference's own judgement, so that a reference that is wrong is named; `notes` are of the whole.
    `deviations` are those declared of each family: where they speak of the case, its steps that depart as
    was declared are `known`, and a case that no longer departs is `stale`.
    """
    declared = declared_of(
        case, deviations, target=target, judgement=judgement, reference=reference, theirs=theirs
    )
    judged = {step.name: step for step in judgement.steps}
    matched = pairs(reference, target, [step.name for step in judgement.steps])
    glued = between_steps(matched) if reference is not None else frozenset()
    context = _Context(
        reference=reference,
        target=target,
        judged=judged,
        replayed=replayed,
        glued=glued,
        theirs={step.name: step for step in theirs.steps} if theirs else {},
        declared=declared,
    )
    rungs = tuple(context.rung(pair) for pair in matched)
    said = [*notes, judgement.note] if judgement.note else list(notes)
    said += [declared.stale] if declared.stale else []
    if reference is not None and reference.environment.setting != target.environment.setting:
        settings = reference.environment.setting, target.environment.setting
        said.append("the reference is {}, the target {}".format(*settings))
    caches = None if reference is None else compare_caches(reference, target)
    return Ladder(
        case=case,
        verdict=worst([declared.verdict, *(rung.verdict for rung in rungs)]),
        rungs=rungs,
        has_reference=reference is not None,
        has_replay=replayed is not None,
        notes=tuple(said),
        caches=caches if caches and (caches.layers or caches.unmatched) else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    reference: Recording | None
    target: Recording
    judged: Mapping[str, StepJudgement]
    replayed: Replay | None
    glued: frozenset[str]
    theirs: Mapping[str, StepJudgement]
    declared: Declared

    def rung(self, pair: Pair) -> Rung:
        verdicts, notes = [], self._notes(pair)
        introduced = self._introduced(pair)
        verdicts.append(introduced.verdict if introduced else Verdict.UNJUDGED)
        replayed = self._replayed(pair)
        if replayed is not None:
            verdicts.append(replayed.verdict)
        if self.reference is not None and not pair.matches:
            verdicts.append(Verdict.UNJUDGED)
        is_compared = pair.reference is not None and pair.target is not None
        own = self.judged.get(pair.name)
        if own is not None and self.declared.reason(own):
            verdicts = [Verdict.KNOWN if verdict is own.verdict else verdict for verdict in verdicts]
        return Rung(
            step=pair.name,
            op=pair.op,
            verdict=worst(verdicts),
            same=pair.is_same if replayed is None else self._replays_same(pair),
            glue=pair.name in self.glued,
            free=self._outputs_apart(pair) if is_compared else None,
            inherited=self._inputs_apart(pair) if is_compared else None,
            introduced=introduced,
            replayed=replayed,
            notes=notes,
        )

    def _introduced(self, pair: Pair) -> Isolated | None:
        judged = self.judged.get(pair.name)
        return _isolated(judged, None) if judged is not None else None

    def _replayed(self, pair: Pair) -> Isolated | None:
        """Return how the step did on the reference's inputs, None where it was not replayed."""
        if self.replayed is None or pair.name in self.replayed.skipped:
            return None
        judged = self.replayed.judged.get(pair.name)
        again = self.replayed.recording.step(pair.name)
        if judged is None or again is None or pair.reference is None or self.reference is None:
            return None
        distance = _apart(pair.reference.outputs, self.reference, again.outputs, self.replayed.recording)
        return _isolated(judged, distance)

    def _replays_same(self, pair: Pair) -> bool:
        assert self.replayed is not None
        again = self.replayed.recording.step(pair.name)
        return Pair(name=pair.name, reference=pair.reference, target=again).is_same

    def _outputs_apart(self, pair: Pair) -> float | None:
        assert pair.reference is not None and pair.target is not None and self.reference is not None
        return _apart(pair.reference.outputs, self.reference, pair.target.outputs, self.target)

    def _inputs_apart(self, pair: Pair) -> float | None:
        assert pair.reference is not None and pair.target is not None and self.reference is not None
        if [ref and ref.digest for ref in pair.reference.inputs] == [
            ref and ref.digest for ref in pair.target.inputs
        ]:
            return 0.0
        present = [
            (r, t)
            for r, t in zip(pair.reference.inputs, pair.target.inputs, strict=False)
            if r is not None and t is not None
        ]
        return _apart(tuple(r for r, _ in present), self.reference, tuple(t for _, t in present), self.target)

    def _notes(self, pair: Pair) -> tuple[str, ...]:
        notes = list(pair.differences()) if self.reference is not None else []
        judged = self.judged.get(pair.name)
        reason = self.declared.reason(judged)
        if reason:
            notes.append(f"declared: {reason}")
        elif pair.target is not None and judged and judged.verdict is not Verdict.WITHIN and judged.note:
            notes.append(judged.note)
        if pair.name in self.glued:
            notes.append(
                "its inputs differ, but the steps that made them agree to the bit: "
                "what happens between those steps and this one does not"
            )
        notes += self._said_of_replay(pair.name, notes)
        other = self.theirs.get(pair.name)
        if other is not None and other.verdict.departs and not other.note.startswith("not reached"):
            reason = self.declared.reason_there(other)
            said = f"as declared: {reason}" if reason else other.note
            notes.append(f"the reference itself departs from the oracle here: {said}")
        if pair.reference is not None and self.reference is not None:
            notes += _nan_in(pair.reference, self.reference)
        return tuple(notes)

    def _said_of_replay(self, name: str, notes: Sequence[str]) -> list[str]:
        if self.replayed is None:
            return []
        if name in self.replayed.skipped:
            return [f"not replayed: {self.replayed.skipped[name]}"]
        again = self.replayed.judged.get(name)
        if again is None or again.verdict is Verdict.WITHIN or not again.note or again.note in notes:
            return []
        return [f"replayed: {again.note}"]


def _isolated(judged: StepJudgement, distance: float | None) -> Isolated:
    def largest(values: Sequence[float | None]) -> float | None:
        # NaN is the worst value of all and must not lose against a number.
        present = [v for v in values if v is not None]
        return max(present, key=lambda v: (math.isnan(v), v), default=None)

    flips = [o.flips for o in judged.outputs if o.flips is not None]
    return Isolated(
        verdict=judged.verdict,
        worst=largest([o.worst for o in judged.outputs]),
        rms=largest([o.rms for o in judged.outputs]),
        flips=max(flips, default=None),
        relative_l2=distance,
    )


def _apart(
    theirs: Sequence[TensorRef], reference: Recording, ours: Sequence[TensorRef], target: Recording
) -> float | None:
    """Return the largest relative l2 distance of tensors in pairs; None where none can be compared."""
    found: list[float] = []
    for r, t in zip(theirs, ours, strict=False):
        if r.digest == t.digest:
            found.append(0.0)
            continue
        pair = reference.tensors.get(r.digest), target.tensors.get(t.digest)
        if pair[0] is not None and pair[1] is not None and pair[0].shape == pair[1].shape:
            found.append(relative_l2(pair[0], pair[1]))
    return max(found, default=None)


def relative_l2(reference: HostTensor, target: HostTensor) -> float:
    """Return |target - reference| / |reference| over elements that are finite in both, of one shape."""
    left, right = (to_float64(t).double() for t in (reference, target))
    return difference(left, right).relative_l2


def _nan_in(record: StepRecord, reference: Recording) -> list[str]:
    notes = []
    for ref in record.outputs:
        tensor = reference.tensors.get(ref.digest)
        if tensor is None or not tensor.dtype.is_float:
            continue
        count = int(to_float64(tensor).isnan().sum())
        if count:
            notes.append(f"the reference itself gave NaN in {count:,} of {tensor.numel:,} of '{ref.name}'")
    return notes
