from __future__ import annotations

import math

import pytest

from parity.case.dtype import DTYPES
from parity.case.written import integers, number


def test_integers_may_be_negative():
    assert integers("1,-2,0") == (1, -2, 0)
    assert integers("-7") == (-7,)


@pytest.mark.parametrize(
    "text, dtype, value",
    [
        ("0.1", "bf16", 0.1),
        ("-inf", "f16", -math.inf),
        ("min", "f16", -65504.0),
        ("max", "f32", (2 - 2**-23) * 2.0**127),
        ("-1099511627777", "i64", -1099511627777),
        ("1", "bool", True),
        ("0", "bool", False),
    ],
)
def test_a_value_is_of_the_kind_of_its_tensor(text, dtype, value):
    found = number(text, DTYPES[dtype])
    assert (found, type(found)) == (value, type(value))


def test_a_float_is_no_value_for_integers():
    with pytest.raises(ValueError, match="invalid literal"):
        number("0.5", DTYPES["i64"])
