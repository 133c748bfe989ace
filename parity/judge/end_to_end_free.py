"""Compare free generation, as far as two runs answer the same question: up to the first other token.

Beyond a legal change the contexts differ, and with them every right answer. Does not generate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from parity.case.tensor import HostTensor
from parity.judge.end_to_end import MARGIN
from parity.judge.end_to_end_noise import Noise
from parity.judge.oracle import to_float64
from parity.judge.verdict import Verdict

__all__ = ["Generated", "judge_generation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """Two continuations: `compared` tokens are the same, then one is another, or one of them ends.

    `margin` is by how many sigmas the exact scores prefer the reference's token there, None where none
    differs. `beyond` tokens of the target were not compared.
    """

    verdict: Verdict
    compared: int
    beyond: int
    margin: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.verdict is Verdict.WITHIN and not (self.compared or self.margin is not None):
            raise ValueError("a continuation is within only when a token was compared")


def judge_generation(
    reference: Sequence[int], target: Sequence[int], *, oracle: HostTensor, samples: Sequence[HostTensor]
) -> Generated:
    """Judge greedy continuations; row i of the exact scores [T, vocab] is for the reference's token i.

    Scores are teacher-forced on the reference's tokens, and have a row for each of them. A change is legal
    where the exact scores do not prefer the reference's token by more than 6 sigmas of their difference.
    """
    exact, drawn = to_float64(oracle), [to_float64(s) for s in samples]
    if len(exact) < len(reference) or len(drawn) < 2 or any(s.shape != exact.shape for s in drawn):
        note = "no exact scores for every token, or no samples of the noise"
        return Generated(verdict=Verdict.UNJUDGED, compared=0, beyond=len(target), note=note)
    shared = min(len(reference), len(target))
    first = next((i for i in range(shared) if reference[i] != target[i]), shared)
    if first == shared:
        verdict = Verdict.WITHIN if shared else Verdict.UNJUDGED
        note = "" if len(reference) == len(target) else "one ends where the other goes on"
        return Generated(verdict=verdict, compared=shared, beyond=len(target) - shared, note=note)
    row = slice(first, first + 1)
    noise = Noise(exact[row], [s[row] for s in drawn])
    margin = noise.gap(torch.tensor([reference[first]]), torch.tensor([target[first]]))
    sigmas = float(margin[0])
    legal = sigmas <= MARGIN
    return Generated(
        verdict=Verdict.WITHIN if legal else Verdict.EXCEEDS,
        compared=first,
        beyond=len(target) - first - 1,
        margin=sigmas,
        note="" if legal else f"token {first} changed against a margin of {sigmas:.3g} sigmas",
    )
