"""What ops of indexing, views and sampling should give, by loops; `conftest.py` hands it out."""

from __future__ import annotations

import numpy as np

RNG = np.random.default_rng(13)
X = RNG.standard_normal((4, 6))
SRC = RNG.standard_normal((3, 6))
DOWN, ALONG = np.array([[2, 0, 3, 1, 2, 0], [0, 1, 0, 3, 3, 2]]), np.array([[0, -1], [-6, 2], [5, 3], [1, 1]])
MASK = RNG.random((4, 6)) < 0.5
TIES = np.array([[2.0, -1.0, 2.0], [0.5, -1.0, 2.0]])
NUMBERS, WEIGHTS = np.array([3, 1, 1, 5, 3]), np.array([1.0, 2.0, 4.0, 8.0, 16.0])
ROW = np.array([-1.0, 0.0, 0.0, 2.5])
WHOLE = np.arange(12).reshape(3, 4)
LOGITS, TOKENS = np.array([[1.0, -2.0, 0.5], [3.0, -1.0, 4.0]]), np.array([[1, 3, 1], [0, 0, 2]])
P = np.array([[0.5, 0.25, 0.125, 0.125], [0.9375, 0.03125, 0.015625, 0.015625]])
ALL = {"repetition": 2.0, "frequency": 0.5, "presence": 0.25}


def moved(x, index, dim, write):
    """Call `write(place in x, place in index)` for each element of index."""
    for at in np.ndindex(index.shape):
        place = list(at)
        place[dim] = index[at]
        write(tuple(place), at)


def taken(x, index, dim):
    y = np.empty(index.shape, x.dtype)
    moved(x, index, dim, lambda place, at: y.__setitem__(at, x[place]))
    return y


def scattered(x, index, src, dim):
    y = x.copy()
    moved(x, index, dim, lambda place, at: y.__setitem__(place, src[at]))
    return y


def reduced(x, index, src, dim, join, own, *, mean=False):
    met = {at: [x[at]] if own else [] for at in np.ndindex(x.shape)}
    moved(x, index, dim, lambda place, at: met[place].append(src[at]))
    y = x.copy()
    for at, terms in met.items():
        if terms:
            y[at] = join(terms) / (len(terms) if mean else 1)
    return y


def reductions():
    joins = {"sum": sum, "prod": np.prod, "mean": sum, "amin": min, "amax": max}
    for reduce, join in joins.items():
        for own in (True, False):
            wanted = reduced(X, DOWN, SRC, 0, join, own, mean=reduce == "mean")
            yield (
                [(X, "f64"), (DOWN, "i64"), (SRC, "f64")],
                {"dim": 0, "reduce": reduce, "include_self": own},
                [wanted],
            )


def stored(x, first, step, back):
    """Rows of x in a dictionary, then what stands there and `back` rows before."""
    rows = {first + step * i: row for i, row in enumerate(x)}
    places = [first + step * i for i in range(len(x))]
    return np.array([rows.get(at, np.zeros(x.shape[1])) for at in (*places, *(p - back for p in places))])


def swapped_negated(x):
    y = x.copy()
    y[:, 1:] *= -1
    return y


def shifted(x):
    y = x.copy()
    for i in reversed(range(1, len(x))):
        y[i] = y[i - 1]
    return y


EXPECTED = {
    "take_along_dim": [
        ([(X, "f64"), (ALONG, "i64")], {"dim": 1}, [taken(X, np.where(ALONG < 0, ALONG + 6, ALONG), 1)]),
        ([(X, "f64"), (ALONG[:1], "i64")], {"dim": -1}, [X[:, [0, 5]]]),
    ],
    "index_select": [
        ([(X, "f64"), (np.array([5, 0, 5]), "i64")], {"dim": -1}, [np.stack([X[:, 5], X[:, 0], X[:, 5]], 1)]),
        ([(X, "f64"), (np.array([3, 1]), "i32")], {"dim": 0}, [np.stack([X[3], X[1]])]),
    ],
    "scatter": [
        ([(X, "f64"), (DOWN[:1], "i64"), (SRC, "f64")], {"dim": 0}, [scattered(X, DOWN[:1], SRC, 0)]),
    ],
    "scatter_reduce": list(reductions()),
    "masked_fill": [
        ([(X, "f64"), (MASK, "bool")], {"value": "-inf"}, [np.where(MASK, -np.inf, X)]),
        ([(X, "f64"), (MASK[:1], "bool")], {"value": "0.5"}, [np.where(MASK[:1], 0.5, X)]),
        ([(WHOLE, "i64"), (MASK[:3, :4], "bool")], {"value": "-9"}, [np.where(MASK[:3, :4], -9, WHOLE)]),
    ],
    "masked_select": [
        ([(X, "f64"), (MASK, "bool")], {}, [np.array([X[i] for i in np.ndindex(X.shape) if MASK[i]])]),
    ],
    "nonzero": [([(np.array([[0.0, 2.0], [-1.0, -0.0]]), "f64")], {}, [np.array([[0, 1], [1, 0]])])],
    "unique": [
        (
            [(TIES, "f64")],
            {},
            [np.array([-1.0, 0.5, 2.0]), np.array([[2, 0, 2], [1, 0, 2]]), np.array([2, 1, 3])],
        )
    ],
    "bincount": [
        ([(NUMBERS, "i64")], {"minlength": 8}, [np.array([0, 2, 0, 2, 0, 1, 0, 0])]),
        ([(NUMBERS, "i64"), (WEIGHTS, "f64")], {"minlength": 0}, [np.array([0.0, 6, 0, 17, 0, 8])]),
    ],
    "searchsorted": [
        (
            [(ROW, "f64"), (np.array([0.0, 2.5, 9.0, -7.0]), "f64")],
            {"right": False},
            [np.array([1, 3, 4, 0])],
        ),
        ([(ROW, "f64"), (np.array([0.0, 2.5, 9.0, -7.0]), "f64")], {"right": True}, [np.array([3, 4, 4, 0])]),
    ],
    "roll": [
        ([(WHOLE, "i64")], {"shift": 1, "dim": 1}, [np.array([[3, 0, 1, 2], [7, 4, 5, 6], [11, 8, 9, 10]])]),
        ([(WHOLE, "i64")], {"shift": -5, "dim": None}, [(np.arange(5, 17) % 12).reshape(3, 4)]),
    ],
    "flip": [([(WHOLE, "i64")], {"dims": "0,-1"}, [np.arange(11, -1, -1).reshape(3, 4)])],
    "stack": [([(X, "f64"), (-X, "f64")], {"dim": -1}, [np.array([[[v, -v] for v in row] for row in X])])],
    "split": [([(X, "f64")], {"sizes": "1x0x5", "dim": -1}, [X[:, :1], X[:, :0], X[:, 1:]])],
    "pad": [
        (
            [(WHOLE, "i64")],
            {"widths": "1,-2,-1,1", "value": "7"},
            [np.array([[7, 4, 5], [7, 8, 9], [7, 7, 7]])],
        )
    ],
    "repeat": [([(WHOLE[:1, :2], "i64")], {"repeats": "2x1x2"}, [np.array([[[0, 1, 0, 1]]] * 2)])],
    "expand": [([(X[:, :1], "f64")], {"shape": "2x4x3"}, [np.array([[[v] * 3 for v in X[:, 0]]] * 2)])],
    "as_strided": [
        (
            [(WHOLE, "i64")],
            {"shape": "3x3", "stride": "2x1", "offset": 3},
            [np.array([[3, 4, 5], [5, 6, 7], [7, 8, 9]])],
        )
    ],
    "slice_move": [
        ([(X, "f64")], {"target": "x[1:]", "source": "x[:-1]", "cloned": True}, [shifted(X)]),
        ([(X, "f64")], {"target": "x[0]", "source": "x[2]", "cloned": False}, [np.stack([X[2], *X[1:]])]),
    ],
    "negate_view": [([(X, "f64")], {"index": "x[1:]", "swapped": True}, [swapped_negated(X)])],
    "far_rows": [([(X, "f64")], {"first": 9, "step": 2, "back": 4}, [stored(X, 9, 2, 4)])],
    "top_p_mask": [
        (
            [(P, "f64")],
            {"threshold": 0.8},
            [np.array([[True, True, True, False], [True, False, False, False]])],
        )
    ],
    "penalties": [
        (
            [(LOGITS, "f64"), (TOKENS, "i64")],
            ALL,
            [np.array([[1.0, -4 - 1 - 0.25, 0.5], [1.5 - 1 - 0.25, -1.0, 2 - 0.5 - 0.25]])],
        )
    ],
}
