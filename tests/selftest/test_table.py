from __future__ import annotations

import math

import numpy as np
import pytest

from parity.case.dtype import DTYPES, encode
from parity.case.tensor import HostTensor
from parity.report.selftest import table
from parity.selftest.criteria import BASELINES, baselines
from parity.selftest.suite import Kind, Trial
from parity.selftest.table import Tally, interval


def test_nothing_seen_in_n_is_at_most_3_of_n():
    assert interval(0, 300) == (0.0, 0.01)
    assert interval(300, 300) == (0.99, 1.0)
    assert interval(0, 0) == (0.0, 1.0)


def test_an_interval_solves_wilsons_equation():
    for k, n in ((1, 10), (7, 100), (999, 1000)):
        for end in interval(k, n):
            assert (k / n - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / n, rel=1e-9)


def trial(kind, accepted, name="fault"):
    everything = dict.fromkeys(BASELINES, True) | {"derived": accepted}
    return Trial(
        seed=1,
        case="ops/sum:a=b",
        family="ops/sum",
        dtype="f32",
        dist="normal",
        name=name,
        kind=kind,
        accepted={} if kind is Kind.DROPPED else everything,
    )


def test_false_alarms_misses_and_what_was_dropped_are_counted_apart():
    tally = Tally.of(
        [
            trial(Kind.LEGITIMATE, True),
            trial(Kind.LEGITIMATE, False, name="plain"),
            trial(Kind.REAL, False),
            trial(Kind.REAL, True, name="subtle"),
            trial(Kind.HIDDEN, True),
            trial(Kind.DROPPED, True),
        ]
    )
    assert tally.false_alarms == [(1, "ops/sum:a=b", "plain")]
    assert tally.misses == [(1, "ops/sum:a=b", "subtle")]
    counts = [tally.count(kind) for kind in (Kind.LEGITIMATE, Kind.REAL, Kind.HIDDEN, Kind.DROPPED)]
    assert counts == [2, 2, 1, 1]
    rows = list(table(tally))
    ours = next(row for row in rows if row.startswith("parity  "))
    assert ours.split("  ")[0] == "parity" and "50.0 [9.45, 90.5]" in ours
    assert "100 [0.00, 100]" in ours
    assert "honest results that the judge flagged" in rows


def test_tallies_of_parts_add_up():
    parts = [[trial(Kind.REAL, False)], [trial(Kind.REAL, True)]]
    tally = Tally()
    for part in parts:
        tally.add(Tally.of(part))
    assert tally.to_json() == Tally.of(parts[0] + parts[1]).to_json()


def host(values, name="f32"):
    to = DTYPES[name]
    return HostTensor.of(encode(np.asarray(values, np.float64), to).view(to.storage), to)


X = np.linspace(-1, 2, 50)


@pytest.mark.parametrize(
    "changed, accepting",
    [
        (X, set(BASELINES)),
        (X * 2, {"cosine 0.999", "cosine 0.9999", "PCC 0.99"}),
        (
            X + 0.01,
            {"allclose 1e-2", "cosine 0.999", "cosine 0.9999", "NMSE 5e-4", "PCC 0.99", "msprobe cosine"},
        ),
        (X[::-1].copy(), set()),
        (X * (1 + 2e-4), set(BASELINES) - {"assert_close", "4 ulp"}),
    ],
)
def test_baselines_see_what_the_field_sees(changed, accepting):
    accepted = baselines((host(changed),), (host(X),))
    assert {name for name, yes in accepted.items() if yes} == accepting


def test_a_baseline_takes_nan_for_nan_and_nothing_else_for_it():
    nan = np.where(X > 1.5, math.nan, X)
    assert all(baselines((host(nan),), (host(nan),)).values())
    assert not any(baselines((host(nan),), (host(X),)).values())


def test_a_baseline_refuses_another_dtype_and_shape():
    assert not any(baselines((host(X, "bf16"),), (host(X),)).values())
    assert not any(baselines((host(X[:-1]),), (host(X),)).values())
