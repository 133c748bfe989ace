"""Plans: what a text says of steps, requests and pages."""

from __future__ import annotations

import pytest

from parity.errors import UsageError
from parity.run.plan import PAGE, Span, read_plan

pytestmark = pytest.mark.needs_torch


@pytest.mark.parametrize(
    "text, steps",
    [
        ("prefill:9", [[Span(0, 0, 9, 1)]]),
        ("score:9", [[Span(0, 0, 9, 9)]]),
        ("decode:9+2", [[Span(0, 0, 9, 1)], [Span(0, 9, 1, 1)], [Span(0, 10, 1, 1)]]),
        (
            "mixed:p3,c9+4,d5",
            [[Span(1, 0, 9, 1), Span(2, 0, 5, 1)], [Span(0, 0, 3, 1), Span(1, 9, 4, 1), Span(2, 5, 1, 1)]],
        ),
        ("mixed:p3", [[Span(0, 0, 3, 1)]]),
    ],
)
def test_a_text_is_steps_of_spans(text, steps):
    assert [list(step) for step in read_plan(text).steps] == steps


@pytest.mark.parametrize(
    "text", ["", "prefill", "prefill:0", "decode:9", "mixed:", "mixed:p3,x", "mixed:c0+4"]
)
def test_another_text_is_refused_with_what_can_be_written(text):
    with pytest.raises(UsageError) as caught:
        read_plan(text)
    assert str(caught.value) == (
        f"'{text}' is not a plan: write prefill:64, score:128, decode:64+8 or mixed:p24,c8+16,d12"
    )


def test_requests_take_the_tokens_in_turn_and_keep_them_over_the_steps():
    plan = read_plan("mixed:p3,c9+4,d5")
    assert plan.lengths == [3, 13, 6]
    first, second = plan.runs(list(range(22)), key="here")
    assert [list(run.tokens) for run in first] == [list(range(3, 12)), list(range(16, 21))]
    assert [list(run.tokens) for run in second] == [[0, 1, 2], [12, 13, 14, 15], [21]]
    assert second[1].slots[:9] == first[0].slots


def test_pages_are_whole_shuffled_by_the_key_and_nobodys_twice():
    plan = read_plan("decode:40+2")
    runs = plan.runs(list(range(42)), key="here")
    slots = runs[-1][0].slots
    assert len(set(slots)) == 42
    assert max(slots) < plan.slots
    pages = [slots[start] // PAGE for start in range(0, 42, PAGE)]
    assert pages != sorted(pages)
    assert all(slots[n] == pages[n // PAGE] * PAGE + n % PAGE for n in range(42))
    assert plan.runs(list(range(42)), key="here")[-1][0].slots == slots
    assert plan.runs(list(range(42)), key="there")[-1][0].slots != slots
