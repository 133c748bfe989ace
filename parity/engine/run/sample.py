"""The next token of a row of scores. Each draw is a function of (seed, position): nothing is a stream.

Computed on the host in float64, so that a device's rounding of exp cannot move a draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from parity.engine.sched.request import SamplingParams, TokenScore

__all__ = ["choose", "scored", "uniform"]


def uniform(seed: int, position: int) -> float:
    """Return a multiple of 2^-53 in [0, 1): 53 bits of word 0 of Philox4x64-10, key `seed`.

    The counter is position + 1: numpy counts up before it draws.
    """
    word = np.random.Philox(key=seed, counter=position).random_raw(1)[0]
    return float(int(word) >> 11) * 2.0**-53


def choose(row: Tensor, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]) -> int:
    """Return the token that follows; `row` [vocab] are the network's scores."""
    # A copy: in float64 on the host the row would be the network's own, and is scored after this.
    high = _processed(row.detach().to("cpu", torch.float64, copy=True), params, prompt, output)
    if params.temperature == 0.0:
        return int(high.argmax())
    # The largest is taken off before the division, which could overflow for a small temperature.
    p = _kept(((high - high.max()) / params.temperature).softmax(-1), params)
    total = p.cumsum(-1)
    if not float(total[-1]) > 0:
        return int(high.argmax())  # no distribution (a NaN, or all banned): what greedy gives, and shows
    point = uniform(params.seed, len(prompt) + len(output)) * float(total[-1])
    # The first whose cumulated probability exceeds the point: one of probability 0 is never drawn.
    return int(torch.searchsorted(total, torch.tensor(point, dtype=torch.float64), right=True))


def scored(row: Tensor, token: int, top: int) -> TokenScore:
    """Return the log-probability of a token in the network's own distribution, and the `top` best."""
    logp = row.detach().cpu().double().log_softmax(-1)
    best = logp.topk(min(top, len(logp)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return TokenScore(logprob=float(logp[token]), top=tuple(pairs))


def _processed(row: Tensor, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]) -> Tensor:
    for token, bias in params.logit_bias.items():
        row[token] += bias
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*prompt, *output}), dtype=torch.int64)
        held = row[seen]
        row[seen] = torch.where(held > 0, held / params.repetition_penalty, held * params.repetition_penalty)
    if output and (params.presence_penalty or params.frequency_penalty):
        counts = torch.bincount(torch.tensor(output), minlength=len(row)).double()
        row -= params.presence_penalty * (counts > 0) + params.frequency_penalty * counts
    return row


def _kept(p: Tensor, params: SamplingParams) -> Tensor:
    """Set to 0 what top-k, top-p and min-p leave out. Equal probabilities keep their lower ids."""
    order = p.argsort(descending=True, stable=True)
    ranked = p[order]
    keep = torch.ones_like(ranked, dtype=torch.bool)
    if params.top_k:
        keep[params.top_k :] = False
    if params.top_p < 1.0:
        ranked_kept = ranked * keep
        before = ranked_kept.cumsum(-1) - ranked_kept
        keep &= before < params.top_p * float(ranked_kept.sum())
    if params.min_p:
        keep &= ranked >= params.min_p * ranked[0]
    return torch.zeros_like(p).scatter(0, order, ranked * keep)
