"""Checkpoints as they come, and every way in which one may be damaged.

Longer than a file should be: there are many ways.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from parity.engine import Engine
from parity.engine.model.config import read
from parity.engine.model.names import weights
from parity.engine.model.weights import Checkpoint, digest_of, load
from parity.errors import UsageError

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CPU = torch.device("cpu")
TOKENS = [1, 2, 3]


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(tiny, tmp_path / "copy")


def tensors_of(folder):
    return load_file(folder / FILE)


def write(folder, tensors):
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / FILE)


def configure(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def loaded(folder, dtype=torch.float32, **options):
    arch = read(json.loads((folder / "config.json").read_text()))
    return load(Checkpoint(folder, **options), arch, dtype=dtype, device=CPU)


def refused(folder):
    with pytest.raises(UsageError) as caught:
        Engine(folder)
    return str(caught.value)


def shard(folder, count=3):
    """Cut a checkpoint into shards with an index, as large ones are."""
    tensors = tensors_of(folder)
    names = sorted(tensors)
    weight_map = {}
    for number in range(count):
        file = f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = {n: tensors[n].contiguous() for n in names[number::count]}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / FILE).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


def test_shards_hold_what_one_file_does(folder, tiny):
    shard(folder)
    assert digest_of(loaded(folder), torch.float32) == digest_of(loaded(tiny), torch.float32)
    assert torch.equal(Engine(folder).score(TOKENS), Engine(tiny).score(TOKENS))


def test_parts_are_joined_and_typed_as_asked(folder):
    found = loaded(folder, torch.float64)
    there = tensors_of(folder)
    q, k, v = (there[f"model.layers.1.self_attn.{x}_proj.weight"] for x in "qkv")
    assert torch.equal(found["L01.qkv"], torch.cat((q, k, v)).double())
    assert {t.dtype for t in found.values()} == {torch.float64}


def test_experts_are_stacked(checkpoint):
    folder = checkpoint("mixtral")
    found = loaded(folder)["L02.experts.gate_up"]
    here = "model.layers.2.block_sparse_moe.experts.4"
    there = tensors_of(folder)
    assert torch.equal(found[4], torch.cat((there[f"{here}.w1.weight"], there[f"{here}.w3.weight"])))


def test_a_tied_head_needs_no_tensor_and_ignores_one(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("qwen2"), tmp_path / "copy")
    scores = Engine(folder).score(TOKENS)
    tensors = tensors_of(folder)
    assert "lm_head.weight" not in tensors
    write(folder, {**tensors, "lm_head.weight": torch.zeros(67, 32)})
    assert torch.equal(Engine(folder).score(TOKENS), scores)


def test_a_bf16_checkpoint_is_served_in_bf16_unless_asked_otherwise(folder):
    write(folder, {name: t.bfloat16() for name, t in tensors_of(folder).items()})
    configure(folder, dtype="bfloat16")
    engine = Engine(folder)
    assert engine.dtype is torch.bfloat16
    assert engine.score(TOKENS).dtype is torch.bfloat16
    wide = Engine(folder, dtype="f32")
    assert torch.equal(wide._weights["head"], tensors_of(folder)["lm_head.weight"].float())
    gap = (engine.score(TOKENS).float() - wide.score(TOKENS)).abs().max()
    assert 0 < float(gap) < 0.2  # eight bits


def test_the_old_spelling_of_the_type_is_read(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "float16"}))
    assert Engine(folder).dtype is torch.float16


def quantised(folder, name, block):
    """Store one tensor as fp8 with a scale for each block; return what it then is."""
    tensors = tensors_of(folder)
    high = tensors[name]
    rows, columns = (-(-n // b) for n, b in zip(high.shape, block, strict=True))
    scale = torch.rand(rows, columns) + 0.5
    wide = scale.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    wide = wide[: high.shape[0], : high.shape[1]]
    low = (high / wide).to(torch.float8_e4m3fn)
    write(folder, {**tensors, name: low, f"{name}_scale_inv": scale})
    return low.float() * wide


GATE = "model.layers.0.mlp.gate_proj.weight"  # [24, 16]


@pytest.mark.parametrize("block", [(8, 8), (10, 6), (7, 16), (128, 128)])
def test_fp8_by_blocks_is_dequantised_with_the_declared_size(folder, block):
    want = quantised(folder, GATE, block)
    configure(folder, quantization_config={"quant_method": "fp8", "weight_block_size": list(block)})
    found = Engine(folder, dtype="f32")._weights["L00.gate_up"][:24]
    assert torch.equal(found, want)


def test_blocks_of_a_size_that_nobody_declared_are_refused(folder):
    # 24 rows with 3 scales: blocks of 8, 9, 10 or 11.
    quantised(folder, GATE, (10, 6))
    assert refused(folder) == (
        f"tensor '{GATE}': 3 scales for 24 along dimension 0, but blocks of None: config.json must name "
        "'quantization_config.weight_block_size'"
    )
    configure(folder, quantization_config={"weight_block_size": [4, 6]})
    assert refused(folder).startswith(
        f"tensor '{GATE}': 3 scales for 24 along dimension 0, but blocks of 4: "
    )
    configure(folder, quantization_config={"weight_block_size": [4]})
    assert refused(folder) == "config.json: 'weight_block_size' must be two positive integers, got [4]"


@pytest.mark.parametrize("shape", [(), (1,), (24, 1)])
def test_fp8_with_one_scale_or_one_a_row_is_dequantised(folder, shape):
    tensors = tensors_of(folder)
    low = tensors[GATE].to(torch.float8_e4m3fn)
    scale = torch.rand(shape) + 0.5
    extras = {f"{GATE}_scale": scale, GATE.replace("weight", "input_scale"): torch.ones(())}
    write(folder, {**tensors, GATE: low, **extras})
    assert torch.equal(Engine(folder, dtype="f32")._weights["L00.gate_up"][:24], low.float() * scale)


def test_fp8_without_a_scale_is_refused(folder):
    tensors = tensors_of(folder)
    write(folder, {**tensors, GATE: tensors[GATE].to(torch.float8_e4m3fn)})
    assert refused(folder) == (
        f"{folder / FILE}: tensor '{GATE}' is torch.float8_e4m3fn without a scale beside it"
    )


def test_an_absent_file_is_named(folder):
    (folder / FILE).unlink()
    assert (
        refused(folder) == f"{folder / FILE}: is not there. Download the checkpoint again, all of its files"
    )


def test_an_absent_shard_is_named(folder):
    shard(folder)
    gone = folder / "model-00002-of-00003.safetensors"
    gone.unlink()
    assert refused(folder) == f"{gone}: is not there. Download the checkpoint again, all of its files"


def header_size(file):
    return 8 + struct.unpack("<Q", file.read_bytes()[:8])[0]


@pytest.mark.parametrize("place", ["empty", "length", "header", "first tensor", "last byte"])
def test_a_truncated_shard_is_named_wherever_it_ends(folder, place):
    shard(folder)
    file = folder / "model-00003-of-00003.safetensors"
    data = file.read_bytes()
    head = header_size(file)
    cut = {"empty": 0, "length": 5, "header": head - 9, "first tensor": head + 3, "last byte": len(data) - 1}
    file.write_bytes(data[: cut[place]])
    assert refused(folder).startswith(f"{file}: cannot be read, it may be cut short: ")


def test_a_file_of_another_format_is_named(folder):
    (folder / FILE).write_bytes(b"PK\x03\x04" + bytes(1000))
    assert refused(folder).startswith(f"{folder / FILE}: cannot be read, it may be cut short: ")


def test_a_missing_tensor_is_named_with_what_needs_it(folder):
    tensors = tensors_of(folder)
    del tensors["model.layers.1.self_attn.k_proj.weight"]
    write(folder, tensors)
    assert refused(folder) == (
        f"{folder}: tensor 'model.layers.1.self_attn.k_proj.weight' is missing, which L01.qkv needs"
    )


def test_a_misshapen_tensor_is_named_with_both_shapes(folder):
    tensors = tensors_of(folder)
    write(folder, {**tensors, GATE: tensors[GATE].T})
    assert refused(folder) == (
        f"{folder / FILE}: tensor '{GATE}' has shape [16, 24], but config.json makes it [24, 16]"
    )


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.q_proj.bias", "score.weight", "model.layers.0.mlp.gate_proj.lora_A"]
)
def test_a_tensor_that_nothing_describes_is_refused(folder, name):
    write(folder, {**tensors_of(folder), name: torch.zeros(16)})
    assert refused(folder) == (
        f"{folder / FILE}: tensor '{name}' belongs to nothing that config.json describes"
    )


def test_what_a_step_does_not_need_may_be_there(folder, tiny):
    extras = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
        # A layer for multi-token prediction beyond the last: it brings an embedding of its own.
        "model.layers.2.embed_tokens.weight": torch.ones(37, 16),
        "model.layers.2.eh_proj.weight": torch.ones(16, 32),
    }
    write(folder, {**tensors_of(folder), **extras})
    assert torch.equal(Engine(folder).score(TOKENS), Engine(tiny).score(TOKENS))


def test_the_text_part_of_a_multimodal_checkpoint_is_found_below_its_prefix(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("gemma3"), tmp_path / "copy")
    scores = Engine(folder).score(TOKENS)
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    tensors = {f"language_model.{name}": t for name, t in tensors_of(folder).items()}
    extras = {"vision_tower.x.weight": torch.ones(1), "multi_modal_projector.y": torch.ones(1)}
    write(folder, {**tensors, **extras})
    assert torch.equal(Engine(folder).score(TOKENS), scores)


def test_an_index_that_names_the_wrong_shard_is_refused(folder):
    weight_map = shard(folder)
    wrong = next(n for n, file in sorted(weight_map.items()) if file.startswith("model-00001"))
    other = "model-00002-of-00003.safetensors"
    (folder / INDEX).write_text(json.dumps({"weight_map": {**weight_map, wrong: other}}))
    assert refused(folder) == (
        f"{folder / other}: lacks '{wrong}', which {INDEX} says is in it. Download it again"
    )


def test_a_tensor_in_two_shards_is_refused(folder):
    weight_map = shard(folder)
    second = folder / "model-00002-of-00003.safetensors"
    twice = next(n for n, file in sorted(weight_map.items()) if file.startswith("model-00001"))
    save_file({**load_file(second), twice: torch.zeros(1)}, second)
    assert re.fullmatch(
        rf"{re.escape(str(folder))}/model-0000[12]-of-00003.safetensors: tensor '{re.escape(twice)}' "
        r"is in model-0000[12]-of-00003.safetensors too",
        refused(folder),
    )


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}'])
def test_a_damaged_index_is_named(folder, content):
    shard(folder)
    (folder / INDEX).write_text(content)
    assert refused(folder).startswith(f"{folder / INDEX}: has no usable 'weight_map': ")


def test_without_an_embedding_nothing_is_guessed(folder):
    tensors = tensors_of(folder)
    del tensors["model.embed_tokens.weight"]
    write(folder, tensors)
    assert refused(folder) == f"{folder}: has 0 tensors named '…embed_tokens.weight', expected one"


MEASURE = """
import sys
import parity.engine.model.weights as reading
from parity.engine import Engine
from parity.engine.model.weights import safe_open

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))

small, large, fault = sys.argv[1:]
Engine(small)  # what is loaded once is not the weights'
if fault == "a mapping stays open":
    kept = []
    def read(self, name):
        handle = safe_open(self.tensors[name].file, framework="pt")
        kept.append(handle)
        kept.append(handle.get_tensor(name))
        return kept[-1]
    reading.Checkpoint._tensor = read
before = status("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the high-water mark begins anew
weights = Engine(large, kv_tokens=16)._weights.values()
print(status("VmHWM") - before, sum(w.nbytes for w in weights), max(w.nbytes for w in weights))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone says what was resident")
@pytest.mark.parametrize("fault", ["", "a mapping stays open"])
def test_loading_takes_the_final_weights_a_tenth_and_two_tensors(tiny, tmp_path, fault):
    config = json.loads((tiny / "config.json").read_text()) | {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "vocab_size": 8000,
        "head_dim": 128,
        "dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    parts = [part for w in weights(read(config)) for inner in w.parts for part in inner]
    names = [p.name if p.name.startswith("lm_head") else f"model.{p.name}" for p in parts]
    tensors = {n: torch.rand(p.shape).bfloat16() for n, p in zip(names, parts, strict=True)}
    save_file(tensors, tmp_path / FILE)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tiny, tmp_path, fault], capture_output=True, text=True, check=True
    )
    peak, final, largest = map(int, done.stdout.split())
    assert final > 60e6
    assert (peak <= 1.1 * final + 2 * largest) == (not fault)


def test_a_digest_depends_on_every_name_type_shape_and_value():
    base = {"a": torch.zeros(2, 3), "b": torch.ones(4)}
    digest = digest_of(base, torch.float32)
    assert digest == digest_of(dict(reversed(base.items())), torch.float32)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
    others = [
        {"a": torch.zeros(2, 3), "c": torch.ones(4)},
        {"a": torch.zeros(3, 2), "b": torch.ones(4)},
        {"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.int32).view(torch.float32)},
        {"a": -torch.zeros(2, 3), "b": torch.ones(4)},
        {"a": torch.zeros(2, 3).bfloat16(), "b": torch.ones(4)},
    ]
    assert digest not in [digest_of(other, torch.float32) for other in others]


def test_the_digest_of_a_dequantised_checkpoint_is_that_of_its_values(folder, tmp_path):
    plain = shutil.copytree(folder, tmp_path / "plain")
    values = quantised(folder, GATE, (8, 8))
    configure(folder, quantization_config={"weight_block_size": [8, 8]})
    write(plain, {**tensors_of(plain), GATE: values})
    assert Engine(folder, dtype="f32").weights_digest() == Engine(plain).weights_digest()
