"""Match the steps of two recordings by name, and find where they differ between steps.

Names say where in a model a step stands (`L03.attend`, `layers.0.mlp/silu`), so a side that computes
something in more steps still matches elsewhere. Does not look at values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from parity.store.recording import Recording, StepRecord, TensorRef

__all__ = ["Pair", "between_steps", "pairs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A step name with what each side recorded of it, None on a side that has no such step."""

    name: str
    reference: StepRecord | None
    target: StepRecord | None

    @property
    def op(self) -> str:
        """The op on the target, else on the reference; `?` where only a verdict is known."""
        record = self.target or self.reference
        return record.op if record else "?"

    @property
    def matches(self) -> bool:
        """Whether both sides computed the same op with the same attributes."""
        theirs, ours = self.reference, self.target
        return (
            theirs is not None
            and ours is not None
            and (theirs.op, dict(theirs.attrs), len(theirs.inputs))
            == (ours.op, dict(ours.attrs), len(ours.inputs))
        )

    @property
    def is_same(self) -> bool:
        """Whether both sides gave the same bits."""
        theirs, ours = self.reference, self.target
        if theirs is None or ours is None or theirs.failure or ours.failure or not ours.outputs:
            return False
        return [ref.digest for ref in theirs.outputs] == [ref.digest for ref in ours.outputs]

    def differences(self) -> Iterator[str]:
        """Yield in words why the two cannot be compared, or not wholly."""
        theirs, ours = self.reference, self.target
        if theirs is None:
            yield "the reference has no such step: judged on its own inputs only, compared with nothing"
            return
        if ours is None:
            yield "the target has no such step: it was not judged"
            return
        if theirs.op != ours.op:
            yield f"is {theirs.op} on the reference and {ours.op} on the target: not compared as one step"
        elif dict(theirs.attrs) != dict(ours.attrs):
            names = sorted(
                n for n in {*theirs.attrs, *ours.attrs} if theirs.attrs.get(n) != ours.attrs.get(n)
            )
            words = ", ".join(f"{n} {theirs.attrs.get(n)!r} and {ours.attrs.get(n)!r}" for n in names)
            yield f"has other attributes on the reference and on the target: {words}"
        if theirs.failure is not None:
            yield f"the reference has no result: {theirs.failure.kind.value}: {theirs.failure.text}"
        for r, t in zip(theirs.inputs, ours.inputs, strict=False):
            if r is not None and t is not None and t.role == "weight" and r.digest != t.digest:
                digests = f"{r.digest[7:19]}, not {t.digest[7:19]}"
                yield f"weight '{t.name}' is another one on the reference: {digests}"


def pairs(reference: Recording | None, target: Recording, judged: Sequence[str]) -> tuple[Pair, ...]:
    """Return the steps of both sides in the order of the target.

    A step that only the reference has stands behind the one that it follows there. `judged` are the
    names that a judgement has, in order, such as those of steps that were never recorded.
    """
    theirs = {step.name: step for step in reference.steps} if reference is not None else {}
    ours = {step.name: step for step in target.steps}
    order = _merged(_merged(list(ours), list(theirs)), judged)
    return tuple(Pair(name=n, reference=theirs.get(n), target=ours.get(n)) for n in order)


def _merged(order: list[str], others: Sequence[str]) -> list[str]:
    """Return `order` with what it lacks of `others`, each behind the one that it follows there."""
    known = set(order)
    merged = list(order)
    before = ""
    for name in others:
        if name not in known:
            merged.insert(merged.index(before) + 1 if before else 0, name)
            known.add(name)
        before = name
    return merged


def between_steps(matched: Sequence[Pair]) -> frozenset[str]:
    """Return the steps that consumed something else on the two sides though its makers agree.

    The maker of an input is the step that gave these very bits, on either side. Where code between the
    steps made the input, no step gave it; then all steps before it must agree.
    """
    found: set[str] = set()
    made: dict[str, list[Pair]] = {}
    all_agree = True
    for pair in matched:
        if any(_blames_glue(r, t, made, all_agree=all_agree and bool(made)) for r, t in _inputs(pair)):
            found.add(pair.name)
        for record in (pair.reference, pair.target):
            for ref in record.outputs if record else ():
                made.setdefault(ref.digest, []).append(pair)
        all_agree = all_agree and pair.is_same
    return frozenset(found)


def _inputs(pair: Pair) -> Iterator[tuple[TensorRef, TensorRef]]:
    if pair.reference is None or pair.target is None:
        return
    for r, t in zip(pair.reference.inputs, pair.target.inputs, strict=False):
        if r is not None and t is not None and r.role == t.role == "activation" and r.digest != t.digest:
            yield r, t


def _blames_glue(r: TensorRef, t: TensorRef, made: dict[str, list[Pair]], *, all_agree: bool) -> bool:
    makers = [*made.get(r.digest, ()), *made.get(t.digest, ())]
    return all(maker.is_same for maker in makers) if makers else all_agree
