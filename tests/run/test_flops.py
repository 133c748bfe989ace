from __future__ import annotations

import pytest

from parity.case.dtype import dtype
from parity.run.flops import flops
from parity.store.recording import TensorRef


def ref(*shape):
    return TensorRef(
        name="t", role="input", dtype=dtype("f32"), shape=shape, stride=(0,) * len(shape), offset=0, digest=""
    )


@pytest.mark.parametrize(
    "op, inputs, output, expected",
    [
        ("matmul", [ref(3, 5), ref(5, 7)], ref(3, 7), 2 * 3 * 5 * 7),
        ("matmul", [ref(5), ref(5)], ref(), 2 * 5),
        ("bmm", [ref(2, 3, 5), ref(2, 5, 7)], ref(2, 3, 7), 2 * 2 * 3 * 5 * 7),
        ("linear", [ref(4, 3, 5), ref(7, 5), None], ref(4, 3, 7), 2 * 12 * 5 * 7),
        ("addmm", [ref(7), ref(3, 5), ref(5, 7)], ref(3, 7), 2 * 3 * 5 * 7),
        ("int4_weight_linear", [ref(3, 32), ref(7, 16), ref(7, 1)], ref(3, 7), 2 * 3 * 32 * 7),
        (
            "attention",
            [ref(1, 4, 3, 8), ref(1, 2, 6, 8), ref(1, 2, 6, 9)],
            ref(1, 4, 3, 9),
            2 * 4 * 3 * 6 * 17,
        ),
        ("scaled_mm", [ref(3, 32), ref(7, 32), ref(3, 1), ref(7, 1)], ref(3, 7), 2 * 3 * 32 * 7),
        ("grouped_mm", [ref(6, 5), ref(4, 5, 7), ref(4)], ref(6, 7), 2 * 6 * 5 * 7),
        ("routed_mm", [ref(6, 5), ref(6, 2), ref(4, 7, 5)], ref(6, 2, 7), 2 * 12 * 5 * 7),
        ("conv1d", [ref(2, 6, 10), ref(4, 3, 5), None], ref(2, 4, 6), 2 * 48 * 3 * 5),
        ("conv2d", [ref(1, 8, 9, 9), ref(8, 1, 3, 3), None], ref(1, 8, 7, 7), 2 * 392 * 9),
        ("route", [ref(3, 5), ref(8, 5), None], ref(3, 2), 2 * 3 * 8 * 5),
        (
            "experts",
            [ref(3, 5), ref(3, 2), ref(3, 2), ref(8, 14, 5), ref(8, 5, 7)],
            ref(3, 5),
            2 * 3 * 2 * (14 * 5 + 5 * 7),
        ),
        (
            "paged_attention",
            [ref(4, 2, 8), ref(99, 1, 8), ref(99, 1, 9), ref(20), ref(2, 3)],
            ref(4, 2, 9),
            2 * 4 * 2 * 10 * 17,
        ),
        (
            "latent_attention",
            [ref(4, 2, 8), ref(99, 13), ref(26, 10), ref(20), ref(1, 3)],
            ref(4, 2, 7),
            2 * 20 * 26 * 10 + 2 * 4 * 2 * 20 * 15,
        ),
        ("softmax", [ref(3, 5)], ref(3, 5), 0),
        ("triu_indices", [], ref(2, 6), 0),
    ],
)
def test_a_product_counts_two_operations_a_term_and_the_rest_none(op, inputs, output, expected):
    assert flops(op, inputs, [output]) == expected
