#!/usr/bin/env python3
"""Train a tiny Llama on a text, and write it as a checkpoint folder in Hugging Face format.

    tools/train_tiny.py TEXT FOLDER [--steps 1400] [--seed 0]

`cases/models/tiny-llama` is such a model: the same network, tokenizer, batches and schedule, of
which its README names 1,400 steps. Another machine's rounding leads to other weights, so what is
written is a model of the same kind and not the same file. About a second a step on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from parity.engine.model.arch import Arch
from parity.engine.model.config import read
from parity.engine.model.names import weights
from parity.engine.ops import reference

SPECIAL = ("<s>", "</s>", "<pad>")
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 0,
    "dtype": "bfloat16",
    "eos_token_id": 1,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 192,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "max_position_embeddings": 512,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 6,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "vocab_size": 1024,
}
BATCH, LENGTH = 16, 128
PEAK, WARM_UP = 3e-3, 50
HELD_OUT = 0.05


def main() -> None:
    """Read the command, train and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path, help="a text file, UTF-8")
    parser.add_argument("folder", type=Path, help="where to write; made if it is not there")
    parser.add_argument("--steps", type=int, default=1400, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    given = parser.parse_args()
    text = given.text.read_text(encoding="utf-8")
    tokenizer = train_tokenizer(text)
    tokens = torch.tensor(tokenizer.encode(text).ids)
    kept = int(len(tokens) * (1 - HELD_OUT))
    if len(tokens) - kept <= LENGTH:
        sys.exit(f"{given.text}: {len(tokens):,} tokens are too few to train on and to hold any out")
    print(f"{len(tokens):,} tokens, {kept:,} of them to train on")
    arch = read(CONFIG)
    model = start(arch, seed=given.seed)
    train(arch, model, tokens[:kept], steps=given.steps, seed=given.seed)
    print(f"held out: {held_out(arch, model, tokens[kept:]):.3f} nats a token")
    write(given.folder, model, tokenizer)


def train_tokenizer(text: str) -> Tokenizer:
    """Return a byte-level BPE of the text, so that any text has tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


def start(arch: Arch, *, seed: int) -> dict[str, Tensor]:
    """Return parameters in float32, by their names in the files, as Llama's are begun."""
    draw = torch.Generator().manual_seed(seed)
    made = {}
    for weight in weights(arch):
        for part in (part for inner in weight.parts for part in inner):
            normal = CONFIG["initializer_range"] * torch.randn(part.shape, generator=draw)
            value = normal if weight.is_matrix else torch.ones(part.shape)
            made[f"model.{part.name}"] = value.requires_grad_()
    return made


def logits(arch: Arch, model: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Return the scores [B, T, vocab] of tokens [B, T]: the network of the engine, to be differentiated."""
    attention = arch.layers[0].attention
    turns = torch.arange(tokens.shape[1])[:, None] * attention.rope.frequencies()
    cos, sin = turns.cos().float(), turns.sin().float()

    def norm(x: Tensor, name: str) -> Tensor:
        return reference.rms_norm.reference(x, w=model[f"model.{name}.weight"], eps=arch.eps, offset=0.0)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, model[f"model.{name}.weight"])

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, attention.key_dim))

    def rotated(x: Tensor) -> Tensor:
        return torch.stack([reference.rotate.reference(row, cos, sin, interleaved=False) for row in x])

    x = model["model.embed_tokens.weight"][tokens]
    for number in range(len(arch.layers)):
        here = f"layers.{number}"
        inner = norm(x, f"{here}.input_layernorm")
        q, k, v = (heads(linear(inner, f"{here}.self_attn.{name}_proj")) for name in "qkv")
        seen = F.scaled_dot_product_attention(
            rotated(q).transpose(1, 2),
            rotated(k).transpose(1, 2),
            v.transpose(1, 2),
            is_causal=True,
            enable_gqa=True,
        )
        x = x + linear(seen.transpose(1, 2).flatten(2), f"{here}.self_attn.o_proj")
        inner = norm(x, f"{here}.post_attention_layernorm")
        gate_up = torch.cat([linear(inner, f"{here}.mlp.{name}_proj") for name in ("gate", "up")], dim=-1)
        x = x + linear(reference.gated.reference(gate_up, activation="silu"), f"{here}.mlp.down_proj")
    return F.linear(norm(x, "norm"), model["model.embed_tokens.weight"])


def loss_of(arch: Arch, model: dict[str, Tensor], rows: Tensor) -> Tensor:
    """Return nats a token over rows [B, T + 1]."""
    return F.cross_entropy(logits(arch, model, rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def train(arch: Arch, model: dict[str, Tensor], tokens: Tensor, *, steps: int, seed: int) -> None:
    """Run AdamW, warmed up and then along a cosine, on random rows of the text."""
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.values(), lr=PEAK, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(steps):
        share = min(1.0, (step + 1) / WARM_UP) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = PEAK * share
        places = torch.randint(0, len(tokens) - LENGTH, (BATCH,), generator=draw)
        loss = loss_of(arch, model, tokens[places[:, None] + torch.arange(LENGTH + 1)])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.values(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step + 1:>5} of {steps}   {loss.item():.3f} nats a token", flush=True)


def held_out(arch: Arch, model: dict[str, Tensor], tokens: Tensor) -> float:
    """Return nats a token over the rows that were not trained on."""
    rows = tokens[: (len(tokens) - 1) // LENGTH * LENGTH + 1].unfold(0, LENGTH + 1, LENGTH)
    with torch.no_grad():
        losses = [loss_of(arch, model, part) * len(part) for part in rows.split(BATCH)]
    return float(sum(losses)) / len(rows)


def write(folder: Path, model: dict[str, Tensor], tokenizer: Tokenizer) -> None:
    """Write what a checkpoint folder holds, weights rounded to bf16."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().bfloat16() for name, value in sorted(model.items())}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    ends = {name: CONFIG[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    start, end, pad = SPECIAL
    names: dict[str, Any] = {"bos_token": start, "eos_token": end, "pad_token": pad}
    for name, content in (
        ("config", CONFIG),
        ("generation_config", ends),
        ("tokenizer_config", names),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
