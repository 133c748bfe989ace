"""fp8 weights that are kept compute what dequantised ones do, bit for bit, in less memory."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from parity.engine import Engine
from parity.engine.model.scaled import Codes, Scaled
from parity.errors import UsageError

BLOCK = (8, 6)
FILE = "model.safetensors"
TOKENS = list(range(1, 30))


@pytest.fixture(params=["llama", "deepseek-v3"])
def quantised(request, checkpoint, tmp_path):
    """A copy whose matrices, but embedding, head and routers, are fp8 in blocks."""
    folder = shutil.copytree(checkpoint(request.param), tmp_path / "fp8")
    tensors = load_file(folder / FILE)
    for name in [n for n, t in tensors.items() if t.ndim == 2 and n.endswith("proj.weight")]:
        rows, columns = (-(-n // b) for n, b in zip(tensors[name].shape, BLOCK, strict=True))
        tensors[f"{name}_scale_inv"] = torch.rand(rows, columns) / 64 + 2.0**-7
        tensors[name] = (tensors[name] * 64).to(torch.float8_e4m3fn)
    save_file(tensors, folder / FILE)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": list(BLOCK)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_kept_and_dequantised_weights_give_the_same_scores_and_digest(quantised, dtype):
    dense, kept = (Engine(quantised, dtype=dtype, keep_quantised=keep) for keep in (False, True))
    assert kept.score(TOKENS).equal(dense.score(TOKENS))
    assert kept.weights_digest() == dense.weights_digest()
    assert any(isinstance(w, Scaled) for w in kept._weights.values())
    assert not any(isinstance(w, Scaled) for w in dense._weights.values())


def test_kept_weights_take_a_byte_an_element(quantised):
    kept = Engine(quantised, dtype="f32", keep_quantised=True)._weights
    (one,) = [w for name, w in kept.items() if name == "L00.down"]
    assert sum(part.codes.nbytes for part in one.parts) == one.numel()


def test_another_scale_is_other_weights(quantised):
    before = Engine(quantised, dtype="f32", keep_quantised=True)
    tensors = load_file(quantised / FILE)
    name = next(n for n in sorted(tensors) if n.endswith("down_proj.weight_scale_inv"))
    tensors[name][0, 0] *= 1.25
    save_file(tensors, quantised / FILE)
    after = Engine(quantised, dtype="f32", keep_quantised=True)
    assert not after.score(TOKENS).equal(before.score(TOKENS))
    assert after.weights_digest() != before.weights_digest()


def test_a_checkpoint_that_is_not_quantised_is_loaded_as_ever(checkpoint):
    plain, kept = (Engine(checkpoint("llama"), dtype="f32", keep_quantised=keep) for keep in (False, True))
    assert kept.score(TOKENS).equal(plain.score(TOKENS))


@pytest.mark.parametrize(
    "scale, block, expected",
    [
        ([[2.0]], None, [[2, 4, 6], [8, 10, 12]]),
        ([[2.0], [3.0]], None, [[2, 4, 6], [12, 15, 18]]),
        ([[2.0, 3.0]], (2, 2), [[2, 4, 9], [8, 10, 18]]),
    ],
)
def test_codes_times_scale_by_hand(scale, block, expected):
    codes = torch.tensor([[1.0, 2, 3], [4, 5, 6]]).to(torch.float8_e4m3fn)
    assert Codes("w", codes, torch.tensor(scale), block).dense(torch.float32).tolist() == expected


def test_blocks_that_were_not_declared_are_refused_when_codes_are_made():
    codes = torch.zeros(4, 4).to(torch.float8_e4m3fn)
    with pytest.raises(UsageError, match="2 scales for 4 along dimension 0, but blocks of None"):
        Codes("w", codes, torch.ones(2, 1), None)
