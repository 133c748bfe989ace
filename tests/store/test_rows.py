"""What the rules of rows refuse that no file written by Arrow can show."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parity.errors import GoldenError
from parity.store import rows
from parity.store.rows import Table

FILE = Path("a.arrow")
AGAIN = "The digest is right, so it was written this way: record the case again"


@pytest.fixture
def made(tensor):
    return [tensor([1, 2, 3], "i16"), tensor([], "f32"), tensor(np.ones(17), "f32")]


@pytest.fixture
def content(made, tmp_path):
    """The tensors behind 64 other bytes."""
    with (tmp_path / "rows").open("w+b") as file:
        file.write(b"x" * 64)
        file.writelines(rows.pieces(made))
        file.seek(0)
        return np.frombuffer(file.read(), dtype=np.uint8)


@pytest.fixture
def table(made):
    return Table(
        digests=[t.digest() for t in made],
        tags=[t.dtype.tag for t in made],
        shapes=[t.shape for t in made],
        ends=rows.ends(made).tolist(),
        start=64,
        size=192,
    )


def test_tensors_are_views_of_what_was_written(made, content, table):
    assert table.ends == [0, 64, 64, 192]
    found = rows.tensors(content, table, rows.rows(table, FILE), FILE)
    assert [t.array().tolist() for t in found.values()] == [t.array().tolist() for t in made]
    assert all(np.shares_memory(t.storage, content) for t in found.values() if t.nbytes)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"size": 256}, "the rows span bytes 0 to 192 of 256"),
        ({"size": 128}, "the rows span bytes 0 to 192 of 128"),
        ({"ends": [64, 128, 128, 192]}, "the rows span bytes 64 to 192 of 192"),
        ({"ends": [0, 64, 128, 192]}, "row 1 declares f32[0] = 0 bytes, padded to 0, but holds 64"),
        ({"ends": [0, -64, 0, 192]}, "row 0 declares i16[3] = 6 bytes, padded to 64, but holds -64"),
        ({"start": 56}, "row 0 begins at byte 56, no multiple of 64"),
    ],
)
def test_rows_that_do_not_fill_the_data_exactly_are_refused(content, table, change, says):
    broken = replace(table, **change)
    with pytest.raises(GoldenError) as caught:
        rows.tensors(content, broken, rows.rows(broken, FILE), FILE)
    assert str(caught.value) == f"a.arrow: {says}. {AGAIN}"
