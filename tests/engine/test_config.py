"""What is read of configs as they are published, in both spellings, and what is refused.

The configs are those of real models, cut to what concerns the network. transformers reads each and
writes it in today's spelling; both must be the same network to us. Longer than a file should be:
half of it is those configs.
"""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from engine.families import FAMILIES as TINY

from parity.engine.model.config import FAMILIES, read
from parity.engine.model.names import weights
from parity.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about old spellings

YARN_V3 = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
    "type": "yarn",
}
LLAMA = {"model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
PUBLISHED = {
    "Llama 2 7B": LLAMA
    | {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "vocab_size": 32000,
        "rope_scaling": None,
        "pretraining_tp": 1,
    },
    "Llama 3.1 8B": LLAMA
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "vocab_size": 128256,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "attention_bias": False,
        "mlp_bias": False,
    },
    "Mistral 7B 0.1": {
        "model_type": "mistral",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "Qwen2.5 7B": {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 152064,
    },
    "Qwen3 0.6B": {
        "model_type": "qwen3",
        "attention_bias": False,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "Gemma 2 2B": {
        "model_type": "gemma2",
        "attention_bias": False,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "max_position_embeddings": 8192,
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "vocab_size": 256000,
    },
    "Gemma 3 1B": {
        "model_type": "gemma3_text",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "max_position_embeddings": 32768,
        "num_attention_heads": 4,
        "num_hidden_layers": 26,
        "num_key_value_heads": 1,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "vocab_size": 262144,
    },
    # Published with what differs from the defaults of its class alone.
    "Gemma 3 4B": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "Mixtral 8x7B": {
        "model_type": "mixtral",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "Qwen3 30B-A3B": {
        "model_type": "qwen3_moe",
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "max_window_layers": 48,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "DeepSeek V2 Lite": {
        "model_type": "deepseek_v2",
        "attention_bias": False,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 1408,
        "moe_layer_freq": 1,
        "n_group": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "num_attention_heads": 16,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 27,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-6,
        "rope_scaling": YARN_V3 | {"mscale": 0.707, "mscale_all_dim": 0.707},
        "rope_theta": 10000,
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "tie_word_embeddings": False,
        "topk_group": 1,
        "topk_method": "greedy",
        "v_head_dim": 128,
        "vocab_size": 102400,
    },
    "DeepSeek V3": {
        "model_type": "deepseek_v3",
        "attention_bias": False,
        "first_k_dense_replace": 3,
        "hidden_act": "silu",
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 2048,
        "moe_layer_freq": 1,
        "n_group": 8,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-6,
        "rope_scaling": YARN_V3,
        "rope_theta": 10000,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "v_head_dim": 128,
        "vocab_size": 129280,
    },
}
# Parameters as the models are known by, in units of 10^9 (Llama 2: 6.74, DeepSeek V3: 671, …).
BILLIONS = {
    "Llama 2 7B": 6.738,
    "Llama 3.1 8B": 8.030,
    "Mistral 7B 0.1": 7.242,
    "Qwen2.5 7B": 7.616,
    "Qwen3 0.6B": 0.596,
    "Gemma 2 2B": 2.614,
    "Gemma 3 1B": 1.000,
    "Gemma 3 4B": 3.880,
    "Mixtral 8x7B": 46.703,
    "Qwen3 30B-A3B": 30.532,
    "DeepSeek V2 Lite": 15.706,
    "DeepSeek V3": 671.026,
}
every_model = pytest.mark.parametrize("name", sorted(PUBLISHED))


@every_model
def test_both_spellings_are_the_same_network(name):
    config = PUBLISHED[name]
    today = transformers.AutoConfig.for_model(**config).to_dict()
    assert "rope_scaling" not in today or today["rope_scaling"] is None
    assert read(config) == read(json.loads(json.dumps(today)))


@every_model
def test_a_network_has_as_many_parameters_as_the_model_is_known_by(name):
    count = sum(torch.Size(w.shape).numel() for w in weights(read(PUBLISHED[name])))
    assert count / 1e9 == pytest.approx(BILLIONS[name], abs=6e-4)


@every_model
def test_rotary_frequencies_are_those_of_transformers(name):
    config = transformers.AutoConfig.for_model(**PUBLISHED[name])
    for rope in {layer.attention.rope for layer in read(PUBLISHED[name]).layers}:
        kinds = [k for k, v in config.rope_parameters.items() if isinstance(v, dict)] or [None]
        them = [_frequencies(config, kind) for kind in kinds]
        assert any(
            magnitude == pytest.approx(rope.magnitude, abs=1e-12)
            and torch.allclose(inverse.double(), rope.frequencies(), rtol=1e-6, atol=0.0)
            for inverse, magnitude in them
        )


def _frequencies(config, kind):
    parameters = config.rope_parameters[kind] if kind else config.rope_parameters
    if parameters["rope_type"] != "default":
        function = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS[parameters["rope_type"]]
        return function(config, "cpu", **({"layer_type": kind} if kind else {}))
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return parameters["rope_theta"] ** -(torch.arange(0, size, 2).double() / size), 1.0


def test_every_family_has_a_published_config_and_a_tiny_one():
    assert {c["model_type"] for c in PUBLISHED.values()} == set(FAMILIES)
    tiny = {getattr(transformers, kind).model_type for kind, _ in TINY.values()}
    assert tiny == set(FAMILIES)


def test_a_field_that_is_left_out_is_what_transformers_makes_it():
    for name, config in PUBLISHED.items():
        required = {"model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"}
        for field in sorted(set(config) - required):
            fewer = {k: v for k, v in config.items() if k != field}
            try:
                ours = read(fewer)
            except UsageError:
                continue  # refused is no guess
            them = json.loads(json.dumps(transformers.AutoConfig.for_model(**fewer).to_dict()))
            if field not in KNOWN_DEFAULTS:
                assert ours == read(them), f"{name} without {field}"


# Where transformers has one model's value as the default of all: another shape, so the tensors tell.
KNOWN_DEFAULTS = {"num_key_value_heads", "first_k_dense_replace", "n_shared_experts", "q_lora_rank"}


def test_windows_of_every_kind():
    def windows(name, **changes):
        return [layer.attention.window for layer in read(PUBLISHED[name] | changes).layers]

    assert windows("Mistral 7B 0.1") == [4096] * 32
    assert windows("Mistral 7B 0.1", sliding_window=None) == [None] * 32
    assert windows("Gemma 2 2B") == [4096, None] * 13
    assert windows("Gemma 3 1B")[:7] == [512] * 5 + [None, 512]
    assert windows("Qwen2.5 7B") == [None] * 28
    used = windows("Qwen2.5 7B", use_sliding_window=True, max_window_layers=26)
    assert used == [None] * 26 + [131072] * 2
    kinds = ["full_attention", "sliding_attention"] * 14
    assert windows("Qwen2.5 7B", use_sliding_window=True, layer_types=kinds) == [None, 131072] * 14


def test_dense_and_sparse_layers():
    def sparse(name, **changes):
        layers = read(PUBLISHED[name] | changes).layers
        return [n for n, layer in enumerate(layers) if layer.feed_forward.router]

    assert sparse("DeepSeek V3") == list(range(3, 61))
    assert sparse("Mixtral 8x7B") == list(range(32))
    assert sparse("Qwen3 30B-A3B", mlp_only_layers=[0, 5], decoder_sparse_step=2) == [
        n for n in range(1, 48, 2) if n != 5
    ]


@pytest.mark.parametrize(
    "name, changes, error",
    [
        (
            "Llama 2 7B",
            {"model_type": "lama"},
            "model_type 'lama' is not known; did you mean 'llama'?; known: ",
        ),
        ("Llama 2 7B", {"model_type": "gpt2"}, "model_type 'gpt2' is not known; known: llama, mistral, "),
        ("Llama 2 7B", {"hidden_size": None}, "'hidden_size' must be a positive integer, got None"),
        (
            "Llama 2 7B",
            {"max_position_embeddings": None},
            "'max_position_embeddings' must be a positive integer, got None",
        ),
        ("DeepSeek V3", {"n_group": None}, "'n_group' must be a positive integer, got None"),
        ("Llama 2 7B", {"hidden_size": "4096"}, "'hidden_size' must be a positive integer, got '4096'"),
        (
            "Llama 2 7B",
            {"num_hidden_layers": True},
            "'num_hidden_layers' must be a positive integer, got True",
        ),
        ("Llama 2 7B", {"num_attention_heads": 0}, "'num_attention_heads' must be a positive integer, got 0"),
        (
            "Llama 2 7B",
            {"num_key_value_heads": 5},
            "'num_key_value_heads' must be a divisor of num_attention_heads, 32, got 5",
        ),
        ("Llama 2 7B", {"rms_norm_eps": "1e-5"}, "'rms_norm_eps' must be a number, got '1e-5'"),
        ("Llama 2 7B", {"tie_word_embeddings": 1}, "'tie_word_embeddings' must be true or false, got 1"),
        (
            "Llama 2 7B",
            {"hidden_act": "relu"},
            "'hidden_act' must be silu, gelu or gelu_pytorch_tanh, got 'relu'",
        ),
        (
            "Llama 3.1 8B",
            {"rope_scaling": {"rope_type": "longrope"}},
            "rope type 'longrope' is not known; known: default, linear, dynamic, llama3, yarn",
        ),
        (
            "Llama 3.1 8B",
            {"rope_scaling": {"type": "linear"}},
            "rope field 'factor' must be a number, got None",
        ),
        (
            "Llama 3.1 8B",
            {"rope_scaling": {"type": "yarn", "factor": "4"}},
            "rope field 'factor' must be a number, got '4'",
        ),
        (
            "Llama 3.1 8B",
            {
                "rope_scaling": {
                    "type": "dynamic",
                    "factor": 2.0,
                    "original_max_position_embeddings": 4096,
                }
            },
            "rope type 'dynamic' beyond the trained length is not known",
        ),
        ("Gemma 2 2B", {"layer_types": ["full_attention"]}, "'layer_types' must be one kind a layer, got "),
        (
            "Gemma 2 2B",
            {"layer_types": ["chunked_attention"] * 26},
            "'layer_types' must be 'full_attention' or 'sliding_attention', got 'chunked_attention'",
        ),
        ("Qwen3 30B-A3B", {"mlp_only_layers": 3}, "'mlp_only_layers' must be a list of layer numbers, got 3"),
        (
            "DeepSeek V2 Lite",
            {"topk_method": "noaux_tc"},
            "'topk_method' must be 'greedy' or 'group_limited_greedy', got 'noaux_tc'",
        ),
        ("DeepSeek V2 Lite", {"norm_topk_prob": True}, "'norm_topk_prob' must be False, got True"),
        ("DeepSeek V3", {"scoring_func": "softmax"}, "'scoring_func' must be 'sigmoid', got 'softmax'"),
        ("DeepSeek V3", {"topk_method": "greedy"}, "'topk_method' must be 'noaux_tc', got 'greedy'"),
        ("DeepSeek V3", {"moe_layer_freq": 2}, "'moe_layer_freq' must be 1, got 2"),
        (
            "DeepSeek V3",
            {"first_k_dense_replace": -1},
            "'first_k_dense_replace' must be 0 or a positive integer, got -1",
        ),
        ("DeepSeek V3", {"kv_lora_rank": None}, "'kv_lora_rank' must be a positive integer, got None"),
    ],
)
def test_what_is_not_known_is_refused_naming_the_field(name, changes, error):
    with pytest.raises(UsageError) as caught:
        read(PUBLISHED[name] | changes, where="here/config.json")
    assert str(caught.value).startswith(f"here/config.json: {error}")


def test_a_multimodal_config_is_read_by_its_text_part():
    inner = PUBLISHED["Gemma 3 4B"]
    assert read({"model_type": "gemma3", "text_config": inner}) == read(inner)
