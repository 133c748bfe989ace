"""What attention over one set of keys may give: the rule that every attention op shares.

y = p v, p = softmax(s), s = softcap(scale q k^T) + bias. Does not know which keys a query sees nor
where they lie; `attention`, `paged` and `latent` do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from parity.judge.budget import RMS_ROUNDING, Question, coherent, growth, pile_up, rounded
from parity.judge.classes.computed import Computed, keep
from parity.judge.classes.sums import finite

__all__ = ["Attended", "Chain", "Heads", "attend", "capped"]

# Keys that a fused attention handles at once, at least: no kernel that we know has smaller tiles.
_TILE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """query [..., T, D], key [..., S, D], value [..., S, E]; bias [T, S] is -inf where a key is hidden.

    `filled` says that hidden scores are replaced by -inf, so that a NaN in a hidden key is lost;
    else the bias is added. Only filled scores are capped. `of_...` are operands that were computed.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor
    scale: float
    filled: bool = False
    of_query: Computed | None = None
    of_key: Computed | None = None
    of_value: Computed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What a profile declares to be rounded between the steps, as unit roundoffs, and a cap of the scores.

    Weights are rounded to unit `weights` before they are divided by their sum; `least_weight` is the
    smallest positive one.
    """

    scores: float = 0.0
    weights: float = 0.0
    least_weight: float = 0.0
    cap: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended:
    """y [..., T, E] in float64 with its bound and expected squared error, before its own rounding.

    `weights` are p [..., T, S].
    """

    value: Tensor
    hard: Tensor
    variance: Tensor
    free: Tensor
    nan_ok: Tensor
    weights: Tensor


def attend(q: Question, heads: Heads, chain: Chain, *, outputs: int) -> Attended:
    """y = p v, p = softmax(s), d = max s - s; `outputs` counts the elements of the whole result:

    dS = c(D) u S_a + (2 u + u_s) |s|, S_a = scale |q||k|; what q and k err by adds scale dq |k| and
    scale |q| dk;  rel = e^(dS + 3 u d + 4 u) - 1, then rel += sum_j p_j rel_j + (c(S) + 3) u;
    H = (p (rel + u_P)) |v| + c(S) u (p |v|) + u_P |y| + p dv.
    relx^2 = (0.42 u)^2 (D S_a^2/6 + 4 s^2 + 2 d^2 + S/3 + 8) + (0.42 u_s s)^2 + (0.42 u_P)^2;
    sigma^2 = (p^2 relx^2) v^2 + (0.42 u_P y)^2 + (0.42 u)^2 S (p^2 v^2 / 6 + y^2 / 3) + p^2 dv^2.
    A rounded p that underflows costs eta_P / (2 sum) |v|. Weights are convex, so no error exceeds
    2 max |v|. What a reading stores is emulated at its place. A fully masked row is 0 or NaN: kernels
    give either (pytorch #103749).
    """
    scores, unseen = _scores(q, heads, chain)
    # What is not seen may be skipped, or multiplied by 0: then its NaN and infinities show.
    hidden, lost = (heads.bias == -torch.inf).to(torch.float64), (~heads.value.isfinite()).to(torch.float64)
    v = heads.value.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    u, S = q.accumulator.unit, scores.value.shape[-1]
    weights, total, piled, c, u_p = _softmax(q, scores, chain, outputs=outputs)
    p = weights.value
    masked, seen = total == 0, (p > 0).sum(-1, keepdim=True)
    value, weight, squares = p @ v, p @ v.abs(), p.square() @ v.square()
    bound = weights.hard @ v.abs() + (c * u + u_p) * weight + u_p * value.abs()
    spread = weights.variance @ v.square() + (RMS_ROUNDING * u_p) ** 2 * (squares + value.square())
    spread = spread + (RMS_ROUNDING * u) ** 2 * S * (squares / 6 + value.square() / 3)
    spread = spread + coherent(terms=seen, squares=squares, total=value, unit=u) + value.square() * piled
    if u_p:
        # Weights are rounded before they are divided by their sum, so small ones underflow.
        eta = max(chain.least_weight, q.dtype.min_subnormal) / torch.where(masked, 1.0, total)
        shown = (p > 0).to(torch.float64)
        bound = bound + 0.5 * eta * (shown @ v.abs())
        spread = spread + (0.3 * eta).square() * (shown @ v.square())
    hull = 2 * v.abs().amax(-2, keepdim=True) if S else torch.zeros_like(value)
    if heads.of_value is not None and S:
        bound, spread = bound + p @ heads.of_value.hard, spread + p.square() @ heads.of_value.variance
        hull = hull + heads.of_value.hard.amax(-2, keepdim=True)
    value = torch.where((1 - hidden) @ lost > 0, p @ heads.value, value)
    return Attended(
        value=value,
        hard=torch.minimum(bound, hull),
        variance=torch.minimum(spread, hull.square()),
        free=_overflows(q, heads, scores) & ~value.isnan(),
        nan_ok=masked | unseen | (hidden @ lost > 0),
        weights=p,
    )


def _softmax(
    q: Question, scores: Computed, chain: Chain, *, outputs: int
) -> tuple[Computed, Tensor, Tensor, Tensor, float]:
    """Return (p, sum of exp(-d), what piles up, c(S), u_P).

    Weights that are stored before they are divided are rounded relative to the maximum of a tile: of
    the row, where it is one tile, which is emulated; else a running one, and u_P bounds it.
    """
    e, d, total = _exponentials(scores.value)
    u, S = q.accumulator.unit, e.shape[-1]
    whole = torch.where(total == 0, 1.0, total)
    p = e / whole
    hard, variance = (torch.where(e == 0, 0.0, t) for t in (scores.hard, scores.variance))
    # Beyond e^50 the hull decides.
    rel = torch.expm1((hard + 3 * u * d + 4 * u).clamp(max=50.0))
    relx = variance + (RMS_ROUNDING * u) ** 2 * (2 * d.square() + 4)
    # The denominator is a sum of its own, in units of which these are its terms.
    sums, powers = (p.pow(n).sum(-1, keepdim=True) for n in (1, 2))
    equal, piled = pile_up(terms=(p > 0).sum(-1, keepdim=True), squares=powers, total=sums, unit=u)
    c = growth(S, outputs=outputs, equal=equal)
    shared = (p * rel).sum(-1, keepdim=True) + (c + 3) * u
    expected = (RMS_ROUNDING * u) ** 2 * (S / 3 + 4)
    own, u_p = Computed(value=e, hard=e * rel, variance=e.square() * relx), chain.weights
    if S <= _TILE:
        own = keep(q, own, "exponentials")
    elif "exponentials" in q.stored:
        u_p = q.dtype.unit_roundoff
    p = own.value / whole
    made = Computed(
        value=p,
        hard=own.hard / whole + p * shared,
        variance=own.variance / whole.square() + p.square() * expected,
    )
    return keep(q, made, "weights"), total, piled, c, u_p


def _scores(q: Question, heads: Heads, chain: Chain) -> tuple[Computed, Tensor]:
    """Return s with its errors, and rows that saw a NaN in a hidden key."""
    scale, u = heads.scale, q.accumulator.unit
    query, key = heads.query, heads.key.transpose(-1, -2)
    if q.declares("scale_rounded"):
        scale = float(rounded(torch.tensor(scale, dtype=torch.float64), q.dtype))
    if "keys" in q.stored:
        # The uncertainty of the rounding is that of one product of two stored numbers: none.
        scale, key = 1.0, rounded(key * scale, q.dtype)
    D = query.shape[-1]
    product, size = query @ key, query.abs() @ key.abs()
    away = (heads.bias == -torch.inf).expand(product.shape)
    unseen = (away & product.isnan()).any(-1, keepdim=True) & heads.filled
    if heads.filled:
        product, size = (torch.where(away, 0.0, t) for t in (product, size))
    hard = growth(D, outputs=product.numel()) * u * size
    variance = (RMS_ROUNDING * u) ** 2 * D * size.square() / 6
    if heads.of_query is not None:
        hard = hard + heads.of_query.hard @ key.abs()
        variance = variance + heads.of_query.variance @ key.square()
    if heads.of_key is not None:
        hard = hard + query.abs() @ heads.of_key.hard.transpose(-1, -2)
        variance = variance + query.square() @ heads.of_key.variance.transpose(-1, -2)
    stored = keep(q, Computed(value=product, hard=hard, variance=variance), "product")
    scores = scale * stored.value if heads.filled else scale * stored.value + heads.bias
    magnitude = torch.where(scores == -torch.inf, 0.0, scores.abs())
    made = Computed(
        value=scores,
        hard=scale * stored.hard + (2 * u + chain.scores) * magnitude,
        variance=scale**2 * stored.variance
        + RMS_ROUNDING**2 * (4 * u * u + chain.scores**2) * magnitude.square(),
    )
    made = keep(q, made, "score")
    if chain.cap is not None:
        made = keep(q, keep(q, capped(q, made, chain.cap), "cap"), "capped")
    if heads.filled:
        made = Computed(
            value=torch.where(away, -torch.inf, made.value), hard=made.hard, variance=made.variance
        )
    return made, unseen


def capped(q: Question, s: Computed, cap: float) -> Computed:
    """Return cap tanh(s / cap), each step stored at the point `cap` where the reading stores it.

    The slope of tanh is 1 - t^2 and changes by less than 0.77 a unit.
    """
    u = q.accumulator.unit
    ratio = keep(q, s.times(1 / cap, unit=3 * u), "cap")
    t = torch.tanh(ratio.value)
    slope = (1 - t.square() + 0.77 * ratio.hard).clamp(max=1.0)
    # Beneath the normal range the function's last places no longer shrink.
    own = q.ulps("tanh") * (2 * u * t.abs() + q.accumulator.dtype.min_subnormal)
    bent = Computed(
        value=t,
        hard=slope * ratio.hard + own,
        variance=slope.square() * ratio.variance + (own / 3).square(),
    )
    return keep(q, bent, "cap").times(cap, unit=2 * u)


def _overflows(q: Question, heads: Heads, scores: Computed) -> Tensor:
    """Mark elements whose scores or weighted sum can overflow in some order: any value is legal there.

    So is a row with a stored score that may be the largest of its type or infinite.
    """
    largest = q.accumulator.dtype.max_finite
    size = finite(heads.query) @ finite(heads.key).transpose(-1, -2) * max(heads.scale, 1.0)
    shown = scores.value.isnan() | (scores.value > -torch.inf) | (size >= largest)
    over = size >= largest
    if q.stored:
        over = over | (scores.hard == torch.inf) & (size >= q.dtype.max_finite * (1 - q.dtype.unit_roundoff))
    row = (over & shown).any(-1, keepdim=True)
    return row | (finite(heads.value).sum(-2, keepdim=True) >= largest)


def _exponentials(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (exp(-d), d = max - s where that is not 0, their sum, 0 for a row that is masked throughout)."""
    if not scores.shape[-1]:
        return scores, scores, scores.sum(-1, keepdim=True)
    top = scores.amax(-1, keepdim=True)
    distance = torch.where(top == -torch.inf, torch.inf, top - scores)
    e = (-distance).exp()
    return e, torch.where(e == 0, 0.0, distance), e.sum(-1, keepdim=True)
