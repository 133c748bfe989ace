from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from parity.case.dist_pages import PAGE_DISTRIBUTIONS, slots_of, spans
from parity.case.draw import Draw
from parity.case.dtype import DTYPES
from parity.errors import UsageError

PLAN = "3+1.0+4.5+2"  # one more token behind 3, a prompt of 4, two behind 5
HELD = [4, 4, 7]


def make(dist, shape, *, dtype="i64", **options):
    draw = Draw(key=f"layers/x:#{dist}", dtype=DTYPES[dtype], shape=shape, options=options)
    return np.asarray(PAGE_DISTRIBUTIONS[dist].make(draw))


@pytest.mark.parametrize("text", ["", "3", "3+", "a+1", "1+2+3", "1+1.", "-1+2", "1+-2"])
def test_a_text_that_is_no_plan_says_how_one_is_written(text):
    with pytest.raises(UsageError) as refused:
        spans(text)
    assert str(refused.value) == (
        f"'{text}' is not a plan: expected context+length of each request, such as 16+1.0+33"
    )


def test_slots_are_distinct_and_in_no_order():
    held = slots_of(PLAN, 20)
    assert [len(slots) for slots in held] == HELD
    every = np.concatenate(held).tolist()
    assert len(set(every)) == len(every) and all(0 <= slot < 20 for slot in every)
    assert all(slots.tolist() != sorted(slots) for slots in held)


def test_slots_follow_the_words_that_are_written_down():
    digest = hashlib.sha256(b"pages/20").digest()
    words = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(20)
    order = sorted(range(20), key=lambda i: int(words[i]))
    assert np.concatenate(slots_of(PLAN, 20)).tolist() == order[: sum(HELD)]


def test_a_plan_that_needs_more_slots_than_there_are_is_refused():
    with pytest.raises(UsageError, match=r"^plan '3\+1\.0\+4\.5\+2' needs 15 slots, there are 14$"):
        slots_of(PLAN, 14)


def test_a_longer_plan_keeps_the_slots_of_tokens_that_are_cached():
    assert slots_of("0+4", 9)[0].tolist() == slots_of("4+1", 9)[0][:4].tolist()


def test_new_slots_are_those_of_the_tokens_that_the_step_adds():
    every = make("slots", (15,), plan=PLAN, slots=20).tolist()
    new = make("slots", (7,), plan=PLAN, slots=20, new=True).tolist()
    assert new == [*every[3:4], *every[4:8], *every[13:15]]


def test_positions_go_on_where_the_cache_ends_and_segments_say_so():
    assert make("positions", (7,), plan=PLAN).tolist() == [3, 0, 1, 2, 3, 5, 6]
    assert make("segments", (3, 3), plan=PLAN).tolist() == [[0, 1, 3], [1, 4, 0], [5, 2, 5]]


def test_a_shape_that_the_plan_does_not_make_is_refused():
    with pytest.raises(UsageError, match=r"^plan '3\+1' makes \(1,\), not \(2,\)$"):
        make("positions", (2,), plan="3+1")


@pytest.mark.parametrize("values", ["normal", "heavy"])
def test_pages_hold_values_where_a_token_is_cached_and_nan_elsewhere(values):
    pool = make("pages", (20, 2, 8), dtype="bf16", plan=PLAN, values=values)
    every, new = (set(make("slots", (n,), plan=PLAN, slots=20, new=n == 7).tolist()) for n in (15, 7))
    filled = {slot for slot in range(20) if np.isfinite(pool[slot]).all()}
    assert filled == every - new and len(filled) == 8
    assert np.isnan(pool[sorted(set(range(20)) - filled)]).all()


def test_a_pool_of_values_that_are_not_drawn_is_refused():
    with pytest.raises(UsageError, match=r"^dist 'pages' has no values 'heav'; did you mean 'heavy'\?$"):
        make("pages", (9, 2), dtype="f32", plan="1+1", values="heav")


def test_angles_are_those_of_positions_times_a_frequency():
    cos, sin = (make("angles", (70, 5), dtype="f64", part=part) for part in ("cos", "sin"))
    for row in range(70):
        for i in range(5):
            turn = row * 2 * math.atan(1 / (i + 2))
            assert math.isclose(cos[row, i], math.cos(turn), abs_tol=1e-13)
            assert math.isclose(sin[row, i], math.sin(turn), abs_tol=1e-13)


def test_magnitude_multiplies_both():
    for part in ("cos", "sin"):
        plain, more = (make("angles", (4, 3), dtype="f64", part=part, magnitude=m) for m in (1.0, 1.25))
        assert (more == plain * 1.25).all()


@pytest.mark.parametrize("part, shape", [("tan", (4, 2)), ("cos", (4,))])
def test_angles_of_another_part_or_shape_are_refused(part, shape):
    with pytest.raises(UsageError, match=r"^dist 'angles' makes part cos or sin of shape \[positions, R\]"):
        make("angles", shape, dtype="f32", part=part)
