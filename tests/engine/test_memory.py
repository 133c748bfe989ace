"""What a model will need, and the one error when it does not fit."""

from __future__ import annotations

import json

import pytest
import torch

from parity.engine import Engine
from parity.engine.memory import Estimate, estimate, require
from parity.engine.model.config import read
from parity.errors import UsageError

CPU = torch.device("cpu")
GIB = 2**30


@pytest.mark.parametrize("name", ["smallest", "gemma3", "mixtral", "deepseek-v3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_and_cache_are_estimated_to_the_byte(checkpoint, name, dtype):
    folder = checkpoint(name)
    engine = Engine(folder, dtype=dtype, kv_tokens=64)
    found = estimate(engine.arch, dtype=dtype, slots=64, budget=8)
    pools = [t for p in engine._pool.layers for t in (p.keys, p.values) if t is not None]
    held = {n: t for n, t in engine._weights.items() if not n.endswith("router.bias")}
    biases = [t for n, t in engine._weights.items() if n.endswith("router.bias")]
    kept = sum(t.numel() * dtype.itemsize for t in biases)  # held wider than it is estimated
    assert found.weights == sum(t.nbytes for t in held.values()) + kept
    assert found.kv == sum(t.nbytes for t in pools)


def test_activations_grow_with_the_budget_and_the_cache(checkpoint):
    arch = read(json.loads((checkpoint("smallest") / "config.json").read_text()))

    def of(**changes):
        return estimate(arch, **{"dtype": torch.float32, "slots": 64, "budget": 8, **changes})

    assert of(budget=16).activations == 2 * of().activations
    assert of(slots=128).activations > of().activations
    assert of(slots=128).kv == 2 * of().kv
    assert of().total == of().weights + of().kv + max(of().activations, of().loading)


NEEDED = Estimate(weights=3 * GIB, kv=2 * GIB, activations=GIB, loading=GIB // 2)


@pytest.mark.parametrize(
    "free, part", [(2 * GIB, "the weights alone"), (4 * GIB, "weights and cache together")]
)
def test_what_does_not_fit_is_named_before_anything_is_loaded(monkeypatch, free, part):
    monkeypatch.setattr("parity.engine.memory._free", lambda device: free)
    with pytest.raises(UsageError) as caught:
        require(NEEDED, device=CPU)
    assert str(caught.value) == (
        f"cpu has {free // GIB}.00 GiB free, but this needs 6.00 GiB: 3.00 GiB of weights, 2.00 GiB of keys "
        f"and values, 1.00 GiB of activations, 0.50 GiB while loading; {part} do not fit. Take a smaller "
        "model, a narrower dtype or fewer kv_tokens"
    )


@pytest.mark.parametrize("free", [None, 6 * GIB])
def test_what_fits_or_is_not_known_passes(monkeypatch, free):
    monkeypatch.setattr("parity.engine.memory._free", lambda device: free)
    require(NEEDED, device=CPU)


def test_an_engine_that_does_not_fit_reads_no_weights(tiny, monkeypatch):
    monkeypatch.setattr("parity.engine.serve.engine.load", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(UsageError, match="do not fit"):
        Engine(tiny, kv_tokens=10**12)


def test_free_memory_of_this_host_is_known_or_none():
    from parity.engine.memory import _free

    free = _free(CPU)
    assert free is None or 2**20 < free < 2**50
    assert _free(torch.device("meta")) is None
