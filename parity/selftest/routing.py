"""Choosing experts and adding up what they make, and what kernels of both get wrong."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor
from parity.selftest.arithmetic import EXACT, LEGITIMATE, PLAIN, Arithmetic, contracted, nearest, total
from parity.selftest.decoder import ACTIVATIONS, JOINED, STORED, activation, stored
from parity.selftest.kernel import LOW_SUMS, MIDDLE, Kernel, Moves
from parity.selftest.problem import Outputs, Problem, store

__all__ = [
    "EXPERTS",
    "KERNELS",
    "ROUTE",
    "WAYS",
    "experts",
    "legal",
    "route",
]

WAYS = {"": PLAIN, "float64": EXACT, "lanes8": LEGITIMATE[3], "stored": STORED[0], "last_of_equals": PLAIN}


def _scores(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    logits = contracted(how.number(p.x(0)), how.number(p.x(1)).T, how)
    if not p.attrs["wide"]:
        logits = stored(p, how, logits)
    if bug == "logits_bf16":
        logits = nearest(logits, "bf16")
    kind = str(p.attrs["scores"])
    if bug == "other_scores":
        kind = "sigmoid" if kind == "softmax" else "softmax"
    if kind == "sigmoid":
        return torch.sigmoid(logits)
    e = (logits - logits.amax(-1, keepdim=True)).exp()
    return how.divide(e, total(e, how)[..., None])


def _ranks(p: Problem, scores: Tensor, bug: str) -> Tensor:
    """What experts are chosen by: biased scores, -inf outside the best groups."""
    ranks = scores + p.x(2).to(scores.dtype) if p.has(2) and bug != "bias_ignored" else scores
    groups, best = p.integer("groups"), p.integer("group_best")
    if groups == 1 or bug == "groups_ignored":
        return ranks
    by_group = ranks.reshape(len(ranks), groups, ranks.shape[-1] // groups)
    best = 3 - best if bug == "group_best_other" else best
    found = by_group.topk(min(best, by_group.shape[-1]), -1).values.sum(-1)
    kept = found.topk(p.integer("top_groups") - (bug == "one_group_less"), -1).indices
    allowed = torch.zeros_like(found).scatter(1, kept, 1.0) > 0
    return torch.where(allowed[..., None], by_group, -torch.inf).reshape(ranks.shape)


def route(p: Problem, bug: str) -> Outputs:
    """Weights and ids of the chosen experts; `bug` may name a way that is right."""
    how = WAYS.get(bug, PLAIN)
    scores = _scores(p, how, bug)
    ranks, top = _ranks(p, scores, bug), p.integer("top")
    order = (
        torch.arange(ranks.shape[-1]).flip(0) if bug == "last_of_equals" else torch.arange(ranks.shape[-1])
    )
    place = ranks[:, order].sort(dim=-1, descending=True, stable=True).indices
    chosen = order[place][:, : top + 1]
    match bug:
        case "best_passed_over":
            chosen = chosen[:, 1 : top + 1]
        case "one_twice" if top > 1:
            chosen[:, top - 1] = chosen[:, 0]
        case "next_expert":
            chosen = (chosen + 1) % ranks.shape[-1]
    chosen = chosen[:, :top]
    weights = (ranks if bug == "bias_weighed" and p.has(2) else scores).gather(-1, chosen)
    if bool(p.attrs["normalise"]) != (bug == "normalised_otherwise"):
        weights = how.divide(weights, total(weights, how)[..., None])
    match bug:
        case "weights_of_next_row":
            weights = weights.roll(1, 0)
        case "weights_reversed":
            weights = weights.flip(-1)
        case "weights_bf16":
            weights = nearest(weights, "bf16")
    scale = 1.0 if bug == "scale_omitted" else p.number("scale")
    return store(weights * scale, DTYPES["f32"]), HostTensor.of(
        chosen.numpy().astype(np.int64), DTYPES["i64"]
    )


def legal(p: Problem, outputs: Outputs) -> bool:
    """Whether outputs are those of a way that is right but for the order of a row and rounding.

    Weights may differ by twice what right ways differ by, and a last place.
    """
    if [t.shape for t in outputs] != [t.shape for t in route(p, "")]:
        return False
    weights, chosen = (np.asarray(t.array()) for t in outputs)
    order = np.argsort(chosen, -1, kind="stable")
    weights, chosen = np.take_along_axis(weights, order, -1), np.take_along_axis(chosen, order, -1)
    found = []
    for way in WAYS:
        made, picked = (np.asarray(t.array()) for t in route(p, way))
        order = np.argsort(picked, -1, kind="stable")
        found.append((np.take_along_axis(made, order, -1), np.take_along_axis(picked, order, -1)))
    ranks = _ranks(p, _scores(p, PLAIN, ""), "").numpy()
    if _as_good(ranks, chosen, found[0][1]) and p.inputs[1] is not None and not p.inputs[1].stride[0]:
        # Experts with one row of weights between them weigh the same, whichever are chosen.
        chosen = found[0][1]
    same = np.stack([(picked == chosen).all(-1) for _, picked in found])  # [ways, T]
    if not same.any(0).all():
        return False
    values = np.where(same[..., None], np.stack([made for made, _ in found]).astype(np.float64), np.nan)
    low, high = np.fmin.reduce(values, 0), np.fmax.reduce(values, 0)
    room = 2 * (high - low) + 2.0**-23 * np.abs(high)
    near = (weights >= low - room) & (weights <= high + room)
    return bool((near | (np.isnan(weights) & np.isnan(values).all(0))).all())


def _as_good(ranks: np.ndarray, chosen: np.ndarray, best: np.ndarray) -> bool:
    """Whether the experts of each row are different ones and rank as the best do."""
    if (chosen < 0).any() or (chosen >= ranks.shape[-1]).any() or (np.diff(chosen, axis=-1) == 0).any():
        return False
    taken, right = (np.sort(np.take_along_axis(ranks, t, -1), -1) for t in (chosen, best))
    return bool((taken == right).all())


def experts(p: Problem, how: Arithmetic, bug: str) -> Tensor:
    """The weighted sum of each row's experts."""
    x, weights, up, down = (how.number(p.x(i)) for i in (0, 1, 3, 4))
    chosen, kind = p.x(2), str(p.attrs["activation"])
    match bug:
        case "weights_of_next_row":
            weights = weights.roll(1, 0)
        case "weights_ignored":
            weights = torch.full_like(weights, 1 / weights.shape[-1])
        case "weights_bf16":
            weights = nearest(weights, "bf16")
        case "next_expert":
            chosen = (chosen + 1) % len(up)
        case "last_choice_dropped":
            weights, chosen = (
                weights[:, : max(weights.shape[-1] - 1, 1)],
                chosen[:, : max(chosen.shape[-1] - 1, 1)],
            )
    y = torch.zeros_like(x)
    for expert in sorted(set(chosen.flatten().tolist())):
        rows, place = torch.where(chosen == expert)
        if bug == "capacity_reached":
            rows, place = rows[: -(-len(rows) // 2)], place[: -(-len(rows) // 2)]
        h = stored(p, how, contracted(x[rows], up[expert].T, how), product=True)
        gate, high = h.chunk(2, -1)
        if bug == "gate_and_up_swapped":
            gate, high = high, gate
        elif bug == "gate_and_up_interleaved":
            gate, high = h[:, ::2], h[:, 1::2]
        m = stored(p, how, stored(p, how, activation(gate, kind, how, bug)) * high, product=True)
        made = stored(p, how, contracted(m, down[expert].T, how), product=not how.name.endswith("pairwise"))
        term = stored(p, how, made * weights[rows, place, None], product=how.name.endswith("pairwise"))
        y[rows] = stored(p, how, y[rows] + term)
    return y


ROUTE = (
    "other_scores",
    "bias_ignored",
    "bias_weighed",
    "groups_ignored",
    "group_best_other",
    "one_group_less",
    "best_passed_over",
    "one_twice",
    "next_expert",
    "normalised_otherwise",
    "scale_omitted",
    "weights_of_next_row",
    "weights_reversed",
    "weights_bf16",
    "logits_bf16",
)
EXPERTS = (
    *ACTIVATIONS,
    "weights_of_next_row",
    "weights_ignored",
    "weights_bf16",
    "next_expert",
    "last_choice_dropped",
    "capacity_reached",
    "gate_and_up_swapped",
    "gate_and_up_interleaved",
)
_WAYS = tuple(
    how
    for how in LEGITIMATE
    if how.name in {"plain", "reversed", "lanes8", "blocked16", "fused", "functions_high", "float64"}
)

KERNELS: dict[str, Kernel | Moves] = {
    "route": Moves(compute=route, bugs=ROUTE, ways=tuple(WAYS), legal=legal),
    "experts": Kernel(
        compute=experts,
        bugs=EXPERTS,
        legitimate=(*_WAYS, *STORED, *JOINED[:2]),
        arithmetics={**LOW_SUMS, **MIDDLE},
    ),
}
