"""What simulated chips declare is what the probe finds, knowing nothing of it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from parity.backend.arithmetic import differences
from parity.backend.probe import PROBES, declaration, evidence
from parity.backend.sim.backend import SimBackend
from parity.backend.sim.load import chips, find
from parity.backend.spec import BackendSpec, Setting

RANDOM = runpy.run_path(str(Path(__file__).parents[1] / "support" / "random_chips.py"))

# Declared, but of an op that the chip has no kernel for: it says so, or the host computes it.
UNSEEN = {
    "ascend310p": {"flush.bf16", "overflow.bf16"},
    "ascend910b": {"fp8"},
}


def found(backend, said):
    """What the probes of the declared facts find; the others would find the host's arithmetic."""
    backend.open()
    known = {}
    for name, each in PROBES.items():
        if said.keys() & set(each.facts):
            known |= evidence(backend, name).known
    return known


@pytest.mark.parametrize("setting", list(Setting), ids=lambda setting: setting.value)
@pytest.mark.parametrize("spec", [f"sim/{name}+{mode}" for name in chips() for mode in find(name).modes])
def test_the_arithmetic_of_every_chip_is_found(spec, setting):
    backend = SimBackend(BackendSpec.parse(spec), setting)
    said = declaration(backend).known
    known = found(backend, said)
    assert differences(said, known) == []
    assert said.keys() - known.keys() <= UNSEEN.get(backend.chip.name, set())


@pytest.mark.parametrize("seed", range(20))
def test_the_arithmetic_of_a_random_chip_is_found(seed):
    drawn = RANDOM["draw_chip"](seed)
    said = RANDOM["observable"](drawn)
    known = found(SimBackend(BackendSpec("sim"), Setting.STRICT, chip=drawn), said)
    assert {fact: known.get(fact) for fact in said} == said
