"""The decoder as a list of closures over bound ops: no modules, no per-family code, no branches at run time.

A step is `network(batch) -> logits` and a function of weights, pool and batch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from parity.engine.kv.pool import LayerPool, Pool
from parity.engine.model.arch import Arch, Attention, FeedForward, Layer
from parity.engine.model.rope import Rope
from parity.engine.model.weights import Weights
from parity.engine.ops.op import Binder
from parity.engine.run.batch import Batch

__all__ = ["Network", "build", "build_entrance", "build_exit", "build_layer"]

_Angles = Mapping[Rope, tuple[Tensor, Tensor]]
_Step = Callable[[Tensor, Batch, _Angles], Tensor]
Network = Callable[[Batch], Tensor]


class _Site:
    """Binds the ops of one layer (or of none) under its name, each with its weights."""

    def __init__(self, binder: Binder, weights: Weights, prefix: str) -> None:
        self._binder, self._weights, self._prefix = binder, weights, prefix

    def weight(self, name: str) -> Any:
        return self._weights[self._prefix + name]

    def op(self, site: str, name: str, **bound: object) -> Callable[..., Tensor]:
        return self._binder.bind(self._prefix + site, name, **bound)

    def fuse(self, sites: Sequence[str], name: str, **bound: object) -> Callable[..., Any] | None:
        return self._binder.fuse([self._prefix + site for site in sites], name, **bound)

    def linear(self, name: str) -> Callable[[Tensor], Tensor]:
        bias = self._weights.get(f"{self._prefix}{name}.bias")
        return self.op(name, "linear", w=self.weight(name), b=bias)


def build(arch: Arch, weights: Weights, pool: Pool, binder: Binder) -> Network:
    """Return the function of a step: logits [R, vocab] for the rows that the batch wants."""
    enter = build_entrance(arch, weights, binder)
    layers = [
        _layer(arch, layer, place, _Site(binder, weights, f"L{number:02}."))
        for number, (layer, place) in enumerate(zip(arch.layers, pool.layers, strict=True))
    ]
    leave = build_exit(arch, weights, binder)
    binder.check()
    ropes = {rope: rope.frequencies() for rope in dict.fromkeys(x.attention.rope for x in arch.layers)}

    def network(batch: Batch) -> Tensor:
        x = enter(batch.tokens)
        angles = {rope: _angles(rope, f, batch.positions, x.dtype) for rope, f in ropes.items()}
        for layer in layers:
            x = layer(x, batch, angles)
        return leave(x, batch)

    return network


def build_entrance(arch: Arch, weights: Weights, binder: Binder) -> Callable[[Tensor], Tensor]:
    """Return what makes the first hidden states of a step's tokens."""
    top = _Site(binder, weights, "")
    return top.op("embed", "embed", w=top.weight("embed"), scale=arch.embed_scale)


def build_layer(
    arch: Arch, number: int, weights: Weights, place: LayerPool, binder: Binder
) -> Callable[[Tensor, Batch], Tensor]:
    """Return one layer alone, from hidden states to hidden states; only its own weights are needed."""
    layer = arch.layers[number]
    step = _layer(arch, layer, place, _Site(binder, weights, f"L{number:02}."))
    rope, frequencies = layer.attention.rope, layer.attention.rope.frequencies()

    def alone(x: Tensor, batch: Batch) -> Tensor:
        return step(x, batch, {rope: _angles(rope, frequencies, batch.positions, x.dtype)})

    return alone


def build_exit(arch: Arch, weights: Weights, binder: Binder) -> Callable[[Tensor, Batch], Tensor]:
    """Return what makes scores of the last hidden states, for the rows that the batch wants."""
    top = _Site(binder, weights, "")
    norm = _norm(arch, top, "norm")
    head = top.op("head", "linear", w=weights["embed" if arch.tied else "head"])
    cap = arch.logit_softcap
    capped = top.op("head.softcap", "softcap", cap=cap) if cap else None

    def leave(x: Tensor, batch: Batch) -> Tensor:
        logits = head(norm(x if len(batch.rows) == len(x) else x[batch.rows]))
        return capped(logits) if capped else logits

    return leave


def _angles(rope: Rope, frequencies: Tensor, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    # On the host and in float64, then rounded once: devices differ in float64 and in cos.
    turns = positions.cpu().double()[:, None] * frequencies
    cos, sin = turns.cos() * rope.magnitude, turns.sin() * rope.magnitude
    return cos.to(dtype).to(positions.device), sin.to(dtype).to(positions.device)


def _norm(arch: Arch, site: _Site, name: str) -> Callable[[Tensor], Tensor]:
    return site.op(name, "rms_norm", w=site.weight(name), eps=arch.eps, offset=arch.norm_offset)


def _add_norm(arch: Arch, site: _Site) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The residual sum and its norm: one op where the device has it and nobody asks for the two."""
    fused = site.fuse(
        ("res1", "norm2"),
        "add_rms_norm",
        w=site.weight("norm2"),
        eps=arch.eps,
        offset=arch.norm_offset,
    )
    if fused is not None:
        return fused
    add, norm = site.op("res1", "add"), _norm(arch, site, "norm2")

    def apart(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        total = add(x, y)
        return total, norm(total)

    return apart


def _layer(arch: Arch, layer: Layer, place: LayerPool, site: _Site) -> _Step:
    attention = (_latent if layer.attention.mla else _heads)(arch, layer.attention, place, site)
    feed_forward = (_mixture if layer.feed_forward.router else _dense)(layer.feed_forward, site)
    norm1 = _norm(arch, site, "norm1")
    if not layer.sandwich:
        add_norm = _add_norm(arch, site)
        add2 = site.op("res2", "add")

        def plain(x: Tensor, batch: Batch, angles: _Angles) -> Tensor:
            x, normal = add_norm(x, attention(norm1(x), batch, angles))
            return add2(x, feed_forward(normal))

        return plain
    norm2 = _norm(arch, site, "norm2")
    add1, add2 = site.op("res1", "add"), site.op("res2", "add")
    post1, post2 = _norm(arch, site, "attn_post"), _norm(arch, site, "ffn_post")

    def sandwich(x: Tensor, batch: Batch, angles: _Angles) -> Tensor:
        x = add1(x, post1(attention(norm1(x), batch, angles)))
        return add2(x, post2(feed_forward(norm2(x))))

    return sandwich


def _heads(arch: Arch, a: Attention, place: LayerPool, site: _Site) -> _Step:
    assert place.values is not None
    qkv, out = site.linear("qkv"), site.linear("out")
    q_norm = _norm(arch, site, "q_norm") if a.qk_norm else None
    k_norm = _norm(arch, site, "k_norm") if a.qk_norm else None
    rope = site.op("rope", "rotate", interleaved=a.rope.interleaved)
    store_k, store_v = (
        site.op("store_k", "store", pool=place.keys),
        site.op("store_v", "store", pool=place.values),
    )
    attend = site.op(
        "attend",
        "attend",
        keys=place.keys,
        values=place.values,
        scale=a.scale,
        window=a.window,
        softcap=a.softcap,
    )
    both, width = a.heads + a.kv_heads, (a.heads + a.kv_heads) * a.key_dim

    def attention(x: Tensor, batch: Batch, angles: _Angles) -> Tensor:
        made = qkv(x)
        rows = len(x)
        qk, v = made[:, :width].view(rows, both, -1), made[:, width:].view(rows, a.kv_heads, -1)
        if q_norm and k_norm:
            qk = torch.cat((q_norm(qk[:, : a.heads]), k_norm(qk[:, a.heads :])), dim=1)
        qk = rope(qk, *angles[a.rope])
        store_k(qk[:, a.heads :], batch=batch)
        store_v(v, batch=batch)
        return out(attend(qk[:, : a.heads], batch=batch).flatten(1))

    return attention


def _latent(arch: Arch, a: Attention, place: LayerPool, site: _Site) -> _Step:
    mla = a.mla
    assert mla is not None
    if mla.query_rank is None:
        query = site.linear("q")
    else:
        q_a, q_norm, q_b = site.linear("q_a"), _norm(arch, site, "q_a_norm"), site.linear("q_b")

        def query(x: Tensor) -> Tensor:
            return q_b(q_norm(q_a(x)))

    kv_a, kv_norm, out = site.linear("kv_a"), _norm(arch, site, "kv_a_norm"), site.linear("out")
    q_rope, k_rope = (site.op(f"{x}_rope", "rotate", interleaved=a.rope.interleaved) for x in "qk")
    store = site.op("store_kv", "store", pool=place.keys)
    attend = site.op(
        "attend", "latent_attend", latents=place.keys, w=site.weight("kv_b"), nope=mla.nope, scale=a.scale
    )

    def attention(x: Tensor, batch: Batch, angles: _Angles) -> Tensor:
        cos, sin = angles[a.rope]
        q = query(x).view(len(x), a.heads, -1)
        q = torch.cat((q[..., : mla.nope], q_rope(q[..., mla.nope :], cos, sin)), dim=-1)
        latent, shared = torch.split(kv_a(x), [mla.latent, mla.rope], dim=-1)
        shared = k_rope(shared[:, None], cos, sin)[:, 0]
        store(torch.cat((kv_norm(latent), shared), dim=-1), batch=batch)
        return out(attend(q, batch=batch).flatten(1))

    return attention


def _dense(ffn: FeedForward, site: _Site, prefix: str = "") -> Callable[[Tensor], Tensor]:
    gate_up, down = site.linear(f"{prefix}gate_up"), site.linear(f"{prefix}down")
    gated = site.op(f"{prefix}gated", "gated", activation=ffn.activation)
    return lambda x: down(gated(gate_up(x)))


def _mixture(ffn: FeedForward, site: _Site) -> Callable[[Tensor], Tensor]:
    router = ffn.router
    assert router is not None
    bias = site.weight("router.bias") if router.bias else None
    route = site.op("route", "route", w=site.weight("router"), bias=bias, router=router)
    experts = site.op(
        "experts",
        "experts",
        up=site.weight("experts.gate_up"),
        down=site.weight("experts.down"),
        activation=ffn.activation,
    )
    if not ffn.shared:
        return lambda x: experts(x, *route(x))
    shared = _dense(ffn, site, "shared.")
    add = site.op("shared.add", "add")
    return lambda x: add(experts(x, *route(x)), shared(x))
