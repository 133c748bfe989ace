"""What a checkpoint's `config.json` says of its network: families are rows of a table.

`read` understands Llama, Mistral, Qwen2, Qwen3, Gemma 2 and 3, Mixtral, Qwen3-MoE and DeepSeek V2
and V3 in the format of Hugging Face, old spellings included. Does not touch weights. Longer than
a file should be: all that is known of the families stands in one place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.engine.model.arch import MLA, Arch, Attention, FeedForward, Layer, Router
from parity.engine.model.rope import read_rope
from parity.errors import UsageError, near_miss

__all__ = ["FAMILIES", "read"]


class _Config:
    """A config whose missing and mistyped fields are one clear error."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self.fields = fields
        self.where = where

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.wrong(name, value, "a positive integer")
        return value

    def count(self, name: str, default: int) -> int:
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.wrong(name, value, "0 or a positive integer")
        return value

    def expect(self, name: str, *known: object) -> None:
        """Refuse a value that would change the network in a way that is not implemented."""
        value = self.get(name, known[0])
        if value not in known:
            raise self.wrong(name, value, " or ".join(repr(k) for k in known))

    def number(self, name: str, default: float | None = None) -> float:
        value = self.get(name, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.wrong(name, value, "a number")
        return float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, value, "true or false")
        return value

    def optional(self, name: str) -> float | None:
        return None if self.fields.get(name) is None else self.number(name)

    def get(self, name: str, default: Any = None) -> Any:
        value = self.fields.get(name)
        return default if value is None else value

    def wrong(self, name: str, value: object, expected: str) -> UsageError:
        return UsageError(f"{self.where}: '{name}' must be {expected}, got {value!r}")


def read(config: Mapping[str, Any], *, where: str = "config.json") -> Arch:
    """Return the network. Raises UsageError naming the field for one that it does not know."""
    family = str(config.get("model_type"))
    if family == "gemma3" and isinstance(config.get("text_config"), Mapping):
        config, family = config["text_config"], "gemma3_text"
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UsageError(
            f"{where}: model_type '{family}' is not known{near_miss(family, FAMILIES)}; known: {known}"
        )
    traits = FAMILIES[family]
    c = _Config({**traits.defaults, **config}, where)
    positions = c.integer("max_position_embeddings")
    layers = tuple(_layer(c, traits, number) for number in range(c.integer("num_hidden_layers")))
    hidden = c.integer("hidden_size")
    return Arch(
        family=family,
        vocab=c.integer("vocab_size"),
        hidden=hidden,
        layers=layers,
        eps=c.number("rms_norm_eps", 1e-6),
        max_positions=positions,
        tied=c.flag("tie_word_embeddings", default=traits.tied),
        names=traits.names,
        norm_offset=1.0 if traits.gemma else 0.0,
        embed_scale=math.sqrt(hidden) if traits.gemma else 1.0,
        logit_softcap=c.optional("final_logit_softcapping") if traits.gemma else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traits:
    """What a family does beyond a Llama, and beyond what its config says."""

    names: str = "llama"
    tied: bool = False
    gemma: bool = False
    sandwich: bool = False
    qk_norm: bool = False
    qkv_bias: bool = False  # of q, k and v alone, whatever `attention_bias` says
    window: str = "none"  # none, all, or by layer
    local_theta: bool = False  # layers with a window have a rope of their own
    moe: str = ""
    mla: bool = False
    # What a field is that is not written: published configs leave out what their class has anyway.
    defaults: Mapping[str, Any] = field(default_factory=dict)


_GEMMA = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 4096,
}
_QWEN = {"sliding_window": 4096, "max_window_layers": 28}
FAMILIES: Mapping[str, _Traits] = {
    "llama": _Traits(),
    "mistral": _Traits(window="all", defaults={"sliding_window": 4096, "num_key_value_heads": 8}),
    "qwen2": _Traits(qkv_bias=True, window="layers", defaults=_QWEN),
    "qwen3": _Traits(qk_norm=True, window="layers", defaults={**_QWEN, "head_dim": 128}),
    "gemma2": _Traits(
        gemma=True,
        tied=True,
        sandwich=True,
        window="layers",
        defaults={
            **_GEMMA,
            "vocab_size": 256_000,
            "max_position_embeddings": 8192,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    "gemma3_text": _Traits(
        gemma=True,
        tied=True,
        sandwich=True,
        qk_norm=True,
        window="layers",
        local_theta=True,
        defaults={**_GEMMA, "vocab_size": 262_208, "max_position_embeddings": 131_072},
    ),
    "mixtral": _Traits(
        names="mixtral",
        window="all",
        moe="mixtral",
        defaults={"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1_000_000.0},
    ),
    "qwen3_moe": _Traits(qk_norm=True, window="layers", moe="qwen3", defaults=_QWEN),
    "deepseek_v2": _Traits(moe="deepseek_v2", mla=True),
    "deepseek_v3": _Traits(moe="deepseek_v3", mla=True),
}


def _layer(c: _Config, traits: _Traits, number: int) -> Layer:
    window = _window(c, traits, number)
    return Layer(
        attention=_latent(c) if traits.mla else _attention(c, traits, window=window),
        feed_forward=_feed_forward(c, traits, number),
        sandwich=traits.sandwich,
    )


def _window(c: _Config, traits: _Traits, number: int) -> int | None:
    size = c.get("sliding_window")
    if size is None or traits.window == "none" or c.get("use_sliding_window") is False:
        return None
    size = c.integer("sliding_window")
    if traits.window == "all":
        return size
    kinds = c.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != c.integer("num_hidden_layers"):
            raise c.wrong("layer_types", kinds, "one kind a layer")
        if kinds[number] not in ("full_attention", "sliding_attention"):
            raise c.wrong("layer_types", kinds[number], "'full_attention' or 'sliding_attention'")
        return size if kinds[number] == "sliding_attention" else None
    if traits.gemma:  # before layer_types: every second layer, in Gemma 3 five of six
        every = c.integer("sliding_window_pattern", 6 if traits.local_theta else 2)
        return size if (number + 1) % every else None
    first = c.count("max_window_layers", 0)
    return size if number >= first and c.get("use_sliding_window") else None


def _attention(c: _Config, traits: _Traits, *, window: int | None) -> Attention:
    heads = c.integer("num_attention_heads")
    dim = c.integer("head_dim", c.integer("hidden_size") // heads)
    kv_heads = c.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise c.wrong("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads, {heads}")
    bias = c.flag("attention_bias", default=False)
    kind = None if not traits.local_theta else "sliding_attention" if window else "full_attention"
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        key_dim=dim,
        value_dim=dim,
        scale=(c.number("query_pre_attn_scalar", 256.0) if traits.gemma else dim) ** -0.5,
        rope=read_rope(c.fields, dim=dim, layers=kind, where=c.where),
        window=window,
        softcap=c.optional("attn_logit_softcapping") if traits.gemma else None,
        qk_norm=traits.qk_norm,
        qkv_bias=bias or traits.qkv_bias,
        out_bias=bias,
    )


def _latent(c: _Config) -> Attention:
    rope_dim, nope = c.integer("qk_rope_head_dim"), c.integer("qk_nope_head_dim")
    heads = c.integer("num_attention_heads")
    rank = c.get("q_lora_rank")
    rope = read_rope(
        c.fields, dim=rope_dim, interleaved=c.flag("rope_interleave", default=True), where=c.where
    )
    return Attention(
        heads=heads,
        kv_heads=heads,
        key_dim=nope + rope_dim,
        value_dim=c.integer("v_head_dim"),
        scale=(nope + rope_dim) ** -0.5 * rope.score_scale,
        rope=rope,
        qkv_bias=c.flag("attention_bias", default=False),
        out_bias=c.flag("attention_bias", default=False),
        mla=MLA(
            query_rank=None if rank is None else c.integer("q_lora_rank"),
            latent=c.integer("kv_lora_rank"),
            nope=nope,
            rope=rope_dim,
        ),
    )


def _feed_forward(c: _Config, traits: _Traits, number: int) -> FeedForward:
    activation = str(c.get("hidden_activation") or c.get("hidden_act", "silu"))
    if activation not in ("silu", "gelu_pytorch_tanh", "gelu"):
        raise c.wrong("hidden_act", activation, "silu, gelu or gelu_pytorch_tanh")
    dense = FeedForward(
        width=c.integer("intermediate_size"),
        activation=activation,
        bias=c.flag("mlp_bias", default=False),
    )
    match traits.moe:
        case "mixtral":
            router = Router(experts=c.integer("num_local_experts"), top=c.integer("num_experts_per_tok"))
            return FeedForward(width=dense.width, activation=activation, router=router)
        case "qwen3":
            every = c.integer("decoder_sparse_step", 1)
            dense_ones = c.get("mlp_only_layers", [])
            if not isinstance(dense_ones, list):
                raise c.wrong("mlp_only_layers", dense_ones, "a list of layer numbers")
            if number in dense_ones or (number + 1) % every:
                return dense
            router = Router(
                experts=c.integer("num_experts", c.get("num_local_experts")),
                top=c.integer("num_experts_per_tok"),
                normalise=c.flag("norm_topk_prob", default=False),
            )
            width = c.integer("moe_intermediate_size")
            return FeedForward(width=width, activation=activation, router=router)
        case "deepseek_v2" | "deepseek_v3" if number >= c.count("first_k_dense_replace", 0):
            c.expect("moe_layer_freq", 1)
            width = c.integer("moe_intermediate_size")
            shared = width * c.count("n_shared_experts", 0)
            return FeedForward(
                width=width, activation=activation, router=_deepseek_router(c, traits.moe), shared=shared
            )
        case _:
            return dense


def _deepseek_router(c: _Config, family: str) -> Router:
    experts = c.integer("n_routed_experts", c.get("num_local_experts"))
    top = c.integer("num_experts_per_tok")
    scale = c.number("routed_scaling_factor")
    c.expect("scoring_func", "sigmoid" if family == "deepseek_v3" else "softmax")
    if family == "deepseek_v3":
        c.expect("topk_method", "noaux_tc")
        return Router(
            experts=experts,
            top=top,
            scores="sigmoid",
            groups=c.integer("n_group"),
            top_groups=c.integer("topk_group"),
            group_best=2,
            bias=True,
            normalise=c.flag("norm_topk_prob", default=True),
            scale=scale,
            wide=True,
        )
    c.expect("topk_method", "greedy", "group_limited_greedy")
    c.expect("norm_topk_prob", False)
    limited = c.get("topk_method") == "group_limited_greedy"
    return Router(
        experts=experts,
        top=top,
        groups=c.integer("n_group") if limited else 1,
        top_groups=c.integer("topk_group") if limited else 1,
        normalise=False,
        scale=scale,
        wide=True,
    )
