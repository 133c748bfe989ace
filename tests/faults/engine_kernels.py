"""Every op of the engine computed another way: right ones in another order, and with a bug inside.

One function an op, of the arithmetic and the name of a bug, empty for none. Sums are made in the
arithmetic's own order and type; the result is rounded once to the type of the step, where models
round intermediates an arithmetic may or may not. Longer than a file should be: each op's bugs stand
beside its right form.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

__all__ = ["BUGS", "KERNELS", "VARIANTS", "Way", "computed", "grid"]

_BLOCK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How sums are made: in `blocks` of terms, shuffled, kept in `wide`; `low` rounds after each block.

    `eager` rounds the intermediates that model code has as tensors, else a kernel is fused.
    """

    name: str
    wide: torch.dtype = torch.float32
    blocks: int = 1
    shuffle: bool = False
    eager: bool = False
    low: str = ""
    online: bool = False

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a @ b^T over the last dimension of both."""
        a, b = a.to(self.wide), b.to(self.wide)
        size = a.shape[-1]
        order = torch.randperm(size, generator=torch.Generator().manual_seed(size)) if self.shuffle else None
        if order is not None:
            a, b = a[..., order], b[..., order]
        step = _BLOCK if self.low else -(-size // self.blocks)
        total = None
        for start in range(0, size, step):
            part = a[..., start : start + step] @ b[..., start : start + step].transpose(-1, -2)
            total = part if total is None else total + part
            total = grid(total, self.low)
        assert total is not None
        return total

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum over the last dimension, kept."""
        return self.dot(x, torch.ones(1, x.shape[-1], dtype=self.wide))

    def middle(self, x: Tensor, like: Tensor) -> Tensor:
        """Return an intermediate tensor as model code or as a fused kernel has it."""
        return x.to(like.dtype).to(self.wide) if self.eager else x


_GRIDS = {
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}


def grid(x: Tensor, name: str) -> Tensor:
    """Return x rounded to a narrower format and back; tf32 keeps 11 significand bits."""
    if not name:
        return x
    if name == "tf32":
        fraction, exponent = torch.frexp(x.float())
        return torch.ldexp(torch.round(fraction * 2048) / 2048, exponent).to(x.dtype)
    if name == "e4m3":
        x = x.clamp(-448, 448)
    return x.to(_GRIDS[name]).to(x.dtype)


PLAIN = Way(name="plain")
VARIANTS = {
    way.name: way
    for way in (
        Way(name="shuffled", shuffle=True),
        Way(name="split_k", blocks=4),
        Way(name="float64", wide=torch.float64),
        Way(name="eager", eager=True, blocks=2),
        Way(name="online", online=True, shuffle=True),
    )
}


def _linear(way: Way, bug: str, x: Tensor, *, w: Any, b: Tensor | None = None) -> Tensor:
    w_ = w
    match bug:
        case "inputs_tf32" | "inputs_bf16" | "inputs_e4m3":
            name = bug.removeprefix("inputs_")
            x, w_ = grid(x, name), grid(w, name)
        case "accumulate_bf16" | "accumulate_f16":
            way = dataclasses.replace(way, low=bug.removeprefix("accumulate_"))
        case "k_tile_dropped":
            x = torch.cat((x[..., :_BLOCK] * 0, x[..., _BLOCK:]), -1)
        case "k_tile_twice":
            x = torch.cat((x[..., :_BLOCK] * 2, x[..., _BLOCK:]), -1)
        case "k_tail_dropped":
            x = torch.cat((x[..., :-8], x[..., -8:] * 0), -1)
        case "weight_transposed":
            w_ = w.T if w.shape[0] == w.shape[1] else w
        case "weight_rows_rolled":
            w_ = w.roll(1, 0)
        case "bias_missing":
            b = None
        case "bias_twice":
            b = None if b is None else 2 * b
    made = way.dot(x, w_)
    return made if b is None else made + b.to(way.wide)


def _rms_norm(way: Way, bug: str, x: Tensor, *, w: Tensor, eps: float, offset: float) -> Tensor:
    wide = x.to(way.wide)
    n = x.shape[-1]
    match bug:
        case "eps_large":
            eps = 1e-2
        case "eps_missing":
            eps = 0.0
        case "mean_subtracted":
            wide = wide - wide.mean(-1, keepdim=True)
        case "divided_by_n_less_1":
            n -= 1
        case "offset_wrong":
            offset = 1.0 - offset
        case "gain_missing":
            w = torch.ones_like(w) - offset
        case "accumulate_bf16":
            way = dataclasses.replace(way, low="bf16")
    mean = way.sum(wide.square()) / n
    r = 1 / (mean.sqrt() + math.sqrt(eps)) if bug == "eps_outside_root" else (mean + eps).rsqrt()
    normal = wide * r
    if not offset:
        normal = way.middle(normal, x)
    return normal * (w.to(way.wide) + offset)


def _rotate(way: Way, bug: str, x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    match bug:
        case "layout_other":
            interleaved = not interleaved
        case "sign_of_sin":
            sin = -sin
        case "position_off_by_one":
            cos, sin = cos.roll(1, 0), sin.roll(1, 0)
        case "not_rotated":
            cos, sin = torch.ones_like(cos), torch.zeros_like(sin)
        case "table_bf16":
            cos, sin = grid(cos, "bf16"), grid(sin, "bf16")
        case "first_pair_only":
            cos, sin = cos.clone(), sin.clone()
            cos[:, 1:], sin[:, 1:] = 1, 0
    size = 2 * cos.shape[-1]
    turned, kept = x[..., :size].to(way.wide), x[..., size:].to(way.wide)
    c, s = cos[:, None].to(way.wide), sin[:, None].to(way.wide)

    def turn(a: Tensor, b: Tensor, sign: float) -> Tensor:
        return way.middle(a * c, x) + sign * way.middle(b * s, x)

    if interleaved:
        even, odd = turned[..., 0::2], turned[..., 1::2]
        made = torch.stack((turn(even, odd, -1), turn(odd, even, 1)), -1).flatten(-2)
    else:
        low, high = turned.chunk(2, -1)
        made = torch.cat((turn(low, high, -1), turn(high, low, 1)), -1)
    return torch.cat((made, kept), -1)


def _softmax(way: Way, bug: str, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights that are not divided yet, and what they are divided by."""
    top = scores.amax(-1, keepdim=True)
    e = torch.exp2((scores - top) * math.log2(math.e)) if way.online else (scores - top).exp()
    if bug == "exp_bf16":
        e = grid(e, "bf16")
    total = way.sum(e) if bug != "denominator_bf16" else dataclasses.replace(way, low="bf16").sum(e)
    if bug == "padding_in_denominator":
        total = total + 3 * (-top).exp().clamp(max=1.0)
    return e, total


def _seen(bug: str, length: int, context: int, window: int | None) -> Tensor:
    total = context + length
    query, key = torch.arange(context, total)[:, None], torch.arange(total)[None]
    match bug:
        case "causal_dropped":
            return (key >= 0).expand(length, total) if window is None else key > query - window
        case "mask_edge_late":
            seen = key <= query + 1
        case "mask_edge_early":
            seen = (key < query) | ((key == 0) & (query == 0))
        case "first_key_lost":
            seen = (key <= query) & ((key > 0) | (query == 0))
        case _:
            seen = key <= query
    size = window
    if window is not None:
        size = {"window_wider": window + 1, "window_narrower": window - 1}.get(bug, window)
    if bug == "window_dropped":
        size = None
    return seen if size is None else seen & (key > query - size)


def _attend(
    way: Way,
    bug: str,
    q: Tensor,
    *,
    keys: Tensor,
    values: Tensor,
    batch: Any,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    outputs = []
    for segment in batch.segments:
        rows = q[segment.start : segment.start + segment.length].transpose(0, 1)
        slots = segment.slots
        k, v = _heads(bug, q.shape[1], keys[slots], values[slots])
        if bug == "stale_last_kv" and len(slots) > 1:
            k, v = (torch.cat((t[:, :-1], t[:, -2:-1]), 1) for t in (k, v))
        if bug == "another_request":
            other = batch.segments[-1 if segment is batch.segments[0] else 0].slots[:1]
            k = torch.cat((_heads(bug, q.shape[1], keys[other], values[other])[0], k[:, 1:]), 1)
        outputs.append(_one(way, bug, rows, k, v, segment, scale, window, softcap).transpose(0, 1))
    return torch.cat(outputs)


def _heads(bug: str, heads: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    repeat = heads // k.shape[1]
    if bug == "head_mapping":
        return k.repeat(1, repeat, 1).transpose(0, 1), v.repeat(1, repeat, 1).transpose(0, 1)
    return k.transpose(0, 1).repeat_interleave(repeat, 0), v.transpose(0, 1).repeat_interleave(repeat, 0)


def _one(
    way: Way,
    bug: str,
    rows: Tensor,
    k: Tensor,
    v: Tensor,
    segment: Any,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    match bug:
        case "scale_missing":
            scale = 1.0
        case "scale_of_another_width":
            scale = (1 / scale**2 + 4) ** -0.5
        case "softcap_missing":
            softcap = None
        case "accumulate_bf16":
            way = dataclasses.replace(way, low="bf16")
    scores = way.dot(rows, k) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    seen = _seen(bug, segment.length, segment.context, window)
    e, total = _softmax(way, bug, scores.masked_fill(~seen, -math.inf))
    return way.dot(e, v.transpose(-1, -2)) / total


def _latent_attend(
    way: Way, bug: str, q: Tensor, *, latents: Tensor, w: Tensor, nope: int, batch: Any, scale: float
) -> Tensor:
    heads, outputs = q.shape[1], []
    full = w.view(heads, -1, w.shape[1]).to(way.wide)
    for segment in batch.segments:
        rows = q[segment.start : segment.start + segment.length].transpose(0, 1)
        held = latents[segment.slots]
        latent, shared = held[:, : w.shape[1]], held[:, w.shape[1] :]
        if bug == "shared_key_missing":
            shared = shared * 0
        if way.online:  # absorbed: the weights are folded into queries and outputs
            q_a = way.dot(rows[..., :nope], full[:, :nope].transpose(-1, -2))
            k = torch.cat((latent, shared), -1)[None].expand(heads, -1, -1)
            inner = _one(
                way,
                bug,
                torch.cat((q_a, rows[..., nope:].to(way.wide)), -1),
                k,
                latent[None].expand(heads, -1, -1),
                segment,
                scale,
                None,
                None,
            )
            made = way.dot(inner, full[:, nope:])
        else:
            kv = way.middle(way.dot(latent[None].expand(heads, -1, -1), full), q)
            k = torch.cat((kv[..., :nope], shared[None].expand(heads, -1, -1).to(way.wide)), -1)
            made = _one(way, bug, rows, k, kv[..., nope:], segment, scale, None, None)
        outputs.append(made.transpose(0, 1))
    return torch.cat(outputs)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
_OTHER = {"silu": "gelu_pytorch_tanh", "gelu": "gelu_pytorch_tanh", "gelu_pytorch_tanh": "gelu"}


def _gated(way: Way, bug: str, x: Tensor, *, activation: str) -> Tensor:
    gate, up = (t.to(way.wide) for t in x.chunk(2, -1))
    if bug == "gate_and_up_swapped":
        gate, up = up, gate
    act = _ACTIVATIONS[_OTHER[activation] if bug == "activation_other" else activation]
    if bug == "activation_relu":
        act = F.relu
    if bug == "activation_quick":
        act = lambda g: g * torch.sigmoid(1.702 * g)  # noqa: E731 - one of a table
    return way.middle(act(gate), x) * up


def _experts(
    way: Way, bug: str, x: Tensor, weights: Tensor, chosen: Tensor, *, up: Any, down: Any, activation: str
) -> Tensor:
    match bug:
        case "expert_off_by_one":
            chosen = (chosen + 1) % len(up)
        case "last_choice_dropped":
            weights = torch.cat((weights[:, :-1], weights[:, -1:] * 0), -1)
        case "weights_ignored":
            weights = torch.ones_like(weights)
        case "weights_of_neighbour":
            weights = weights.roll(1, -1)
    total = torch.zeros(x.shape, dtype=way.wide)
    for token in range(len(x)):
        parts = []
        for place in range(chosen.shape[1]):
            e = int(chosen[token, place])
            both = way.middle(way.dot(x[token : token + 1], up[e]), x)
            inner = "gate_and_up_swapped" if bug == "gate_and_up_swapped" else ""
            h = way.middle(_gated(way, inner, both, activation=activation), x)
            made = way.middle(way.dot(h, down[e]), x)[0]
            parts.append(way.middle(made * weights[token, place].to(way.wide), x))
        total[token] = torch.stack(parts[::-1] if way.shuffle else parts).sum(0)
    return total


def _route(
    way: Way, bug: str, x: Tensor, *, w: Tensor, bias: Tensor | None, router: Any
) -> tuple[Tensor, Tensor]:
    logits = way.dot(x, w)
    if not router.wide:
        logits = logits.to(x.dtype).to(way.wide)
    kind = router.scores
    if bug == "scores_other":
        kind = "softmax" if kind == "sigmoid" else "sigmoid"
    scores = logits.sigmoid() if kind == "sigmoid" else logits.softmax(-1)
    ranks = scores if bias is None or bug == "bias_ignored" else scores + bias
    if router.groups > 1 and bug != "groups_ignored":
        by_group = ranks.view(len(ranks), router.groups, -1)
        best = by_group.topk(router.group_best, -1).values.sum(-1)
        allowed = torch.zeros_like(best, dtype=torch.bool)
        allowed.scatter_(1, best.topk(router.top_groups, -1).indices, value=True)
        ranks = by_group.masked_fill(~allowed[..., None], -math.inf).flatten(-2)
    top = router.top + (bug == "best_skipped")
    chosen = ranks.topk(top, -1).indices[:, top - router.top :]
    weights = (ranks if bug == "bias_weighed" else scores).gather(-1, chosen)
    if router.normalise != (bug == "normalised_otherwise"):
        weights = weights / weights.sum(-1, keepdim=True)
    return weights * (1.0 if bug == "scale_missing" else router.scale), chosen


def _embed(way: Way, bug: str, tokens: Tensor, *, w: Tensor, scale: float) -> Tensor:
    if bug == "id_off_by_one":
        tokens = (tokens + 1) % len(w)
    rows = w[tokens].to(way.wide)
    return rows if bug == "scale_missing" else rows * torch.tensor(scale, dtype=w.dtype).to(way.wide)


def _add(way: Way, bug: str, x: Tensor, y: Tensor) -> Tensor:
    a, b = x.to(way.wide), y.to(way.wide)
    return {"residual_lost": b, "residual_twice": 2 * a + b, "sublayer_lost": a}.get(bug, a + b)


def _softcap(way: Way, bug: str, x: Tensor, *, cap: float) -> Tensor:
    wide = x.to(way.wide)
    if bug == "cap_missing":
        return wide
    return way.middle(torch.tanh(way.middle(wide / cap, x)), x) * cap


def _store(way: Way, bug: str, x: Tensor, *, pool: Tensor, batch: Any) -> None:
    del way
    match bug:
        case "last_row_not_written":
            pool[batch.slots[:-1]] = x[:-1]
        case "rows_swapped":
            pool[batch.slots] = x.flip(0)
        case "stored_e4m3" | "stored_bf16":
            pool[batch.slots] = grid(x.float(), bug.removeprefix("stored_")).to(x.dtype)
        case "slot_off_by_one":
            pool[batch.slots.roll(1)] = x
        case _:
            pool[batch.slots] = x


# Of a function of the engine's op: the way of computing it, the bug in it, then its own arguments.
KERNELS: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    "rms_norm": _rms_norm,
    "rotate": _rotate,
    "attend": _attend,
    "latent_attend": _latent_attend,
    "gated": _gated,
    "experts": _experts,
    "route": _route,
    "embed": _embed,
    "add": _add,
    "softcap": _softcap,
    "store": _store,
}
_MASKS = (
    "causal_dropped mask_edge_late mask_edge_early first_key_lost scale_missing scale_of_another_width "
    "denominator_bf16 exp_bf16 padding_in_denominator accumulate_bf16"
)
BUGS: dict[str, tuple[str, ...]] = {
    name: tuple(bugs.split())
    for name, bugs in {
        "linear": "inputs_tf32 inputs_bf16 inputs_e4m3 accumulate_bf16 accumulate_f16 "
        "k_tile_dropped k_tile_twice k_tail_dropped weight_transposed weight_rows_rolled "
        "bias_missing bias_twice",
        "rms_norm": "eps_large eps_missing eps_outside_root mean_subtracted divided_by_n_less_1 offset_wrong "
        "gain_missing accumulate_bf16",
        "rotate": "layout_other sign_of_sin position_off_by_one not_rotated table_bf16 first_pair_only",
        "attend": f"{_MASKS} window_wider window_narrower window_dropped softcap_missing head_mapping "
        "stale_last_kv another_request",
        "latent_attend": f"{_MASKS} shared_key_missing",
        "gated": "gate_and_up_swapped activation_other activation_relu activation_quick",
        "experts": "expert_off_by_one last_choice_dropped weights_ignored weights_of_neighbour "
        "gate_and_up_swapped",
        "route": "scores_other bias_ignored groups_ignored best_skipped bias_weighed normalised_otherwise "
        "scale_missing",
        "embed": "id_off_by_one scale_missing",
        "add": "residual_lost residual_twice sublayer_lost",
        "softcap": "cap_missing",
        "store": "last_row_not_written rows_swapped stored_e4m3 stored_bf16 slot_off_by_one",
    }.items()
}


def computed(name: str, way: Way, bug: str) -> Callable[..., Any]:
    """Return an engine op's function, computed in a way and with a bug, in the types of the engine."""
    kernel = functools.partial(KERNELS[name], way, bug)

    def run(*arguments: Any, **options: Any) -> Any:
        made = kernel(*arguments, **options)
        if made is None:
            return None
        like = options["w"] if name == "embed" else arguments[0]
        if isinstance(made, tuple):  # routing keeps its weights wide
            weights, chosen = made
            return weights.to(torch.promote_types(like.dtype, torch.float32)), chosen
        return made.to(like.dtype)

    return run
