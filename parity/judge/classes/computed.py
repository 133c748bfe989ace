"""A tensor that was computed on the way to a result, and what storing it in a narrow type makes of it.

Models, kernels and compilers differ in which intermediates they store. Each way is a reading of its
own (`CHAINS`): its roundings are emulated, not granted, so a result is held as tightly as one that is
rounded once. What fits no reading is no legitimate result. Does not say what a step computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.judge.budget import Question, rounded

__all__ = ["CHAINS", "Computed", "chains", "keep"]

_Chains = Mapping[str, frozenset[str]]


def _points(*names: str) -> frozenset[str]:
    return frozenset(names)


_EVERY = "every intermediate stored"
_PRODUCTS = "products stored"
# Readings that only a profile opens, by declaring `keys_scaled`, or `scores_stored`.
_SCALED = "keys scaled and stored before the product"
_SCALED_CAPPED = "keys scaled and stored before the product, which is joined with the cap"
_SCORES = "scaled products stored, with their cap where there is one, and weights"
# Readings of an op beside the one in which nothing is stored, by what is said of them, and the points
# that are stored in each. A chain of calls in a framework stores every result; a compiler joins what
# is pointwise and stores what goes into and comes from a product; a fused attention stores only the
# weights, before it divides them by their sum (torch, FlashAttentionKernel.cpp; Dao 2023, algorithm 1).
_ATTENTION: _Chains = {
    _EVERY: _points("product", "score", "cap", "weights"),
    _PRODUCTS: _points("product", "weights"),
    "products joined with what follows": _points("cap", "weights"),
    "weights stored before they are normalised": _points("exponentials"),
    _SCALED: _points("keys", "product", "weights"),
    _SCALED_CAPPED: _points("keys", "capped", "weights"),
    _SCORES: _points("score", "capped", "weights"),
}
# Without products of 8-bit floats, a kernel scales what they stand for first: kept in float32, not in
# the type of the input.
_SCALED_FIRST: _Chains = {"operands scaled in float32 before the product": _points("operands")}
# Ops with a norm that a profile may declare to be rounded before its weight.
_WEIGHED = ("add_rms_norm", "norm_rotate", "weighted_rms_norm")
CHAINS: dict[str, _Chains] = {
    "add_rms_norm": {"the sum stored before its norm": _points("sum")},
    "block_scaled_mm": _SCALED_FIRST,
    "experts": {
        _EVERY: _points("hidden", "activation", "gated", "made", "term", "sum"),
        _PRODUCTS: _points("hidden", "gated", "made"),
        "products and terms stored": _points("hidden", "gated", "made", "term"),
        "products, terms and their sums stored": _points("hidden", "gated", "made", "term", "sum"),
        "everything but the sum stored": _points("hidden", "activation", "gated", "made", "term"),
        # A grouped kernel weighs what it accumulated, and adds experts in float32.
        "products stored, the last one weighed": _points("hidden", "gated", "term"),
    },
    "gated": {_EVERY: _points("activation")},
    "hstu_attention": {
        _EVERY: _points("product", "scaled", "score", "activation", "weights"),
        _PRODUCTS: _points("product", "weights"),
        # A fused kernel rounds what it multiplies with v, before or after it is divided by n.
        "weights stored": _points("weights"),
        "activations stored": _points("activation"),
    },
    "latent_attention": {
        "what is made of the latents stored": _points("operand"),
        **{name: points | {"operand", "mixed"} for name, points in _ATTENTION.items()},
    },
    "norm_rotate": {_EVERY: _points("norm", "product"), "norms stored": _points("norm")},
    "paged_attention": _ATTENTION,
    "rotate": {_EVERY: _points("product")},
    "route": {"logits stored": _points("logits")},
    "scaled_mm": _SCALED_FIRST,
    "softcap": {_EVERY: _points("cap")},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """A float64 value, its largest error and its expected squared error, element by element."""

    value: Tensor
    hard: Tensor
    variance: Tensor

    def times(self, factor: Tensor | float, *, unit: float) -> Computed:
        """Return the product with an exact factor, rounded to a unit roundoff."""
        value = self.value * factor
        size = torch.as_tensor(factor, dtype=torch.float64).abs()
        own = unit * value.abs()
        return Computed(
            value=value,
            hard=self.hard * size + own,
            variance=self.variance * size.square() + (0.42 * own).square(),
        )


def chains(q: Question) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the ways to store intermediates, the op's own first, each with what is said of it.

    In a type as wide as the accumulator there is nothing to tell apart. A profile opens further ones:
    `keys_scaled`, `scores_stored`, and `normalized_rounded` for a norm that rounds before its weight
    unasked.
    """
    if q.attrs.get("rounds_first"):
        yield "", frozenset({"normal"})
        # A fused kernel keeps the intermediate wide, which is nearer to the mathematics.
        yield "not rounded before the weight", frozenset()
        return
    yield "", frozenset()
    if q.op in _WEIGHED and q.declares("normalized_rounded"):
        for name, points in {"": frozenset[str](), **CHAINS.get(q.op, {})}.items():
            yield f"{name}; rounded before the weight".removeprefix("; "), points | {"normal"}
    if q.op in CHAINS and q.dtype.bits < q.accumulator.dtype.bits and not q.attrs.get("wide"):
        for name, points in CHAINS[q.op].items():
            if name not in (_SCALED, _SCALED_CAPPED, _SCORES) or name in _opened(q):
                yield name, points


def _opened(q: Question) -> tuple[str, ...]:
    """Return the readings that are declared; with scaled keys a cap is joined with the product."""
    scaled = _SCALED if q.attrs.get("softcap") is None else _SCALED_CAPPED
    return (
        *((scaled,) if q.declares("keys_scaled") else ()),
        *((_SCORES,) if q.declares("scores_stored") else ()),
    )


def keep(q: Question, made: Computed, point: str) -> Computed:
    """Return what is left of a tensor that this reading stores at `point` in the type of the first input.

    Rounding an uncertain value gives one of a few: H is how far the others lie from it, 0 where they
    are all one. Where they are not, the error is expected to be half a step at most.
    """
    if q.profile.flush_subnormals or q.declares("results_flushed"):
        lost = torch.where(made.value.abs() < q.dtype.min_normal, made.value.abs(), 0.0)
        made = Computed(value=made.value, hard=made.hard + lost, variance=made.variance + lost.square())
    if point not in q.stored:
        return made
    to = q.dtype
    low, middle, high = (rounded(t, to) for t in (made.value - made.hard, made.value, made.value + made.hard))
    hard = torch.maximum(high - middle, middle - low)
    # Infinity less infinity: all neighbours are one.
    hard = torch.where(hard.isnan(), 0.0, hard)
    half = to.unit_roundoff * made.value.abs() + to.min_subnormal / 2
    variance = torch.where(hard > 0, made.variance + half.square(), 0.0)
    return Computed(value=middle, hard=hard, variance=variance)
