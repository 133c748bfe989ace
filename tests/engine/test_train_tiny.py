"""The trainer writes what the engine reads, and trains the network that the engine computes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from parity.engine import Engine
from parity.engine.model.config import read

TOOL = Path(__file__).parents[2] / "tools" / "train_tiny.py"
TEXT = "To be, or not to be, that is the question: " * 200


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("train_tiny", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_trained_is_what_the_engine_computes(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "LENGTH", 16)
    monkeypatch.setattr(tool, "BATCH", 2)
    arch = read(tool.CONFIG)
    tokenizer = tool.train_tokenizer(TEXT)
    tokens = torch.tensor(tokenizer.encode(TEXT).ids)
    model = tool.start(arch, seed=0)
    before = tool.held_out(arch, model, tokens)
    tool.train(arch, model, tokens, steps=3, seed=0)
    assert tool.held_out(arch, model, tokens) < before
    tool.write(tmp_path, model, tokenizer)
    engine = Engine(tmp_path, dtype="f32")
    assert engine.text.encode("To be") == tokenizer.encode("To be").ids
    rounded = {name: value.detach().bfloat16().float() for name, value in model.items()}
    expected = tool.logits(arch, rounded, tokens[None, :40])[0]
    assert (engine.score(tokens[:40].tolist()) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_text_that_is_too_short_is_refused(tool, tmp_path, monkeypatch):
    text = tmp_path / "text"
    text.write_text("too short")
    monkeypatch.setattr("sys.argv", ["train_tiny.py", str(text), str(tmp_path / "made")])
    with pytest.raises(SystemExit, match="tokens are too few to train on and to hold any out"):
        tool.main()
    assert not (tmp_path / "made").exists()
