"""Networks to plant faults in: the trained tiny model, and random ones with the heavy tails of real weights.

Weights are t-like with three degrees of freedom, 1 % of a norm's channels are six times as strong, and
a few rows of the second layer's way down make massive activations, as in NUMERICS.md 2. Every net is
run on one plan: two prompts together, then a chunk behind one and a single token behind the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from parity.case.catalog import builtin_cases
from parity.engine.model.config import read
from parity.engine.model.names import weights
from parity.engine.run.batch import Batch, Run, flatten

__all__ = ["NETS", "TRAINED", "folder_of", "plan"]

_COMMON: Mapping[str, Any] = {
    "vocab_size": 67,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "dtype": "float32",
    "tie_word_embeddings": False,
}
_MLA: Mapping[str, Any] = {
    **_COMMON,
    "head_dim": None,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 32,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
}
# The trained model is a folder of its own.
TRAINED = "tiny-llama"
NETS: Mapping[str, Mapping[str, Any] | None] = {
    TRAINED: None,
    "dense": {**_COMMON, "model_type": "qwen3", "sliding_window": None, "use_sliding_window": False},
    "windowed": {**_COMMON, "model_type": "mistral", "sliding_window": 9, "attention_bias": True},
    "capped": {
        **_COMMON,
        "model_type": "gemma2",
        "sliding_window": 9,
        "query_pre_attn_scalar": 24,
        "tie_word_embeddings": True,
    },
    "experts": {**_COMMON, "model_type": "mixtral", "num_local_experts": 6, "num_experts_per_tok": 2},
    "latent": {**_MLA, "model_type": "deepseek_v3"},
}


def folder_of(name: str, root: Path, *, seed: int) -> Path:
    """Return the checkpoint folder of a net, written below `root` unless it is the trained one."""
    config = NETS[name]
    if config is None:
        return builtin_cases() / "models" / name
    folder = root / f"{name}-{seed}"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        fields = {key: value for key, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
        draw = torch.Generator().manual_seed(seed)
        parts = [part for weight in weights(read(fields)) for inner in weight.parts for part in inner]
        save_file(
            {_stored_name(part.name): _heavy(part.name, part.shape, draw) for part in parts},
            folder / "model.safetensors",
        )
    return folder


def _stored_name(name: str) -> str:
    return name if name.startswith("lm_head.") else f"model.{name}"


def _heavy(name: str, shape: tuple[int, ...], draw: torch.Generator) -> torch.Tensor:
    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=draw)

    if len(shape) == 1:
        if not name.endswith("norm.weight"):
            return 0.1 * normal(*shape)
        gain = 1 + 0.1 * normal(*shape)
        gain[torch.randperm(shape[0], generator=draw)[: max(1, shape[0] // 100)]] *= 6
        return gain
    # Student's t with three degrees of freedom has variance 3.
    spread = torch.stack([normal(*shape) for _ in range(3)]).square().mean(0).sqrt()
    matrix = normal(*shape) / spread.clamp(min=0.2) / 3**0.5 / shape[-1] ** 0.5
    if "layers.1." in name and "down" in name:
        matrix[:2] *= 400
    return matrix


def plan(vocab: int, *, seed: int, device: torch.device) -> list[Batch]:
    """Return the two batches of the plan; pages lie in no order."""
    draw = torch.Generator().manual_seed(seed)
    first, second, more = 17, 23, 6
    slots = torch.randperm(first + second + more + 1, generator=draw).tolist()
    tokens = torch.randint(3, vocab, (first + second + more + 1,), generator=draw).tolist()
    a, b = slots[: first + more], slots[first + more :]
    ta, tb = tokens[: first + more], tokens[first + more :]
    return [
        flatten(
            [
                Run(tokens=ta[:first], context=0, slots=a[:first], logits=first),
                Run(tokens=tb[:second], context=0, slots=b[:second], logits=second),
            ],
            device=device,
        ),
        flatten(
            [
                Run(tokens=ta[first:], context=first, slots=a, logits=more),
                Run(tokens=tb[second:], context=second, slots=b, logits=1),
            ],
            device=device,
        ),
    ]
