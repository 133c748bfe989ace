"""Pages against a model that knows nothing of references: who was given what, and what lies in it."""

from __future__ import annotations

import random

import pytest

from parity.engine.kv.blocks import Blocks, Held


def filled(blocks, tokens, domain=""):
    """Hold, compute and publish tokens, as a request does."""
    held = blocks.match(tokens, domain)
    assert blocks.grow(held, len(tokens))
    blocks.publish(held, tokens, domain)
    return held


def test_a_fresh_request_holds_as_many_pages_as_its_tokens_need():
    blocks = Blocks(4, 4)
    held = Held([], [])
    assert blocks.grow(held, 9)
    assert len(held.pages) == 3
    assert blocks.available == 1
    assert blocks.slots(held, 9) == [held.pages[i // 4] * 4 + i % 4 for i in range(9)]


def test_growing_beyond_what_there_is_changes_nothing():
    blocks = Blocks(4, 4)
    held = Held([], [])
    assert blocks.grow(held, 8)
    assert not blocks.grow(held, 17)
    assert len(held.pages) == 2
    blocks.check([held])


def test_a_hit_takes_the_longest_run_of_full_pages():
    blocks = Blocks(8, 2)
    first = filled(blocks, [1, 2, 3, 4, 5])
    again = blocks.match([1, 2, 3, 4, 9, 9], "")
    assert again.pages == first.pages[:2]
    assert blocks.match([1, 2, 9, 9, 9], "").pages == first.pages[:1]
    assert blocks.match([9, 2, 3, 4, 5], "").pages == []


@pytest.mark.parametrize("size, hit", [(1, 3), (2, 1), (4, 0), (3, 1)])
def test_one_token_of_a_fully_cached_prompt_is_left_to_compute(size, hit):
    blocks = Blocks(8, size)
    filled(blocks, [1, 2, 3, 4])
    assert len(blocks.match([1, 2, 3, 4], "").pages) == hit


def test_the_same_tokens_in_another_domain_are_no_hit():
    blocks = Blocks(8, 2)
    filled(blocks, [1, 2, 3], "tenant a")
    assert blocks.match([1, 2, 3], "tenant b").pages == []
    assert blocks.match([1, 2, 3], "").pages == []
    assert len(blocks.match([1, 2, 3], "tenant a").pages) == 1


def test_the_same_page_after_another_beginning_is_no_hit():
    blocks = Blocks(8, 2)
    filled(blocks, [1, 2, 3, 4, 0])
    filled(blocks, [5, 6, 0])
    assert len(blocks.match([5, 6, 3, 4, 0], "").pages) == 1


class Colliding(int):
    """A token whose hash is that of all others."""

    def __hash__(self):
        return 7


def test_a_hit_verifies_tokens_where_all_hashes_collide():
    blocks = Blocks(8, 2)
    filled(blocks, [Colliding(1), Colliding(2), Colliding(3)])
    assert blocks.match([Colliding(1), Colliding(5), Colliding(3)], "").pages == []
    assert len(blocks.match([Colliding(1), Colliding(2), Colliding(3)], "").pages) == 1


def test_pages_that_nobody_holds_are_evicted_by_age_and_a_chain_from_its_end():
    blocks = Blocks(4, 1)
    old = filled(blocks, [1, 2])
    blocks.release(old)
    blocks.release(filled(blocks, [3, 4]))
    blocks.release(blocks.match([1, 9], ""))  # used again: page 1 is now the youngest
    held = Held([], [])
    assert blocks.grow(held, 1)  # takes 2, the end of the oldest chain
    assert len(blocks.match([1, 2, 0], "").pages) == 1
    assert blocks.grow(held, 2)  # takes 4
    assert len(blocks.match([3, 4, 0], "").pages) == 1


def test_what_somebody_holds_is_never_evicted():
    blocks = Blocks(2, 1)
    first = filled(blocks, [1, 2])
    blocks.release(first)
    held = blocks.match([1, 9], "")
    assert blocks.grow(held, 2)
    assert not blocks.grow(Held([], []), 1)
    blocks.check([held])


def test_two_that_computed_the_same_share_what_follows():
    blocks = Blocks(8, 1)
    one, two = Held([], []), Held([], [])
    for held in (one, two):
        assert blocks.grow(held, 2)
    for held in (one, two):
        blocks.publish(held, [1, 2], "")
    assert one.chain == two.chain and one.pages != two.pages
    blocks.release(one)
    assert blocks.match([1, 2, 3], "").pages != two.pages[:2]
    blocks.release(two)


@pytest.mark.parametrize("seed", range(20))
def test_random_use_keeps_every_page_and_never_finds_other_tokens(seed):
    rng = random.Random(seed)
    size, count = rng.choice((1, 2, 4)), rng.randint(4, 12)
    blocks = Blocks(count, size)
    content = {}  # page -> (domain, all tokens up to its end), as a pool would hold it
    live = []
    for _ in range(300):
        if live and rng.random() < 0.45:
            held, _, _ = live.pop(rng.randrange(len(live)))
            blocks.release(held)
        else:
            domain = rng.choice("ab")
            tokens = [rng.randrange(2) for _ in range(rng.randint(1, 12))]
            held = blocks.match(tokens, domain)
            for number, page in enumerate(held.pages):
                assert content[page] == (domain, tokens[: (number + 1) * size])
            cached = len(held.pages)
            if not blocks.grow(held, len(tokens)):
                needed = -(-len(tokens) // size)
                used = {p for h, _, _ in live for p in h.pages} | set(held.pages)
                assert needed - cached > count - len(used)
                blocks.release(held)
                continue
            others = {p for h, _, _ in live for p in h.pages}
            assert not others & set(held.pages[cached:])
            for number in range(cached, len(held.pages)):
                content[held.pages[number]] = (domain, tokens[: (number + 1) * size])
            blocks.publish(held, tokens, domain)
            live.append((held, tokens, domain))
        blocks.check([h for h, _, _ in live])
        assert blocks.available == count - len({p for h, _, _ in live for p in h.pages})


def lost(blocks, held):
    blocks._free.pop()


def twice(blocks, held):
    held.pages.append(held.pages[0])


def uncounted(blocks, held):
    blocks._references[held.pages[0]] += 1


def free_and_held(blocks, held):
    blocks._free.append(held.pages[0])


def misfiled(blocks, held):
    blocks._index.clear()


@pytest.mark.parametrize(
    "fault, text",
    [
        (lost, "free and cached pages are not those that nobody holds"),
        (twice, "a request holds a page twice: [0, 1, 0]"),
        (uncounted, "page 0 is counted 2 times and held 1 times"),
        (free_and_held, "free and cached pages are not those that nobody holds"),
        (misfiled, "a cached page is not found under its own tokens"),
    ],
)
def test_check_names_what_is_wrong(fault, text):
    blocks = Blocks(4, 2)
    held = filled(blocks, [1, 2, 3])
    blocks.check([held])
    fault(blocks, held)
    with pytest.raises(AssertionError) as caught:
        blocks.check([held])
    assert str(caught.value) == text
