"""Every family of the suite lets a right result pass and catches a fault that its own kernel can have."""

from __future__ import annotations

import pytest

from parity.selftest.outputs import FAULTS
from parity.selftest.problem import cases
from parity.selftest.suite import Kind, trials

SEED = 7
FAMILIES = {path: [c for c in cases() if c.id.path == path] for path in {c.id.path for c in cases()}}


def shown(path):
    """What the first cases of a family show, as soon as they show all of it."""
    found = set()
    for case in sorted(FAMILIES[path], key=lambda c: -len(c.inputs)):
        for trial in trials(case, seed=SEED, judged_only=True):
            passes = trial.accepted.get("derived")
            if trial.kind is Kind.LEGITIMATE:
                assert passes, (trial.name, trial.case)
                found.add("right one passes")
            if trial.kind is Kind.REAL and trial.name not in FAULTS and not passes:
                found.add("own fault caught")
        if len(found) == 2:
            break
    return found


@pytest.mark.parametrize("path", sorted(FAMILIES))
def test_a_family_tells_right_from_wrong(path):
    assert shown(path) == {"right one passes", "own fault caught"}
