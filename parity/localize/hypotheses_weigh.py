"""Whether a guess explains what fails: its gain over the right answer, and where it holds.

Does not make guesses, nor rank causes of different kinds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from parity.case.tensor import HostTensor
from parity.errors import ParityError
from parity.judge.budget import Budget, Expected
from parity.judge.limits import hold
from parity.localize.hypotheses_base import HYPOTHESES, PLAIN, Asked, Guess, values_of
from parity.localize.hypotheses_fit import Fit, Observed, Place, best_place, fit, tile_place
from parity.localize.hypotheses_sample import Sample, cut

__all__ = ["NO_ANSWER", "Base", "Scored", "guesses", "held", "scored"]

# Outputs up to this size are moved about as a whole even where questions are asked of a part.
_ELEMENTS = 1 << 21
# A cause explains at least half of what fails, and gains what ten coin tosses in a row would.
_SHARE = 0.5
_NOISE_SHARE = 0.9
_GAIN = 10.0
# Of half a step of the output: closer values are one.
_SAME = 1e-3


# A question that makes no sense for these shapes or values has no answer; an oracle that meets what no
# step consumes may fail an assertion of its own.
NO_ANSWER = (ArithmeticError, AssertionError, IndexError, ParityError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The right answer held against the outputs: what fails, and how likely the bits are under it."""

    observed: tuple[Observed, ...]
    fits: tuple[Fit, ...]
    strictness: int

    @property
    def failing(self) -> int:
        """Elements that the right answer does not allow, over all outputs."""
        return sum(int((~f.allowed).sum()) for f in self.fits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A guess that explains enough: its net gain in nats, the failing elements it allows, and the place."""

    guess: Guess
    gain: float
    explained: int
    where: str


def held(asked: Asked) -> Base:
    """Mark what fails: by the hard bound, and where only the whole is too far off by ever fewer errors."""
    observed = tuple(Observed.of(t) for t in asked.got)

    def at(strictness: int) -> Base:
        pairs = zip(observed, asked.right, strict=True)
        fits = tuple(fit(o, e, asked.got, strictness=strictness) for o, e in pairs)
        return Base(observed=observed, fits=fits, strictness=strictness)

    base = at(0)
    if base.failing or not _as_a_whole(asked, observed):
        return base
    return next((b for b in (at(1), at(2)) if b.failing), base)


def _as_a_whole(asked: Asked, observed: Sequence[Observed]) -> bool:
    """Whether a test of all elements together fails, of their mean error or of how many are rounded away."""
    return any(
        isinstance(e, Budget) and bool(hold(o.got, e).failures)
        for o, e in zip(observed, asked.right, strict=True)
    )


def guesses(sample: Sample) -> Iterator[Guess]:
    """Yield every guess of the table, each about the sample's outputs."""
    affordable = sum(t.numel for t in sample.whole.got) <= _ELEMENTS
    for entry in HYPOTHESES:
        if entry.ops and sample.whole.op not in entry.ops:
            continue
        large = bool(sample.window) and entry.whole and affordable
        made = entry.function(sample.whole if large else sample.small)
        while True:
            try:
                guess = next(made, None)
            except NO_ANSWER:
                break
            if guess is None:
                break
            if large:
                parts = tuple(cut(e, sample.window) for e in guess.expected)
                guess = dataclasses.replace(guess, expected=parts)
            yield guess


def scored(sample: Sample, base: Base, guess: Guess) -> Scored | None:
    """Weigh a guess against the right answer; None where it explains too little or costs too much."""
    share = _NOISE_SHARE if guess.noise else _SHARE
    # An error of any size would fit a sum that is bad enough: it has to be of the expected size.
    strictness = max(base.strictness, 1) if guess.noise else base.strictness
    fits = {
        i: fit(base.observed[i], wanted, sample.small.got, strictness=strictness)
        for i, wanted in enumerate(guess.expected)
        if wanted is not None and _alike(wanted, sample.small.got[i])
    }
    if not guess.noise:
        fits = {i: _claimed(f, sample, base, i, guess.expected[i]) for i, f in fits.items()}
    most = sum(int((~base.fits[i].allowed & f.allowed).sum()) for i, f in fits.items())
    if most < share * base.failing and not guess.region:
        return None
    gain, explained, places = -PLAIN - guess.cost, 0, []
    for i, found in fits.items():
        place = _place(sample, base, guess, i, found)
        count = int((~base.fits[i].allowed & (found.allowed | guess.region) & place.mask).sum())
        gain, explained = gain + place.gain, explained + count
        if place.text and count:
            places.append(place.text)
        if guess.most and int(place.mask.sum()) * 2 < place.mask.numel():
            return None
    if gain < _GAIN or explained < share * base.failing:
        return None
    return Scored(guess=guess, gain=gain, explained=explained, where="; ".join(places))


def _claimed(found: Fit, sample: Sample, base: Base, output: int, wanted: Expected | None) -> Fit:
    """Leave a fit where the guess says another value than the right answer: room alone explains nothing."""
    value, right = values_of(sample.small.right[output]), base.fits[output]
    if value is None or not isinstance(wanted, Budget):
        return found
    same = (wanted.value - value).abs() <= _SAME * base.observed[output].half_step
    return Fit(
        likelihood=torch.where(same, right.likelihood, found.likelihood),
        allowed=torch.where(same, right.allowed, found.allowed),
    )


def _alike(wanted: Expected, given: HostTensor) -> bool:
    return tuple(wanted.shape) == given.shape and wanted.dtype is given.dtype


def _place(sample: Sample, base: Base, guess: Guess, output: int, found: Fit) -> Place:
    origin, right = _origin(sample, output), base.fits[output]
    if guess.region:
        return tile_place(right, base.observed[output], origin=origin)
    return best_place(
        found.likelihood - right.likelihood, ~right.allowed, scattered=not guess.whole, origin=origin
    )


def _origin(sample: Sample, output: int) -> tuple[int, ...]:
    """Return where the sample begins in an output of the step."""
    ndim = len(sample.small.got[output].shape)
    window = [*(w.start or 0 for w in sample.window), *([0] * ndim)]
    return tuple(a + b for a, b in zip(window[:ndim], [*sample.origin, *([0] * ndim)], strict=False))
