"""Judge the scores of a whole run against the exact ones, by the noise that honest runs have (NUMERICS.md 5).

A run departs when its mean KL is more than 1.5 times that of the samples, when a best token changes
where the exact margin is more than 6 of its sigmas, or when its scores lie farther out than 1.2 sigmas.
Small faults in 16 bits hide below that noise at any length: every step alone is the test for those.
Does not run a network; samples come from `run.noise`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from parity.case.tensor import HostTensor
from parity.judge.end_to_end_noise import Noise, divergence
from parity.judge.oracle import to_float64
from parity.judge.verdict import EndToEnd, Verdict
from parity.store.recording import Recording

__all__ = ["KL_RATIO", "MARGIN", "Z_LIMIT", "compare_scores", "judge_scores", "scores_in"]

_Three = tuple[float, float, float]

# NUMERICS.md 5, measured: honest runs have a KL of 0.5 to 0.7 and a z of 0.44 to 0.85 of the samples'.
KL_RATIO, Z_LIMIT, MARGIN = 1.5, 1.2, 6.0
# One-sided normal quantile of 1e-3: how far chance may lift a mean KL.
_CHANCE = 3.09


def scores_in(recording: Recording) -> HostTensor | None:
    """Return the scores at the end of a recording, those of all its steps joined, None where it has none."""
    held = [recording.tensors.get(ref.digest) for ref in recording.results]
    found = [tensor for tensor in held if tensor is not None]
    if not found or len(found) < len(held) or any(t.dtype is not found[0].dtype for t in found):
        return None
    return HostTensor.of(np.concatenate([tensor.array() for tensor in found]), found[0].dtype)


def judge_scores(
    target: HostTensor,
    *,
    oracle: HostTensor,
    samples: Sequence[HostTensor],
    followed: Sequence[int] = (),
) -> EndToEnd:
    """Judge scores [T, vocab] of a run against those in float64, with at least two samples of the noise.

    `followed` are the tokens that came after the first of the positions, as many as are known. On too few
    positions chance moves both distances beyond their limits: then, and without samples, a run is
    `unjudged`, unless a best token changed that could not.
    """
    exact, got = to_float64(oracle), to_float64(target)
    refused = _malformed(got, exact)
    if refused is not None:
        return refused
    known = compare_scores(oracle, target, followed=followed)
    drawn = [to_float64(s) for s in samples]
    if len(drawn) < 2 or any(s.shape != exact.shape or not bool(s.isfinite().all()) for s in drawn):
        return dataclasses.replace(
            known, note="no usable samples of the noise: distances are information only"
        )
    noise = Noise(exact, drawn)
    if not noise.kl:
        return dataclasses.replace(
            known, note="the samples show no rounding at all: distances are information only"
        )
    margin = noise.margin(got)
    illegal = int((margin > MARGIN).sum())
    limit = KL_RATIO * noise.kl + _CHANCE * noise.kl_error
    needed = _needed(noise, len(exact))
    z = noise.z(got)
    few = len(exact) < needed
    notes = [f"{illegal} best tokens changed against the margin"] if illegal else []
    if not few and not known.kl[0] <= limit:
        notes.append(f"mean KL is {known.kl[0] / noise.kl:.3g} times that of rounding")
    if not few and not z <= Z_LIMIT:
        notes.append(f"scores lie {z:.3g} sigmas out")
    verdict = Verdict.EXCEEDS if notes else Verdict.UNJUDGED if few else Verdict.WITHIN
    if verdict is Verdict.UNJUDGED:
        notes = [f"{len(exact)} positions, and {needed} are needed to tell a departure from chance"]
    return dataclasses.replace(
        known,
        verdict=verdict,
        kl_limit=limit,
        illegal=illegal,
        margin=float(margin.max()) if margin.numel() else 0.0,
        z=z,
        z_limit=Z_LIMIT,
        needed=needed,
        note="; ".join(notes),
    )


def compare_scores(reference: HostTensor, target: HostTensor, *, followed: Sequence[int] = ()) -> EndToEnd:
    """Return how far a run's scores [T, vocab] lie from a reference's: `unjudged`, information only."""
    wanted, got = to_float64(reference), to_float64(target)
    refused = _malformed(got, wanted)
    if refused is not None:
        return refused
    flips = int((wanted.argmax(-1) != got.argmax(-1)).sum())
    logprob, perplexity = _of_followed(wanted, got, followed)
    return EndToEnd(
        verdict=Verdict.UNJUDGED,
        positions=len(wanted),
        kl=_three(divergence(wanted, got)),
        flips=flips,
        logprob=logprob,
        perplexity=perplexity,
    )


def _needed(noise: Noise, positions: int) -> int:
    """Return on how many positions chance does not reach from honest to a gate, by KL or by sigmas.

    Both scatter with the root of the positions: KL has half of its own size to go, sigmas 0.2.
    """
    shares = noise.kl_error / ((KL_RATIO - 1) * noise.kl), noise.z_error / (Z_LIMIT - 1)
    return max(1, math.ceil(positions * (_CHANCE * min(shares)) ** 2))


def _malformed(got: Tensor, exact: Tensor) -> EndToEnd | None:
    """Return what is said of scores that cannot be measured: of another shape, of none, or not finite."""
    nothing = (math.nan, math.nan, math.nan)
    if exact.dim() != 2 or not exact.numel() or not bool(exact.isfinite().all()):
        note = f"the exact scores are of shape {list(exact.shape)}, not finite throughout or none"
        return EndToEnd(verdict=Verdict.UNJUDGED, positions=0, kl=nothing, note=note)
    if got.shape != exact.shape:
        note = f"scores of shape {list(got.shape)}, expected {list(exact.shape)}"
        return EndToEnd(verdict=Verdict.EXCEEDS, positions=0, kl=nothing, note=note)
    if not bool(got.isfinite().all()):
        note = f"{int((~got.isfinite()).sum()):,} of {got.numel():,} scores are not finite"
        return EndToEnd(verdict=Verdict.EXCEEDS, positions=len(exact), kl=nothing, note=note)
    return None


def _three(x: Tensor) -> _Three:
    """Return mean, 99th percentile and largest."""
    return float(x.mean()), float(x.quantile(0.99)), float(x.max())


def _of_followed(wanted: Tensor, got: Tensor, followed: Sequence[int]) -> tuple[_Three | None, _Three | None]:
    """Return |change| of the log-probabilities of the tokens that followed, and the change of perplexity."""
    if not followed:
        return None, None
    if len(followed) > len(wanted):
        raise ValueError(f"{len(followed)} tokens followed {len(wanted)} positions")
    at = torch.arange(len(followed)), torch.tensor(list(followed))
    change = (got.log_softmax(-1) - wanted.log_softmax(-1))[at]
    mean = -float(change.mean())
    error = 1.96 * float(change.std()) / math.sqrt(len(change)) if len(change) > 1 else math.inf
    interval = tuple(math.expm1(min(x, 700.0)) for x in (mean, mean - error, mean + error))
    return _three(change.abs()), (interval[0], interval[1], interval[2])
