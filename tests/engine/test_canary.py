"""The canary names the request and position of a stale page, a wrong slot and a page given back too early."""

from __future__ import annotations

import re

import pytest

from parity.engine import Limits, SamplingParams
from parity.engine.kv.blocks import Blocks
from parity.engine.sched.scheduler import Scheduler
from parity.engine.serve import engine as served

PARAMS = SamplingParams(max_tokens=12, ignore_eos=True)
PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5, 6, 7, 9], [11, 12, 13], [1, 2, 3, 4, 5]]
# Little room: requests are preempted and resumed, and cached pages are taken for others.
TIGHT = {"kv_tokens": 48, "page_size": 4, "limits": Limits(budget=8, chunk=4)}


def test_a_healthy_engine_says_the_same_with_and_without_it(engine, monkeypatch):
    plain = engine(**TIGHT)
    watched = engine(canary=True, **TIGHT)
    preempted, right = [], Scheduler._preempt
    monkeypatch.setattr(
        Scheduler, "_preempt", lambda self, request: (preempted.append(request.id), right(self, request))
    )
    for _ in range(2):  # the second time the prompts are cached
        expected = [output.tokens for output in plain.generate(PROMPTS, PARAMS)]
        assert [output.tokens for output in watched.generate(PROMPTS, PARAMS)] == expected
    assert preempted


def test_a_page_that_the_prefix_cache_gives_after_it_was_taken_is_named(engine, monkeypatch):
    def forgetful(self):
        if self._free:
            return self._free.pop()
        page, _ = self._idle.popitem(last=False)
        del self._keys[page]  # but not its entry in the index
        return page

    watched = engine(canary=True, kv_tokens=16, page_size=4, check=False)
    watched.generate([[1, 2, 3, 4, 5]], SamplingParams(max_tokens=1))
    monkeypatch.setattr(Blocks, "_take", forgetful)
    watched.generate([[20 + n for n in range(16)]], SamplingParams(max_tokens=1))
    with pytest.raises(
        AssertionError,
        match=re.escape(
            "request 2, position 0: slot 0 should hold token 1, but holds token 32 of request 1, position 12"
        ),
    ):
        watched.generate([[1, 2, 3, 4, 5]], SamplingParams(max_tokens=1))


def test_a_token_written_into_the_slot_of_another_is_named(engine, monkeypatch):
    right = served.flatten

    def crossed(runs, *, device):
        batch = right(runs, device=device)
        if len(batch.slots) == 3:
            batch.slots[[1, 2]] = batch.slots[[2, 1]]
        return batch

    monkeypatch.setattr(served, "flatten", crossed)
    with pytest.raises(
        AssertionError,
        match="request 0, position 1: slot 1 should hold token 12, but holds token 13 of request 0",
    ):
        engine(canary=True).generate([[11, 12, 13]], PARAMS)


def test_a_slot_that_nothing_was_written_to_is_named(engine, monkeypatch):
    right = served.flatten

    def lost(runs, *, device):
        batch = right(runs, device=device)
        batch.slots[-1] = 100
        return batch

    monkeypatch.setattr(served, "flatten", lost)
    with pytest.raises(
        AssertionError,
        match="position 2: slot 2 should hold token 13, but holds nothing that was ever written",
    ):
        engine(canary=True).generate([[11, 12, 13]], PARAMS)


def test_a_page_that_was_given_back_before_it_is_read_is_named(engine, monkeypatch):
    right = Scheduler._run

    def hasty(self, request, size):
        run = right(self, request, size)
        if request.output:
            self.blocks.release(request.held)
        return run

    monkeypatch.setattr(Scheduler, "_run", hasty)
    with pytest.raises(
        AssertionError, match="request 0, position 0: slot 0 lies in page 0, which it does not hold"
    ):
        engine(canary=True, check=False).generate([[11, 12, 13]], PARAMS)
