from __future__ import annotations

import itertools
import math

import pytest

from parity.case import cover
from parity.case.cover import each_value, pairwise

SMALL = {"a": ["1", "2", "3"], "b": ["x", "y"], "c": ["p", "q", "r", "s"]}
WIDE = {
    "dtype": ["f32", "bf16", "f16"],
    "shape": [str(n) for n in range(9)],
    "dist": [str(n) for n in range(6)],
    "layout": [str(n) for n in range(5)],
    "dim": ["0", "1"],
}
MANY = {f"p{i}": [str(n) for n in range(5)] for i in range(6)}


def no_constraint(_row):
    return True


def some_excluded(row):
    """The first two parameters may not both be at their last value, and the first value needs the first."""
    first, second, third = list(row)[:3]
    return not (row[first] == "3" and row[second] == "y") and (row[third] != "p" or row[first] == "1")


def product(domains, allowed):
    rows = [dict(zip(domains, values, strict=True)) for values in itertools.product(*domains.values())]
    return [row for row in rows if allowed(row)]


def pairs(rows):
    return {frozenset(pair) for row in rows for pair in itertools.combinations(row.items(), 2)}


def uncovered(rows, domains, allowed):
    return pairs(product(domains, allowed)) - pairs(rows)


@pytest.mark.parametrize(
    "domains, allowed",
    [
        (SMALL, no_constraint),
        (SMALL, some_excluded),
        (WIDE, no_constraint),
        (WIDE, lambda row: row["layout"] == "0" or row["shape"] not in ("0", "1", "2")),
        (WIDE, lambda row: (row["dist"] == "5") == (row["shape"] == "8")),
        (WIDE, lambda row: int(row["shape"]) + int(row["dist"]) < 9),
        (MANY, no_constraint),
    ],
)
def test_every_pair_that_an_allowed_row_holds_is_in_a_row(domains, allowed):
    rows = pairwise(domains, allowed)
    assert all(allowed(row) for row in rows)
    assert uncovered(rows, domains, allowed) == set()


def test_a_design_without_one_of_its_rows_misses_a_pair():
    rows = pairwise(WIDE)
    assert all(uncovered(rows[:i] + rows[i + 1 :], WIDE, no_constraint) for i in range(len(rows)))


@pytest.mark.parametrize("domains, most", [(SMALL, 12), (WIDE, 54), (MANY, 42)])
def test_a_design_is_small(domains, most):
    rows = pairwise(domains)
    largest = sorted(map(len, domains.values()))[-2:]
    assert math.prod(largest) <= len(rows) <= most


def test_the_same_domains_give_the_same_rows():
    assert pairwise(WIDE) == pairwise(WIDE)
    assert ["".join(row.values()) for row in pairwise(SMALL)] == (
        ["1xp", "1xs", "1yq", "1yr", "2xq", "2xr", "2xs", "2yp", "3xp", "3xq", "3xr", "3ys"]
    )


def test_one_parameter_gives_a_row_a_value_and_none_gives_one_empty_row():
    assert pairwise({"a": ["1", "2"]}) == [{"a": "1"}, {"a": "2"}]
    assert pairwise({"a": ["1", "2"]}, lambda row: row["a"] == "2") == [{"a": "2"}]
    assert pairwise({}) == [{}]


def test_a_constraint_that_allows_nothing_gives_no_row():
    assert pairwise(SMALL, lambda _: False) == []
    assert pairwise({}, lambda _: False) == []


def test_a_constraint_is_asked_only_about_what_it_reads():
    asked = []

    def allowed(row):
        asked.append((row["dtype"], row["dim"]))
        return True

    pairwise(WIDE, allowed)
    assert sorted(asked) == sorted(itertools.product(WIDE["dtype"], WIDE["dim"]))


def test_a_constraint_may_read_a_row_as_any_mapping():
    def allowed(row):
        return dict(row)["a"] != "2" and row.get("b", "none") != "y" and "c" in row and len(row) == 3

    rows = pairwise(SMALL, allowed)
    assert {(row["a"], row["b"]) for row in rows} == {("1", "x"), ("3", "x")}


def test_a_parameter_that_does_not_exist_is_a_key_error():
    with pytest.raises(KeyError, match="layuot"):
        pairwise(SMALL, lambda row: row["layuot"] == "1")


def test_a_greedy_choice_that_forgets_a_pair_is_found(monkeypatch):
    real = cover._greedy
    monkeypatch.setattr(cover, "_greedy", lambda pairs: real(pairs)[:-1])
    assert uncovered(pairwise(WIDE), WIDE, no_constraint)


def test_each_value_holds_every_value_of_the_rows():
    rows = pairwise(WIDE)
    chosen = each_value(rows, lambda _: 0)
    values = {item for row in rows for item in row.items()}
    assert {item for row in chosen for item in row.items()} == values
    assert len(chosen) == 9


def test_each_value_takes_the_lightest_of_rows_that_bring_as_many_values():
    rows = [{"a": "1", "n": "3"}, {"a": "1", "n": "1"}, {"a": "2", "n": "2"}]
    assert each_value(rows, lambda row: int(row["n"]))[0] == {"a": "1", "n": "1"}
    assert each_value(rows, lambda row: -int(row["n"]))[0] == {"a": "1", "n": "3"}


def test_each_value_of_no_row_is_no_row_and_of_the_empty_row_that_one():
    assert each_value([], lambda _: 0) == []
    assert each_value([{}], lambda _: 0) == [{}]
