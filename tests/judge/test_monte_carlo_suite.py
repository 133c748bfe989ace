"""Monte-Carlo judging of a few functions with every fault, on a own seed; the suite has all of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from parity.backend.cpu_profile import cpu_profile
from parity.backend.spec import Setting

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are folders of files, not packages
from judge.monte_carlo_suite import FUNCTIONS, measure

pytestmark = pytest.mark.needs_torch

# One of each kind: pointwise, cancelling, jumping, reducing, normalising, a sum of products, moving.
NAMES = ("softplus", "sub", "floor_divide", "var", "llama_norm", "einsum", "roll")


@pytest.fixture(scope="module")
def tally():
    chosen = [f for f in FUNCTIONS if f.name in NAMES]
    return measure([3001], profile=cpu_profile(Setting.STRICT), functions=chosen, dists=("heavy",))


def test_no_honest_kernel_is_refused(tally):
    assert tally.alarms == []
    assert sum(n for (_, kind, _), n in tally.counts.items() if kind == "legitimate") > 60


def test_nearly_every_real_fault_is_refused(tally):
    real = sum(n for (_, kind, _), n in tally.counts.items() if kind == "real")
    assert real > 150
    assert len(tally.missed) <= 0.02 * real
    assert tally.unjudged == []
