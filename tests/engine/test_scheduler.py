"""Who runs in a step: over real pages, without a network. A step is computed by `done` alone."""

from __future__ import annotations

import pytest

from parity.engine import Finish, Limits, SamplingParams
from parity.engine.kv.blocks import Blocks
from parity.engine.sched.request import Request
from parity.engine.sched.scheduler import Scheduler
from parity.errors import UsageError


def request(number, tokens=4, most=4, priority=0):
    prompt = [100 * number + i for i in range(tokens)]
    return Request(id=number, prompt=prompt, params=SamplingParams(max_tokens=most), priority=priority)


def scheduler(*requests, pages=16, size=1, **limits):
    made = Scheduler(Blocks(pages, size), Limits(**limits))
    for one in requests:
        made.add(one)
    return made


def step(made):
    """Compute a step; return {request: tokens computed}."""
    planned = made.plan()
    shares = {p.request.id: len(p.run.tokens) for p in planned}
    assert len(shares) == len(planned)  # nobody twice
    for part in planned:
        made.done(part)
        one = part.request
        if part.run.logits:
            one.output.append(0)
            if len(one.output) == one.params.max_tokens:
                made.end(one, Finish.LENGTH)
    made.check()
    return shares


def steps(made, most=200):
    found = []
    while made.waiting or made.running:
        found.append(step(made))
        assert len(found) < most, "does not end"
    return found


def test_prefill_and_decode_share_a_step():
    made = scheduler(request(0), pages=32)
    assert step(made) == {0: 4}
    made.add(request(1))
    assert step(made) == {0: 1, 1: 4}


def test_a_long_prompt_comes_in_chunks_and_only_its_end_is_scored():
    made = scheduler(request(0, tokens=7), chunk=3)
    runs = []
    while not runs or not runs[-1].logits:
        (part,) = made.plan()
        runs.append(part.run)
        made.done(part)
    assert [(r.context, len(r.tokens), r.logits) for r in runs] == [(0, 3, 0), (3, 3, 0), (6, 1, 1)]


def test_a_budget_is_never_exceeded_and_nobody_starves():
    made = scheduler(*(request(n) for n in range(4)), pages=64, budget=3)
    shares = steps(made)
    assert max(sum(share.values()) for share in shares) == 3
    assert all(r in {n for share in shares for n in share} for r in range(4))


@pytest.mark.parametrize("name", ["budget", "chunk", "requests"])
def test_limits_of_one_token_still_end(name):
    made = scheduler(*(request(n) for n in range(3)), pages=64, **{name: 1})
    steps(made)
    assert made.blocks.available == 64


@pytest.mark.parametrize("name", ["budget", "chunk", "requests", "positions"])
def test_a_limit_of_zero_is_refused(name):
    with pytest.raises(UsageError) as caught:
        Limits(**{name: 0})
    assert str(caught.value) == f"{name} must be 1 or more, or nothing would ever run; got 0"


def test_arrival_decides_among_equals():
    made = scheduler(request(0), request(1), request(2), requests=2, pages=64)
    assert list(step(made)) == [0, 1]
    firsts = {}
    for number, share in enumerate(steps(made)):
        for who in share:
            firsts.setdefault(who, number)
    assert firsts[2] > firsts[1]


def test_a_higher_priority_is_let_in_first():
    made = scheduler(request(0, priority=2), request(1, priority=1), request(2, priority=0), requests=1)
    order = []
    for share in steps(made):
        order += [n for n in share if n not in order]
    assert order == [2, 1, 0]


def test_a_higher_priority_takes_the_budget_of_one_that_runs():
    made = scheduler(request(0, priority=1, tokens=1), budget=1, pages=64)
    step(made)
    made.add(request(1, priority=0, tokens=3))
    assert [step(made) for _ in range(3)] == [{1: 1}] * 3


def test_a_higher_priority_takes_the_place_of_one_that_runs():
    low = request(0, priority=1)
    made = scheduler(low, requests=1, pages=64)
    step(made)
    made.add(request(1, priority=0))
    assert step(made) == {1: 4}
    assert low.preempted == 1
    steps(made)
    assert low.finish is Finish.LENGTH


def test_a_higher_priority_takes_pages_of_the_last_of_lower_priority():
    one, two = request(0, priority=1, most=2), request(1, priority=1, most=2)
    made = scheduler(one, two, pages=10)
    step(made)
    made.add(request(2, priority=0, tokens=3, most=1))
    assert step(made) == {2: 3, 0: 1}
    assert (one.preempted, two.preempted) == (0, 1)


def test_an_equal_priority_waits_for_pages():
    made = scheduler(request(0, tokens=6, most=3), pages=8)
    step(made)
    late = request(1, tokens=4, most=1)
    made.add(late)
    assert step(made) == {0: 1}
    assert late in made.waiting


def test_one_that_is_preempted_is_not_computed_in_the_same_step_twice():
    """Once it was: its old part wrote into pages that had gone to the one it was preempted for."""
    made = scheduler(request(0, tokens=4, most=6, priority=1), pages=9, budget=8, prefix_cache=False)
    step(made)
    made.add(request(1, tokens=6, most=1))
    planned = made.plan()
    assert [p.request.id for p in planned] == [1, 0]
    slots = [s for p in planned for s in p.run.slots]
    assert len(set(slots)) == len(slots)


def test_running_out_of_pages_preempts_the_last_and_it_resumes_with_what_it_said():
    one, two = request(0, tokens=3, most=5), request(1, tokens=3, most=5)
    made = scheduler(one, two, pages=8)
    shares = steps(made)
    assert (one.preempted, two.preempted) == (0, 1)
    resumed = [share[1] for share in shares if share.get(1, 0) > 1]
    assert resumed[0] == 3  # the prompt
    assert len(two.output) == 5
    assert made.blocks.available == 8


def test_a_resumed_request_finds_its_own_pages_in_the_cache():
    one, two = request(0, tokens=3, most=5), request(1, tokens=3, most=5)
    made = scheduler(one, two, pages=8)
    steps(made)
    assert two.cached > 0


def test_nobody_overtakes_one_that_needs_more_room():
    made = scheduler(request(0, tokens=6, most=3), pages=8)
    step(made)
    made.add(request(1, tokens=5, most=1))
    made.add(request(2, tokens=1, most=1))
    assert step(made) == {0: 1}


def test_static_lets_nobody_in_before_all_have_ended():
    made = scheduler(request(0, most=2), request(1, most=4), static=True, pages=64)
    assert step(made) == {0: 4, 1: 4}
    made.add(request(2))
    shares = steps(made)
    assert shares == [{0: 1, 1: 1}, {1: 1}, {1: 1}, {2: 4}, {2: 1}, {2: 1}, {2: 1}]


def test_continuous_lets_them_in_at_once():
    made = scheduler(request(0, most=2), request(1, most=4), pages=64)
    step(made)
    made.add(request(2))
    assert step(made) == {0: 1, 1: 1, 2: 4}


def test_what_can_never_fit_is_refused_with_the_arithmetic():
    made = scheduler(pages=4, size=4)
    made.add(request(0, tokens=10, most=7))  # the last token is never computed
    with pytest.raises(UsageError) as caught:
        made.add(request(1, tokens=10, most=8))
    assert str(caught.value) == (
        "a prompt of 10 tokens and up to 8 more need 17 positions, but 4 pages of 4 tokens hold 16; "
        "shorten it or make room"
    )
    assert [r.id for r in made.waiting] == [0]


def test_more_than_the_model_was_made_for_is_refused():
    made = scheduler(pages=100, positions=12)
    with pytest.raises(UsageError) as caught:
        made.add(request(1, tokens=10, most=8))
    assert str(caught.value) == (
        "a prompt of 10 tokens and up to 8 more need 17 positions, but the model was made for 12; "
        "shorten it or make room"
    )


def test_an_empty_prompt_is_refused():
    with pytest.raises(UsageError) as caught:
        scheduler(request(0, tokens=0))
    assert str(caught.value) == "an empty prompt has no token to go on from; begin with the start token"


@pytest.mark.parametrize("queued", [True, False])
def test_an_ended_request_leaves_nothing(queued):
    one = request(0)
    made = scheduler(one)
    if not queued:
        step(made)
    made.end(one, Finish.ABORT)
    assert (made.waiting, made.running, made.blocks.available) == ([], [], 16)
    made.check()


def test_the_same_queue_gives_the_same_plan():
    def played():
        made = scheduler(*(request(n, priority=n % 2) for n in range(5)), pages=12, budget=5, chunk=3)
        return steps(made)

    assert played() == played()
