"""Faults of known cause, planted in kernels that sum in another order than the oracle.

Each function draws one step from a seed and returns what a faulty device would have given. Nothing here
shares code with the hypotheses. Does not diagnose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from parity.case.dtype import DTYPES, decode, encode
from parity.case.tensor import HostTensor
from parity.localize.cause import CauseKind as K

TORCH = {"f32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A step with a fault: tensors in order, what was given, and the causes that name the fault."""

    op: str
    attrs: Mapping[str, object]
    inputs: tuple[HostTensor | None, ...]
    got: tuple[HostTensor, ...]
    earlier: Mapping[str, HostTensor] = field(default_factory=dict)


PLANTED: dict[str, tuple[tuple[K, ...], Callable[..., Planted], tuple[str, ...]]] = {}


def plant(*kinds, dtypes=("f32", "bf16")):
    def enter(function):
        PLANTED[function.__name__] = (kinds, function, dtypes)
        return function

    return enter


class Draw:
    """Random tensors of one dtype, as float32 that the dtype holds exactly."""

    def __init__(self, seed, dtype):
        self.g = torch.Generator().manual_seed(seed)
        self.dtype = dtype
        self.heavy = bool(torch.randint(2, (1,), generator=self.g))

    def n(self, low, high):
        return int(torch.randint(low, high + 1, (1,), generator=self.g))

    def pick(self, *options):
        return options[self.n(0, len(options) - 1)]

    def real(self, low, high):
        return low + (high - low) * float(torch.rand(1, generator=self.g))

    def x(self, *shape, scale=1.0):
        x = torch.randn(shape, generator=self.g)
        if self.heavy:
            x = x * (torch.randn(shape, generator=self.g).abs() + 0.2)
            if len(shape) > 1:
                x[..., self.n(0, shape[-1] - 1)] *= 20
        return self.round(x * scale)

    def round(self, x):
        return x.to(TORCH[self.dtype]).float()

    def perm(self, n):
        return torch.randperm(n, generator=self.g)

    def ints(self, high, *shape):
        return torch.randint(high, shape, generator=self.g)


def out(x, dtype):
    return host(x.to(TORCH[dtype]))


def host(x: Tensor) -> HostTensor:
    if x.dtype is torch.bfloat16:
        return HostTensor.of(x.contiguous().view(torch.int16).numpy().view(np.uint16), DTYPES["bf16"])
    names = {torch.float32: "f32", torch.int64: "i64", torch.int32: "i32", torch.int8: "i8"}
    names |= {torch.uint8: "u8", torch.bool: "bool"}
    return HostTensor.of(x.contiguous().numpy(), DTYPES[names[x.dtype]])


def low(x, kind):
    return x.to({"bf16": torch.bfloat16, "f16": torch.float16}[kind]).float()


def tf32(x):
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def fp8(x, name="e4m3fn"):
    kind = DTYPES[name]
    return torch.from_numpy(decode(encode(x.double().numpy(), kind), kind)).float()


# --- linear ------------------------------------------------------------------------------------------


class Linear:
    """y = x w^T (+ bias) in float32, its terms in a random order."""

    def __init__(self, d, *, bias=False, square=False, T=None):
        self.T, self.K = T or d.n(17, 48), d.n(48, 160)
        self.N = self.K if square else d.pick(64, 96, 100, 120, 128)
        self.x, self.w = d.x(self.T, self.K), d.x(self.N, self.K, scale=0.2)
        self.b = d.x(self.N) if bias else None
        self.order = d.perm(self.K)
        self.d = d

    def y(self, x=None, w=None, b=None):
        x, w = self.x if x is None else x, self.w if w is None else w
        y = x[:, self.order] @ w[:, self.order].T
        b = self.b if b is None else b
        return y if b is None else y + b

    def planted(self, y, **more):
        t = self.d.dtype
        inputs = [out(self.x, t), out(self.w, t)] + ([out(self.b, t)] if self.b is not None else [])
        return Planted(op="linear", attrs={}, inputs=tuple(inputs), got=(out(y, t),), **more)


def linear(change, **options):
    def made(d):
        case = Linear(d, **options)
        return case.planted(change(case, case.y(), d))

    return made


def on_linear(name, *kinds, dtypes=("f32", "bf16"), **options):
    def enter(change):
        PLANTED[name] = (kinds, linear(change, **options), dtypes)
        return change

    return enter


@on_linear("scale", K.SCALE)
def _(c, y, d):
    return y * d.pick(0.5, 1.05, 0.9, 2.0, 127 / 128, 3.7)


@on_linear("offset", K.OFFSET)
def _(c, y, d):
    return y + d.real(0.5, 2) * d.pick(-1, 1)


@on_linear("sign", K.SIGN)
def _(c, y, d):
    return d.pick(-y, y.abs())


@on_linear("row_scale", K.ROW_SCALE)
def _(c, y, d):
    return y * (1 + 0.2 * torch.rand(c.T, 1, generator=d.g))


@on_linear("channel_scale", K.ROW_SCALE)
def _(c, y, d):
    return y * (1 + 0.2 * torch.rand(1, c.N, generator=d.g))


@on_linear("transposed", K.TRANSPOSED)
def _(c, y, d):
    return y.T.reshape(y.shape)


@on_linear("head_layout", K.HEAD_LAYOUT)
def _(c, y, d):
    h = d.pick(*[h for h in (4, 8, 16) if c.N % h == 0])
    return y.unflatten(-1, (h, -1)).transpose(1, 2).flatten(1)


@on_linear("roll_rows", K.ROLL)
def _(c, y, d):
    return y.roll(d.pick(1, -1), 0)


@on_linear("shift_rows_without_wrap", K.ROLL)
def _(c, y, d):
    return torch.cat((y[:1], y[:-1]))


@on_linear("roll_columns", K.ROLL)
def _(c, y, d):
    return y.roll(d.pick(1, -1, 16), 1)


@on_linear("reversed", K.REVERSED)
def _(c, y, d):
    return y.flip(d.pick(0, 1))


@on_linear("halves_swapped", K.HALVES)
def _(c, y, d):
    return y.roll(c.N // 2, 1)


@on_linear("halves_interleaved", K.HALVES)
def _(c, y, d):
    a, b = y.chunk(2, -1)
    return d.pick(torch.stack((a, b), -1).flatten(1), torch.cat((y[:, ::2], y[:, 1::2]), 1))


@on_linear("permuted_rows", K.PERMUTED)
def _(c, y, d):
    order = torch.arange(c.T)
    chosen = d.perm(c.T)[:4]
    order[chosen] = chosen.roll(1)
    return y[order]


@on_linear("repeated_row", K.REPEATED)
def _(c, y, d):
    y = y.clone()
    at = d.n(1, c.T - 1)
    y[at] = y[at - 1]
    return y


@on_linear("zeroed_columns", K.ZEROED)
def _(c, y, d):
    y = y.clone()
    y[:, -d.n(3, 20) :] = 0
    return y


@on_linear("zeroed_rows", K.ZEROED)
def _(c, y, d):
    y = y.clone()
    at = d.n(1, c.T - 4)
    y[at : at + d.n(1, 3)] = 0
    return y


@on_linear("garbage_in_the_last_tile", K.TILE_EDGE)
def _(c, y, d):
    y = y.clone()
    start = (c.N - 1) // 16 * 16
    y[:, start:] = torch.randn(c.T, c.N - start, generator=d.g) * y.std()
    return y


@on_linear("nan_rows", K.NON_FINITE)
def _(c, y, d):
    y = y.clone()
    y[d.n(0, c.T - 1)] = math.nan
    return y


@on_linear("saturated", K.SATURATED)
def _(c, y, d):
    limit = float(y.abs().flatten().sort().values[-d.n(20, 100)])
    return y.clamp(-limit, limit)


@on_linear("saturated_at_240", K.SATURATED)
def _(c, y, d):
    c.x = c.d.round(c.x * 500 / y.abs().max())
    return c.y().clamp(-240, 240)


@on_linear("flushed", K.FLUSHED)
def _(c, y, d):
    limit = float(y.abs().flatten().sort().values[d.n(40, 200)])
    return torch.where(y.abs() < limit, 0.0, y)


@on_linear("grid_of_bf16", K.OUTPUT_ROUNDING, dtypes=("f32",))
def _(c, y, d):
    return low(y, d.pick("bf16", "f16"))


@on_linear("truncated_result", K.OUTPUT_ROUNDING, dtypes=("bf16",))
def _(c, y, d):
    return (y.contiguous().view(torch.int32) & ~0xFFFF).view(torch.float32)


@on_linear("bit_flip", K.BIT_FLIP)
def _(c, y, d):
    flat = y.to(TORCH[d.dtype])
    kind, bits = (torch.int32, 32) if d.dtype == "f32" else (torch.int16, 16)
    view = flat.view(kind)
    rows = d.perm(c.T)[:3]
    view[rows, d.n(0, c.N - 1)] ^= 1 << (bits - d.n(6, 8))
    return flat.float()


@on_linear("tf32_inputs", K.INPUTS_ROUNDED, dtypes=("f32",))
def _(c, y, d):
    return c.y(tf32(c.x), tf32(c.w))


@on_linear("bf16_inputs", K.INPUTS_ROUNDED, dtypes=("f32",))
def _(c, y, d):
    return c.y(low(c.x, "bf16"), low(c.w, "bf16"))


@on_linear("fp8_inputs", K.INPUTS_ROUNDED)
def _(c, y, d):
    return c.y(fp8(c.x), fp8(c.w))


@on_linear("fp8_weights", K.INPUTS_ROUNDED)
def _(c, y, d):
    return c.y(w=fp8(c.w, d.pick("e4m3fn", "e5m2")))


@on_linear("bf16_accumulation", K.ACCUMULATION)
def _(c, y, d):
    total = torch.zeros_like(y)
    for k in c.order.tolist():
        total = low(total + c.x[:, k, None] * c.w[:, k], "bf16")
    return total


@on_linear("f16_accumulation_in_chunks", K.ACCUMULATION, dtypes=("f32",))
def _(c, y, d):
    total, size = torch.zeros_like(y), d.pick(4, 8, 16)
    for k in range(0, c.K, size):
        total = low(total + c.x[:, k : k + size] @ c.w[:, k : k + size].T, "f16")
    return total


@on_linear("bf16_partials", K.PARTIALS_ROUNDED, dtypes=("f32",))
def _(c, y, d):
    count = d.pick(2, 4)
    size = -(-c.K // count)
    return sum(low(c.x[:, k : k + size] @ c.w[:, k : k + size].T, "bf16") for k in range(0, c.K, size))


@on_linear("bias_missing", K.BIAS, bias=True)
def _(c, y, d):
    return c.y(b=torch.zeros_like(c.b))


@on_linear("bias_twice", K.BIAS, bias=True)
def _(c, y, d):
    return c.y(b=2 * c.b)


@on_linear("weight_transposed", K.WEIGHT_LAYOUT, square=True)
def _(c, y, d):
    return c.y(w=c.w.T)


@on_linear("weight_moved", K.WEIGHT_LAYOUT)
def _(c, y, d):
    return c.y(w=c.w.roll(1, 1))


@on_linear("tile_left_out", K.TERMS)
def _(c, y, d):
    size = d.pick(8, 16, 32)
    start = d.n(0, c.K // size - 1) * size
    w = c.w.clone()
    w[:, start : start + size] = 0
    return c.y(w=w)


@on_linear("tile_twice", K.TERMS)
def _(c, y, d):
    start = d.n(0, c.K // 16 - 1) * 16
    w = c.w.clone()
    w[:, start : start + 16] *= 2
    return c.y(w=w)


@on_linear("last_term_missing", K.TERMS)
def _(c, y, d):
    w = c.w.clone()
    w[:, -1] = 0
    return c.y(w=w)


@plant(K.STALE)
def stale_rows(d):
    c = Linear(d)
    y, before = c.y(), d.x(c.T, c.N, scale=3)
    at = d.n(0, c.T - 4)
    y[at : at + 3] = before[at : at + 3]
    return c.planted(y, earlier={"s2.L00.out": out(before, d.dtype)})


@plant(K.UNKNOWN)
def random_corruption(d):
    c = Linear(d)
    y = c.y()
    bad = torch.rand(y.shape, generator=d.g) < 0.3
    return c.planted(torch.where(bad, torch.randn(y.shape, generator=d.g) * y.std() * 2, y))


@plant(K.UNKNOWN)
def other_numbers(d):
    c = Linear(d)
    return c.planted(torch.randn(c.T, c.N, generator=d.g) * 3)


@plant(K.UNKNOWN)
def multiplicative_noise(d):
    c = Linear(d)
    y = c.y()
    return c.planted(y * (1 + 0.5 * torch.randn(y.shape, generator=d.g)))


# --- norms, softmax, activations ---------------------------------------------------------------------


def norm(d, op):
    T, N = d.n(17, 48), d.pick(64, 96, 100, 128)
    x, g = d.x(T, N, scale=d.pick(1.0, 0.05)), d.round(1 + 0.3 * torch.randn(N, generator=d.g))
    return x, g


def rms(x, g, eps):
    return x * torch.rsqrt(x.flip(-1).square().mean(-1, keepdim=True) + eps) * g


def rms_step(d, x, g, y, eps=1e-5):
    return Planted(
        op="rms_norm", attrs={"eps": eps}, inputs=(out(x, d.dtype), out(g, d.dtype)), got=(out(y, d.dtype),)
    )


@plant(K.EPSILON)
def epsilon(d):
    x, g = norm(d, "rms_norm")
    x = d.round(x * 0.05)
    return rms_step(d, x, g, rms(x, g, d.pick(1e-3, 1e-6, 0.0) if d.heavy else 1e-3), 1e-5)


@plant(K.EPSILON)
def epsilon_outside(d):
    x, g = norm(d, "rms_norm")
    x = d.round(x * 0.02)
    return rms_step(d, x, g, x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-3) * g, 1e-3)


@plant(K.NORM_WEIGHT)
def norm_weight(d):
    x, g = norm(d, "rms_norm")
    return rms_step(d, x, g, rms(x, d.pick(torch.ones_like(g), 1 + g), 1e-5))


@plant(K.NORM_WEIGHT)
def norm_offset(d):
    x, g = norm(d, "w")
    g = d.round(g - 1)
    attrs = {"eps": 1e-5, "offset": 1.0, "rounds_first": False}
    return Planted(
        op="weighted_rms_norm",
        attrs=attrs,
        inputs=(out(x, d.dtype), out(g, d.dtype)),
        got=(out(rms(x, g, 1e-5), d.dtype),),
    )


@plant(K.MEAN)
def mean_over_padding(d):
    x, g = norm(d, "rms_norm")
    n = x.shape[-1]
    wrong = d.pick(n - 1, n + 28)
    y = x * torch.rsqrt(x.square().sum(-1, keepdim=True) / wrong + 1e-5) * g
    return rms_step(d, x, g, y)


@plant(K.MEAN)
def mean_kept(d):
    x, g = norm(d, "layer_norm")
    x, b = d.round(x + 1.5), d.x(x.shape[-1])
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * g + b
    inputs = tuple(out(t, d.dtype) for t in (x, g, b))
    return Planted(op="layer_norm", attrs={"eps": 1e-5}, inputs=inputs, got=(out(y, d.dtype),))


@plant(K.ROUNDING_ORDER, dtypes=("bf16",))
def rounded_before_weight(d):
    x, g = norm(d, "w")
    attrs = {"eps": 1e-5, "offset": 0.0, "rounds_first": False}
    y = low(rms(x, torch.ones_like(g), 1e-5), "bf16") * g
    return Planted(
        op="weighted_rms_norm", attrs=attrs, inputs=(out(x, d.dtype), out(g, d.dtype)), got=(out(y, d.dtype),)
    )


@plant(K.ACCUMULATION, K.DENOMINATOR)
def squares_summed_low(d):
    x, g = norm(d, "rms_norm")
    total = torch.zeros(len(x), 1)
    for k in range(x.shape[-1]):
        total = low(total + x[:, k : k + 1].square(), "bf16")
    return rms_step(d, x, g, x * torch.rsqrt(total / x.shape[-1] + 1e-5) * g)


def softmax_step(d, x, y):
    return Planted(op="softmax", attrs={"dim": -1}, inputs=(out(x, d.dtype),), got=(out(y, d.dtype),))


@plant(K.DENOMINATOR)
def denominator_summed_low(d):
    x = d.x(d.n(17, 40), d.pick(64, 100, 200))
    e = (x - x.amax(-1, keepdim=True)).exp()
    total = torch.zeros(len(x), 1)
    for k in d.perm(x.shape[-1]).tolist():
        total = low(total + e[:, k : k + 1], "bf16")
    return softmax_step(d, x, e / total)


@plant(K.DENOMINATOR)
def padding_in_the_denominator(d):
    x = d.round(d.x(d.n(17, 40), d.pick(50, 100, 200)).clamp(-3, 3))
    pad = d.pick(1, -x.shape[-1] % 64)
    return softmax_step(d, x, F.pad(x, (0, pad)).softmax(-1)[:, : x.shape[-1]])


@plant(K.NON_FINITE, dtypes=("f32",))
def maximum_not_subtracted(d):
    x = d.x(d.n(17, 40), 64) * 40
    e = x.exp()
    return softmax_step(d, x, e / e.sum(-1, keepdim=True))


@plant(K.ACTIVATION)
def other_gelu(d):
    x = d.x(d.n(17, 40), 96, scale=2)
    op, how = d.pick(("gelu_erf", "tanh"), ("gelu_tanh", "none"))
    return Planted(
        op=op, attrs={}, inputs=(out(x, d.dtype),), got=(out(F.gelu(x, approximate=how), d.dtype),)
    )


@plant(K.ACTIVATION)
def other_activation(d):
    x = d.x(d.n(17, 40), 96, scale=2)
    y = d.pick(F.gelu(x), x * torch.sigmoid(1.702 * x), F.relu(x), x)
    return Planted(op="silu", attrs={}, inputs=(out(x, d.dtype),), got=(out(y, d.dtype),))


@plant(K.ACTIVATION)
def other_gate(d):
    x = d.x(d.n(17, 40), 128, scale=2)
    gate, up = x.chunk(2, -1)
    own, y = d.pick(("silu", F.gelu(gate)), ("gelu", F.silu(gate)), ("gelu_pytorch_tanh", F.gelu(gate)))
    return Planted(
        op="gated", attrs={"activation": own}, inputs=(out(x, d.dtype),), got=(out(y * up, d.dtype),)
    )


@plant(K.GATE_UP)
def gate_and_up_exchanged(d):
    x = d.x(d.n(17, 40), 128)
    gate, up = x.chunk(2, -1)
    return Planted(
        op="gated",
        attrs={"activation": "silu"},
        inputs=(out(x, d.dtype),),
        got=(out(F.silu(up) * gate, d.dtype),),
    )


@plant(K.SOFTCAP)
def cap_missing(d):
    x = d.x(d.n(17, 40), 64, scale=15)
    return Planted(op="softcap", attrs={"cap": 30.0}, inputs=(out(x, d.dtype),), got=(out(x, d.dtype),))


@plant(K.OPERAND, K.NOT_APPLIED)
def residual_missing(d):
    a, b = d.x(d.n(17, 40), 96), d.x(1, 1)
    b = d.x(*a.shape)
    return Planted(
        op="add",
        attrs={},
        inputs=(out(a, d.dtype), out(b, d.dtype)),
        got=(out(d.pick(a, b, 2 * a + b), d.dtype),),
    )


# --- attention and positions -------------------------------------------------------------------------


class Attention:
    """Paged attention of two or three requests, each over its own slots."""

    def __init__(self, d, window=None, cap=None):
        self.d, self.window, self.cap = d, window, cap
        self.H, self.G, self.D = d.pick((4, 2, 16), (8, 2, 16), (6, 3, 32))
        self.segments, start, slots = [], 0, []
        for _ in range(d.n(2, 3)):
            length, context = d.n(1, 12), d.n(3, 20)
            self.segments.append((start, length, context))
            start += length
            slots.append(length + context)
        pool = sum(slots) + 9
        self.slots = d.perm(pool)[: sum(slots)]
        heavy, d.heavy = d.heavy, False
        self.q = d.x(start, self.H, self.D, scale=1.5)
        self.k, self.v = d.x(pool, self.G, self.D), d.x(pool, self.G, self.D)
        d.heavy = heavy
        self.scale = self.D**-0.5

    def y(
        self, *, scale=None, ahead=0, causal=True, window=0, cap=0.0, group=None, change=None, p=None, s=None
    ):
        scale = self.scale if scale is None else scale
        window = self.window if window == 0 else window
        cap = self.cap if cap == 0.0 else cap
        made, first = torch.zeros(len(self.q), self.H, self.D), 0
        for start, length, context in self.segments:
            held = self.slots[first : first + length + context]
            first += length + context
            k, v = self.k[held], self.v[held]
            if change is not None:
                k, v = change(k.clone(), v.clone())
            heads = (
                torch.arange(self.H) // (self.H // self.G) if group is None else group(torch.arange(self.H))
            )
            k, v = k[:, heads], v[:, heads]
            scores = torch.einsum("thd,shd->hts", self.q[start : start + length].flip(-1), k.flip(-1)) * scale
            if cap is not None:
                scores = cap * torch.tanh(scores / cap)
            if s is not None:
                scores = s(scores)
            at = torch.arange(context, context + length)[:, None]
            key = torch.arange(len(held))[None]
            seen = key <= at + ahead if causal else key >= 0
            if window is not None:
                seen = seen & (key > at - window)
            weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
            weights = weights.nan_to_num() if p is None else p(weights.nan_to_num())
            made[start : start + length] = torch.einsum("hts,she->the", weights.flip(-1), v.flip(0))
        return made

    def planted(self, y, **more):
        t = self.d.dtype
        inputs = (
            out(self.q, t),
            out(self.k, t),
            out(self.v, t),
            host(self.slots),
            host(torch.tensor(self.segments)),
        )
        attrs = {"scale": self.scale, "window": self.window, "softcap": self.cap}
        return Planted(op="paged_attention", attrs=attrs, inputs=inputs, got=(out(y, t),), **more)


@plant(K.ATTENTION_SCALE)
def attention_scale(d):
    c = Attention(d)
    return c.planted(c.y(scale=d.pick(1.0, (c.D + 1) ** -0.5 if d.dtype == "f32" else 0.5, 1 / c.D)))


@plant(K.MASK)
def causal_edge(d):
    c = Attention(d)
    return c.planted(c.y(ahead=d.pick(1, -1)))


@plant(K.MASK)
def causal_missing(d):
    c = Attention(d)
    return c.planted(c.y(causal=False))


@plant(K.MASK)
def window_edge(d):
    c = Attention(d, window=4)
    return c.planted(c.y(window=d.pick(3, 5, None)))


@plant(K.MASK)
def padding_leaked(d):
    c = Attention(d)
    n = d.pick(1, 2)

    def change(k, v):
        return F.pad(k, (0, 0, 0, 0, 0, n)), F.pad(v, (0, 0, 0, 0, 0, n))

    made, first = torch.zeros(len(c.q), c.H, c.D), 0
    for start, length, context in c.segments:
        held = c.slots[first : first + length + context]
        first += length + context
        heads = torch.arange(c.H) // (c.H // c.G)
        k, v = c.k[held][:, heads], c.v[held][:, heads]
        scores = torch.einsum("thd,shd->hts", c.q[start : start + length], k) * c.scale
        seen = torch.arange(len(held))[None] <= torch.arange(context, context + length)[:, None]
        scores = F.pad(scores.masked_fill(~seen, -math.inf), (0, n))
        made[start : start + length] = torch.einsum("hts,she->the", scores.softmax(-1)[..., : len(held)], v)
    return c.planted(made)


@plant(K.HEAD_GROUPS)
def grouped_heads(d):
    c = Attention(d)
    return c.planted(c.y(group=lambda h: h % c.G))


@plant(K.STALE)
def stale_last_key(d):
    c = Attention(d)

    def change(k, v):
        k[-1], v[-1] = 0, 0
        return k, v

    return c.planted(c.y(change=change))


@plant(K.STALE)
def stale_keys_of_another_step(d):
    c = Attention(d)
    before, now = c.k.clone(), c.k.clone()
    touched = c.slots[-3:]
    before[touched] = d.x(3, c.G, c.D)
    c.k = before
    y = c.y()
    c.k = now
    return c.planted(y, earlier={"s1.L00.keys": out(before, d.dtype)})


@plant(K.SOFTCAP)
def cap_of_scores_missing(d):
    c = Attention(d, cap=1.5)
    return c.planted(c.y(cap=None))


@plant(K.INTERMEDIATE, dtypes=("f32",))
def weights_rounded(d):
    c = Attention(d)
    return c.planted(c.y(p=lambda p: low(p, "bf16")))


@plant(K.INTERMEDIATE, dtypes=("f32",))
def scores_rounded(d):
    c = Attention(d)
    return c.planted(c.y(s=lambda s: low(s, "bf16")))


class Rotation:
    def __init__(self, d, base=1e4):
        self.d, T, H, self.D = d, d.n(9, 24), 3, d.pick(16, 32)
        self.x = d.x(T, H, self.D)
        self.start = d.n(0, 30)
        self.at = torch.arange(self.start, self.start + T).double()
        self.base = base

    def tables(self, at=None, base=None):
        at, base = self.at if at is None else at, base or self.base
        angle = at[:, None] * base ** -(torch.arange(0, self.D, 2).double() / self.D)
        return self.d.round(angle.cos().float()), self.d.round(angle.sin().float())

    def y(self, cos, sin, *, interleaved=False):
        cos, sin = cos[:, None], sin[:, None]
        if interleaved:
            a, b = self.x[..., ::2], self.x[..., 1::2]
            return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
        a, b = self.x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)

    def planted(self, y):
        t = self.d.dtype
        inputs = (out(self.x, t), *(out(v, t) for v in self.tables()))
        return Planted(op="rotate", attrs={"interleaved": False}, inputs=inputs, got=(out(y, t),))


@plant(K.ROPE_LAYOUT)
def rope_layout(d):
    c = Rotation(d)
    return c.planted(c.y(*c.tables(), interleaved=True))


@plant(K.ROPE_SIGN)
def rope_sign(d):
    c = Rotation(d)
    cos, sin = c.tables()
    return c.planted(c.y(cos, -sin))


@plant(K.POSITION)
def position_off_by_one(d):
    c = Rotation(d)
    return c.planted(c.y(*c.tables(c.at + d.pick(1, -1))))


@plant(K.ROPE_BASE)
def rope_base(d):
    c = Rotation(d)
    return c.planted(c.y(*c.tables(base=d.pick(5e5, 1e5, 1e6))))


@plant(K.NOT_APPLIED)
def rotation_missing(d):
    c = Rotation(d)
    return c.planted(c.x)


# --- lookup, order, routing, codes -------------------------------------------------------------------


@plant(K.OFF_BY_ONE)
def embedding_off_by_one(d):
    table, ids = d.x(50, 32), d.ints(48, 20) + 1
    got = table[ids + d.pick(1, -1)]
    return Planted(
        op="embedding", attrs={}, inputs=(out(table, d.dtype), host(ids)), got=(out(got, d.dtype),)
    )


@plant(K.EMBEDDING_SCALE, K.SCALE)
def embedding_scale(d):
    table, ids = d.x(50, 32), d.ints(50, 20)
    attrs = {"scale": math.sqrt(32.0)}
    return Planted(
        op="scaled_embedding",
        attrs=attrs,
        inputs=(out(table, d.dtype), host(ids)),
        got=(out(table[ids], d.dtype),),
    )


def topk_step(d, x, values, indices, k):
    attrs = {"k": k, "dim": -1, "largest": True}
    return Planted(
        op="topk", attrs=attrs, inputs=(out(x, d.dtype),), got=(out(values, d.dtype), host(indices))
    )


@plant(K.OFF_BY_ONE)
def topk_indices_off_by_one(d):
    x = d.x(20, 50)
    best = x.topk(5)
    return topk_step(d, x, best.values, best.indices + 1, 5)


@plant(K.ORDER)
def topk_unsorted(d):
    x = d.x(20, 50)
    best = x.topk(5)
    order = torch.tensor([0, 2, 1, 4, 3])
    return topk_step(d, x, best.values[:, order], best.indices[:, order], 5)


@plant(K.ORDER)
def topk_smallest(d):
    x = d.x(20, 50)
    best = x.topk(5, largest=False)
    return topk_step(d, x, best.values, best.indices, 5)


@plant(K.OFF_BY_ONE)
def topk_first_passed_over(d):
    x = d.x(20, 50)
    best = x.topk(6)
    return topk_step(d, x, best.values[:, 1:], best.indices[:, 1:], 5)


@plant(K.OFF_BY_ONE)
def argmax_off_by_one(d):
    x = d.x(20, 50)
    attrs = {"dim": -1, "keepdim": False}
    return Planted(op="argmax", attrs=attrs, inputs=(out(x, d.dtype),), got=(host(x.argmax(-1) + 1),))


class Route:
    def __init__(self, d, **attrs):
        d.heavy = False
        self.d, self.x, self.w = d, d.x(20, 64), d.x(16, 64, scale=0.2)
        self.b = d.x(16, scale=0.3)
        self.attrs = {
            "top": 4, "scores": "sigmoid", "groups": 1, "top_groups": 1, "group_best": 1, "normalise": True,
            "scale": 1.0, "wide": True,
        } | attrs  # fmt: skip

    def y(self, bias=None, weigh=None, **changes):
        a = self.attrs | changes
        logits = self.x @ self.w.T
        scores = logits.sigmoid() if a["scores"] == "sigmoid" else logits.softmax(-1)
        ranks = scores + (self.b if bias is None else bias)
        if a["groups"] > 1:
            by = ranks.view(len(ranks), a["groups"], -1)
            best = by.topk(a["group_best"], -1).values.sum(-1)
            keep = torch.zeros_like(best).scatter_(1, best.topk(a["top_groups"], -1).indices, 1).bool()
            ranks = by.masked_fill(~keep[..., None], -math.inf).flatten(1)
        chosen = ranks.topk(a["top"], -1).indices
        weights = (scores if weigh is None else weigh(scores)).gather(-1, chosen)
        if a["normalise"]:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights * a["scale"], chosen

    def planted(self, weights, chosen):
        inputs = tuple(out(t, self.d.dtype) for t in (self.x, self.w, self.b))
        return Planted(op="route", attrs=self.attrs, inputs=inputs, got=(host(weights), host(chosen)))


@plant(K.ROUTING)
def routing_not_normalised(d):
    c = Route(d)
    return c.planted(*c.y(normalise=False))


@plant(K.ROUTING)
def routing_scores(d):
    c = Route(d, scores="softmax")
    return c.planted(*c.y(scores="sigmoid"))


@plant(K.ROUTING)
def routing_groups_ignored(d):
    c = Route(d, groups=4, top_groups=2, group_best=2)
    return c.planted(*c.y(groups=1))


@plant(K.ROUTING)
def routing_bias_weighed(d):
    c = Route(d)
    return c.planted(*c.y(weigh=lambda s: s + c.b))


class Experts:
    def __init__(self, d):
        d.heavy = False
        self.d, self.x = d, d.x(20, 48)
        self.up, self.down = d.x(6, 64, 48, scale=0.2), d.x(6, 48, 32, scale=0.2)
        self.chosen = torch.stack([d.perm(6)[:2] for _ in range(20)])
        self.weights = torch.rand(20, 2, generator=d.g)

    def y(self, chosen=None, weights=None, up=None):
        chosen, weights = (
            self.chosen if chosen is None else chosen,
            self.weights if weights is None else weights,
        )
        up, y = self.up if up is None else up, torch.zeros_like(self.x)
        for t in range(len(self.x)):
            for e, w in zip(chosen[t].tolist(), weights[t].tolist(), strict=True):
                gate, high = (up[e] @ self.x[t]).chunk(2)
                y[t] += w * (self.down[e] @ (F.silu(gate) * high))
        return y

    def planted(self, y):
        t = self.d.dtype
        inputs = (out(self.x, t), host(self.weights), host(self.chosen), out(self.up, t), out(self.down, t))
        return Planted(op="experts", attrs={"activation": "silu"}, inputs=inputs, got=(out(y, t),))


@plant(K.EXPERT)
def wrong_expert(d):
    c = Experts(d)
    return c.planted(c.y(chosen=(c.chosen + 1) % 6))


@plant(K.ROUTING)
def expert_weights_ignored(d):
    c = Experts(d)
    return c.planted(c.y(weights=torch.ones_like(c.weights)))


@plant(K.TERMS)
def expert_left_out(d):
    c = Experts(d)
    w = c.weights.clone()
    w[:, 1] = 0
    return c.planted(c.y(weights=w))


class Int4:
    def __init__(self, d):
        self.d, self.x = d, d.x(20, 64)
        self.codes = d.ints(16, 48, 64)
        self.scale = d.round(0.05 + 0.1 * torch.rand(48, 4, generator=d.g))

    def y(self, codes=None, scale=None, zero=8):
        codes, scale = self.codes if codes is None else codes, self.scale if scale is None else scale
        w = (codes - zero).float() * scale.repeat_interleave(16, -1)
        return self.x.flip(-1) @ w.flip(-1).T

    def planted(self, y):
        packed = (self.codes[:, ::2] | self.codes[:, 1::2] << 4).to(torch.uint8)
        inputs = (out(self.x, self.d.dtype), host(packed), out(self.scale, self.d.dtype))
        return Planted(
            op="int4_weight_linear", attrs={"group": 16}, inputs=inputs, got=(out(y, self.d.dtype),)
        )


@plant(K.QUANT_SCALE)
def neighbouring_group(d):
    c = Int4(d)
    return c.planted(c.y(scale=c.scale.roll(d.pick(1, -1), 1)))


@plant(K.NIBBLE_ORDER)
def nibbles_exchanged(d):
    c = Int4(d)
    return c.planted(c.y(codes=c.codes.unflatten(-1, (-1, 2)).flip(-1).flatten(1)))


@plant(K.ZERO_POINT)
def zero_point(d):
    c = Int4(d)
    return c.planted(c.y(zero=d.pick(7, 0, 9)))


@plant(K.WRAPPED, dtypes=("f32",))
def integers_wrapped(d):
    a, b = d.ints(30000, 20, 30), d.ints(30000, 20, 30)
    y = ((a + b + 32768) % 65536 - 32768).int()
    return Planted(op="add", attrs={}, inputs=(host(a.int()), host(b.int())), got=(host(y),))


@plant(K.CONVERSION, K.OUTPUT_ROUNDING, dtypes=("f32",))
def conversion_truncates(d):
    x = d.x(20, 40)
    y = (x.view(torch.int32) & ~0xFFFF).view(torch.float32)
    return Planted(op="cast", attrs={"to": "bf16"}, inputs=(host(x),), got=(out(y, "bf16"),))


@plant(K.FP8_FLAVOUR, dtypes=("f32",))
def codes_of_another_flavour(d):
    x = d.x(20, 40)
    codes = encode(x.double().numpy(), DTYPES["e4m3fnuz"])
    return Planted(
        op="cast", attrs={"to": "e4m3fn"}, inputs=(host(x),), got=(HostTensor.of(codes, DTYPES["e4m3fn"]),)
    )


# --- a cache, latents, dense attention, other sums ---------------------------------------------------


def copied(d, x, y, **more):
    return Planted(op="copy", attrs={}, inputs=(out(x, d.dtype),), got=(out(y, d.dtype),), **more)


@plant(K.STALE)
def rows_of_the_cache_not_written(d):
    x, before, y = d.x(24, 32), d.x(24, 32), None
    y = x.clone()
    rows = d.perm(24)[: d.n(1, 6)]
    y[rows] = before[rows]
    return copied(d, x, y, earlier={"s3.L01.store": out(before, d.dtype)})


@plant(K.ROLL)
def rows_of_the_cache_moved(d):
    x = d.x(24, 32)
    return copied(d, x, torch.cat((torch.zeros(1, 32), x[:-1])))


@plant(K.ZEROED)
def last_row_of_the_cache_lost(d):
    x = d.x(24, 32)
    y = x.clone()
    y[-1] = 0
    return copied(d, x, y)


@plant(K.OUTPUT_ROUNDING)
def cache_kept_in_fp8(d):
    x = d.x(24, 32)
    return copied(d, x, fp8(x))


@plant(K.HEAD_LAYOUT)
def cache_laid_out_by_heads(d):
    x = d.x(24, 4, 16)
    return copied(d, x, x.transpose(1, 2).reshape(x.shape))


class Latent:
    def __init__(self, d):
        d.heavy = False
        self.d, self.nope, self.H, self.E = d, 16, 4, 12
        self.q, self.latents = d.x(9, 4, 24), d.x(40, 32)
        self.w = d.x(4 * 28, 24, scale=0.3)
        self.slots, self.segments = d.perm(40)[:20], torch.tensor([[0, 4, 6], [4, 5, 5]])
        self.scale = 24**-0.5

    def y(self, scale=None, ahead=0):
        scale, made, first = scale or self.scale, torch.zeros(9, 4, self.E), 0
        for start, length, context in self.segments.tolist():
            held = self.latents[self.slots[first : first + length + context]]
            first += length + context
            kv = (held[:, :24] @ self.w.T).view(len(held), 4, -1)
            shared = held[:, None, 24:].expand(-1, 4, -1)
            k, v = torch.cat((kv[..., : self.nope], shared), -1), kv[..., self.nope :]
            s = torch.einsum("thd,shd->hts", self.q[start : start + length], k) * scale
            seen = torch.arange(len(held))[None] <= torch.arange(context, context + length)[:, None] + ahead
            p = s.masked_fill(~seen, -math.inf).softmax(-1)
            made[start : start + length] = torch.einsum("hts,she->the", p, v)
        return made

    def planted(self, y):
        t = self.d.dtype
        inputs = (out(self.q, t), out(self.latents, t), out(self.w, t), host(self.slots), host(self.segments))
        attrs = {"nope": self.nope, "scale": self.scale, "absorbed": False}
        return Planted(op="latent_attention", attrs=attrs, inputs=inputs, got=(out(y, t),))


@plant(K.ATTENTION_SCALE)
def latent_scale(d):
    c = Latent(d)
    return c.planted(c.y(scale=d.pick(16**-0.5, 1.0)))


@plant(K.MASK)
def latent_mask(d):
    c = Latent(d)
    return c.planted(c.y(ahead=d.pick(1, -1)))


class Dense:
    def __init__(self, d):
        d.heavy = False
        self.d, self.q, self.k, self.v = d, d.x(2, 4, 9, 16), d.x(2, 2, 14, 16), d.x(2, 2, 14, 16)
        self.mask = torch.rand(9, 14, generator=d.g) < 0.8
        self.mask[:, 0] = True

    def y(self, seen, scale=0.25):
        k, v = (t.repeat_interleave(2, 1) for t in (self.k, self.v))
        return (self.q @ k.transpose(-1, -2) * scale).masked_fill(~seen, -math.inf).softmax(-1) @ v

    def planted(self, y, *, causal, mask=None):
        t = self.d.dtype
        inputs = (out(self.q, t), out(self.k, t), out(self.v, t), *([] if mask is None else [host(mask)]))
        attrs = {"causal": causal, "window": None, "scale": None}
        return Planted(op="attention", attrs=attrs, inputs=inputs, got=(out(y, t),))


@plant(K.MASK)
def causal_mask_aligned_to_the_first_key(d):
    c = Dense(d)
    return c.planted(c.y(torch.arange(14)[None] <= torch.arange(9)[:, None]), causal=True)


@plant(K.MASK)
def given_mask_ignored(d):
    c = Dense(d)
    return c.planted(c.y(torch.ones(9, 14, dtype=torch.bool)), causal=False, mask=c.mask)


@plant(K.OFF_BY_ONE)
def exclusive_running_sum(d):
    x = d.x(20, 40)
    attrs = {"dim": -1}
    return Planted(op="cumsum", attrs=attrs, inputs=(out(x, d.dtype),), got=(out(x.cumsum(-1) - x, d.dtype),))


@plant(K.MEAN)
def mean_of_one_less(d):
    x = d.x(20, 40)
    attrs = {"dim": -1, "keepdim": False}
    y = x.flip(-1).sum(-1) / 39
    return Planted(op="mean", attrs=attrs, inputs=(out(x, d.dtype),), got=(out(y, d.dtype),))


@plant(K.TERMS)
def tail_of_a_sum_lost(d):
    x = d.x(40, 100)
    attrs = {"dim": -1, "keepdim": False}
    return Planted(op="sum", attrs=attrs, inputs=(out(x, d.dtype),), got=(out(x[:, :96].sum(-1), d.dtype),))


@plant(K.WEIGHT_LAYOUT)
def right_matrix_transposed(d):
    a, b = d.x(20, 48), d.x(48, 48)
    return Planted(
        op="matmul", attrs={}, inputs=(out(a, d.dtype), out(b, d.dtype)), got=(out(a @ b.T, d.dtype),)
    )


class Int8:
    def __init__(self, d):
        self.d, self.x, self.w = d, d.ints(255, 20, 64) - 127, d.ints(255, 48, 64) - 127
        self.xs = 0.01 + 0.02 * torch.rand(20, 1, generator=d.g)
        self.ws = 0.01 + 0.02 * torch.rand(48, generator=d.g)

    def planted(self, y):
        inputs = (host(self.x.to(torch.int8)), host(self.w.to(torch.int8)), host(self.xs), host(self.ws))
        return Planted(
            op="int8_linear", attrs={"out": self.d.dtype}, inputs=inputs, got=(out(y, self.d.dtype),)
        )


@plant(K.QUANT_SCALE, K.ROW_SCALE)
def weight_scale_missing(d):
    c = Int8(d)
    return c.planted((c.x @ c.w.T).float() * c.xs)


@plant(K.WRAPPED)
def integer_sum_wrapped(d):
    c = Int8(d)
    return c.planted(((c.x @ c.w.T + 32768) % 65536 - 32768).float() * c.xs * c.ws)


@plant(K.GATE_UP)
def gate_and_up_as_neighbours(d):
    x = d.x(d.n(17, 40), 128)
    y = F.silu(x[:, ::2]) * x[:, 1::2]
    return Planted(
        op="gated", attrs={"activation": "silu"}, inputs=(out(x, d.dtype),), got=(out(y, d.dtype),)
    )


@plant(K.BIAS)
def bias_of_a_norm_missing(d):
    x, g = norm(d, "layer_norm")
    b = d.x(x.shape[-1])
    inputs = tuple(out(t, d.dtype) for t in (x, g, b))
    y = F.layer_norm(x, x.shape[-1:], g, torch.zeros_like(b), 1e-5)
    return Planted(op="layer_norm", attrs={"eps": 1e-5}, inputs=inputs, got=(out(y, d.dtype),))


@plant(K.ROPE_BASE, K.POSITION, K.ROPE_SIGN, K.ROPE_LAYOUT)
def rotary_as_one_op(d):
    x, at = d.x(2, 3, 12, 32), torch.arange(12) + d.n(0, 40)
    base, moved, sign = d.pick((5e5, 0, 1), (1e4, 1, 1), (1e4, 0, -1))
    angle = (at + moved).double()[:, None] * base ** -(torch.arange(0, 32, 2).double() / 32)
    cos, sin = angle.cos().float(), sign * angle.sin().float()
    a, b = x.chunk(2, -1)
    y = torch.cat((a * cos - b * sin, a * sin + b * cos), -1)
    attrs = {"base": 1e4, "interleaved": False}
    return Planted(op="rope", attrs=attrs, inputs=(out(x, d.dtype), host(at)), got=(out(y, d.dtype),))


@plant(K.TERMS, K.WEIGHT_LAYOUT)
def convolution_taps_reversed(d):
    x, w = d.x(2, 6, 30), d.x(8, 6, 4)
    y = F.conv1d(F.pad(x, (3, 0)), w.flip(-1))
    attrs = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "causal": True}
    return Planted(
        op="conv1d", attrs=attrs, inputs=(out(x, d.dtype), out(w, d.dtype)), got=(out(y, d.dtype),)
    )


@plant(K.UNKNOWN)
def random_bits_of_the_mantissa(d):
    c = Linear(d)
    y = c.y().to(TORCH[d.dtype])
    kind, top = (torch.int32, 22) if d.dtype == "f32" else (torch.int16, 6)
    noise = torch.randint(1 << top, y.shape, generator=d.g).to(kind)
    return c.planted((y.view(kind) ^ noise).view(TORCH[d.dtype]).float())


@plant(K.UNKNOWN)
def shuffled_elements(d):
    c = Linear(d)
    y = c.y()
    return c.planted(y.flatten()[d.perm(y.numel())].reshape(y.shape))


@plant(K.FP8_FLAVOUR)
def weights_read_in_another_flavour(d):
    c = Linear(d)
    codes = encode(c.w.double().numpy(), DTYPES["e4m3fn"])
    return c.planted(c.y(w=torch.from_numpy(decode(codes, DTYPES["e4m3fnuz"])).float()))


@plant(K.TERMS)
def tile_of_keys_left_out(d):
    c = Attention(d)
    c.segments, c.slots = [(0, 4, 36)], d.perm(len(c.k))[:40] if len(c.k) >= 40 else d.ints(len(c.k), 40)
    c.q = c.q[:4] if len(c.q) >= 4 else c.q[:1].repeat(4, 1, 1)
    start = d.pick(0, 16)
    k, v = (t[c.slots].repeat_interleave(c.H // c.G, 1) for t in (c.k, c.v))
    s = torch.einsum("thd,shd->hts", c.q, k) * c.scale
    seen = torch.arange(40)[None] <= torch.arange(36, 40)[:, None]
    seen[:, start : start + 16] = False
    made = torch.einsum("hts,she->the", s.masked_fill(~seen, -math.inf).softmax(-1), v)
    return c.planted(made)
