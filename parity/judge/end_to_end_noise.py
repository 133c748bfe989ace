"""What samples of a network's rounding say of its scores: how far honest ones lie from the exact ones.

Does not decide what departs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Noise", "divergence"]

# Of the rms over all scores: no score's sigma is taken to be less (NUMERICS.md 2).
_FLOOR = 0.05


def divergence(exact: Tensor, scores: Tensor) -> Tensor:
    """Return KL(exact || scores) in nats of each position, of next-token scores [T, vocab]."""
    p, q = exact.log_softmax(-1), scores.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


class Noise:
    """Samples [T, vocab] around exact scores, two or more of them.

    `kl` is their mean divergence, `kl_error` the standard error of a mean over these positions: as the
    samples' means scatter, or as independent positions would, whichever is more; `z_error` is how the
    samples' own `z` scatter.
    """

    def __init__(self, exact: Tensor, samples: Sequence[Tensor]) -> None:
        self._exact = exact
        self._errors = [s - exact for s in samples]
        each = torch.stack([divergence(exact, s) for s in samples])
        self.kl = float(each.mean())
        apart, within = float(each.mean(1).std()), float(each.std()) / math.sqrt(max(each.shape[1], 1))
        self.kl_error = max(apart, within)
        square = torch.stack(self._errors).square().mean(0)
        mean = square.mean()
        # Eight samples say little of one score: its row and column say more.
        pooled = square.mean(1, keepdim=True) * square.mean(0, keepdim=True) / mean
        self._sigma = torch.maximum(pooled, _FLOOR**2 * mean).sqrt()
        self.z_error = float(torch.stack([torch.tensor(self.z(s)) for s in samples]).std())

    def z(self, scores: Tensor) -> float:
        """Return rms(error / sigma) over all scores."""
        return float(((scores - self._exact) / self._sigma).square().mean().sqrt())

    def margin(self, scores: Tensor) -> Tensor:
        """Return, for positions whose best token changed, the exact margin in sigmas of the difference."""
        best, other = self._exact.argmax(-1), scores.argmax(-1)
        return self.gap(best, other)[best != other]

    def gap(self, best: Tensor, other: Tensor) -> Tensor:
        """Return by how many sigmas of their difference one token a position is exactly above another.

        That sigma is the samples' own for the pair of tokens, or what two tokens of the position have
        on average, whichever is more.
        """
        rows = torch.arange(len(best))
        gap = self._exact[rows, best] - self._exact[rows, other]
        errors = torch.stack(self._errors)
        own = (errors[:, rows, best] - errors[:, rows, other]).square().mean(0)
        centred = errors - errors.mean(-1, keepdim=True)
        typical = 2 * centred.square().mean((0, 2))
        return gap / torch.maximum(own, typical).sqrt()
