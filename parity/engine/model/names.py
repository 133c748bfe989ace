"""Which tensors of a checkpoint make each weight of the network: one table, no code for a family.

A weight is the parts of one or more tensors, joined along the first dimension (q, k and v are one
product here) or stacked (experts). Shapes follow from the architecture, so that a checkpoint is
checked before anything of it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from parity.engine.model.arch import Arch, Attention, Layer

__all__ = ["Part", "Weight", "ignorable", "weights"]


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of the checkpoint."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight of the network. Each inner tuple is joined; more than one of them are stacked."""

    name: str
    parts: tuple[tuple[Part, ...], ...]
    is_matrix: bool = True

    @property
    def stacked(self) -> bool:
        """Whether there is a leading dimension that counts the inner tuples."""
        return self.name.startswith("experts.") or ".experts." in self.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape once joined and stacked."""
        inner = self.parts[0]
        joined = (sum(part.shape[0] for part in inner), *inner[0].shape[1:])
        return (len(self.parts), *joined) if self.stacked else joined


# The feed-forward of each way of naming: gate, up, down, one expert's three, the router.
_NAMES = {
    "llama": (
        ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        ("mlp.experts.{e}.gate_proj", "mlp.experts.{e}.up_proj", "mlp.experts.{e}.down_proj"),
        "mlp.gate",
    ),
    "mixtral": (
        ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        (
            "block_sparse_moe.experts.{e}.w1",
            "block_sparse_moe.experts.{e}.w3",
            "block_sparse_moe.experts.{e}.w2",
        ),
        "block_sparse_moe.gate",
    ),
}
_SHARED = ("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj", "mlp.shared_experts.down_proj")


def weights(arch: Arch) -> Iterator[Weight]:
    """Yield every weight of a network, in the order in which a step needs them."""
    yield _one("embed", Part("embed_tokens.weight", (arch.vocab, arch.hidden)))
    for number, layer in enumerate(arch.layers):
        for weight in _layer(arch, layer):
            here = f"layers.{number}."
            parts = tuple(tuple(Part(here + p.name, p.shape) for p in inner) for inner in weight.parts)
            yield Weight(f"L{number:02}.{weight.name}", parts, weight.is_matrix)
    yield _norm("norm", "norm.weight", arch.hidden)
    if not arch.tied:
        yield _one("head", Part("lm_head.weight", (arch.vocab, arch.hidden)))


def ignorable(name: str, prefix: str, arch: Arch) -> bool:
    """Whether a tensor that no weight needs may be in a checkpoint all the same.

    Rotary tables, the head that is tied to the embedding, layers for multi-token prediction, and
    the parts of a multimodal model that see pictures.
    """
    if name.endswith("rotary_emb.inv_freq") or (arch.tied and name.endswith("lm_head.weight")):
        return True
    if {"vision_tower", "multi_modal_projector"} & set(name.split(".")):
        return True
    kind, _, rest = name.removeprefix(prefix).partition(".")
    number = rest.partition(".")[0]
    return kind == "layers" and number.isdigit() and int(number) >= len(arch.layers)


def _one(name: str, *parts: Part) -> Weight:
    return Weight(name, (parts,))


def _norm(name: str, source: str, size: int) -> Weight:
    return Weight(name, ((Part(source, (size,)),),), is_matrix=False)


def _linear(
    name: str, sources: tuple[str, ...], outs: tuple[int, ...], width: int, *, bias: bool
) -> Iterator[Weight]:
    parts = tuple(Part(f"{s}.weight", (out, width)) for s, out in zip(sources, outs, strict=True))
    yield Weight(name, (parts,))
    if bias:
        biases = tuple(Part(f"{s}.bias", (out,)) for s, out in zip(sources, outs, strict=True))
        yield Weight(f"{name}.bias", (biases,), is_matrix=False)


def _layer(arch: Arch, layer: Layer) -> Iterator[Weight]:
    yield _norm("norm1", "input_layernorm.weight", arch.hidden)
    attention = layer.attention
    yield from _latent(arch, attention) if attention.mla else _heads(arch, attention)
    width = attention.heads * attention.value_dim
    yield from _linear("out", ("self_attn.o_proj",), (arch.hidden,), width, bias=attention.out_bias)
    if layer.sandwich:
        yield _norm("attn_post", "post_attention_layernorm.weight", arch.hidden)
        yield _norm("norm2", "pre_feedforward_layernorm.weight", arch.hidden)
        yield _norm("ffn_post", "post_feedforward_layernorm.weight", arch.hidden)
    else:
        yield _norm("norm2", "post_attention_layernorm.weight", arch.hidden)
    yield from _feed_forward(arch, layer)


def _heads(arch: Arch, a: Attention) -> Iterator[Weight]:
    sources = tuple(f"self_attn.{x}_proj" for x in "qkv")
    outs = (a.heads * a.key_dim, a.kv_heads * a.key_dim, a.kv_heads * a.value_dim)
    yield from _linear("qkv", sources, outs, arch.hidden, bias=a.qkv_bias)
    if a.qk_norm:
        yield _norm("q_norm", "self_attn.q_norm.weight", a.key_dim)
        yield _norm("k_norm", "self_attn.k_norm.weight", a.key_dim)


def _latent(arch: Arch, a: Attention) -> Iterator[Weight]:
    mla = a.mla
    assert mla is not None
    queries = a.heads * a.key_dim
    if mla.query_rank is None:
        yield from _linear("q", ("self_attn.q_proj",), (queries,), arch.hidden, bias=False)
    else:
        yield from _linear("q_a", ("self_attn.q_a_proj",), (mla.query_rank,), arch.hidden, bias=a.qkv_bias)
        yield _norm("q_a_norm", "self_attn.q_a_layernorm.weight", mla.query_rank)
        yield from _linear("q_b", ("self_attn.q_b_proj",), (queries,), mla.query_rank, bias=False)
    yield from _linear(
        "kv_a", ("self_attn.kv_a_proj_with_mqa",), (mla.latent + mla.rope,), arch.hidden, bias=a.qkv_bias
    )
    yield _norm("kv_a_norm", "self_attn.kv_a_layernorm.weight", mla.latent)
    made = a.heads * (mla.nope + a.value_dim)
    yield from _linear("kv_b", ("self_attn.kv_b_proj",), (made,), mla.latent, bias=False)


def _feed_forward(arch: Arch, layer: Layer) -> Iterator[Weight]:
    ffn = layer.feed_forward
    dense, expert, gate = _NAMES[arch.names]
    if ffn.router is None:
        yield from _linear("gate_up", dense[:2], (ffn.width, ffn.width), arch.hidden, bias=ffn.bias)
        yield from _linear("down", dense[2:], (arch.hidden,), ffn.width, bias=ffn.bias)
        return
    count = ffn.router.experts
    yield _one("router", Part(f"{gate}.weight", (count, arch.hidden)))
    if ffn.router.bias:
        yield _norm("router.bias", f"{gate}.e_score_correction_bias", count)
    up_shape, down_shape = (ffn.width, arch.hidden), (arch.hidden, ffn.width)
    ups = tuple(
        tuple(Part(f"{name.format(e=e)}.weight", up_shape) for name in expert[:2]) for e in range(count)
    )
    downs = tuple((Part(f"{expert[2].format(e=e)}.weight", down_shape),) for e in range(count))
    yield Weight("experts.gate_up", ups)
    yield Weight("experts.down", downs)
    if ffn.shared:
        yield from _linear("shared.gate_up", _SHARED[:2], (ffn.shared,) * 2, arch.hidden, bias=False)
        yield from _linear("shared.down", _SHARED[2:], (arch.hidden,), ffn.shared, bias=False)
