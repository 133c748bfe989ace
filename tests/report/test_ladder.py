"""The ladder as it is printed, whole, at width 80."""

from __future__ import annotations

import dataclasses

import pytest

from parity.case.ids import CaseId
from parity.judge.end_to_end_cache import CacheApart, Caches
from parity.judge.verdict import Verdict
from parity.localize.ladder import Isolated, Ladder, Rung
from parity.report.ladder import lines

pytestmark = pytest.mark.needs_torch

CASE = CaseId.parse("engine/prefill:arch=qwen3,dtype=bf16,tokens=64")


def within(step: str, **changed: object) -> Rung:
    fields: dict[str, object] = {
        "step": step,
        "op": "linear",
        "verdict": Verdict.WITHIN,
        "free": 3.2e-3,
        "inherited": 3.1e-3,
        "introduced": Isolated(verdict=Verdict.WITHIN, worst=0.5, rms=1.0),
        "replayed": Isolated(verdict=Verdict.WITHIN, worst=0.4, rms=0.9, relative_l2=5.5e-5),
    }
    return Rung(**{**fields, **changed})  # type: ignore[arg-type]  # the test's own fields


def same(step: str) -> Rung:
    exact = Isolated(verdict=Verdict.WITHIN)
    replayed = dataclasses.replace(exact, relative_l2=0.0)
    return within(step, same=True, free=0.0, inherited=0.0, introduced=exact, replayed=replayed)


CULPRIT = within(
    "L03.softmax",
    op="softmax",
    verdict=Verdict.EXCEEDS,
    free=5.6e-3,
    inherited=5.1e-3,
    introduced=Isolated(verdict=Verdict.EXCEEDS, worst=41.2, rms=17.8),
    replayed=Isolated(verdict=Verdict.EXCEEDS, worst=41.2, relative_l2=4.7e-3),
    notes=("worst |e|/B exceeds 1",),
)


def of(*rungs: Rung, **changed: object) -> Ladder:
    departs = [r.verdict for r in rungs if r.verdict is not Verdict.WITHIN]
    fields: dict[str, object] = {
        "case": CASE,
        "verdict": departs[0] if departs else Verdict.WITHIN,
        "rungs": rungs,
        "has_reference": True,
        "has_replay": True,
    }
    return Ladder(**{**fields, **changed})  # type: ignore[arg-type]  # the test's own fields


def layer(number: int) -> list[Rung]:
    return [within(f"L{number:02d}.op{i}") for i in range(10)]


def test_layers_that_hold_are_one_line_and_the_one_that_departs_is_shown_whole() -> None:
    made = of(
        same("embed"), *layer(0), within("L03.rope"), CULPRIT, same("L03.context"), *layer(4), within("head")
    )
    assert lines(made, next_command="parity repro engine/prefill") == [
        "step              inherited           free run             replayed",
        "                     rel_l2   rel_l2 rms/sigma   rel_l2 worst |e|/B",
        "embed                     0        0         0        0           0  same",
        "L00   10 steps  <=  3.1e-03  3.2e-03       1.0  5.5e-05         0.4  within",
        "L03",
        "  rope              3.1e-03  3.2e-03       1.0  5.5e-05         0.4  within",
        "> softmax           5.1e-03  5.6e-03      17.8  4.7e-03        41.2  EXCEEDS",
        "  context                 0        0         0        0           0  same",
        "L04   10 steps  <=  3.1e-03  3.2e-03       1.0  5.5e-05         0.4  within",
        "head                3.1e-03  3.2e-03       1.0  5.5e-05         0.4  within",
        "",
        "  = L03.softmax: worst |e|/B exceeds 1",
        "  = 1 of 25 steps depart; the first is L03.softmax (softmax)",
        "next    parity repro engine/prefill",
    ]


def test_with_all_no_layer_is_folded() -> None:
    made = of(*layer(0), *layer(1), *layer(2))
    assert len(lines(made, next_command="x", whole=True)) == 2 + 3 * 11 + 3
    assert len(lines(made, next_command="x")) == 2 + 3 + 3


def test_without_a_replay_the_last_columns_are_the_target_on_its_own_inputs() -> None:
    made = of(dataclasses.replace(CULPRIT, replayed=None), has_replay=False)
    assert lines(made, next_command="x")[:3] == [
        "step              inherited free run                 alone",
        "                     rel_l2   rel_l2 rms/sigma worst |e|/B",
        "> L03.softmax       5.1e-03  5.6e-03      17.8        41.2  EXCEEDS",
    ]


def test_without_a_reference_only_introduced_errors_are_shown() -> None:
    made = of(
        dataclasses.replace(CULPRIT, step="softmax", replayed=None, free=None, inherited=None),
        has_replay=False,
        has_reference=False,
    )
    assert lines(made, next_command="x")[:3] == [
        "step                               alone",
        "                   rms/sigma worst |e|/B",
        "> softmax               17.8        41.2  EXCEEDS",
    ]


def test_steps_of_one_side_glue_and_what_is_not_judged_are_named() -> None:
    lost = Rung(step="fused", op="swiglu", verdict=Verdict.UNJUDGED, notes=("the target has no such step",))
    made = of(within("rope", glue=True), lost)
    assert lines(made, next_command="x") == [
        "step              inherited           free run             replayed",
        "                     rel_l2   rel_l2 rms/sigma   rel_l2 worst |e|/B",
        "rope                3.1e-03  3.2e-03       1.0  5.5e-05         0.4  glue",
        "fused                     -        -         -        -           -  unjudged",
        "",
        "  = fused: the target has no such step",
        "  = nothing departs, but 1 of 2 steps not judged",
        "next    x",
    ]


def test_modules_fold_into_their_layer_and_open_where_something_departs() -> None:
    layer_of = [within(f"model.layers.0.{name}/linear") for name in ("mlp.up", "mlp.down", "mlp.gate")]
    attention = [within("model.layers.0.attn.q/linear"), within("model.layers.0.attn.k/linear")]
    wrong = dataclasses.replace(CULPRIT, step="model.layers.0.attn/softmax")
    others = [within(f"model.layers.1.x{i}/linear") for i in range(20)]
    text = lines(of(*attention, wrong, *layer_of, *others), next_command="x")
    assert [line[:18].rstrip() for line in text[2:11]] == [
        "model.layers.0",
        "  attn",
        "    q.linear",
        "    k.linear",
        ">   softmax",
        "  mlp   3 steps <=",
        "model.layers.1   2",
        "                <=",
        "",
    ]


def test_a_number_that_is_none_loses_no_column() -> None:
    nan = within("x", free=float("nan"), introduced=Isolated(verdict=Verdict.WITHIN, worst=0.5, rms=1e7))
    (row,) = [line for line in lines(of(nan), next_command="x") if line.startswith("x")]
    assert row == "x                   3.1e-03      nan   1.0e+07  5.5e-05         0.4  within"


def test_many_notes_are_counted_and_all_of_them_are_there_when_asked() -> None:
    rungs = [within(f"s{i}x", glue=True, notes=(f"note {i}",)) for i in range(20)]
    text = lines(of(*rungs), next_command="x")
    assert "  = 8 more notes: --all" in text
    assert sum("note " in line for line in lines(of(*rungs), next_command="x", whole=True)) == 20


def test_every_line_fits_eighty_columns() -> None:
    long = within("model.layers.11.self_attn.some_very_long_module_name.another_one/scaled_dot_product")
    for line in lines(of(long, CULPRIT, *layer(1)), next_command="x"):
        assert len(line) <= 80


def test_stored_keys_and_values_are_shown_by_their_worst_head_farthest_first() -> None:
    def store(layer: int, *relative: float, mismatched: int = 0) -> CacheApart:
        return CacheApart(
            step=f"L{layer:02}.store_k",
            relative_l2=relative,
            largest=tuple(10 * x for x in relative),
            mismatched=mismatched,
        )

    stores = (
        store(0, 0.0, 0.0),
        *(store(n, 1e-6 * n, 2e-6 * n) for n in range(1, 6)),
        store(6, 0.5, 0.1, mismatched=3),
    )
    made = of(within("head"), caches=Caches(layers=stores, unmatched=("'L07.store_k' only on the target",)))
    printed = lines(made, next_command="x")
    at = printed.index("cache       7 stores, 1 equal to the bit")
    assert printed[at : at + 8] == [
        "cache       7 stores, 1 equal to the bit",
        "  L06.store_k        head 0 of 2      rel_l2 5.0e-01   largest 5.0e+00",
        "    3 elements are not finite on one side alone",
        "  L05.store_k        head 1 of 2      rel_l2 1.0e-05   largest 1.0e-04",
        "  L04.store_k        head 1 of 2      rel_l2 8.0e-06   largest 8.0e-05",
        "  L03.store_k        head 1 of 2      rel_l2 6.0e-06   largest 6.0e-05",
        "  2 more stores, less far apart: --all",
        "  = not compared: 'L07.store_k' only on the target",
    ]
    assert max(map(len, printed)) <= 80
