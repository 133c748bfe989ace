"""Penalties and the nucleus, and what samplers get wrong."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor
from parity.selftest.arithmetic import LEGITIMATE, Arithmetic, nearest, prefix
from parity.selftest.kernel import MIDDLE, Kernel, Moves
from parity.selftest.problem import Outputs, Problem

__all__ = ["KERNELS", "as_some_order_has_it", "penalties", "top_p_mask"]

_WAYS = {how.name: how for how in LEGITIMATE}
_LOW = {"sums_in_bf16": "bf16", "sums_in_f16": "f16"}


def top_p_mask(p: Problem, bug: str) -> Outputs:
    """Kept where the sum before is at most the threshold; `subtracted` takes the element off again."""
    probabilities, threshold = p.x(0), p.number("threshold")
    how = Arithmetic(name=bug, keep=_LOW[bug]) if bug in _LOW else _WAYS.get(bug, _WAYS["plain"])
    through = prefix(probabilities, how)
    before = torch.nn.functional.pad(through[..., :-1], (1, 0))
    if bug == "subtracted":
        before = through - how.number(probabilities)
    if bug == "threshold_in_bf16":
        threshold = float(nearest(torch.tensor(threshold), "bf16"))
    kept = before <= threshold
    match bug:
        case "crossing_dropped":
            kept = through <= threshold
        case "one_more":
            kept = torch.nn.functional.pad(before, (1, 0))[..., :-1] <= threshold
        case "first_dropped_where_it_crosses":
            kept[..., 0] &= through[..., 0] <= threshold
        case "inverted":
            kept = ~kept
        case "sum_of_all_rows" if before.ndim > 1:
            flat = through.reshape(-1).cumsum(0) - through.reshape(-1)
            kept = flat.reshape(before.shape) <= threshold
        case "by_probability":
            kept = how.number(probabilities) >= 1 - threshold
        case "first_row_for_all" if before.ndim > 1:
            kept = kept[:1].expand(kept.shape)
        case "tail_kept":
            kept[..., -1] = True
    return (HostTensor.of(np.ascontiguousarray(kept.numpy()), DTYPES["bool"]),)


def as_some_order_has_it(p: Problem, outputs: Outputs) -> bool:
    """Whether each element is as the exact sum decides, or so near that a float32 sum may not."""
    probabilities, threshold = p.x(0), p.number("threshold")
    through = probabilities.cumsum(-1)
    before = through - probabilities
    terms = torch.arange(1, probabilities.shape[-1] + 1)
    near = (before - threshold).abs() <= 2.0**-24 * ((terms + 1) * through + threshold)
    right = (before <= threshold) == torch.from_numpy(outputs[0].array().copy())
    return bool((right | near).all())


def _seen(p: Problem, bug: str) -> Tensor:
    """Return how often each token of the vocabulary was there, [B, V]."""
    rows, vocabulary = p.raw(0).shape
    tokens = p.raw(1)
    counts = np.zeros((rows, vocabulary + 1))
    match bug:
        case "padding_counted":
            tokens = np.minimum(tokens, vocabulary - 1)
        case "tokens_off_by_one":
            tokens = (tokens + 1) % (vocabulary + 1)
        case "last_token_left_out":
            tokens = tokens[:, :-1]
        case "tokens_of_next_row":
            tokens = np.roll(tokens, 1, axis=0)
        case "padding_at_8_bits":
            tokens = tokens % 256 % (vocabulary + 1)
    for row, token in zip(np.repeat(np.arange(rows), tokens.shape[1]), tokens.reshape(-1), strict=True):
        counts[row, token] += 1
    return torch.from_numpy(counts[:, :vocabulary])


def penalties(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """Scores of tokens that were there, lowered in three ways."""
    scores, counts = how.number(p.x(0)), how.number(_seen(p, bug))
    seen = counts > 0
    repetition, frequency, presence = (
        how.number(torch.tensor(p.number(name), dtype=torch.float64))
        for name in ("repetition", "frequency", "presence")
    )
    if bug == "repetition_each_time":
        repetition = repetition**counts
    high, low = how.divide(scores, repetition), scores * repetition
    match bug:
        case "always_divided":
            low = high
        case "always_multiplied":
            high = low
        case "upside_down":
            high, low = low, high
    a = how.mid(torch.where(seen, torch.where(scores > 0, high, low), scores))
    once = seen.to(counts.dtype)
    b = frequency * (once if bug == "frequency_once" else counts)
    c = presence * (counts if bug == "presence_each_time" else once)
    match bug:
        case "frequency_ignored":
            b = torch.zeros_like(b)
        case "presence_ignored":
            c = torch.zeros_like(c)
        case "raised":
            b, c = -b, -c
        case "repetition_ignored":
            a = scores
        case "repetition_last":
            rest = scores - b - c
            return torch.where(seen, torch.where(rest > 0, rest / repetition, rest * repetition), rest)
    return a - how.mid(b + c) if how.fused else how.mid(a - b) - c


_OF_TOKENS = (
    *("padding_counted", "tokens_off_by_one", "last_token_left_out", "tokens_of_next_row"),
    *("padding_at_8_bits",),
)
_OF_RULES = (
    *("repetition_each_time", "always_divided", "always_multiplied", "upside_down", "frequency_once"),
    *("presence_each_time", "frequency_ignored", "presence_ignored", "raised", "repetition_ignored"),
    "repetition_last",
)

KERNELS: dict[str, Kernel | Moves] = {
    "top_p_mask": Moves(
        compute=top_p_mask,
        bugs=(
            *("crossing_dropped", "one_more", "first_dropped_where_it_crosses", "inverted"),
            *("sum_of_all_rows", "by_probability", "first_row_for_all", "tail_kept", "threshold_in_bf16"),
            *_LOW,
        ),
        ways=(*_WAYS, "subtracted"),
        legal=as_some_order_has_it,
    ),
    "penalties": Kernel(compute=penalties, bugs=(*_OF_TOKENS, *_OF_RULES), arithmetics=MIDDLE),
}
