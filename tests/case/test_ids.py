from __future__ import annotations

import pytest

from parity.case.ids import CaseId, Selector
from parity.errors import UsageError


@pytest.mark.parametrize(
    "text", ["ops/softmax", "ops/softmax:dtype=bf16,shape=8x1024", "a/b/c:x=-1e-5", "ops"]
)
def test_an_id_is_written_as_it_was_read(text):
    assert str(CaseId.parse(text)) == text


def test_parameters_are_sorted_by_name():
    assert str(CaseId.of("ops/x", {"b": "1", "a": "2"})) == "ops/x:a=2,b=1"


@pytest.mark.parametrize(
    "text, message",
    [
        ("ops/x:b=1,a=2", "'ops/x:b=1,a=2': parameters must be sorted by name and named once"),
        ("ops/x:a=1,a=2", "'ops/x:a=1,a=2': parameters must be sorted by name and named once"),
        ("ops/x:a", "'ops/x:a': expected param=value after ':', got 'a'"),
        ("ops/x:", "'ops/x:': expected param=value after ':', got ''"),
        ("ops/x:a=[1]", "'ops/x:a=[1]': expected param=value after ':', got 'a=[1]'"),
        ("ops/../x", "'ops/../x' is not a case or selector: expected suite/test:param=value,param=value"),
        ("ops//x", "'ops//x' is not a case or selector: expected suite/test:param=value,param=value"),
        ("ops/x*", "'ops/x*' is not a case or selector: expected suite/test:param=value,param=value"),
        ("", "'' is not a case or selector: expected suite/test:param=value,param=value"),
    ],
)
def test_what_is_not_an_id_is_refused_with_its_reason(text, message):
    with pytest.raises(UsageError) as refused:
        CaseId.parse(text)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "selector, matches",
    [
        ("ops", True),
        ("ops/", True),
        ("ops/log", True),
        ("ops/log:n=1", True),
        ("ops/log:m=2,n=1", True),
        ("ops/log:n=1,m=2", True),
        ("ops/lo", False),
        ("ops/log1p", False),
        ("ops/log:n=2", False),
        ("ops/log:k=1", False),
        ("op", False),
    ],
)
def test_a_selector_ends_at_a_boundary_and_names_some_parameters(selector, matches):
    assert Selector.parse(selector).matches(CaseId.parse("ops/log:m=2,n=1")) is matches


def test_a_file_name_holds_the_parameters():
    assert CaseId.parse("ops/x:a=1,b=2").file_name == "a=1,b=2"
    assert CaseId.parse("ops/x").file_name == "default"
