"""Which case catches which quirk of a simulated chip: the suite's power against documented chips.

A case catches a quirk when its verdict is worse with the quirk than without it, on the whole chip
or on a chip that has this quirk alone: one quirk can hide behind another in the same case. Only
cases that the quirk can reach are run.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from parity.backend.sim.backend import SimBackend
from parity.backend.sim.chip import Chip
from parity.backend.sim.load import find
from parity.backend.spec import BackendSpec, Setting
from parity.case.catalog import Catalog
from parity.case.ids import Selector
from parity.case.inputs import generate
from parity.judge import deviations
from parity.judge.judge import judge
from parity.judge.verdict import Verdict
from parity.run.journal import Journal
from parity.run.recorder import record

ROOT = Path(__file__).parents[2]
PRODUCTION = Setting.PRODUCTION
ORDER = list(Verdict)  # from worst to best
MOST = 8  # cases of one selector

# What each quirk that is active in production can reach, by chip and mode.
REACH = {
    "gaudi2": {
        "gelu_is_tanh": ["ops/gelu_erf:dtype=f32", "ops/gelu_erf:dist=normal"],
        "float64_is_float32": ["ops/add:dtype=f64", "ops/mul:dtype=f64", "ops/cast_wide"],
        "fp8_range_240": ["ops/cast_from_fp8:dtype=e4m3fn", "ops/cast_to_fp8:to=e4m3fn"],
        "f32_products_not_ieee": ["ops/matmul:dtype=f32", "ops/linear:dtype=f32", "ops/attention:dtype=f32"],
        "k_split_in_any_order": ["ops/matmul:dtype=bf16"],
        "fast_division": ["ops/div:dtype=f32", "ops/div:dtype=bf16"],
        "bf16_flushes": ["ops/mul:dtype=bf16", "ops/exp:dtype=bf16", "ops/add:dtype=bf16"],
        "f16_flushes_results": ["ops/mul:dtype=f16", "ops/exp:dtype=f16", "ops/sigmoid:dtype=f16"],
        "negative_index_clamps": ["ops/index_put:index=negative"],
        "f16_products_on_host": ["ops/matmul:dtype=f16", "ops/bmm:dtype=f16"],
        "f16_index_on_host": ["ops/tril:dtype=f16", "ops/index_put:dtype=f16"],
        "i64_order_on_host": ["ops/sort:dtype=i64", "ops/gather:dtype=i64"],
    },
    "gaudi2+lazy": {"int64_is_int32": ["ops/order_i64", "ops/gather:dtype=i64", "ops/add:dtype=i64"]},
    "ascend910b": {
        "conv_hf32": ["ops/conv1d:dtype=f32", "ops/conv2d:dtype=f32"],
        "float64_is_float32": ["ops/add:dtype=f64", "ops/mul:dtype=f64"],
        "to_double_gives_float": ["ops/cast:to=f64", "ops/cast_wide"],
        "fp8_casts_on_host": ["ops/cast_to_fp8", "ops/cast_from_fp8"],
        "integer_sort_on_aicpu": ["ops/sort:dtype=i64"],
    },
    "ascend310p": {
        "saturates": ["ops/exp:dtype=f16", "ops/mul:dtype=f32", "ops/cast_narrow:to=f16"],
        "float64_is_float32": ["ops/add:dtype=f64"],
        "bf16_on_host": ["ops/matmul:dtype=bf16"],
    },
}
# No case can show these, and why.
NOT_SEEN = {
    ("gaudi2", "fp8_clips"): "saturation and infinity are both right beyond the largest fp8 (OCP 1.0)",
    ("gaudi2+lazy", "graph_per_shape"): "the numbers are the same: `recompiles` counts it",
}


def worse(one, other):
    return ORDER.index(one) < ORDER.index(other)


@pytest.fixture(scope="module")
def catalog():
    return Catalog.load([ROOT / "cases"])


@pytest.fixture(scope="module")
def ask(catalog):
    """Verdict of a case on a chip in production, with the evidence that two runs differ."""
    generated = {}

    def verdicts(chip, mode, cases):
        backend = SimBackend(BackendSpec("sim", chip.name, (), mode), PRODUCTION, chip)
        backend.open()
        found = {}
        for case in cases:
            inputs = generated.setdefault(case.id, generate(case))
            judged = judge(case, record(case, backend, repeat=2, journal=Journal()), inputs=inputs)
            shows = ("different results in", "a slow part of the chip")
            changes = any(text in step.note for step in judged.steps for text in shows)
            found[str(case.id)] = (judged.verdict, changes)
        return found

    return verdicts


def reached(catalog, selectors):
    found = {}
    for text in selectors:
        some = catalog.select([Selector.parse(text)], suite=None)
        assert some, f"{text} matches no case"
        found.update((case.id, case) for case in some[:: max(1, len(some) // MOST)][:MOST])
    return list(found.values())


def caught(ask, chip, quirk, mode, cases):
    """Cases whose verdict the quirk worsens, or whose notes say what it does: bits that change from run
    to run, a slow part of the chip."""
    alone = Chip(
        name=chip.name,
        title=chip.title,
        quirks=tuple(q for q in chip.quirks if q.name == quirk),
        modes=chip.modes,
    )
    ideal = Chip(name=chip.name, title=chip.title, modes=chip.modes)
    names = []
    for with_it, without in ((chip, chip.without(quirk)), (alone, ideal)):
        active, removed = ask(with_it, mode, cases), ask(without, mode, cases)
        names += [
            case
            for case, (verdict, changes) in active.items()
            if worse(verdict, removed[case][0]) or (changes and not removed[case][1])
        ]
        if names:
            break
    return names


def test_every_quirk_that_is_active_in_production_is_in_the_table():
    for name, quirks in REACH.items():
        flavour, _, mode = name.partition("+")
        here = set(quirks) | {quirk for chip, quirk in NOT_SEEN if chip == name}
        active = {q.name for q in find(flavour).active(PRODUCTION, mode or "eager")}
        # What lazy mode shares with eager is tried in eager.
        assert here == active - set(REACH[flavour] if mode else ()) - ({"fp8_clips"} if mode else set()), name


@pytest.mark.parametrize("name", REACH)
def test_every_quirk_is_caught_by_a_case(catalog, ask, tmp_path, name):
    flavour, _, mode = name.partition("+")
    chip = find(flavour)
    table = {
        quirk: caught(ask, chip, quirk, mode or "eager", reached(catalog, selectors))
        for quirk, selectors in REACH[name].items()
    }
    lines = [f"{quirk}: {', '.join(cases) or 'NO CASE'}" for quirk, cases in table.items()]
    (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    print(*lines, sep="\n")  # noqa: T201 - shown when it fails, and by -s
    assert [quirk for quirk, cases in table.items() if not cases] == []


@pytest.mark.parametrize("name, quirk", NOT_SEEN)
def test_what_no_case_can_show_is_still_not_shown(catalog, ask, name, quirk):
    flavour, _, mode = name.partition("+")
    cases = reached(catalog, ["ops/cast_to_fp8:to=e4m3fn", "ops/exp:dtype=f32"])
    assert caught(ask, find(flavour), quirk, mode or "eager", cases) == []


def test_the_ideal_chip_departs_only_where_the_host_is_declared_to(catalog, ask):
    ids = [case.id for case in catalog.select([], suite=None)]
    declared = deviations.load([ROOT / "cases"], "cpu", ids)
    some = [case for case in catalog.select([], suite="smoke") if case.steps]
    departing = [case for case in map(catalog.get, ids) if any(d.case.matches(case.id) for d in declared)]
    found = ask(find("ideal"), "eager", [*some, *departing[::4]])
    unexplained = {}
    for case in {case.id: case for case in (*some, *departing[::4])}.values():
        verdict, _ = found[str(case.id)]
        judged, _ = deviations.apply(
            declared,
            case.id,
            verdict,
            mode="eager",
            setting="production",
            provenance={"torch": torch.__version__},
        )
        # What the host does with packed kernels of its own, another device does not.
        if judged not in (Verdict.WITHIN, Verdict.KNOWN, Verdict.STALE):
            unexplained[str(case.id)] = judged
    assert unexplained == {}
