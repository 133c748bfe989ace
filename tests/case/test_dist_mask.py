from __future__ import annotations

import numpy as np
import pytest

from parity.case.dist_mask import MASK_DISTRIBUTIONS, PATTERNS
from parity.case.draw import Draw
from parity.case.dtype import DTYPES
from parity.errors import UsageError


def make(dist="mask", shape=(3, 5), *, dtype="bool", **options):
    draw = Draw(key="ops/x:#mask", dtype=DTYPES[dtype], shape=shape, options=options)
    return np.asarray(MASK_DISTRIBUTIONS[dist].make(draw))


def test_a_causal_mask_keeps_keys_up_to_the_query_which_stands_at_the_end():
    assert make(pattern="causal").tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_an_inverted_mask_is_true_where_a_key_is_dropped():
    assert (make(pattern="random") + make(pattern="random", invert=True) == 1).all()


def test_padding_grows_with_the_sequence_and_leaves_a_key():
    kept = make(shape=(2, 1, 1, 8), pattern="padding")[:, 0, 0]
    assert kept.tolist() == [[1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    assert make(shape=(1, 1), pattern="padding").tolist() == [[1]]


def test_left_padding_leaves_the_first_queries_without_a_key():
    kept = make(shape=(2, 2, 8, 8), pattern="left_padding")
    assert kept.any(axis=-1)[0, 0].tolist() == [False] * 3 + [True] * 5
    assert kept.any(axis=-1)[1, 1].tolist() == [False] * 6 + [True] * 2


def test_a_random_mask_keeps_the_first_key_and_empty_rows_keep_none():
    assert make(shape=(50, 9), pattern="random")[:, 0].all()
    assert make(shape=(6, 9), pattern="empty_rows").any(axis=-1).tolist() == [True, False, True] * 2


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_added_mask_is_zero_where_the_boolean_one_is_true_and_the_drop_value_elsewhere(pattern):
    kept = make(shape=(2, 1, 7, 9), pattern=pattern).astype(bool)
    for drop, value in (("-inf", -np.inf), ("min", -65504.0), (-1000.0, -1000.0)):
        added = make(shape=(2, 1, 7, 9), dtype="f16", pattern=pattern, drop=drop)
        assert (added == np.where(kept, 0.0, value)).all()


def test_alibi_halves_the_slope_from_head_to_head():
    added = make("alibi", (1, 2, 2, 3), dtype="f32")
    assert added[0, 0].tolist() == [[-0.5, 0.0, -np.inf], [-1.0, -0.5, 0.0]]
    assert added[0, 1].tolist() == [[-0.25, 0.0, -np.inf], [-0.5, -0.25, 0.0]]


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (2, 0, 3, 4)])
def test_an_empty_mask_is_made(shape):
    assert make(shape=shape).shape == shape


def test_a_mask_needs_two_dimensions():
    text = r"^dist 'mask' needs queries and keys as last two dimensions, got \(4,\)$"
    with pytest.raises(UsageError, match=text):
        make(shape=(4,))


def test_an_unknown_pattern_is_named_with_its_near_miss():
    with pytest.raises(UsageError, match=r"^unknown mask pattern 'casual'; did you mean 'causal'\?$"):
        make(pattern="casual")
