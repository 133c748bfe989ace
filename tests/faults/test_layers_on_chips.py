"""Departures of layers and engine on the simulated Gaudi 2 are declared quirks, at steps that they reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.backend.sim.backend import SimBackend
from parity.backend.sim.chip import Chip
from parity.backend.sim.load import find
from parity.backend.spec import BackendSpec, Setting
from parity.case.catalog import Catalog
from parity.case.ids import Selector
from parity.judge.judge import judge
from parity.judge.verdict import Verdict
from parity.run.journal import Journal
from parity.run.recorder import record
from parity.run.subject import weights_of

ROOT = Path(__file__).parents[2]
PRODUCTS = {"linear", "paged_attention", "latent_attention", "experts", "route"}
CASES = (
    "layers/decoder:dist=normal,dtype=f32,model=deepseek-v2,plan=0+17",
    "layers/decoder:dist=normal,dtype=f16,model=mixtral",
    "layers/decoder:dist=heavy,dtype=f16,plan=0+17",
    "layers/latent:dtype=f16,plan=0+17",
    "layers/mlp:activation=gelu,bias=no,dist=normal",
    "layers/head:dtype=bf16,softcap=3",
    "layers/trained:dtype=bf16,layer=5",
    "engine/mixed:arch=gemma2",
)
# A step of the engine, and the quirk but for which it is within.
ENGINE = {
    ("f16", "scaled_embedding"): "f16_flushes_results",
    ("bf16", "paged_attention"): "fast_division",
    ("bf16", "softcap"): "fast_division",
}
# The ops in which each quirk of production shows; the others of the chip no layer reaches.
QUIRKS = {
    "f32_products_not_ieee": PRODUCTS,
    "gelu_is_tanh": {"gated", "experts"},
    "fast_division": {"softcap", "paged_attention"},
    "f16_flushes_results": {
        *("gated", "weighted_rms_norm", "add", "rotate"),
        *("scaled_embedding", "paged_attention", "softcap"),
    },
    "f16_products_on_host": PRODUCTS,
    "f16_index_on_host": {"index_put", "copy"},
    "i64_order_on_host": {"route"},
}


@pytest.fixture(scope="module")
def cases():
    catalog = Catalog.load([ROOT / "cases" / "layers", ROOT / "cases" / "engine"])
    return catalog.select([Selector.parse(text) for text in CASES], suite=None)


def departing(chip, cases):
    """The ops of steps that are not within, with an example of each."""
    backend = SimBackend(BackendSpec("sim", chip.name, (), "eager"), Setting.PRODUCTION, chip)
    backend.open()
    return {
        step.op: f"{case.id} {step.name}: {step.note}"
        for case in cases
        for step in judged(case, backend).steps
        if step.verdict is not Verdict.WITHIN
    }


def judged(case, backend):
    recording = record(case, backend, journal=Journal())
    return judge(case, recording, weights=weights_of(case)) if case.subject else judge(case, recording)


def with_quirks(names):
    chip = find("gaudi2")
    quirks = tuple(quirk for quirk in chip.quirks if quirk.name in names)
    assert {quirk.name for quirk in quirks} == set(names)
    return Chip(name=chip.name, title=chip.title, quirks=quirks, modes=chip.modes)


@pytest.mark.parametrize("quirk", QUIRKS)
def test_a_quirk_departs_at_the_steps_that_it_reaches(cases, quirk):
    found = departing(with_quirks([quirk]), cases)
    assert found and set(found) <= QUIRKS[quirk], found


def test_without_these_quirks_the_chip_is_within(cases):
    every = {quirk.name for quirk in find("gaudi2").quirks}
    assert departing(with_quirks(every - set(QUIRKS)), cases) == {}


@pytest.mark.parametrize("name", ["ideal", "ascend910b"])
def test_a_chip_whose_quirks_no_layer_reaches_is_within(cases, name):
    assert departing(find(name), cases) == {}


@pytest.mark.parametrize("dtype, op", ENGINE)
def test_a_site_of_the_engine_departs_by_one_quirk_alone(cases, dtype, op):
    engine = [case for case in cases if case.id.path == "engine/mixed" and f"dtype={dtype}" in str(case.id)]
    chip = find("gaudi2")
    assert op in departing(chip, engine)
    assert op not in departing(chip.without(ENGINE[dtype, op]), engine)
