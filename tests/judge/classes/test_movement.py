from __future__ import annotations

import itertools

import numpy as np
import pytest

from parity.case.dtype import DTYPES
from parity.case.layout import place
from parity.errors import GoldenError

NAN_PAYLOAD = 0x7FC0BEEF
X = [[1.0, -0.0, np.inf], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]


@pytest.fixture
def x(tensor):
    return tensor(X, "f32")


def test_embedding_takes_rows_and_keeps_payload_and_sign_of_zero(verdict, bits, tensor):
    table = bits([[NAN_PAYLOAD, 0x80000000], [1, 2]], "f32")
    ids = tensor([[0, 1], [1, 0]], "i64")
    right = [[[NAN_PAYLOAD, 0x80000000], [1, 2]], [[1, 2], [NAN_PAYLOAD, 0x80000000]]]
    assert verdict("embedding", [table, ids], bits(right, "f32")) == "within"
    for old, new in ((NAN_PAYLOAD, 0x7FC00000), (0x80000000, 0)):
        wrong = [[[new if c == old else c for c in row] for row in rows] for rows in right]
        assert verdict("embedding", [table, ids], bits(wrong, "f32")) == "exceeds"


def test_embedding_of_the_last_row_for_the_one_before_exceeds(verdict, x, tensor):
    assert verdict("embedding", [x, tensor([2], "i64")], tensor([X[2]], "f32")) == "within"
    assert verdict("embedding", [x, tensor([2], "i64")], tensor([X[1]], "f32")) == "exceeds"


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_gather_reads_where_its_index_says_along_one_dimension(verdict, x, tensor, dim):
    index = [[2, 0], [1, 1]]
    wanted = [[X[index[i][j]][j] if dim == 0 else X[i][index[i][j]] for j in range(2)] for i in range(2)]
    given = [x, tensor(index, "i64")]
    assert verdict("gather", given, tensor(wanted, "f32"), dim=dim) == "within"
    other = [[X[index[i][j]][j] if dim else X[i][index[i][j]] for j in range(2)] for i in range(2)]
    assert verdict("gather", given, tensor(other, "f32"), dim=dim) == "exceeds"


def test_where_takes_one_side_and_lets_nothing_of_the_other_through(verdict, tensor):
    c = tensor([[True], [False]], "bool")
    a, b = tensor([1.0, np.nan], "f16"), tensor([[5.0, 6.0], [7.0, 8.0]], "f16")
    assert verdict("where", [c, a, b], tensor([[1.0, np.nan], [7.0, 8.0]], "f16")) == "within"
    mixed = tensor([[1.0, np.nan], [7.0, np.nan]], "f16")
    assert verdict("where", [c, a, b], mixed) == "exceeds"


def test_cat_joins_in_order_and_skips_what_is_empty(verdict, tensor):
    parts = [tensor(t, "i64") for t in ([[1], [2]], np.empty((2, 0)), [[3, 4], [5, 6]])]
    assert verdict("cat", parts, tensor([[1, 3, 4], [2, 5, 6]], "i64"), dim=-1) == "within"
    assert verdict("cat", parts, tensor([[3, 4, 1], [5, 6, 2]], "i64"), dim=-1) == "exceeds"


SIDES = [("tril", lambda i, j, k: j - i <= k), ("triu", lambda i, j, k: j - i >= k)]


@pytest.mark.parametrize("op, keeps", SIDES)
@pytest.mark.parametrize("diagonal", [-1, 0, 1, 100])
def test_a_triangle_keeps_one_side_and_has_plus_zero_on_the_other(verdict, x, tensor, op, keeps, diagonal):
    def made(k, zero=0.0):
        return tensor([[X[i][j] if keeps(i, j, k) else zero for j in range(3)] for i in range(3)], "f32")

    assert verdict(op, [x], made(diagonal), diagonal=diagonal) == "within"
    if diagonal != 100:
        assert verdict(op, [x], made(diagonal + 1), diagonal=diagonal) == "exceeds"
        assert verdict(op, [x], made(diagonal, -0.0), diagonal=diagonal) == "exceeds"


def test_triu_indices_go_row_by_row_in_int64(verdict, tensor):
    attrs = {"rows": 3, "columns": 2, "offset": 0}
    assert verdict("triu_indices", [], tensor([[0, 0, 1], [0, 1, 1]], "i64"), **attrs) == "within"
    assert verdict("triu_indices", [], tensor([[0, 0, 1], [0, 1, 1]], "i32"), **attrs) == "exceeds"
    assert verdict("triu_indices", [], tensor([[0, 1, 1], [0, 0, 1]], "i64"), **attrs) == "exceeds"
    empty = tensor(np.empty((2, 0)), "i64")
    assert verdict("triu_indices", [], empty, **(attrs | {"offset": 100})) == "within"


@pytest.mark.parametrize(
    "index, wanted",
    [
        ("x[-1]", X[2]),
        ("x[:, ::2]", [[r[0], r[2]] for r in X]),
        ("x[..., None]", [[[v] for v in r] for r in X]),
        ("x[[2, 0]]", [X[2], X[0]]),
        ("x[1:1]", np.empty((0, 3))),
        ("x[-1, 0]", 7.0),
    ],
)
def test_slice_reads_an_index_as_python_does(verdict, x, tensor, index, wanted):
    right = tensor(wanted, "f32")
    assert verdict("slice", [x], right, index=index) == "within"
    if right.numel:
        array = np.array(right.array())
        array.reshape(-1)[0] += 1
        assert verdict("slice", [x], tensor(array, "f32"), index=index) == "exceeds"


def test_slice_assign_writes_there_and_nowhere_else(verdict, x, tensor):
    values, index = tensor([10.0, 20.0, 30.0], "f32"), "x[1]"
    right = np.array(X)
    right[1] = [10, 20, 30]
    assert verdict("slice_assign", [x, values], tensor(right, "f32"), index=index) == "within"
    assert verdict("slice_assign", [x, values], x, index=index) == "exceeds"
    beside = np.array(X)
    beside[0] = [10, 20, 30]
    assert verdict("slice_assign", [x, values], tensor(beside, "f32"), index=index) == "exceeds"


def test_index_reads_rows_and_counts_negative_ones_from_the_end(verdict, x, tensor):
    index = tensor([[-1, 0], [1, -3]], "i64")
    right = [[X[2], X[0]], [X[1], X[0]]]
    assert verdict("index", [x, index], tensor(right, "f32")) == "within"
    clamped = [[X[0], X[0]], [X[1], X[0]]]
    assert verdict("index", [x, index], tensor(clamped, "f32")) == "exceeds"


def test_index_keeps_all_64_bits(verdict, tensor):
    x, index = tensor([2**40 + 1, -(2**33), 5], "i64"), tensor([1, 0], "i64")
    assert verdict("index", [x, index], tensor([-(2**33), 2**40 + 1], "i64")) == "within"
    assert verdict("index", [x, index], tensor([0, 1], "i64")) == "exceeds"


PUT = {"accumulate": False}


def test_index_put_replaces_rows_negative_ones_from_the_end(verdict, x, tensor):
    given = [x, tensor([-1, 0], "i64"), tensor([[1.0] * 3, [2.0] * 3], "f32")]
    right = [[2.0] * 3, X[1], [1.0] * 3]
    assert verdict("index_put", given, tensor(right, "f32"), **PUT) == "within"
    assert verdict("index_put", given, tensor([[1.0] * 3, X[1], X[2]], "f32"), **PUT) == "exceeds"


@pytest.mark.parametrize("winner", list(itertools.product([0, 1], repeat=3)))
def test_a_row_written_twice_keeps_one_of_the_values_element_by_element(verdict, x, tensor, winner):
    written = [[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]
    given = [x, tensor([1, 1], "i64"), tensor(written, "f32")]
    right = [X[0], [written[w][j] for j, w in enumerate(winner)], X[2]]
    assert verdict("index_put", given, tensor(right, "f32"), **PUT) == "within"


@pytest.mark.parametrize(
    "row, beside",
    [([1.0, 2.0, 4.0], None), ([11.0, 22.0, 33.0], None), (X[1], None), ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])],
)
def test_a_row_written_twice_that_holds_anything_else_exceeds(verdict, x, tensor, row, beside):
    given = [x, tensor([1, 1], "i64"), tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]], "f32")]
    wrong = tensor([beside or X[0], row, X[2]], "f32")
    assert verdict("index_put", given, wrong, **PUT) == "exceeds"


def test_a_copy_keeps_every_bit(verdict, bits):
    x = bits([[0x7F81, 0x8000], [0x0001, 0x3F80]], "bf16")
    assert verdict("copy", [x], bits([[0x7F81, 0x8000], [0x0001, 0x3F80]], "bf16")) == "within"
    for wrong in ([[0x7FC1, 0x8000], [0x0001, 0x3F80]], [[0x7F81, 0x0000], [0x0001, 0x3F80]]):
        assert verdict("copy", [x], bits(wrong, "bf16")) == "exceeds"


def test_a_reshape_reads_rows_whatever_the_layout(verdict, tensor):
    x = place(np.arange(6, dtype=np.float32).reshape(2, 3), DTYPES["f32"], "transposed")
    right, by_columns = ([[0, 1], [2, 3], [4, 5]], [[0, 3], [1, 4], [2, 5]])
    assert verdict("reshape", [x], tensor(right, "f32"), shape="3x2") == "within"
    assert verdict("reshape", [x], tensor(by_columns, "f32"), shape="3x2") == "exceeds"
    assert verdict("reshape", [x], tensor([0, 1, 2, 3, 4, 5], "f32"), shape="6") == "within"


def test_joined_tensors_of_several_types_are_a_damaged_step_and_no_crash(verdict, tensor):
    one, other = tensor([0.0, 0.0], "f32"), tensor([0.0, 0.0], "f64")
    with pytest.raises(GoldenError, match="cat: joins f32, f64, which are no one type"):
        verdict("cat", [one, other], tensor([0.0] * 4, "f32"), dim=0)
