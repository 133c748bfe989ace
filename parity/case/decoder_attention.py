"""Attention of a decoder layer as steps: heads over pages of keys and values, or over latents."""

from __future__ import annotations

from dataclasses import dataclass

from parity.case.draft import Draft

__all__ = ["Heads", "Latent", "attend", "attend_latent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Attention of `heads` query heads of `dim` over `kv_heads` heads of keys and values.

    `rotated` dimensions of each head turn (all, by default). `fused` has q, k and v in one product.
    """

    heads: int
    kv_heads: int
    dim: int
    scale: float | None = None
    window: int | None = None
    softcap: float | None = None
    qk_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    rotated: int | None = None
    interleaved: bool = False
    fused: bool = True

    @property
    def of_scale(self) -> float:
        """What scores are multiplied by."""
        return self.dim**-0.5 if self.scale is None else self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Multi-head latent attention; `query_rank` None projects queries directly.

    A head's key is `nope` dimensions made of the latent and `rope` shared, rotated ones. `absorbed`
    folds what makes them into the query and the result.
    """

    heads: int
    latent: int
    nope: int
    rope: int
    value: int
    query_rank: int | None = None
    absorbed: bool = False
    magnitude: float = 1.0


def attend(draft: Draft, x: str, a: Heads, *, hidden: int, eps: float, offset: float) -> str:
    """Add attention of normal x [T, hidden], up to and with the output product."""
    q, k, v = (_fused if a.fused else _apart)(draft, x, a, hidden)
    if a.qk_norm:
        q = draft.norm("q_norm", q, a.dim, eps=eps, offset=offset)
        k = draft.norm("k_norm", k, a.dim, eps=eps, offset=offset)
    qk = draft.step("cat", q, k, name="rope.qk", dim=1)
    cos, sin = draft.angles(a.dim if a.rotated is None else a.rotated)
    qk = draft.step("rotate", qk, cos, sin, name="rope", interleaved=a.interleaved)
    q = draft.slice(qk, f":, :{a.heads}", name="rope.q")
    k = draft.slice(qk, f":, {a.heads}:", name="rope.k")
    keys = draft.store("store_k", k, (a.kv_heads, a.dim))
    values = draft.store("store_v", v, (a.kv_heads, a.dim))
    made = draft.step(
        "paged_attention",
        *(q, keys, values, *draft.batch()),
        name="attend",
        scale=a.of_scale,
        window=a.window,
        softcap=a.softcap,
    )
    flat = draft.reshape(made, draft.tokens, a.heads * a.dim, name="attend.flat")
    return draft.linear("out", flat, (hidden, a.heads * a.dim), bias=a.out_bias)


def _fused(draft: Draft, x: str, a: Heads, hidden: int) -> tuple[str, str, str]:
    parts = (a.heads, a.kv_heads, a.kv_heads)
    made = draft.linear("qkv", x, (sum(parts) * a.dim, hidden), bias=a.qkv_bias)
    made = draft.reshape(made, draft.tokens, sum(parts), a.dim, name="qkv.heads")
    ends = (0, a.heads, a.heads + a.kv_heads, sum(parts))
    q, k, v = (
        draft.slice(made, f":, {first}:{last}", name=f"qkv.{name}")
        for name, first, last in zip("qkv", ends[:-1], ends[1:], strict=True)
    )
    return q, k, v


def _apart(draft: Draft, x: str, a: Heads, hidden: int) -> tuple[str, str, str]:
    q, k, v = (
        draft.reshape(
            draft.linear(name, x, (heads * a.dim, hidden), bias=a.qkv_bias),
            *(draft.tokens, heads, a.dim),
            name=f"{name}.heads",
        )
        for name, heads in zip("qkv", (a.heads, a.kv_heads, a.kv_heads), strict=True)
    )
    return q, k, v


def attend_latent(draft: Draft, x: str, a: Latent, *, hidden: int, eps: float) -> str:
    """Add latent attention of normal x [T, hidden], up to and with the output product."""
    tokens, key = draft.tokens, a.nope + a.rope
    cos, sin = draft.angles(a.rope, magnitude=a.magnitude)
    q = draft.reshape(_query(draft, x, a, hidden, eps), tokens, a.heads, key, name="q.heads")
    plain, turning = (
        draft.slice(q, f"..., {part}", name=f"q.{name}")
        for name, part in (("nope", f":{a.nope}"), ("rope", f"{a.nope}:"))
    )
    turned = draft.step("rotate", turning, cos, sin, name="q_rope", interleaved=True)
    q = draft.step("cat", plain, turned, name="q.full", dim=2)
    made = draft.linear("kv_a", x, (a.latent + a.rope, hidden))
    latent = draft.slice(made, f":, :{a.latent}", name="kv_a.latent")
    shared = draft.slice(made, f":, None, {a.latent}:", name="kv_a.shared")
    shared = draft.step("rotate", shared, cos, sin, name="k_rope", interleaved=True)
    shared = draft.reshape(shared, tokens, a.rope, name="k_rope.flat")
    latent = draft.norm("kv_a_norm", latent, a.latent, eps=eps, offset=0.0)
    row = draft.step("cat", latent, shared, name="store_kv.row", dim=1)
    latents = draft.store("store_kv", row, (a.latent + a.rope,))
    w = draft.weight("kv_b.weight", (a.heads * (a.nope + a.value), a.latent))
    made = draft.step(
        "latent_attention",
        *(q, latents, w, *draft.batch()),
        name="attend",
        nope=a.nope,
        scale=key**-0.5,
        absorbed=a.absorbed,
    )
    flat = draft.reshape(made, tokens, a.heads * a.value, name="attend.flat")
    return draft.linear("out", flat, (hidden, a.heads * a.value))


def _query(draft: Draft, x: str, a: Latent, hidden: int, eps: float) -> str:
    full = a.heads * (a.nope + a.rope)
    if a.query_rank is None:
        return draft.linear("q", x, (full, hidden))
    low = draft.linear("q_a", x, (a.query_rank, hidden))
    low = draft.norm("q_a_norm", low, a.query_rank, eps=eps, offset=0.0)
    return draft.linear("q_b", low, (full, a.query_rank))
