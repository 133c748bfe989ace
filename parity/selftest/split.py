"""Attention in parts of heads, queries or keys, and what goes wrong between the parts.

Q query heads, T queries, S keys. Does not plant what one attention gets wrong by itself; `attention` does.
"""

from __future__ import annotations

import dataclasses
import math
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from parity.selftest.arithmetic import Arithmetic, contracted, exp, nearest, total
from parity.selftest.kernel import LOW_SUMS, Kernel
from parity.selftest.problem import Problem

__all__ = ["KERNELS", "split_attention"]

_DIM = {"heads": 1, "queries": 2, "keys": 3}


def split_attention(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """softmax(scale q k^T + mask) v, one part at a time."""
    along = str(p.attrs["along"])
    seen = _seen(p)  # [B, Q, T, S]
    ends = _ends(seen.shape[_DIM[along]], p.integer("parts"))
    if bug == "part_dropped" and len(ends) > 2:
        ends = ends[:-1]
    made = [_part(p, seen, slice(a, b), how, bug) for a, b in pairwise(ends)]
    if along == "keys":
        return _merged(p, made, how, bug)
    y = torch.zeros(*seen.shape[:3], p.x(2).shape[-1], dtype=made[0][0].dtype)
    start = 0
    for _, summed, product in made:
        part = how.divide(product, _whole(summed))
        y.narrow(_DIM[along], start, part.shape[_DIM[along]]).copy_(part)
        start += part.shape[_DIM[along]]
    return y


def _ends(count: int, parts: int) -> list[int]:
    """Return 0 and the end of each part that has anything, the longer ones first."""
    each, longer = divmod(count, parts)
    sizes = [each + 1] * longer + [each] * (parts - longer if each else 0)
    return list(accumulate(sizes, initial=0))


def _seen(p: Problem) -> Tensor:
    """Return which keys each query sees."""
    (batch, heads, queries, _), keys = p.x(0).shape, p.x(1).shape[2]
    position, key = torch.arange(queries)[:, None] + keys - queries, torch.arange(keys)
    seen = torch.ones(queries, keys, dtype=torch.bool)
    if p.attrs["causal"]:
        seen &= key <= position
    if p.attrs["window"] is not None:
        seen &= key > position - p.integer("window")
    mask = p.x(3) if p.has(3) else torch.ones((), dtype=torch.bool)
    return (seen & mask).expand(batch, heads, queries, keys)


def _part(p: Problem, seen: Tensor, here: slice, how: Arithmetic, bug: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return maximum, sum and product [B, Q, T, 1 or E] of one part."""
    along, plain = p.attrs["along"], dataclasses.replace(how, keep="")
    q, k, v = (how.number(p.x(i)) for i in range(3))
    heads, size = torch.arange(q.shape[1]), here.stop - here.start
    groups = q.shape[1] // k.shape[1]
    if along == "heads":
        heads, q, seen = heads[here], q[:, here], seen[:, here]
    own = heads // groups
    if bug == "key_heads_of_first_part" and along == "heads":
        own = (heads - here.start) // groups
    elif bug == "key_heads_of_part_tiled":
        own = torch.arange(len(heads)) % k.shape[1]
    k, v = k[:, own], v[:, own]
    if along == "queries":
        rows = torch.arange(here.start, here.stop)
        if bug == "queries_from_part_start":
            rows = torch.arange(size)
        elif bug == "queries_at_the_end":
            rows = torch.arange(seen.shape[2] - size, seen.shape[2])
        q, seen = q[:, :, here], seen[:, :, rows]
    elif along == "keys":
        used = slice(here.start, here.stop - (bug == "last_key_of_part_dropped" and size > 1))
        k, v = k[:, :, used], v[:, :, here][:, :, : used.stop - used.start]
        at = slice(0, used.stop - used.start) if bug == "mask_from_part_start" else used
        seen = seen[..., at]
    scores = contracted(q, k.transpose(-1, -2), plain) / math.sqrt(q.shape[-1])
    scores = scores + torch.where(seen, 0.0, -torch.inf).to(scores.dtype)
    top = scores.amax(-1, keepdim=True)
    base = torch.where(top == -torch.inf, 0.0, top)
    if bug == "hidden_part_nan" and along == "keys":
        base = top
    weights = exp(scores - base, plain)
    return top, total(weights, how)[..., None], contracted(weights, v, how)


def _merged(p: Problem, parts: list[tuple[Tensor, Tensor, Tensor]], how: Arithmetic, bug: str) -> Tensor:
    """Return what parts of the keys give together."""
    tops, sums, products = (torch.stack(t) for t in zip(*parts, strict=True))
    top = tops.amax(0)
    scale = exp(tops - torch.where(top == -torch.inf, 0.0, top), how)
    match bug:
        case "maxima_not_merged":
            scale = torch.ones_like(scale)
        case "sums_not_rescaled":
            sums = sums / torch.where(scale == 0, 1.0, scale)
        case "rescaled_to_first_part":
            scale = exp((tops - tops[:1]).nan_to_num(nan=0.0).clamp(max=80.0), how)
        case "parts_weighed_alike":
            return how.divide(products, _whole(sums)).mean(0)
        case "parts_stored" if p.out.bits == 16:
            products = nearest(products, p.out.name)
        case "last_part_twice":
            sums, products = (torch.cat((t[:-1], 2 * t[-1:])) for t in (sums, products))
    product, summed = (total((t * scale).movedim(0, -1), how) for t in (products, sums))
    # A query that sees no key at all may be NaN as well as 0.
    return torch.where(top == -torch.inf, 0.0, how.divide(product, _whole(summed)))


def _whole(summed: Tensor) -> Tensor:
    """Return sums of weights with 1 where no key was seen."""
    return torch.where(summed == 0, 1.0, summed)


KERNELS = {
    "split_attention": Kernel(
        compute=split_attention,
        bugs=(
            "part_dropped",
            "last_part_twice",
            "last_key_of_part_dropped",
            "mask_from_part_start",
            "key_heads_of_first_part",
            "key_heads_of_part_tiled",
            "queries_from_part_start",
            "queries_at_the_end",
            "hidden_part_nan",
            "maxima_not_merged",
            "sums_not_rescaled",
            "rescaled_to_first_part",
            "parts_weighed_alike",
            "parts_stored",
        ),
        arithmetics=LOW_SUMS,
    )
}
