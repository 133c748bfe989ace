"""Products too large for a full oracle: random projections hold all of one to account, and name rows.

With signs s, e = C s - A (B s) adds up the errors of a row's elements, each with a random sign: of
256 columns at a time, and of 256 rows at a time from the left. In float64, without the product itself
(Freivalds 1977; NUMERICS.md 1.4). Two limits, lambda = sqrt(2 ln(2 N / 1e-6)) over N projections:
|e| <= lambda sqrt(sum B^2), which no product within its bounds leaves, whatever its errors are
(Hoeffding), convicts; |e| <= lambda sigma, sigma^2 the sum of expected squares, and 3.5 rms(e / sigma)
<= lambda accuse: the rows behind it must then hold in full. Does not judge rows;
`sampled_product` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parity.case.draw import words
from parity.judge.budget import FALSE_ALARM, RMS_ROUNDING, sum_error
from parity.judge.classes.sums import folds
from parity.judge.product_pass import (
    BLOCK,
    STRIP,
    Companions,
    Folded,
    Product,
    double,
    pass_over,
    shared,
)
from parity.judge.rows import Index

__all__ = ["SUSPECTS", "Probed", "examine"]

# Rows that are judged because a projection is far off; more of them are for the full oracle.
SUSPECTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What the projections say: how many there were, their largest |e| / sigma and its limit.

    `guilty` when one left the bound that nothing legal leaves. `suspects` are the rows behind those that
    are larger than chance explains, at most `SUSPECTS`, worst first. `doubtful` when sigma's limits did
    not hold in more than these rows can answer for.
    """

    count: int
    largest: float
    limit: float
    guilty: bool
    doubtful: bool
    suspects: Index


def examine(product: Product, rows: Index, key: str) -> tuple[Companions, Probed | None]:
    """Make the product of some rows and project all of it, in one pass over b; `key` draws the signs.

    The projections are None where b is not finite throughout.
    """
    m, n = product.y.shape
    signs, turns = _signs(f"{key}/right", n), _signs(f"{key}/left", m)
    usable = _usable(product)
    left = _folded(product, turns, usable)
    made = pass_over(product, rows, left=left, signs=signs)
    here = len(rows)
    found = Companions(value=made.values[:here], magnitude=made.magnitude, squares=made.squares[:here])
    if not bool(made.right_squares.isfinite().all()):
        return found, None
    right = _right(product, signs, usable, made.right_sums, made.right_squares)
    down = _Residuals(
        error=left.results - product.alpha * made.values[here:],
        squares=made.squares[here:] * product.alpha**2,
        results=left.result_squares,
        addend=left.addend_squares,
    )
    return found, _verdict(product, right, down, usable)


def _signs(key: str, count: int) -> Tensor:
    drawn = words(key, "signs", count) >> np.uint64(63)
    return torch.from_numpy(drawn.astype(np.float64) * 2 - 1)


def _usable(product: Product) -> Tensor:
    """Mark rows that are finite throughout; the others have no error to add up."""
    fine = torch.ones(product.a.shape[0], dtype=torch.bool)
    for tensor in (product.a, product.y, product.addend):
        if tensor is None or len(tensor.shape) != 2:
            continue
        whole = shared(tensor)
        for start in range(0, len(whole), STRIP):
            piece = slice(start, start + STRIP)
            # A maximum is NaN or infinite where any element is, and reads no copy.
            low, high = torch.aminmax(whole[piece], dim=-1)
            fine[piece] &= low.isfinite() & high.isfinite()
    return fine


def _by_block(x: Tensor) -> Tensor:
    """Add up rows, 256 at a time, the last ones fewer."""
    whole = len(x) // BLOCK * BLOCK
    made = x[:whole].view(-1, BLOCK, *x.shape[1:]).sum(1)
    return made if whole == len(x) else torch.cat((made, x[whole:].sum(0, keepdim=True)))


def _folded(product: Product, turns: Tensor, usable: Tensor) -> Folded:
    (m, terms), n = product.a.shape, product.b.shape[0]
    made = [torch.zeros(-(-m // BLOCK), width, dtype=torch.float64) for width in (terms, terms, n, n, n)]
    weights = torch.where(usable, turns, 0.0)
    for number in range(len(made[0])):
        rows = slice(number * BLOCK, min((number + 1) * BLOCK, m))
        sign, here = weights[rows], usable[rows, None]
        for place, tensor in ((0, product.a), (2, product.y)):
            x = torch.where(here, double(tensor, rows), 0.0)
            x = product.read(x, tensor.dtype) if tensor is product.a else x
            made[place][number] = sign @ x
            made[place + 1][number] = x.square_().sum(0)
        if product.addend is not None:
            each = torch.where(here, double(product.addend, rows), 0.0).mul_(product.beta)
            made[2][number] -= sign @ each
            made[4][number] = each.square_().sum(0)
    return Folded(
        sums=made[0], squares=made[1], results=made[2], result_squares=made[3], addend_squares=made[4]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Residuals:
    """Projections e, and the sums of q, y^2 and addend^2 behind each of them."""

    error: Tensor
    squares: Tensor
    results: Tensor
    addend: Tensor


def _right(product: Product, signs: Tensor, usable: Tensor, sums: Tensor, squares: Tensor) -> _Residuals:
    m = product.y.shape[0]
    made = [torch.zeros(m, len(sums), dtype=torch.float64) for _ in range(4)]
    for start in range(0, m, 64):
        rows = slice(start, min(start + 64, m))
        here = usable[rows, None]
        a = product.read(torch.where(here, double(product.a, rows), 0.0), product.a.dtype)
        y = torch.where(here, double(product.y, rows), 0.0)
        made[0][rows] = _by_block((y * signs).T).T - product.alpha * (a @ sums.T)
        made[1][rows] = product.alpha**2 * (a.square_() @ squares.T)
        made[2][rows] = _by_block(y.square_().T).T
        if product.addend is not None:
            each = torch.where(here, double(product.addend, rows), 0.0).mul_(product.beta)
            made[0][rows] -= _by_block((each * signs).T).T
            made[3][rows] = _by_block(each.square_().T).T
    return _Residuals(error=made[0], squares=made[1], results=made[2], addend=made[3])


def _limits(product: Product, found: _Residuals) -> tuple[Tensor, Tensor]:
    """Return sqrt(sum B^2) by Minkowski and S^2 <= K q, and sigma, of each projection."""
    q, of = product.question, product.y.dtype
    terms, u = product.a.shape[1], q.accumulator.unit
    size, added = found.results.sqrt(), found.addend.sqrt()
    hard, variance = sum_error(
        terms=terms,
        magnitude=(terms * found.squares).sqrt(),
        squares=found.squares,
        total=size + added,
        outputs=product.y.numel,
        accumulator=q.accumulator,
        exact_terms=product.exact_terms,
    )
    middle = 0.0 if product.addend is None else q.unit_of("product_stored")
    if product.addend is not None and q.op == "linear" and not folds(q):
        middle = max(middle, q.unit_of("product_rounded"))
    unit = of.unit_roundoff * (1 + of.unit_roundoff)
    least = of.min_normal if q.profile.flush_subnormals else of.min_subnormal
    least += q.least_of("product_stored") + terms * q.accumulator.dtype.min_subnormal
    if q.declares("products_flushed"):
        least += terms * q.accumulator.dtype.min_normal
    root = math.sqrt(BLOCK)
    # Three roundings of the accumulator beside the sum: alpha, beta, and the sum of the two.
    hard = hard + (unit + middle + 3 * u) * size + (middle + 4 * u) * added + root * least
    rounding = RMS_ROUNDING**2 * (of.unit_roundoff**2 + middle**2)
    spread = rounding * size.square() + (root * least) ** 2
    spread = spread + RMS_ROUNDING**2 * (u**2 + middle**2) * added.square()
    return hard, (variance + spread).sqrt()


def _verdict(product: Product, right: _Residuals, left: _Residuals, usable: Tensor) -> Probed:
    count = right.error.numel() + left.error.numel()
    limit = math.sqrt(2 * math.log(2 * count / FALSE_ALARM))
    chance = math.sqrt(2 * math.log(2 * count))  # what about one of so many passes
    pairs = [_limits(product, found) for found in (right, left)]
    sizes = [found.error.abs() for found in (right, left)]
    z: list[Tensor] = [size / sigma for size, (_, sigma) in zip(sizes, pairs, strict=True)]
    worst = torch.maximum(z[0].amax(1), chance * _together(z[0]))
    far = torch.maximum(z[1], chance * _together(z[1].T))
    for block, column in (far > chance).nonzero().tolist()[:SUSPECTS]:
        row = _furthest(product, block, column, usable)
        worst[row] = torch.maximum(worst[row], far[block, column])
    named = worst.argsort(descending=True)
    over = max(int((worst > limit).sum()), int((z[1] > limit).sum()))
    rms = max(float(zs.square().mean().sqrt()) for zs in z)
    return Probed(
        count=count,
        largest=max(float(each.max()) for each in z),
        limit=limit,
        guilty=not all(bool((s <= limit * hard).all()) for s, (hard, _) in zip(sizes, pairs, strict=True)),
        doubtful=over > SUSPECTS or not 3.5 * rms <= limit,
        suspects=named[worst[named] > chance][:SUSPECTS].numpy(),
    )


def _together(z: Tensor) -> Tensor:
    """Return for each row of z how large its projections are together, 1 where one row of all is by chance.

    The quantile of their mean square by Wilson and Hilferty. A row that is wrong throughout by a few
    sigma has no projection that is large alone.
    """
    rows, count = z.shape
    spread = 2 / (9 * count)
    quantile = (1 - spread + math.sqrt(2 * math.log(2 * rows)) * math.sqrt(spread)) ** 3
    return (z.square().mean(1) / quantile).sqrt()


def _furthest(product: Product, block: int, column: int, usable: Tensor) -> int:
    """Return the row of a block of rows whose element of a column is furthest off."""
    rows = slice(block * BLOCK, min((block + 1) * BLOCK, product.a.shape[0]))
    b = product.read(shared(product.b)[column].double(), product.b.dtype)
    value = product.alpha * (product.read(double(product.a, rows), product.a.dtype) @ b)
    if product.addend is not None:
        added = double(product.addend, rows)
        value += product.beta * (added[column] if added.ndim == 1 else added[:, column])
    off = (shared(product.y)[rows, column].double() - value).abs()
    off /= value.abs() + value.square().mean().sqrt() / 256
    return rows.start + int(torch.where(usable[rows], off, 0.0).argmax())
