"""Find habits of a device: indices from the end, rows without keys, and what bits depend on.

Does not say which habit is right.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from parity.backend.base import Unsupported
from parity.backend.probe_ask import Asker, Elsewhere, Unsure, Values, bits, tensor
from parity.case.op import Attr
from parity.case.tensor import HostTensor

__all__ = ["batch", "masked_row", "negative_index", "run_to_run", "threads"]

_CALLS = 6
_ROWS, _LENGTH, _COLUMNS = 32, 1024, 8
# Terms lie between 2^-power and 2^power: beyond the precision of float64, within the range of f16.
_POWERS = {"f32": 30, "bf16": 30, "f16": 9}
_Attrs = Mapping[str, Attr]
_Sum = tuple[str, tuple[HostTensor, ...], _Attrs]


def negative_index(ask: Asker) -> str:
    """Return what index -1 of an accumulating index_put means."""
    x = np.arange(8.0)
    try:
        got = ask.run(
            "index_put",
            tensor(x, "f32"),
            tensor(np.array([-1, 3]), "i64"),
            tensor(np.array([100.0, 1000.0]), "f32"),
            accumulate=True,
        ).array()
    except Unsupported:
        raise
    except (IndexError, RuntimeError, ValueError):
        return "error"
    for name, place in (("wraps", 7), ("clamps", 0)):
        expected = x.copy()
        expected[[place, 3]] += [100.0, 1000.0]
        if np.array_equal(got, expected):
            return name
    raise Unsure(f"100 added at -1 of 0..7 gave {', '.join(f'{each:g}' for each in got)}")


def masked_row(ask: Asker) -> str:
    """Return what attention gives a query all of whose keys are masked out."""
    draw = np.random.Generator(np.random.Philox(key=10))
    q, k, v = (draw.integers(-4, 5, (1, 1, 4, 8)).astype(np.float64) for _ in range(3))
    mask = np.ones((1, 1, 4, 4), dtype=np.bool_)
    mask[..., 2, :] = False
    y = ask.run(
        "attention",
        *(tensor(each, "f32") for each in (q, k, v)),
        tensor(mask, "bool"),
        causal=False,
        window=None,
        scale=None,
    )
    got = y.array()[0, 0, 2].astype(np.float64)
    if np.isnan(got).all():
        return "nan"
    if not got.any():
        return "zero"
    if np.allclose(got, v[0, 0].mean(axis=0), rtol=0.0, atol=2.0**-6):
        return "mean"
    raise Unsure(f"a row without keys starts with {', '.join(f'{each:g}' for each in got[:3])}")


def run_to_run(ask: Asker) -> str:
    """Return whether sums of the same inputs have the same bits in every call."""

    def same(op: str, inputs: tuple[HostTensor, ...], attrs: _Attrs) -> bool:
        first, *others = (bits(ask.run(op, *inputs, **attrs)) for _ in range(_CALLS))
        return all(np.array_equal(first, each) for each in others)

    return _all(same, _sums())


def batch(ask: Asker) -> str:
    """Return whether a row has the same bits alone as in a batch."""

    def same(op: str, inputs: tuple[HostTensor, ...], attrs: _Attrs) -> bool:
        x, *others = inputs
        whole = bits(ask.run(op, x, *others, **attrs))
        return all(
            np.array_equal(whole[row], bits(ask.run(op, _row(x, row), *others, **attrs))[0])
            for row in (0, 7, _ROWS - 1)
        )

    return _all(same, (each for each in _sums() if each[0] != "index_put"))


def threads(ask: Asker) -> str:
    """Return whether sums have the same bits on one, two and three threads of the host."""

    def same(op: str, inputs: tuple[HostTensor, ...], attrs: _Attrs) -> bool:
        found = []
        for count in (1, 2, 3):
            with ask.on_threads(count):
                found.append(bits(ask.run(op, *inputs, **attrs)))
        return all(np.array_equal(found[0], each) for each in found)

    # Long enough for a library to share a single sum out: torch does from 32,768 elements on.
    long = _cancelling(_POWERS["f32"]).reshape(1, -1).repeat(4, axis=1)
    shared = ("sum", (tensor(long, "f32"),), {"dim": -1, "keepdim": True})
    return _all(same, itertools.chain(_sums(), [shared]))


def _all(same: Callable[[str, tuple[HostTensor, ...], _Attrs], bool], sums: Iterable[_Sum]) -> str:
    """Return `no` if any sum differs, `yes` if none of those that are supported does."""
    asked = False
    for op, inputs, attrs in sums:
        try:
            if not same(op, inputs, attrs):
                return "no"
        except (Unsupported, Elsewhere):
            continue
        asked = True
    if not asked:
        raise Unsupported("none of the sums that this looks at")
    return "yes"


def _row(x: HostTensor, row: int) -> HostTensor:
    return HostTensor.of(x.array()[row : row + 1], x.dtype)


def _sums() -> Iterator[_Sum]:
    """Yield sums whose bits depend on the order of their terms, in rows."""
    for of, power in _POWERS.items():
        terms = _cancelling(power)
        x, ones = tensor(terms, of), tensor(np.ones((_LENGTH, _COLUMNS)), of)
        yield "matmul", (x, ones), {}
        yield "sum", (x,), {"dim": -1, "keepdim": True}
        yield "softmax", (tensor(terms * 2.0**-power, of),), {"dim": -1}
        yield "rms_norm", (x, tensor(np.ones(_LENGTH), of)), {"eps": 1e-6}
        index = tensor(np.arange(_LENGTH) % 5, "i64")
        yield "index_put", (tensor(np.zeros(5), of), index, tensor(terms[0], of)), {"accumulate": True}
    image = tensor(_cancelling(_POWERS["f32"])[:, :, None, None], "f32")
    taps = tensor(np.ones((_COLUMNS, _LENGTH, 1, 1)), "f32")
    yield "conv2d", (image, taps), {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}


def _cancelling(power: int) -> Values:
    """Return rows of terms of very different sizes, each with its negative somewhere.

    The exact sum is 0, so that what remains is nothing but roundings: a narrow type of the result
    cannot hide them.
    """
    draw = np.random.Generator(np.random.Philox(key=11))
    shape = (_ROWS, _LENGTH // 2)
    half = draw.standard_normal(shape) * 2.0 ** draw.integers(-power, power + 1, shape)
    return np.concatenate([half, -half[:, draw.permutation(_LENGTH // 2)]], axis=1)
