"""Tiny random configurations of every family that the engine reads, as transformers writes them."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from torch.overrides import TorchFunctionMode

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

COMMON = {
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
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
}
FAMILIES = {
    "smallest": (
        "LlamaConfig",
        {**COMMON, "vocab_size": 37, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
    ),
    "llama": ("LlamaConfig", {**COMMON, "rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True}),
    "llama-linear": (
        "LlamaConfig",
        {
            **COMMON,
            "head_dim": 16,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
        },
    ),
    "mistral": ("MistralConfig", {**COMMON, "sliding_window": 7, "head_dim": 16}),
    "qwen2": ("Qwen2Config", {**COMMON, "tie_word_embeddings": True}),
    "qwen2-window": (
        "Qwen2Config",
        {**COMMON, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Config", {**COMMON, "head_dim": 12}),
    "gemma2": (
        "Gemma2Config",
        {**COMMON, "head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 24},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {**COMMON, "num_hidden_layers": 7, "head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 24},
    ),
    "mixtral": ("MixtralConfig", {**COMMON, "num_local_experts": 5, "num_experts_per_tok": 2}),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        {
            **COMMON,
            "head_dim": 16,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
        },
    ),
    "deepseek-v2": (
        "DeepseekV2Config",
        {
            **DEEPSEEK,
            "q_lora_rank": None,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 1.5,
            "rope_parameters": YARN,
        },
    ),
    "deepseek-v3": (
        "DeepseekV3Config",
        {**DEEPSEEK, "q_lora_rank": 20, "n_group": 4, "topk_group": 2, "rope_parameters": YARN},
    ),
}


class Lifted(TorchFunctionMode):
    """transformers without its casts to float32, which it makes in a float64 model too."""

    def __torch_function__(self, function, _types, arguments=(), options=None):
        if function is torch.Tensor.float:
            return arguments[0].double()
        arguments = [_lifted(x) for x in arguments]
        return function(*arguments, **{name: _lifted(x) for name, x in (options or {}).items()})


def _lifted(x):
    return torch.float64 if x is torch.float32 else x


def make(name: str, folder: Path) -> None:
    """Write a random float32 checkpoint of a family into `folder`."""
    kind, options = FAMILIES[name]
    torch.manual_seed(len(name))
    config = getattr(transformers, kind)(**options)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in [*model.parameters(), *model.buffers()]:
            # Initial weights of 0.02 make every layer a whisper: nothing wrong in one would show.
            if parameter.is_floating_point() and parameter.ndim > 1:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        for label, buffer in model.named_buffers():
            if "correction_bias" in label:
                buffer.normal_(0.0, 0.2)
    model.save_pretrained(folder)


def theirs(folder: Path, dtype: torch.dtype) -> transformers.PreTrainedModel:
    """The checkpoint as transformers reads it, by its plain implementations: others lack float64."""
    config = transformers.AutoConfig.from_pretrained(folder)
    plain = {"attn_implementation": "eager"}
    if hasattr(config, "num_experts_per_tok"):
        plain["experts_implementation"] = "eager"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **plain)
    return model.eval()
