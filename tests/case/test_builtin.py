from __future__ import annotations

import pytest

from parity.case import builtin
from parity.case.builtin import builtin_cases
from parity.errors import UsageError


def test_built_in_cases_are_bundled_ones_first_and_else_those_of_the_checkout(tmp_path, monkeypatch):
    package = tmp_path / "parity"
    (package / "case").mkdir(parents=True)
    monkeypatch.setattr(builtin, "__file__", str(package / "case" / "builtin.py"))
    with pytest.raises(UsageError) as refused:
        builtin_cases()
    assert str(refused.value) == f"no built-in cases beside {package}: reinstall chip-parity"
    (tmp_path / "cases").mkdir()
    assert builtin_cases() == tmp_path / "cases"
    (package / "_bundled" / "cases").mkdir(parents=True)
    assert builtin_cases() == package / "_bundled" / "cases"
