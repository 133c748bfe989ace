"""The goldens that come with parity: all that they list can be read, and they are of the cases of today."""

from __future__ import annotations

import pytest

from parity.case.catalog import Catalog, builtin_cases
from parity.store.folder import MANIFEST, Store, builtin_goldens, recording_path

CPU = "cpu/avx512/eager-strict"


@pytest.fixture(scope="module")
def smoke():
    return Catalog.load([builtin_cases()]).select([], suite="smoke")


@pytest.fixture
def shipped():
    return Store.open(builtin_goldens() / CPU)


def test_every_smoke_case_has_a_golden_of_its_present_revision(smoke, shipped):
    """`load` takes no other revision, no other bytes than those listed, and no other version."""
    assert len(smoke) > 200
    for case in smoke:
        recording = shipped.load(case)
        assert (recording.case, recording.revision) == (str(case.id), case.revision)
        assert [step.failure for step in recording.steps] == [None] * len(recording.steps)
        assert recording.steps and recording.tensors


def test_every_file_that_is_shipped_is_a_golden_that_its_set_lists(smoke):
    sets = [path.parent for path in builtin_goldens().rglob(MANIFEST)]
    listed = {recording_path(each, case) for each in sets for case in Store.open(each).cases()}
    assert listed == set(builtin_goldens().rglob("*.arrow"))
    known = {str(case.id) for case in smoke}
    assert [case for each in sets for case in Store.open(each).cases() if str(case) not in known] == []
