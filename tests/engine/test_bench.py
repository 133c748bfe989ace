"""The benchmark: what it counts, and that all that is compared does the same work."""

from __future__ import annotations

import json

import pytest
import torch

from parity.engine import Engine, bench
from parity.engine.bench import Machine, Row, Task
from parity.engine.beside import Transformers, transformers
from parity.engine.ops.op import Cost
from parity.errors import UsageError


class Recorded:
    """Another implementation that notes what it was asked for, and takes a second a step."""

    name = "slow"

    def __init__(self):
        self.asked = []

    def seconds(self, task, prompts):
        self.asked.append((task.name, len(prompts), len(prompts[0])))
        return [1.0] * max(task.steps, 1)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bench, "_CONTEXT", 8)
    monkeypatch.setattr(bench, "_STEPS", 3)
    monkeypatch.setattr(bench, "_PREFILL", 24)
    monkeypatch.setattr(bench, "_measure", lambda device, dtype: Machine(read=1e9, flops=1e12))


def test_every_task_is_run_by_all_in_turns(tiny):
    other = Recorded()
    rows = bench.bench(tiny, device="cpu", dtype="f32", others=[other], rounds=2)
    assert [row.task.name for row in rows] == [
        "decode, batch 1",
        "decode, batch 4",
        "decode, batch 16",
        "prefill 24",
    ]
    warmed = 3  # a round that does not count, then two
    assert other.asked[::warmed] == [
        ("decode, batch 1", 1, 8),
        ("decode, batch 4", 4, 8),
        ("decode, batch 16", 16, 8),
        ("prefill 24", 1, 24),
    ]
    assert [row.others["slow"] for row in rows] == [1.0, 4.0, 16.0, 24.0]
    assert all(row.ours > 1 for row in rows)


def test_the_engine_is_timed_over_all_steps_with_the_whole_batch(tiny):
    engine = Engine(tiny, dtype="f32")
    task = Task(name="decode, batch 4", batch=4, prompt=8, steps=3)
    assert len(bench._ours(engine, task, task.prompts(37))) == 3
    assert not engine.busy


def test_the_work_of_a_decode_is_each_weight_once_and_each_cached_key(tiny):
    engine = Engine(tiny, dtype="f32")
    task = Task(name="decode, batch 1", batch=1, prompt=8, steps=3)
    work = bench._work(engine, task, task.prompts(37))
    matrices = {
        name: w
        for name, w in engine._weights.items()
        if w.ndim == 2 and (name != "embed" or engine.arch.tied)
    }
    least = sum(w.nbytes for w in matrices.values())
    assert least < work.bytes < 1.5 * least
    products = 2 * sum(w.numel() for w in matrices.values())
    assert products < work.flops < 1.5 * products
    assert engine._network.__name__ == "network"
    assert not engine.busy


def test_the_limit_is_what_takes_longer():
    machine = Machine(read=100.0, flops=1000.0)
    assert machine.limit_s(Cost(flops=1000, bytes=500)) == 5.0
    assert machine.limit_s(Cost(flops=9000, bytes=500)) == 9.0


def test_the_table_is_literal():
    task = Task(name="decode, batch 4", batch=4, prompt=8, steps=3)
    rows = [Row(task=task, ours=50.0, limit=200.0, bound="30.0 GB/s", others={"hf sdpa": 40.0})]
    assert list(bench.lines(rows)) == [
        "tokens/s              engine     limit  of it   bound by",
        "decode, batch 4         50.0     200.0    25%   30.0 GB/s",
        "  hf sdpa               40.0   the engine has 1.25 times that",
    ]


def test_random_weights_fill_every_tensor_and_go_away_again(tmp_path, monkeypatch):
    config = {**bench.RANDOM["125m"], "hidden_size": 48, "num_hidden_layers": 1, "vocab_size": 50}
    monkeypatch.setattr(bench, "RANDOM", {"small": config})
    with bench.chosen("", "small", tmp_path) as folder:
        engine = Engine(folder)
        assert engine.dtype == torch.bfloat16
        assert torch.isfinite(engine.score([1, 2, 3])).all()
    assert not folder.exists()
    with pytest.raises(
        UsageError, match="no random model is called 'smal'; did you mean 'small'\\?; known: small"
    ):
        bench.write_random("smal", tmp_path)


def test_125m_has_the_size_of_its_name():
    config = json.loads(json.dumps(dict(bench.RANDOM["125m"])))
    from parity.engine.model.config import read
    from parity.engine.model.names import weights

    parameters = sum(torch.Size(weight.shape).numel() for weight in weights(read(config)))
    assert round(parameters / 1e6) == 125


def test_transformers_takes_as_many_steps_over_the_same_weights(tiny):
    ways = transformers(tiny, device="cpu", dtype="f32")
    assert [way.name for way in ways] == ["hf sdpa", "hf eager", "hf static"]
    decode = Task(name="decode, batch 4", batch=4, prompt=8, steps=3)
    prefill = Task(name="prefill 24", batch=1, prompt=24, steps=0)
    for way in ways:
        assert isinstance(way, Transformers)
        assert len(way.seconds(decode, decode.prompts(37))) == 3
        assert len(way.seconds(prefill, prefill.prompts(37))) == 1
