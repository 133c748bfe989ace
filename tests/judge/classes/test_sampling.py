from __future__ import annotations

import numpy as np
import pytest

P = [0.5, 0.25, 0.125, 0.125]


def mask(verdict, tensor, kept, *, threshold, p=P, kind="f32"):
    return verdict("top_p_mask", [tensor([p], kind)], tensor([kept], "bool"), threshold=threshold)


@pytest.mark.parametrize(
    "threshold, kept",
    [
        (0.01, [True, False, False, False]),
        (0.6, [True, True, False, False]),
        (0.8, [True, True, True, False]),
        (0.99, [True, True, True, True]),
    ],
)
def test_the_nucleus_goes_up_to_and_with_the_token_that_crosses(verdict, tensor, threshold, kept):
    assert mask(verdict, tensor, kept, threshold=threshold) == "within"
    for at in range(4):
        other = [k != (i == at) for i, k in enumerate(kept)]
        assert mask(verdict, tensor, other, threshold=threshold) == "exceeds"


def test_where_rounding_decides_both_are_right_and_only_there(verdict, tensor):
    for third in (True, False):
        assert mask(verdict, tensor, [True, True, third, False], threshold=0.75) == "within"
    assert mask(verdict, tensor, [True, False, True, False], threshold=0.75) == "exceeds"


@pytest.mark.parametrize("kind", ["f32", "bf16", "f16"])
def test_a_sum_that_is_kept_in_16_bits_exceeds_whatever_the_probabilities_are(verdict, tensor, kind):
    p = [0.5, *[2.0**-12] * 2048]
    # In bf16 no 2^-12 is added to 1/2; in float32 the sum before the last is just below 1.
    right = [True] + [0.5 + i * 2.0**-12 <= 0.9 for i in range(2048)]
    assert mask(verdict, tensor, right, threshold=0.9, p=p, kind=kind) == "within"
    assert mask(verdict, tensor, [True] * 2049, threshold=0.9, p=p, kind=kind) == "exceeds"


RULE = {"repetition": 2.0, "frequency": 0.5, "presence": 0.25}
LOGITS, TOKENS = [[4.0, -2.0, 0.5, -8.0]], [[0, 1, 0, 4]]


def penalised(verdict, tensor, y, *, kind="f32", **rule):
    given = [tensor(LOGITS, kind), tensor(TOKENS, "i64")]
    return verdict("penalties", given, tensor([y], kind), **(RULE | rule))


@pytest.mark.parametrize("kind", ["f32", "bf16", "f16"])
def test_penalties_lower_what_was_seen_and_nothing_else(verdict, tensor, kind):
    right = [2.0 - 1.0 - 0.25, -4.0 - 0.5 - 0.25, 0.5, -8.0]
    assert penalised(verdict, tensor, right, kind=kind) == "within"


@pytest.mark.parametrize(
    "wrong",
    [
        [0.75, -1.0 - 0.75, 0.5, -8.0],  # a negative score divided
        [0.0 - 0.25, -4.75, 0.5, -8.0],  # by repetition for each time
        [1.25, -4.75, 0.5, -8.0],  # frequency once
        [0.5, -4.75, 0.5, -8.0],  # presence for each time
        [0.75, -4.75, 0.5, -16.75],  # padding taken for the last token
        [0.75, -4.75, 0.5000001, -8.0],  # not a copy where nothing was seen
    ],
)
def test_penalties_by_another_rule_exceed(verdict, tensor, wrong):
    assert penalised(verdict, tensor, wrong) == "exceeds"


def test_nothing_is_done_by_neutral_penalties(verdict, tensor):
    neutral = {"repetition": 1.0, "frequency": 0.0, "presence": 0.0}
    assert penalised(verdict, tensor, LOGITS[0], **neutral) == "within"
    assert penalised(verdict, tensor, [4.0, -2.0, 0.5, -8.5], **neutral) == "exceeds"


@pytest.mark.parametrize("score, right", [(np.inf, np.inf), (-np.inf, -np.inf), (np.nan, np.nan)])
def test_what_is_not_finite_stays_so(verdict, tensor, score, right):
    given = [tensor([[score, 1.0]], "f32"), tensor([[0]], "i64")]
    assert verdict("penalties", given, tensor([[right, 1.0]], "f32"), **RULE) == "within"
    assert verdict("penalties", given, tensor([[0.0, 1.0]], "f32"), **RULE) == "exceeds"
