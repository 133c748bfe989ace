"""The engine, unchanged, on simulated chips: the same bits where nothing is declared, nothing hidden."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.backend.sim.backend import SimBackend
from parity.backend.spec import BackendSpec, Setting
from parity.engine import Engine, SamplingParams

MODEL = Path(__file__).parents[2] / "cases" / "models" / "tiny-llama"
PROMPTS = ["ROMEO:", "JULIET: come", "To be"]
PARAMS = SamplingParams(max_tokens=8)
PRODUCTION, STRICT = Setting.PRODUCTION, Setting.STRICT


@pytest.fixture(scope="module")
def host():
    """Tokens and scores by dtype, from the references on the CPU."""
    made = {}

    def of(dtype):
        if dtype not in made:
            engine = Engine(MODEL, dtype=dtype, kv_tokens=512, force=["*"])
            tokens = [o.tokens for o in engine.generate(PROMPTS, PARAMS)]
            made[dtype] = tokens, engine.score(PROMPTS[0])
        return made[dtype]

    return of


@pytest.fixture
def on_chip():
    """Serve the prompts on a chip: tokens, scores and what ran elsewhere."""

    def run(chip, setting, dtype):
        backend = SimBackend(BackendSpec.parse(chip), setting)
        backend.open()
        with backend.in_use(), backend.watch() as fallen:
            engine = Engine(MODEL, device="sim:0", dtype=dtype, kv_tokens=512, check=True)
            tokens = [o.tokens for o in engine.generate(PROMPTS, PARAMS)]
            scores = engine.score(PROMPTS[0]).cpu()
        return tokens, scores, sorted({f"{node.kind} on {node.device}" for node in fallen})

    return run


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_the_ideal_chip_serves_the_same_bits_as_the_host(host, on_chip, dtype):
    tokens, scores, fallen = on_chip("sim/ideal", STRICT, dtype)
    assert tokens == host(dtype)[0]
    assert scores.equal(host(dtype)[1])
    assert fallen == []


@pytest.mark.parametrize("chip", ["sim/gaudi2", "sim/gaudi2+lazy", "sim/ascend910b"])
def test_a_chip_with_quirks_serves_the_model_and_everything_ran_there(host, on_chip, chip):
    tokens, scores, fallen = on_chip(chip, PRODUCTION, "bf16")
    assert [len(t) for t in tokens] == [8, 8, 8]
    assert scores.shape == host("bf16")[1].shape
    assert fallen == []


def test_products_that_are_not_ieee_show_in_the_scores(host, on_chip):
    _, scores, _ = on_chip("sim/gaudi2", PRODUCTION, "f32")
    off = (scores.double() - host("f32")[1].double()).abs().max()
    # Operands of 16 bits in 6 layers: far beyond float32's roundings, far below bf16's.
    assert 1e-6 < off < 1e-2


def test_what_the_chip_has_no_kernel_for_runs_on_the_host_and_is_named(on_chip):
    _, _, fallen = on_chip("sim/gaudi2", PRODUCTION, "f16")
    assert "aten::mm on cpu" in fallen
    assert "aten::bmm on cpu" in fallen


def test_under_strict_it_is_refused_by_name(on_chip):
    with pytest.raises(NotImplementedError, match=r"aten::mm"):
        on_chip("sim/gaudi2", STRICT, "f16")
