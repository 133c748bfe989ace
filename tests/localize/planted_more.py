"""Further faults of known cause: of what only single rows, requests, dimensions or steps of a type show.

Entered into the table of `planted` by being imported. Nothing here shares code with the hypotheses.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from parity.localize.cause import CauseKind as K
from tests.localize.planted import (
    Attention,
    Experts,
    Latent,
    Linear,
    Planted,
    Rotation,
    Route,
    low,
    norm,
    on_linear,
    out,
    plant,
    rms,
    rms_step,
)

__all__ = []


@plant(K.SCALE, dtypes=("bf16",))
def stored_result_scaled_by_a_little(d):
    c = Linear(d)
    return c.planted(low(c.y(), "bf16") * d.pick(1.01, 0.988, 1.013))


@plant(K.OUTPUT_ROUNDING, dtypes=("bf16",))
def half_of_the_results_a_step_lower(d):
    d.heavy = False
    c = Linear(d)
    y = c.y().bfloat16()
    bits = y.view(torch.int16)
    down = (torch.rand(y.shape, generator=d.g) < 0.5) & (y != 0)
    return c.planted(torch.where(down, bits - 1, bits).view(torch.bfloat16).float())


@on_linear("weight_rows_moved_beside_a_bias", K.WEIGHT_LAYOUT, bias=True)
def _(c, y, d):
    return c.y(w=c.w.roll(d.pick(1, -1), 0))


@plant(K.STALE)
def rows_of_a_longer_call(d):
    c = Linear(d)
    y, before = c.y(), d.x(c.T + d.n(1, 30), c.N, scale=3)
    y[-1] = before[-1]
    return c.planted(y, earlier={"s0.L00.out": out(before, d.dtype)})


@plant(K.EPSILON)
def root_of_epsilon_added_to_the_root(d):
    x, g = norm(d, "rms_norm")
    x = d.round(x * 0.1)
    return rms_step(d, x, g, x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-5**0.5) * g)


@plant(K.MEAN, K.SCALE, dtypes=("bf16",))
def mean_over_one_less_with_a_stored_norm(d):
    x, g = norm(d, "w")
    n = x.shape[-1]
    normal = low(x * torch.rsqrt(x.square().sum(-1, keepdim=True) / (n - 1) + 1e-5), "bf16")
    attrs = {"eps": 1e-5, "offset": 0.0, "rounds_first": True}
    inputs = (out(x, d.dtype), out(g, d.dtype))
    return Planted(op="weighted_rms_norm", attrs=attrs, inputs=inputs, got=(out(normal * g, d.dtype),))


@plant(K.SCALE)
def norm_halved(d):
    x, g = norm(d, "rms_norm")
    return rms_step(d, x, g, rms(x, g, 1e-5) / 2)


@plant(K.ACTIVATION, dtypes=("bf16",))
def other_gate_stored_before_the_product(d):
    d.heavy = False
    x = d.x(d.n(17, 40), 128, scale=2)
    gate, up = x.chunk(2, -1)
    made = low(d.pick(gate * torch.sigmoid(1.702 * gate), F.relu(gate)), "bf16") * up
    return Planted(
        op="gated", attrs={"activation": "gelu_pytorch_tanh"}, inputs=(out(x, d.dtype),),
        got=(out(made, d.dtype),),
    )  # fmt: skip


@plant(K.ATTENTION_SCALE)
def attention_scale_off_by_a_tenth(d):
    c = Attention(d)
    return c.planted(c.y(scale=c.scale * d.pick(0.9, 1.08)))


@plant(K.OPERAND)
def first_key_of_another_request(d):
    c = Attention(d)
    firsts, at = [], 0
    for _, length, context in c.segments:
        firsts.append(c.slots[at])
        at += length + context
    order = iter([*firsts[-1:], *firsts[:-1]])

    def change(k, v):
        k[0] = c.k[next(order)]
        return k, v

    return c.planted(c.y(change=change))


@plant(K.DENOMINATOR, dtypes=("f32",))
def denominator_of_each_row_its_own(d):
    c = Attention(d)
    y = c.y()
    return c.planted(y / (1 + torch.rand(*y.shape[:2], 1, generator=d.g)))


@plant(K.OPERAND, K.TERMS)
def shared_key_of_latents_missing(d):
    c = Latent(d)
    q = c.q
    c.q = torch.cat((q[..., : c.nope], torch.zeros_like(q[..., c.nope :])), -1)
    y = c.y()
    c.q = q
    return c.planted(y)


@plant(K.INPUTS_ROUNDED, dtypes=("f32",))
def tables_rounded(d):
    c = Rotation(d)
    return c.planted(c.y(*(low(t, "bf16") for t in c.tables())))


@plant(K.OFF_BY_ONE)
def best_expert_passed_over(d):
    c = Route(d, groups=d.pick(1, 4), top_groups=2, group_best=2)
    weights, chosen = c.y(top=c.attrs["top"] + 1, normalise=False)
    weights = weights[:, 1:]
    return c.planted(weights / weights.sum(-1, keepdim=True), chosen[:, 1:].contiguous())


@plant(K.ROUTING, dtypes=("bf16",))
def stored_logits_not_normalised(d):
    c = Route(d, wide=False, scores="softmax")
    scores = low(c.x @ c.w.T, "bf16").softmax(-1)
    chosen = (scores + c.b).topk(c.attrs["top"], -1).indices
    return c.planted(scores.gather(-1, chosen), chosen)


@plant(K.EXPERT, dtypes=("bf16",))
def wrong_expert_that_stores_its_products(d):
    c = Experts(d)
    y = torch.zeros_like(c.x)
    for t in range(len(c.x)):
        for e, w in zip(((c.chosen[t] + 1) % 6).tolist(), c.weights[t].tolist(), strict=True):
            gate, high = low(c.up[e] @ c.x[t], "bf16").chunk(2)
            y[t] += w * _stored(c.down[e] @ _stored(F.silu(gate) * high))
    return c.planted(y)


def _stored(x: Tensor) -> Tensor:
    return low(x, "bf16")
