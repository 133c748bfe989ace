import re
from pathlib import Path

import pytest

from parity.backend.doctor_facts import FLOORS, VARIABLES, is_same_version, release
from parity.backend.finding import Finding, State

ROOT = Path(__file__).parents[2]


def test_the_floors_are_those_that_are_declared():
    text = (ROOT / "pyproject.toml").read_text()
    declared = {name: re.findall(rf'^  "{name}>=([\d.]+)"', text, re.MULTILINE) for name in FLOORS}
    assert {name: [".".join(map(str, floor))] for name, floor in FLOORS.items()} == declared


def test_a_variable_is_listed_once():
    names = [variable.name for variable in VARIABLES]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize(
    "version, numbers",
    [
        ("2.10.0a0+gitabc", (2, 10, 0)),
        ("2.7.1.post11", (2, 7, 1)),
        ("v1.24", (1, 24)),
        ("unknown", None),
        ("", None),
        (None, None),
    ],
)
def test_the_release_of_a_version(version, numbers):
    assert release(version) == numbers


@pytest.mark.parametrize(
    "first, second, same",
    [
        ("2.9.0+cpu", "2.9.0+cpu", True),
        ("2.9.0+CPU", "2.9.0+cpu", True),
        ("2.8.0a0+abc.nv25.05", "2.8.0a0+abc.nv25.5", True),
        ("2.8.0a0+abc.05", "2.8.0a0+abc.5", True),
        ("2.8.0a0+abc-x_y", "2.8.0a0+abc.x.y", True),
        ("2.8.0-alpha.0", "2.8.0a0", True),
        ("2.9.0", "2.9.0+cpu", False),
        ("2.9.0+cpu", "2.9.0+cu126", False),
        ("2.9.0", "2.9.1", False),
        ("2.9.0a0", "2.9.0", False),
        ("2.1.10", "2.11.0", False),
    ],
)
def test_versions_are_compared_as_packaging_tools_write_them(first, second, same):
    assert is_same_version(first, second) is same
    assert is_same_version(second, first) is same


def test_a_finding_says_what_to_do_unless_it_is_ok():
    with pytest.raises(ValueError, match="torch: what is not ok has a remedy, got ''"):
        Finding(subject="torch", state=State.BROKEN, detail="gone")
    with pytest.raises(ValueError, match="torch: what is not ok has a remedy, got 'nothing'"):
        Finding(subject="torch", state=State.OK, detail="here", remedy="nothing")
