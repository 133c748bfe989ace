"""One pass over the matrices of a large product: some of its rows in float64, and folds of all of it.

Nothing of the size of b is made beside b. Draws no signs and judges nothing: `freivalds` and
`sampled_product` do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.backend.torch_tensor import torch_dtype
from parity.case.dtype import DType
from parity.case.tensor import HostTensor
from parity.judge.budget import Question
from parity.judge.classes.sums import EXACT_PRODUCT_BITS
from parity.judge.rows import Index

__all__ = [
    "BLOCK",
    "STRIP",
    "Companions",
    "Folded",
    "Pass",
    "Product",
    "companions",
    "double",
    "pass_over",
    "shared",
]

# Elements that one projection adds up. A single wrong one shows from 0.4 u sqrt(BLOCK) lambda of a
# typical result on, 0.2 of it in bf16; smaller blocks cost more products with a than they tell.
BLOCK = 256
# Rows of b that are read in one go; divides BLOCK.
STRIP = 64
# With the largest element of each row between these, products of float32 squares keep to its range.
_SQUARES = (2.0**-26, 2.0**26)


def _as_they_are(x: Tensor, _: DType) -> Tensor:
    return x


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """y = alpha a b^T + addend: a [M, K], b [N, K], y [M, N], addend None, [N] or [M, N].

    `b` may be a view with any strides; every tensor is as recorded. `read` is what a declared
    reading makes of the float64 values of a and b.
    """

    question: Question
    a: HostTensor
    b: HostTensor
    y: HostTensor
    addend: HostTensor | None = None
    alpha: float = 1.0
    beta: float = 1.0
    read: Callable[[Tensor, DType], Tensor] = _as_they_are

    @property
    def exact_terms(self) -> bool:
        """Whether each product of two elements is exact in the accumulator."""
        return self.a.dtype.mantissa_bits <= EXACT_PRODUCT_BITS - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Companions:
    """A product and what its bounds are made of, for some rows of a: all [r, N], in float64."""

    value: Tensor
    magnitude: Tensor
    squares: Tensor

    def joined(self, other: Companions) -> Companions:
        """Return these rows and then those of `other`."""
        return Companions(
            value=torch.cat((self.value, other.value)),
            magnitude=torch.cat((self.magnitude, other.magnitude)),
            squares=torch.cat((self.squares, other.squares)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """Sums over 256 rows each: of a with signs and squared [P, K], of y likewise [P, N]."""

    sums: Tensor
    squares: Tensor
    results: Tensor
    result_squares: Tensor
    addend_squares: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one pass over b gives: products of a's rows and the folded ones, and b folded by columns."""

    values: Tensor
    magnitude: Tensor
    squares: Tensor
    right_sums: Tensor
    right_squares: Tensor


def pass_over(product: Product, rows: Index, *, left: Folded | None, signs: Tensor | None) -> Pass:
    """Read b once, in blocks that stay in cache.

    S and q are made in float32 where squares keep to its range: they only scale bounds, and the
    rounding of a sum of positive terms, below K 2^-24 of it, is added.
    """
    a = product.read(double(product.a, rows), product.a.dtype)
    b = shared(product.b)
    n, terms = b.shape
    turned = a if left is None else torch.cat((a, left.sums))
    squared = a.square() if left is None else torch.cat((a.square(), left.squares))
    small, slack = _fits(a), 1 + terms * 2.0**-24
    values, squares = (torch.empty(len(turned), n, dtype=torch.float64) for _ in range(2))
    magnitude = torch.empty(len(a), n, dtype=torch.float64)
    sums, sum_squares = (torch.zeros(-(-n // BLOCK), terms, dtype=torch.float64) for _ in range(2))
    wide_room, small_room = (torch.empty(STRIP, terms, dtype=t) for t in (torch.float64, torch.float32))
    sizes = {torch.float64: (a.abs(), squared), torch.float32: (a.abs().float(), squared.float())}
    for start in range(0, n, STRIP):
        piece = slice(start, min(start + STRIP, n))
        strip = b[piece]
        wide = wide_room[: len(strip)].copy_(strip)
        wide = product.read(wide, product.b.dtype)
        values[:, piece] = turned @ wide.T
        if signs is not None:
            sums[start // BLOCK] += signs[piece] @ wide
        size = small_room[: len(strip)].copy_(strip).abs_()
        size = size if small and _fits(size) else wide.abs()
        of_a, of_both = sizes[size.dtype]
        magnitude[:, piece] = (of_a @ size.T).double().mul_(slack)
        squares[:, piece] = (of_both @ size.square_().T).double().mul_(slack)
        if signs is not None:
            sum_squares[start // BLOCK] += size.sum(0)
    return Pass(
        values=values, magnitude=magnitude, squares=squares, right_sums=sums, right_squares=sum_squares
    )


def companions(product: Product, rows: Index) -> Companions:
    """Return the product of some rows in float64, and what its bounds are made of."""
    made = pass_over(product, rows, left=None, signs=None)
    return Companions(value=made.values, magnitude=made.magnitude, squares=made.squares)


def _fits(x: Tensor) -> bool:
    """Whether float32 holds the products of squares: the largest of each row lies in the middle."""
    low, high = _SQUARES
    largest = x.abs().amax(-1) if x.dtype is torch.float64 else x.amax(-1)
    return bool((((largest >= low) & (largest <= high)) | (largest == 0)).all())


def shared(tensor: HostTensor) -> Tensor:
    """Return a tensor over the same memory, only to be read."""
    bits = tensor.storage.view(f"i{tensor.dtype.itemsize}")
    with warnings.catch_warnings():
        # torch warns of memory that may not be written, such as a mapped file: nothing here writes.
        warnings.simplefilter("ignore", UserWarning)
        flat = torch.from_numpy(bits).view(torch_dtype(tensor.dtype))
    return flat.as_strided(tensor.shape, tensor.stride, tensor.offset)


def double(tensor: HostTensor, rows: Index | slice) -> Tensor:
    """Return rows of a matrix in float64, or a vector, which every row adds."""
    whole = shared(tensor)
    if whole.ndim == 1:
        return whole.double()
    return whole[rows].double() if isinstance(rows, slice) else whole[torch.from_numpy(rows)].double()
