"""Faults planted in the engine: a sample of what `tools/bench.py localize` measures on held-out seeds."""

from __future__ import annotations

import random

import pytest
from faults.engine_causes import RIGHT
from faults.engine_hunt import Subject, faults_of, hunt, quiet
from faults.engine_kernels import BUGS, VARIANTS
from faults.engine_outputs import OUTPUT_FAULTS

SEED = 7
SOME = 14  # faults of a network


@pytest.fixture(scope="module", params=[("experts", "f32"), ("latent", "bf16"), ("windowed", "f32")])
def subject(request, tmp_path_factory):
    return Subject(*request.param, SEED, tmp_path_factory.mktemp("nets"))


def test_there_are_many_kinds_and_each_has_a_right_answer(subject):
    kinds = {fault.kind for fault in faults_of(subject, seed=SEED)}
    planted = {f"{op}/{bug}" for op, bugs in BUGS.items() for bug in bugs}
    planted |= {f"any/{name}" for name in OUTPUT_FAULTS}
    assert len(planted) > 90
    assert kinds <= planted == RIGHT.keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_step_is_flagged_where_every_site_is_right_in_another_way(subject, variant):
    assert quiet(subject, variant) == ()


def test_what_is_planted_and_larger_than_rounding_is_found_at_its_step_and_nowhere_else(subject):
    draw = random.Random(SEED)
    # Less than half a step of a narrow sum stays inside what model code itself may round.
    known = {"accumulate_bf16", "denominator_bf16", "softcap_missing", "rounded_down", "flushed_f16"}
    faults = [fault for fault in faults_of(subject, seed=SEED) if fault.name not in known]
    found = [hunt(subject, fault, draw.choice(list(VARIANTS))) for fault in draw.sample(faults, SOME)]
    real = [each for each in found if each.changed and not each.hidden]
    assert len(real) > SOME // 2
    assert [each.fault for each in real if not each.exact] == []
    assert [each.flagged for each in real if len({name.split(".", 1)[1] for name in each.flagged}) > 1] == []
