from __future__ import annotations

import numpy as np
import pytest


def drawn(seed, *shape):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def grouped(x, w, ends, numbers=None):
    y, start = np.zeros((len(x), w.shape[2])), 0
    for group, end in enumerate(ends):
        y[start:end] = x[start:end] @ w[group if numbers is None else numbers[group]]
        start = end
    return y


ENDS = [3, 3, 7, 9]
FAULTS = {
    "an end one too far": lambda x, w: grouped(x, w, [4, 4, 8, 10]),
    "an end one too near": lambda x, w: grouped(x, w, [2, 2, 6, 8]),
    "the neighbour's weights": lambda x, w: grouped(x, w, ENDS, [1, 2, 3, 0]),
    "an empty group that is skipped": lambda x, w: grouped(x, w, [3, 7, 9]),
    "rows of no group by the last one": lambda x, w: grouped(x, w, [3, 3, 7, 11]),
}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("fault", FAULTS)
def test_rows_that_go_to_another_group_exceed(verdict, tensor, values, fault, dtype):
    given = [tensor(drawn(1, 11, 24), dtype), tensor(drawn(2, 4, 24, 5), dtype), tensor(ENDS, "i32")]
    x, w = (values(t) for t in given[:2])
    assert verdict("grouped_mm", given, tensor(grouped(x, w, ENDS), dtype)) == "within"
    assert verdict("grouped_mm", given, tensor(FAULTS[fault](x, w), dtype)) == "exceeds"


def test_a_row_of_no_group_is_0_and_nothing_else(verdict, tensor, values):
    given = [tensor(drawn(1, 11, 24), "f32"), tensor(drawn(2, 4, 24, 5), "f32"), tensor(ENDS, "i32")]
    y = grouped(*(values(t) for t in given[:2]), ENDS)
    for what in (np.nan, 1e-30, 4.0):
        y[10, 2] = what
        assert verdict("grouped_mm", given, tensor(y, "f32")) == "exceeds"


def test_a_nan_of_a_group_stays_in_its_rows(verdict, tensor, values):
    w = drawn(2, 4, 24, 5)
    w[1] = np.nan  # the empty group's
    given = [tensor(drawn(1, 11, 24), "f32"), tensor(w, "f32"), tensor(ENDS, "i32")]
    y = grouped(values(given[0]), values(given[1]), ENDS)
    assert np.isfinite(y).all()
    assert verdict("grouped_mm", given, tensor(y, "f32")) == "within"
    assert verdict("grouped_mm", given, tensor(y * np.nan, "f32")) == "exceeds"


CHOSEN = np.array([[0, 2], [1, 0], [2, 1], [0, 1], [2, 0]])
ROUTES = {
    "the next expert": (CHOSEN + 1) % 3,
    "the row before's experts": np.roll(CHOSEN, 1, 0),
    "experts in order": np.sort(CHOSEN, 1),
    "the first choice for all": np.repeat(CHOSEN[:, :1], 2, 1),
}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("fault", ROUTES)
def test_rows_that_go_to_another_expert_exceed(verdict, tensor, values, fault, dtype):
    given = [tensor(drawn(3, 5, 24), dtype), tensor(CHOSEN, "i64"), tensor(drawn(4, 3, 7, 24), dtype)]
    x, w = values(given[0]), values(given[2])

    def routed(chosen):
        return tensor(np.einsum("tk,tjnk->tjn", x, w[chosen]), dtype)

    assert verdict("routed_mm", given, routed(CHOSEN)) == "within"
    assert verdict("routed_mm", given, routed(ROUTES[fault])) == "exceeds"
