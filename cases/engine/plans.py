"""The reference engine run whole, on tiny networks of every family and on the trained tiny model.

Steps are the engine's sites, each judged on what it consumed; weights of the families are generated.
"""

import json

from parity.case.family import Params, Parts, family, observed, tensor

COMMON = {
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "mscale": 0.8,
    "mscale_all_dim": 0.6,
}
DEEPSEEK = {
    **COMMON,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 10,
    "n_group": 4,
    "topk_group": 2,
    "rope_parameters": YARN,
}
# Two layers have both kinds of attention where a family has two.
ARCHS = {
    "llama": {"model_type": "llama", **COMMON, "rope_theta": 10000.0, "attention_bias": True},
    "qwen3": {"model_type": "qwen3", **COMMON, "rope_theta": 1000000.0, "head_dim": 12},
    "gemma2": {
        "model_type": "gemma2",
        **COMMON,
        "rope_theta": 10000.0,
        "head_dim": 16,
        "sliding_window": 6,
        "query_pre_attn_scalar": 24,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        **COMMON,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "head_dim": 16,
        "sliding_window": 6,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 24,
    },
    "mixtral": {
        "model_type": "mixtral",
        **COMMON,
        "rope_theta": 1000000.0,
        "sliding_window": 7,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
    },
    "deepseek2": {
        "model_type": "deepseek_v2",
        **DEEPSEEK,
        "topk_method": "group_limited_greedy",
        "routed_scaling_factor": 1.5,
    },
    "deepseek3": {
        "model_type": "deepseek_v3",
        **DEEPSEEK,
        "q_lora_rank": 20,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "norm_topk_prob": True,
    },
}
# The model that ships with the cases, by the digest of its folder (`run.engine_model.folder_digest`).
TRAINED = {
    "checkpoint": "tiny-llama",
    "digest": "sha256:47b5fa4fdef06e77a4286f8cae1270219e3d7b36cf7232bcfc7902b65509515c",
}
TRAINED_VOCAB = 1024


def engine(p: Params, plan: str, count: int) -> Parts:
    """The case of a plan that takes `count` tokens."""
    trained = p.arch == "trained"
    high = TRAINED_VOCAB if trained else COMMON["vocab_size"]
    tokens = tensor("tokens", "i64", (count,), "index", low=0, high=high)
    model = TRAINED if trained else {"config": json.dumps(ARCHS[p.arch]), "weights": "heavy"}
    return observed("engine", tokens, dtype=p.dtype, plan=plan, **model)


@family("engine/prefill", arch=(*ARCHS, "trained"), dtype=("f32", "bf16"), tokens=("24",))
def prefill(p: Params) -> Parts:
    """A prompt at once: a layer whose weights are laid out in another way, a mask or window that is off
    by one, heads that are paired wrongly, an expert that is chosen by another rule."""
    return engine(p, f"prefill:{p.tokens}", int(p.tokens))


@family(
    "engine/decode",
    arch=("llama", "gemma3", "mixtral", "deepseek3", "trained"),
    dtype=("bf16", "f32"),
    depth=("33",),
)
def decode(p: Params) -> Parts:
    """Single tokens behind a cache that spans pages: a stale row, a page that is read too far, a
    position that is one too small, a kernel for one row that rounds elsewhere."""
    return engine(p, f"decode:{p.depth}+2", int(p.depth) + 2)


@family("engine/mixed", arch=("llama", "gemma2", "deepseek2", "trained"), dtype=("bf16", "f16"))
def mixed(p: Params) -> Parts:
    """A prompt, a chunk behind cached tokens and single tokens in one step: rows or slots of one
    request that leak into another, contexts of unlike length, a mask that is shared."""
    return engine(p, "mixed:p9,c8+7,d12,d3", 9 + 15 + 13 + 4)


@family("engine/score", arch=("qwen3", "trained"), dtype=("bf16", "f16", "f32"))
def score(p: Params) -> Parts:
    """The scores of every position: a head that is computed for the last row alone, a norm before it
    that takes another row's statistics."""
    return engine(p, "score:33", 33)
