"""Find what a matrix product is summed in and how its operands are read, by exact vectors.

Vectors after FTTN (arXiv 2403.00232): a sum whose terms are powers of two says which bits were
lost, whatever the order of the terms. Does not look for that order; `probe_order` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from parity.backend.arithmetic import Reads
from parity.backend.probe_ask import Asker, Unsure, Values, rounded, tensor, values
from parity.backend.probe_order import order
from parity.backend.profile import Accumulator, Rounding
from parity.case.dtype import DTYPES, DType
from parity.case.tensor import HostTensor

__all__ = ["Multiply", "products"]

# A prime, so that no number of runs divides it; and cut into up to 16 runs, none is as long as vector
# code would make it, so that runs of a fixed length are not taken for a number of runs.
_LENGTH = 1093
_COLUMNS = 8
_ONE = {"f32": 1.0, "bf16": 1.0, "f16": 2.0**10}  # so that 24 bits below it are still normal
_DEPTH = {"f32": 60, "bf16": 60, "f16": 24}  # how far below _ONE a term may lie
_ACCUMULATORS = {8: "bf16", 11: "f16", 24: "f32", 53: "f64"}
# Explicit mantissa bits that an operand keeps, as `Reads` gives them.
_MANTISSA = {Reads.TF32: 10, Reads.HF32: 11, Reads.BF16: 7}
_PAIRS = 24
_Places = tuple[int, int, int]  # of a large term, a small one, and the large one's negative


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiply:
    """a [R, K] times b [K, N] in one dtype on a backend, by the op that is to be probed."""

    ask: Asker
    of: str
    op: str = "matmul"

    def __call__(self, a: Values, b: Values) -> Values:
        """Return the exact values of the products."""
        if self.op == "matmul":
            return self.ask.values("matmul", a, b, of=self.of)
        # A convolution by one tap over as many positions as there are rows.
        x = tensor(np.ascontiguousarray(a.T)[None, :, :, None], self.of)
        w = tensor(np.ascontiguousarray(b.T)[:, :, None, None], self.of)
        y = self._convolution(x, w)
        return np.ascontiguousarray(y[0, :, :, 0].T)

    def _convolution(self, x: HostTensor, w: HostTensor) -> Values:
        return values(self.ask.run(self.op, x, w, None, stride=1, padding=0, dilation=1, groups=1))


def products(ask: Asker, *, of: str, op: str = "matmul") -> Iterator[tuple[str, str | Unsure]]:
    """Yield the facts of a product of one dtype, without the prefix that names it."""
    multiply = Multiply(ask=ask, of=of, op=op)
    accumulator: Accumulator | None = None
    reads: Reads | None = None
    unsure = Unsure()
    try:
        kept, places = _accumulator(multiply)
        yield "accumulator", kept.name
        rounding = _rounding(multiply, kept, places)
        yield "rounding", rounding.value
        accumulator = Accumulator(dtype=kept, rounding=rounding)
    except Unsure as error:
        unsure = error
    try:
        reads = _reads(multiply, accumulator)
        yield "reads", reads.value
    except Unsure as error:
        yield "reads", error
    if accumulator is None:
        raise unsure
    yield from order(multiply, of=of, accumulator=accumulator, reads=reads, length=_LENGTH)


def _sums(multiply: Multiply, rows: list[Mapping[int, float]]) -> Values:
    """Return what each row of terms adds up to, given as {place: term}; the same in all columns."""
    a = np.zeros((len(rows), _LENGTH))
    for row, terms in zip(a, rows, strict=True):
        for place, term in terms.items():
            row[place] = term
    found = multiply(a, np.ones((_LENGTH, _COLUMNS)))
    if not np.array_equal(found, np.broadcast_to(found[:, :1], found.shape), equal_nan=True):
        raise Unsure("equal columns of a product have different sums")
    return found[:, 0]


def _accumulator(multiply: Multiply) -> tuple[DType, _Places]:
    """Return what sums are kept in, and places whose small term meets the large one first.

    1 + 2^-k - 1 is 2^-k as long as k bits below 1 are kept, or 1 and -1 meet before. Whichever two
    of three places meet first, one of the arrangements has 1 and 2^-k there.
    """
    one, steps = _ONE[multiply.of], np.arange(1, _DEPTH[multiply.of] + 1)
    terms = one * 2.0**-steps
    places = ((0, 1, _LENGTH - 1), (1, 0, _LENGTH - 1), (0, _LENGTH - 1, 1), (1, _LENGTH - 1, 0))
    found = _sums(
        multiply, [{p: one, q: float(term), r: -one} for p, q, r in places for term in terms]
    ).reshape(len(places), -1)
    numbers = [_kept_bits(each == terms, each) for each in found]
    number = min(numbers)
    if number == len(steps):
        raise Unsure(f"1 + 2^-k - 1 loses nothing up to k = {number}: sums are wider, or exact")
    # Where -1 meets 2^-k first, the sum lies below 1, where numbers are twice as close.
    if set(numbers) - {number, number + 1, len(steps)}:
        raise Unsure(f"sums keep {' or '.join(map(str, sorted(set(numbers))))} bits, by the place of a term")
    name = _ACCUMULATORS.get(number + 1)
    if name is None:
        raise Unsure(f"sums keep {number + 1} bits, which is no format's precision")
    chosen = places[numbers.index(number)]
    p, q, r = chosen
    if name == "f16" and _sums(multiply, [{p: 2.0**15, q: 2.0**15, r: -(2.0**15)}])[0] == 2.0**15:
        raise Unsure("sums keep 11 bits and reach beyond the largest f16")
    return DTYPES[name], chosen


def _kept_bits(kept: npt.NDArray[np.bool_], found: Values) -> int:
    number = len(kept) if kept.all() else int(np.argmin(kept))
    if kept[number:].any() or found[number:].any():
        raise Unsure(f"1 + 2^-k - 1 is 2^-k for k up to {number} and then not 0")
    return number


def _rounding(multiply: Multiply, kept: DType, places: _Places) -> Rounding:
    """Return how a sum drops bits: above the middle, in it above and below 1, and for a negative one."""
    one, (p, q, r) = _ONE[multiply.of], places
    last = one * 2.0**-kept.mantissa_bits
    terms = ((one, 0.75), (one, 0.5), (one, -0.25), (-one, -0.75))
    found = _sums(multiply, [{p: large, q: part * last, r: -large} for large, part in terms]) / last
    # Below 1 numbers lie twice as close: 1 - 1/4 is there in the middle as well.
    answers: dict[Rounding, list[float]] = {
        Rounding.NEAREST: [1, 0, 0, -1],
        Rounding.TO_ZERO: [0, 0, -0.5, 0],
    }
    for rounding, expected in answers.items():
        if np.array_equal(found, expected):
            return rounding
    shown = ", ".join(f"{each:g}" for each in found)
    raise Unsure(f"sums are rounded neither to nearest nor to zero: 3/4, 1/2, -1/4, -3/4 became {shown}")


def _reads(multiply: Multiply, accumulator: Accumulator | None) -> Reads:
    """Return how operands are read: the kind that predicts every product of two random numbers."""
    to = DTYPES[multiply.of]
    draw = np.random.Generator(np.random.Philox(key=7))
    x, y = (rounded(draw.uniform(1.0, 2.0, _PAIRS), to) for _ in range(2))
    a, b = np.zeros((_PAIRS, _LENGTH)), np.zeros((_LENGTH, _PAIRS))
    a[:, 0], b[0] = x, y
    found = multiply(a, b)
    # 16-bit operands have no bits that such a reading could drop, but for bf16 of an f16.
    candidates = tuple(Reads) if multiply.of == "f32" else (Reads.IEEE,)
    fitting = [
        reads
        for reads in candidates
        if np.array_equal(found, _predicted(_product(x[:, None], y, reads), accumulator, to))
    ]
    if not fitting:
        raise Unsure("products fit no reading of their operands")
    if len(fitting) > 1:
        raise Unsure(f"operands may be read as {' or '.join(each.value for each in fitting)}")
    return fitting[0]


def _predicted(exact: Values, accumulator: Accumulator | None, to: DType) -> Values:
    if accumulator is not None:
        exact = _kept(exact, accumulator)
    return rounded(exact, to)


def _kept(exact: Values, accumulator: Accumulator) -> Values:
    """Return values as an accumulator keeps them."""
    near = rounded(exact, accumulator.dtype)
    if accumulator.rounding is Rounding.NEAREST:
        return near
    scale = 2.0 ** (np.floor(np.log2(np.abs(exact))) - accumulator.dtype.mantissa_bits)
    return np.where(np.abs(near) > np.abs(exact), near - np.copysign(scale, exact), near)


def _product(x: Values, y: Values, reads: Reads) -> Values:
    """Return the exact product of normal operands as they are read; float64 holds each of them."""
    if reads is Reads.IEEE:
        return x * y
    if reads in _MANTISSA:
        return _to_bits(x, _MANTISSA[reads]) * _to_bits(y, _MANTISSA[reads])
    parts = 2 if reads is Reads.BF16X2 else 3
    xs, ys = _parts(x, parts), _parts(y, parts)
    # The smallest first: every partial sum is then exact.
    orders = sorted(((i, j) for i in range(parts) for j in range(parts - i)), key=sum, reverse=True)
    return np.asarray(sum(xs[i] * ys[j] for i, j in orders))


def _parts(x: Values, number: int) -> list[Values]:
    found: list[Values] = []
    for _ in range(number):
        found.append(rounded(x, DTYPES["bf16"]))
        x = x - found[-1]
    return found


def _to_bits(x: Values, bits: int) -> Values:
    """Return x with so many explicit mantissa bits, rounded to nearest, ties to even."""
    mantissa, exponent = np.frexp(x)
    return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, bits + 1)), exponent - bits - 1))
