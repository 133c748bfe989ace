"""Hundreds of random schedules find nothing, and find each planted fault and make it small."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from engine.schedules import VOCAB, alone, draw, play, shrink, violation

from parity.engine import Limits
from parity.engine.kv.blocks import Blocks, Held
from parity.engine.ops import reference
from parity.engine.ops.op import OPS
from parity.engine.sched.scheduler import Scheduler
from parity.engine.serve import engine as serving

RUNS = 10  # of 50 schedules each
HERE = "parity.engine.serve.engine"


@pytest.mark.parametrize("run", range(RUNS))
def test_no_schedule_changes_what_a_request_says(tiny, run):
    for seed in range(50 * run, 50 * (run + 1)):
        if violation(tiny, draw(seed)) is not None:
            small = shrink(draw(seed), lambda s: violation(tiny, s) is not None)
            pytest.fail(f"violation(tiny, {small!r})\n{violation(tiny, small)}")


def test_schedules_reach_what_they_are_meant_to_try(tiny, monkeypatch):
    seen = Counter()
    original = {"preempt": Scheduler._preempt, "take": Blocks._take, "match": Blocks.match}

    def preempt(self, request):
        seen["preempted"] += 1
        seen["preempted with output"] += bool(request.output)
        return original["preempt"](self, request)

    def take(self):
        seen["evicted"] += not self._free
        return original["take"](self)

    def match(self, tokens, domain):
        held = original["match"](self, tokens, domain)
        seen["cached"] += bool(held.pages)
        seen["fully cached"] += len(held.pages) * self.size == len(tokens) - 1
        return held

    monkeypatch.setattr(Scheduler, "_preempt", preempt)
    monkeypatch.setattr(Blocks, "_take", take)
    monkeypatch.setattr(Blocks, "match", match)
    for seed in range(40):
        schedule = draw(seed)
        said = play(tiny, schedule)
        seen["aborted"] += sum(s.aborted for s in said)
        seen["static"] += schedule.limits.static
        seen["chunked"] += any(len(a.prompt) > schedule.limits.chunk for a in schedule.asks)
    events = "preempted", "preempted with output", "evicted", "cached", "fully cached", "aborted", "static"
    assert min(seen[event] for event in (*events, "chunked")) > 0, seen


# Each plants one fault with monkeypatch.setattr as `patch`.


def off_by_one_in_context(patch):
    def wrong(runs, *, device):
        batch = original(runs, device=device)
        late = torch.tensor([int(r.context > 0) for r in runs for _ in r.tokens])
        return dataclasses.replace(batch, positions=batch.positions + late)

    original = serving.flatten
    patch(f"{HERE}.flatten", wrong)


def a_page_is_not_released(patch):
    def wrong(self, held):
        held.pages = held.pages[:-1]
        original(self, held)

    original = Blocks.release
    patch(Blocks, "release", wrong)


def a_page_is_released_twice(patch):
    def wrong(self, held):
        again = Held(list(held.pages[:1]), [])
        original(self, held)
        original(self, again)

    original = Blocks.release
    patch(Blocks, "release", wrong)


def an_evicted_page_is_still_found(patch):
    def wrong(self):
        if self._free:
            return self._free.pop()
        return self._idle.popitem(last=False)[0]

    patch(Blocks, "_take", wrong)


def a_hit_by_hash_alone(patch):
    class Sloppy(dict):
        @staticmethod
        def key(key):
            domain, parent, tokens = key
            return domain, parent, (sum(tokens) % 3,)

        def get(self, key, default=None):
            return super().get(self.key(key), default)

        def __setitem__(self, key, value):
            super().__setitem__(self.key(key), value)

        def __delitem__(self, key):
            super().__delitem__(self.key(key))

    def wrong(self, pages, size):
        original(self, pages, size)
        self._index = Sloppy()

    original = Blocks.__init__
    patch(Blocks, "__init__", wrong)


def a_page_is_published_before_it_is_computed(patch):
    def wrong(self, held, tokens, domain):
        (request,) = (r for r in scheduler[0].running if r.held is held)
        original(self, held, request.tokens[: len(held.pages) * self.size], domain)

    def remembered(self, planned):
        scheduler[:] = [self]
        done(self, planned)

    scheduler = []
    original, done = Blocks.publish, Scheduler.done
    patch(Blocks, "publish", wrong)
    patch(Scheduler, "done", remembered)


def all_of_a_cached_prompt_is_taken(patch):
    def wrong(self, tokens, domain):
        return original(self, [*tokens, 0], domain)

    original = Blocks.match
    patch(Blocks, "match", wrong)


def a_mask_row_is_dropped(patch):
    def wrong(segment, window, device):
        seen = original(segment, window, device)
        if segment.context and segment.length > 1:
            seen[0, : segment.context] = False
        return seen

    original = reference.visible
    patch(OPS["attend"], "implementations", [])  # rewrites make masks of their own
    patch(reference, "visible", wrong)


def the_future_is_seen(patch):
    def wrong(segment, window, device):
        return torch.ones_like(original(segment, window, device))

    original = reference.visible
    patch(OPS["attend"], "implementations", [])  # rewrites make masks of their own
    patch(reference, "visible", wrong)


def padding_is_seen(patch):
    def wrong(runs, *, device):
        batch = original(runs, device=device)
        d = batch.decodes
        return dataclasses.replace(batch, decodes=dataclasses.replace(d, seen=d.seen | True)) if d else batch

    original = serving.flatten
    patch(f"{HERE}.flatten", wrong)


def draws_depend_on_the_place_in_the_batch(patch):
    def wrong(self, part, rows):
        place = self.scheduler.running.index(part.request)
        part.request.params = dataclasses.replace(part.request.params, seed=place)
        return original(self, part, rows)

    original = serving.Engine._advance
    patch(serving.Engine, "_advance", wrong)


def a_resumed_request_forgets_what_it_said(patch):
    def wrong(self, request):
        original(self, request)
        request.output.clear()
        request.scores.clear()
        request.prompt = [*request.prompt, 0]

    original = Scheduler._preempt
    patch(Scheduler, "_preempt", wrong)


def a_preempted_request_believes_its_pages_are_there(patch):
    def wrong(self, request):
        computed = request.computed
        original(self, request)
        request.computed = computed

    original = Scheduler._preempt
    patch(Scheduler, "_preempt", wrong)
    patch(Scheduler, "_admit", _admit_as_computed)


def _admit_as_computed(self, request, left):
    size = min(request.length - request.computed, left, self.limits.chunk)
    if not self._room(request, request.computed + size):
        return None
    self.waiting.remove(request)
    self.running.append(request)
    self._sort()
    return self._run(request, size)


def pages_are_read_in_another_order(patch):
    def wrong(self, held, tokens):
        slots = original(self, held, tokens)
        if len(held.pages) > 2:
            slots[0], slots[self.size] = slots[self.size], slots[0]
        return slots

    original = Blocks.slots
    patch(Blocks, "slots", wrong)


def an_abort_leaves_its_pages(patch):
    def wrong(self, request, why):
        if why is serving.Finish.ABORT:
            request.held = Held([], [])
        original(self, request, why)

    original = Scheduler.end
    patch(Scheduler, "end", wrong)


def low_priority_goes_first(patch):
    patch("parity.engine.sched.scheduler._order", lambda r: (-r.priority, r.id))


def a_request_is_never_let_in_again(patch):
    def wrong(self, request, left):
        return None if request.preempted else original(self, request, left)

    original = Scheduler._admit
    patch(Scheduler, "_admit", wrong)


FAULTS = [
    off_by_one_in_context,
    a_page_is_not_released,
    a_page_is_released_twice,
    an_evicted_page_is_still_found,
    a_hit_by_hash_alone,
    a_page_is_published_before_it_is_computed,
    all_of_a_cached_prompt_is_taken,
    a_mask_row_is_dropped,
    the_future_is_seen,
    padding_is_seen,
    draws_depend_on_the_place_in_the_batch,
    a_resumed_request_forgets_what_it_said,
    a_preempted_request_believes_its_pages_are_there,
    pages_are_read_in_another_order,
    an_abort_leaves_its_pages,
    low_priority_goes_first,
    a_request_is_never_let_in_again,
]


def compute_alone(folder, schedule):
    """Before a fault is there: what each request says by itself is remembered."""
    for ask in schedule.asks:
        alone(folder, dataclasses.replace(ask, priority=0, domain="", arrives=0, aborted=None))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_made_small(tiny, monkeypatch, fault):
    def fails(schedule):
        compute_alone(tiny, schedule)
        with monkeypatch.context() as planted:
            fault(planted.setattr)
            return violation(tiny, schedule) is not None

    monkeypatch.setattr("engine.schedules.MOST_STEPS", 300)
    found = next((s for s in map(draw, range(60)) if fails(s)), None)
    assert found is not None, "not found in 60 schedules"
    small = shrink(found, fails)
    assert len(small.asks) <= 3 and sum(len(a.prompt) for a in small.asks) <= 30, small
    assert violation(tiny, small) is None


def test_a_schedule_is_the_same_for_a_seed_and_prints_as_python():
    schedule = draw(3)
    names = {
        name: getattr(__import__("engine.schedules", fromlist=[name]), name) for name in ("Ask", "Schedule")
    }
    assert eval(repr(schedule), {**names, "Limits": Limits}) == schedule == draw(3)
    assert all(0 <= token < VOCAB for ask in schedule.asks for token in ask.prompt)
