from __future__ import annotations

import pytest

from parity.case.op import OPS
from parity.errors import UsageError


def check(op, inputs, outputs=("y",), **attrs):
    OPS[op].check(inputs, outputs, attrs, where="step 's'")


@pytest.mark.parametrize(
    "op, inputs, attrs",
    [
        ("linear", ("x", "w"), {}),
        ("linear", ("x", "w", None), {}),
        ("cat", ("a", "b", "c", "d"), {"dim": 0}),
        ("triu_indices", (), {"rows": 1, "columns": 2, "offset": 0}),
        ("rms_norm", ("x",), {"eps": 1}),
        ("attention", ("q", "k", "v"), {"causal": True, "window": None, "scale": 0.5}),
    ],
)
def test_what_fits_an_op_is_accepted(op, inputs, attrs):
    check(op, inputs, **attrs)


@pytest.mark.parametrize(
    "op, inputs, outputs, attrs, text",
    [
        ("matmul", ("a",), ("y",), {}, "step 's': matmul takes a, b; got 1 tensors"),
        ("linear", ("a", "b", "c", "d"), ("y",), {}, "step 's': linear takes x, w, bias?; got 4 tensors"),
        ("exp", ("x",), ("a", "b"), {}, "step 's': exp gives 1 outputs, got 2 names"),
        ("softmax", ("x",), ("y",), {}, "step 's': softmax needs attribute 'dim'"),
        (
            "softmax",
            ("x",),
            ("y",),
            {"dmi": 1},
            "step 's': softmax has no attribute 'dmi'; did you mean 'dim'?",
        ),
        ("softmax", ("x",), ("y",), {"dim": 0.5}, "step 's': softmax attribute 'dim' cannot be 0.5"),
        ("softmax", ("x",), ("y",), {"dim": True}, "step 's': softmax attribute 'dim' cannot be True"),
        ("triu_indices", ("x",), ("y",), {}, "step 's': triu_indices takes no tensors; got 1 tensors"),
    ],
)
def test_what_does_not_fit_an_op_is_refused_with_its_reason(op, inputs, outputs, attrs, text):
    with pytest.raises(UsageError) as refused:
        check(op, inputs, outputs, **attrs)
    assert str(refused.value) == text


def test_an_op_stands_under_its_own_id():
    assert all(name == op.id for name, op in OPS.items())
