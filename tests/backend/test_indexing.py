import pytest

from parity.backend.indexing import parse_index
from parity.errors import UsageError


@pytest.mark.parametrize(
    "text, index",
    [
        ("x[..., ::2]", (..., slice(None, None, 2))),
        ("x[0]", (0,)),
        ("x[-1, 1:-2]", (-1, slice(1, -2))),
        ("x[:, None, [0, -1]]", (slice(None), None, [0, -1])),
        ("x[...]", (...,)),
    ],
)
def test_an_index_is_read_as_python_reads_it(text, index):
    assert parse_index(text) == index


@pytest.mark.parametrize("text", ["x", "y[0]", "x[0][1]", "x[", "x[0]; y", "[0]"])
def test_what_is_not_an_index_of_x_is_refused(text):
    with pytest.raises(UsageError) as error:
        parse_index(text)
    assert str(error.value) == f"index '{text}' is not one: expected x[…], such as x[..., ::2]"


@pytest.mark.parametrize("item", ["f()", "1.5", "True", "a", "'s'"])
def test_nothing_inside_an_index_is_evaluated(item):
    with pytest.raises(UsageError) as error:
        parse_index(f"x[{item}]")
    assert str(error.value) == (
        f"index 'x[{item}]': '{item}' is not an integer, slice, ..., None or list of integers"
    )
