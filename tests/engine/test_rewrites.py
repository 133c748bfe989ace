"""Each rewrite equals the original over its cases, and its shape depends on no value."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from parity.engine.ops import rewrites

SHAPES = [(0,), (1,), (7,), (3, 5), (4, 0), (2, 3, 4)]
KEYS = [
    (),
    (Ellipsis,),
    (slice(None),),
    (0,),
    (-1,),
    (slice(1, 3),),
    (slice(-2, None),),
    (slice(0, 100),),
    (slice(2, 2),),
    (slice(3, 1),),
    (slice(None, None, 2),),
    (slice(1, None, 3),),
    (slice(None, None, -1),),
    (slice(None, 0, -2),),
    (slice(-1, -100, -3),),
    (None,),
    (None, slice(1, 3)),
    (slice(None, None, 2), None),
    (Ellipsis, None),
    (Ellipsis, slice(None, None, -1)),
    (slice(1, 3), slice(None, None, -2)),
    (-1, slice(1, 4)),
    (slice(None), 1),
    (1, Ellipsis, 2),
    (slice(None), None, slice(1, 3), slice(None, None, -1)),
    (0, -1, 0),
]


def numbered(shape, dtype=torch.int64):
    return torch.arange(1, 1 + int(np.prod(shape))).reshape(shape).to(dtype)


def allowed(shape, key):
    """Whether numpy allows the key, which is the specification: torch refuses negative steps."""
    try:
        np.zeros(shape)[key]
    except IndexError:
        return False
    return True


SLICES = [(shape, key) for shape, key in itertools.product(SHAPES, KEYS) if allowed(shape, key)]
MASKS = {
    "empty": torch.zeros(0, dtype=torch.bool),
    "all true": torch.ones(6, dtype=torch.bool),
    "all false": torch.zeros(6, dtype=torch.bool),
    "first": torch.tensor([True, False, False]),
    "last": torch.tensor([False, False, True]),
    "mixed": torch.tensor([[True, False, True], [False, False, True]]),
    "strided": torch.tensor([[True, False, True], [False, False, True]]).t(),
    "no columns": torch.zeros(3, 0, dtype=torch.bool),
}


@pytest.mark.parametrize("shape,key", SLICES)
def test_a_slice_is_that_of_numpy(shape, key):
    x = numbered(shape)
    expected = x.numpy()[key]
    made = rewrites.sliced(x, *key)
    assert tuple(made.shape) == expected.shape
    assert np.array_equal(made.numpy(), expected)


@pytest.mark.parametrize("shape,key", SLICES)
def test_an_assignment_to_a_slice_is_that_of_numpy(shape, key):
    x = numbered(shape, torch.float32)
    expected = x.numpy().copy()
    value = -numbered(expected[key].shape, torch.float32)
    expected[key] = value.numpy()
    assert np.array_equal(rewrites.assigned(x, *key, value=value).numpy(), expected)
    expected[key] = 9.0
    assert np.array_equal(rewrites.assigned(x, *key, value=torch.tensor(9.0)).numpy(), expected)
    assert torch.equal(x, numbered(shape, torch.float32)), "the original must stay as it was"


def test_a_slice_of_a_transposed_tensor_reads_its_elements_not_its_memory():
    x = torch.tensor([[1, 2, 3], [4, 5, 6]]).t()
    assert rewrites.sliced(x, slice(None, None, -2)).tolist() == [[3, 6], [1, 4]]


@pytest.mark.parametrize(
    "key,why",
    [((3,), "index 3 is outside"), ((Ellipsis, Ellipsis), "one ellipsis"), ((0, 0), "2 indices for 1")],
)
def test_a_key_that_does_not_fit_is_refused(key, why):
    with pytest.raises(IndexError, match=why):
        rewrites.sliced(torch.zeros(3), *key)


@pytest.mark.parametrize("rows,columns", [(0, 0), (0, 3), (3, 0), (1, 1), (4, 4), (3, 7), (7, 3)])
@pytest.mark.parametrize("offset", [-9, -3, -1, 0, 1, 2, 9])
def test_triangle_indices_are_those_of_torch(rows, columns, offset):
    for ours, theirs in (
        (rewrites.triu_indices, torch.triu_indices),
        (rewrites.tril_indices, torch.tril_indices),
    ):
        assert torch.equal(ours(rows, columns, offset), theirs(rows, columns, offset))


def test_triangle_indices_of_two_by_two_are_known():
    assert rewrites.triu_indices(2, 2).tolist() == [[0, 0, 1], [0, 1, 1]]
    assert rewrites.tril_indices(2, 2).tolist() == [[0, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    "start,end,step", [(0, 5, 1), (3, 3, 1), (2, 11, 3), (5, -1, -1), (5, -2, -3), (-4, 4, 2)]
)
def test_arange_is_that_of_torch(start, end, step):
    made = rewrites.arange(start, end, step)
    assert made.dtype == torch.int64
    assert torch.equal(made, torch.arange(start, end, step))


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("spare", [0, 3])
def test_nonzero_gives_the_same_rows_then_fill(name, spare):
    mask = MASKS[name]
    expected = mask.nonzero()
    made, count = rewrites.nonzero(mask, len(expected) + spare, fill=-1)
    assert int(count) == len(expected)
    assert torch.equal(made[: len(expected)], expected)
    assert torch.equal(made[len(expected) :], torch.full((spare, mask.ndim), -1))


def test_nonzero_of_more_than_there_is_room_for_counts_all_of_them():
    made, count = rewrites.nonzero(torch.tensor([0.0, 2.0, float("nan"), -0.0, 1.0]), 2)
    assert made.tolist() == [[1], [2]]
    assert int(count) == 3


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("rest", [(), (2,)])
def test_selecting_by_a_mask_gives_the_same_rows_then_zeros(name, rest):
    mask = MASKS[name]
    x = numbered((*mask.shape, *rest), torch.float32)
    expected = x[mask]
    made, count = rewrites.selected(x, mask, len(expected) + 2)
    assert int(count) == len(expected)
    assert torch.equal(made, torch.cat((expected, torch.zeros(2, *rest))))


def test_what_is_not_selected_may_be_nan():
    x = torch.tensor([1.0, float("nan"), 3.0])
    made, _ = rewrites.selected(x, torch.tensor([True, False, True]), 3)
    assert made.tolist() == [1.0, 3.0, 0.0]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("rest", [(), (2,)])
def test_placing_by_a_mask_is_assignment(name, rest):
    mask = MASKS[name]
    x = numbered((*mask.shape, *rest), torch.float32)
    values = -numbered((int(mask.sum()), *rest), torch.float32)
    expected = x.clone()
    expected[mask] = values
    assert torch.equal(rewrites.placed(x, mask, values), expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_gather_is_that_of_torch(dtype, dim):
    draw = torch.Generator().manual_seed(dim)
    x = torch.randint(-(2**62), 2**62, (4, 5, 6), generator=draw)
    x = x.to(dtype) if dtype == torch.int64 else (x % 7).to(dtype)
    for view in (x, x.transpose(0, 2)):
        shape = [3, 3, 3]
        index = torch.randint(0, view.shape[dim], shape, generator=draw)
        assert torch.equal(rewrites.gather(view, dim, index), view.gather(dim, index))


def test_gather_keeps_all_64_bits():
    x = torch.tensor([2**63 - 1, -(2**63), 2**32 + 5, -1])
    assert rewrites.gather(x, 0, torch.tensor([3, 2, 1, 0])).tolist() == [-1, 2**32 + 5, -(2**63), 2**63 - 1]


def test_gather_of_nothing_and_of_a_scalar_are_those_of_torch():
    assert rewrites.gather(torch.ones(3, 2), 0, torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 2)
    scalar = torch.tensor(7)
    assert rewrites.gather(scalar, 0, torch.tensor(0)).item() == 7


STATIC = {
    "nonzero": lambda x: rewrites.nonzero(x > 3, 4)[0],
    "selected": lambda x: rewrites.selected(x, x > 3, 4)[0],
    "placed": lambda x: rewrites.placed(x, x > 3, -x.reshape(-1)),
    "sliced": lambda x: rewrites.sliced(x, slice(None, None, -1), slice(1, 3)),
    "assigned": lambda x: rewrites.assigned(x, slice(None, None, -2), value=x[0]),
    "gather": lambda x: rewrites.gather(x.long(), 1, (x > 3).long()).float(),
    "triu_indices": lambda x: x.sum() + rewrites.triu_indices(3, 4, device=x.device),
}
SIZES = {
    "nonzero": (4, 2),
    "selected": (4,),
    "placed": (2, 3),
    "sliced": (2, 2),
    "assigned": (2, 3),
    "gather": (2, 3),
    "triu_indices": (2, 9),
}


@pytest.mark.parametrize("name", STATIC)
def test_the_shape_is_known_without_any_value(name):
    assert tuple(STATIC[name](torch.zeros(2, 3, device="meta")).shape) == SIZES[name]


def test_the_original_has_no_shape_without_values():
    with pytest.raises(NotImplementedError):
        torch.zeros(2, 3, device="meta").nonzero()


@pytest.mark.parametrize("name", STATIC)
def test_one_whole_graph_gives_the_same(name):
    x = numbered((2, 3), torch.float32)
    compiled = torch.compile(STATIC[name], fullgraph=True, backend="eager", dynamic=False)
    assert torch.equal(compiled(x), STATIC[name](x))
