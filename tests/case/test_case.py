from __future__ import annotations

from dataclasses import replace

import pytest

from parity.case import case as case_module
from parity.case.case import Case, Role, Step, TensorSpec
from parity.case.dtype import DTYPES
from parity.case.ids import CaseId
from parity.errors import UsageError

X = TensorSpec(name="x", dtype=DTYPES["bf16"], shape=(2, 3))
EXP = Step(name="exp", op="exp", inputs=("x",), outputs=("y",))
CASE = Case(id=CaseId.parse("ops/exp:n=1"), inputs=(X,), steps=(EXP,), source="a.py:1")


def test_bytes_are_those_of_the_elements():
    assert X.nbytes == 12
    assert CASE.nbytes == 12
    assert replace(X, shape=()).nbytes == 2
    assert replace(X, shape=(0, 3)).nbytes == 0


@pytest.mark.parametrize(
    "change",
    [
        {"id": CaseId.parse("ops/exp:n=2")},
        {"inputs": (replace(X, shape=(3, 2)),)},
        {"inputs": (replace(X, dtype=DTYPES["f16"]),)},
        {"inputs": (replace(X, dist="small"),)},
        {"inputs": (replace(X, layout="strided"),)},
        {"inputs": (replace(X, role=Role.WEIGHT),)},
        {"inputs": (replace(X, options={"exponent": 1}),)},
        {"steps": (replace(EXP, op="tanh"),)},
        {"steps": (replace(EXP, name="other"),)},
        {"steps": (EXP, Step(name="again", op="exp", inputs=("y",), outputs=("z",)))},
    ],
)
def test_what_decides_the_bits_or_the_computation_changes_the_revision(change):
    assert replace(CASE, **change).revision != CASE.revision


def test_where_it_is_written_does_not_change_the_revision():
    assert replace(CASE, source="b.py:9").revision == CASE.revision


def test_another_generator_changes_every_revision(monkeypatch):
    before = CASE.revision
    monkeypatch.setattr(case_module, "GENERATOR_VERSION", 2)
    assert before.startswith("sha256:")
    assert CASE.revision != before


@pytest.mark.parametrize(
    "change, text",
    [
        ({"inputs": (X, X)}, "a.py:1: ops/exp:n=1: two tensors named 'x'"),
        ({"inputs": ()}, "a.py:1: ops/exp:n=1: step 'exp' reads 'x', not made before it"),
        (
            {"steps": ()},
            "a.py:1: ops/exp:n=1: needs at least one step, each with a name of its own, or else a subject",
        ),
        ({"steps": (replace(EXP, outputs=("x",)),)}, "a.py:1: ops/exp:n=1: two tensors named 'x'"),
        (
            {"steps": (EXP, replace(EXP, outputs=("z",)))},
            "a.py:1: ops/exp:n=1: needs at least one step, each with a name of its own, or else a subject",
        ),
    ],
)
def test_a_case_that_does_not_hang_together_is_refused(change, text):
    with pytest.raises(UsageError) as refused:
        replace(CASE, **change)
    assert str(refused.value) == text
