from __future__ import annotations

import numpy as np
import pytest

from parity.case.dist_ranked import RANKED_DISTRIBUTIONS
from parity.case.draw import Draw
from parity.case.dtype import DTYPES
from parity.errors import UsageError


def make(dist, shape=(3, 65), *, dtype="f32", key="ops/x:#y", **options):
    draw = Draw(key=key, dtype=DTYPES[dtype], shape=shape, options=options)
    return np.asarray(RANKED_DISTRIBUTIONS[dist].make(draw))


def test_an_ascending_row_holds_few_values_in_order_and_each_often():
    value = make("ascending", distinct=7)
    assert (np.diff(value, axis=-1) >= 0).all()
    assert set(value.reshape(-1).tolist()) == {k / 2 for k in range(-3, 4)}
    assert (np.diff(value, axis=-1) == 0).sum() > 100


def test_ascending_integers_are_around_zero_where_they_have_a_sign():
    assert make("ascending", dtype="i64").min() == -2
    assert make("ascending", dtype="u8").min() == 0
    assert make("ascending", shape=()).shape == ()


def test_probabilities_descend_are_positive_and_sum_to_one():
    p = make("probabilities", shape=(17, 4099))
    assert (np.diff(p, axis=-1) <= 0).all() and p.min() > 0
    assert np.abs(p.sum(-1) - 1).max() < 4099 * 2.0**-53


def test_a_nucleus_of_probabilities_is_neither_one_token_nor_all():
    p = make("probabilities", shape=(17, 257))
    taken = (p.cumsum(-1) < 0.9).sum(-1)
    assert taken.min() > 5 and taken.max() < 200


def test_another_key_gives_other_probabilities_and_the_same_the_same_bits():
    first, again = make("probabilities"), make("probabilities")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, make("probabilities", key="ops/x:#z"))


def test_the_bits_are_written_down():
    value = make("probabilities", shape=(4,))
    assert [x.hex() for x in value.tolist()] == [
        "0x1.912b92b28988ap-1",
        "0x1.bb3a99cca39d5p-3",
        "0x1.71b687dc3c956p-15",
        "0x1.70f898640a55ep-36",
    ]


@pytest.mark.parametrize("empty", [-1, 0, 3, 7])
@pytest.mark.parametrize("past", [0, 5])
def test_ends_of_groups_ascend_to_the_last_row_that_a_group_owns(empty, past):
    ends = make("group_ends", shape=(8,), dtype="i32", rows=64, past=past, empty=empty)
    assert (np.diff(ends) >= 0).all() and ends[0] >= 0 and ends[-1] == 64 - past
    sizes = np.diff(ends, prepend=0)
    assert empty < 0 or sizes[empty] == 0
    assert (sizes > 0).sum() > 3


def test_groups_of_no_rows_all_end_at_0():
    assert make("group_ends", shape=(3,), dtype="i32", rows=0, empty=1).tolist() == [0, 0, 0]


def test_more_rows_without_a_group_than_there_are_is_an_error():
    with pytest.raises(UsageError, match=r"^dist 'group_ends' cannot leave 5 of 4 rows without a group$"):
        make("group_ends", shape=(3,), dtype="i32", rows=4, past=5)
