"""What a check concludes from two recordings; whole runs are in `tests/cli/test_check.py`."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests are folders of files, not packages
pytestmark = pytest.mark.needs_torch


@pytest.fixture(scope="module")
def check():
    return importlib.import_module("parity.check")


@pytest.fixture(scope="module")
def case():
    return importlib.import_module("run.engine_case").engine_case()


@pytest.fixture(scope="module")
def recording(case):
    return importlib.import_module("run.engine_case").recorded(case)


def result(case, recording):
    return importlib.import_module("parity.run.side").Result(case=case, recording=recording)


def test_a_step_that_only_the_reference_has_keeps_a_subject_from_being_within(check, case, recording):
    lost = recording.steps[4]
    rest = dataclasses.replace(recording, steps=tuple(s for s in recording.steps if s is not lost))
    judged = judge(check, result(case, recording), result(case, rest))
    assert judged.verdict.value == "unjudged"
    assert check._lacking(case, result(case, recording), result(case, rest)) == lost.name
    assert check._lacking(case, result(case, recording), result(case, recording)) == ""


def judge(check, theirs, ours):
    return check._judge(check._Pair(theirs=theirs, ours=ours, diagnose=False), deviations={})


def test_only_recordings_equal_in_all_that_is_judged_share_a_judgement(check, recording):
    step, *others = recording.steps
    other = dataclasses.replace(step.outputs[0], digest=f"sha256:{'0' * 64}")

    def first(**changes):
        return dataclasses.replace(recording, steps=(dataclasses.replace(step, **changes), *others))

    assert check._are_same(recording, first(seconds=99.0))
    assert not check._are_same(recording, first(outputs=(other,)))
    assert not check._are_same(recording, first(witness=None))
    assert not check._are_same(recording, dataclasses.replace(recording, steps=tuple(others)))
    assert not check._are_same(recording, dataclasses.replace(recording, unobserved=(other,)))
    profile = dataclasses.replace(recording.environment.profile, flush_subnormals=True)
    environment = dataclasses.replace(recording.environment, profile=profile)
    assert not check._are_same(recording, dataclasses.replace(recording, environment=environment))


def test_an_end_that_departs_though_every_step_is_within_is_an_error_between_steps(check, case, recording):
    ref = recording.results[0]
    scores = recording.tensors[ref.digest]
    bad = dataclasses.replace(scores, storage=np.full_like(scores.storage, np.nan))
    moved = dataclasses.replace(ref, digest=bad.digest())
    tensors = {**recording.tensors, moved.digest: bad}
    changed = dataclasses.replace(recording, tensors=tensors, results=(moved,), unobserved=(moved,))
    judged = judge(check, None, result(case, changed))
    assert judged.verdict.value == "exceeds"
    assert judged.target.note.endswith("though no step alone departs: the error lies between steps")


def test_processes_that_judge_beside_the_launcher_say_what_it_says(check, monkeypatch):
    judges = importlib.import_module("parity.run.judges")
    monkeypatch.setattr(judges, "_WORTH_S", 0.0)
    folder, side = (importlib.import_module(f"parity.{name}") for name in ("store.folder", "run.side"))
    catalog = importlib.import_module("parity.case.catalog")
    cases = catalog.Catalog.load([catalog.builtin_cases()]).select([], suite="smoke")[::12]
    store = folder.Store.open(folder.builtin_goldens() / "cpu/avx512/eager-strict")

    def run(jobs):
        found = check.check(cases, reference=None, target=side.Side(name="cpu", store=store), jobs=jobs)
        # As text, since a measure may be NaN, which equals nothing.
        return [str(dataclasses.replace(each, seconds=0.0)) for each in found.outcomes], found.target.witness

    assert run(2) == run(1)
