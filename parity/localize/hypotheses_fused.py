"""What a fused kernel leaves out, takes from the wrong place or does in another order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import Asked, Guess, hypothesis, only, replaced, valued

__all__ = []

_K = CauseKind
_Guesses = Iterator[tuple[CauseKind, str, Tensor]]


def _normal(x: Tensor, eps: float, *, terms: int = 0) -> Tensor:
    """x over its root mean square, of another number of terms where one is given."""
    return x / (x.square().sum(-1, keepdim=True) / (terms or x.shape[-1]) + eps).sqrt()


@hypothesis("add_rms_norm")
def _added(asked: Asked) -> Iterator[Guess]:
    x, residual, g, eps = asked.x(0), asked.x(1), asked.x(2), float(asked.attrs["eps"] or 0)
    for text, total in (("the residual is missing", x), ("the first operand is missing", residual)):
        yield Guess(
            kind=_K.OPERAND,
            text=f"{text} from the sum that is stored",
            expected=only(asked, 0, replaced(asked.right[0], total)),
        )
    for kind, text, y in _norms(x, residual, g, eps):
        yield Guess(kind=kind, text=text, expected=only(asked, 1, replaced(asked.right[1], y)))


def _norms(x: Tensor, residual: Tensor, g: Tensor, eps: float) -> _Guesses:
    s, size = x + residual, x.shape[-1]
    yield _K.OPERAND, "the residual is missing from what is normalised", _normal(x, eps) * g
    yield _K.OPERAND, "the residual alone was normalised", _normal(residual, eps) * g
    yield _K.OPERAND, "the residual was added twice to what is normalised", _normal(s + residual, eps) * g
    root = s.square().mean(-1, keepdim=True).sqrt()
    yield _K.EPSILON, "epsilon was added to the root", s / (root + eps) * g
    yield _K.NORM_WEIGHT, "the weight is missing", _normal(s, eps)
    yield _K.NORM_WEIGHT, "the weight is moved by one", _normal(s, eps) * g.roll(1)
    yield _K.NOT_APPLIED, "not divided by the root mean square", s * g
    padded = {1 << (size - 1).bit_length(), *(size + -size % block for block in (16, 64, 128))} - {size}
    for terms in sorted(padded):
        text = f"the mean of squares was taken over {terms} terms, not {size}"
        yield _K.MEAN, text, _normal(s, eps, terms=terms) * g


@hypothesis("norm_rotate")
def _rotated(asked: Asked) -> Iterator[Guess]:
    heads, groups = int(asked.attrs["heads"] or 0), int(asked.attrs["kv_heads"] or 0)
    qkv, weights, eps = asked.x(0), (asked.x(1), asked.x(2)), float(asked.attrs["eps"] or 0)
    by_head = qkv.reshape(len(qkv), heads + 2 * groups, weights[0].shape[-1])
    parts = (by_head[:, :heads], by_head[:, heads : heads + groups])
    cos, sin = asked.x(3)[:, None], asked.x(4)[:, None]
    for output, (name, x) in enumerate(zip("qk", parts, strict=True)):
        own, other = weights[output], weights[1 - output]
        for kind, text, y in _turns(x, own, other, eps, cos, sin):
            expected = only(asked, output, replaced(asked.right[output], y))
            yield Guess(kind=kind, text=f"{name}: {text}", expected=expected)


def _turns(x: Tensor, g: Tensor, other: Tensor, eps: float, cos: Tensor, sin: Tensor) -> _Guesses:
    def turned(w: Tensor, c: Tensor = cos, s: Tensor = sin) -> Tensor:
        a, b = w.chunk(2, -1)
        return torch.cat((a * c - b * s, b * c + a * s), -1)

    n = _normal(x, eps)
    w = n * g
    yield _K.NORM_WEIGHT, "the weight of the other norm", turned(n * other)
    yield _K.NORM_WEIGHT, "the weight is missing", turned(n)
    yield _K.NORM_WEIGHT, "turned before it was weighed", turned(n) * g
    yield _K.NOT_APPLIED, "not normalised", turned(x * g)
    yield _K.NOT_APPLIED, "not turned", w
    yield (
        _K.MEAN,
        "normalised over all heads at once",
        turned(_normal(x.flatten(1), eps).reshape(x.shape) * g),
    )
    yield _K.ROPE_SIGN, "turned the other way", turned(w, s=-sin)
    yield _K.HALVES, "halves were swapped before they were turned", turned(w.roll(w.shape[-1] // 2, -1))
    for shift in (-1, 1):
        text = f"positions are shifted by {-shift}"
        yield _K.POSITION, text, turned(w, cos.roll(shift, 0), sin.roll(shift, 0))


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "the identity": lambda s: s,
}


@hypothesis("hstu_attention")
def _weighed(asked: Asked) -> Iterator[Guess]:
    for kind, text, y in _attended(asked):
        yield valued(asked, kind, text, y.transpose(0, 1))


def _attended(asked: Asked) -> _Guesses:
    q, k, v = (asked.x(i).transpose(0, 1) for i in range(3))
    bias = asked.x(3) if asked.has(3) else torch.zeros(1, dtype=torch.float64)
    tokens, scale, n = q.shape[1], float(asked.attrs["scale"] or 0), float(asked.attrs["length"] or 1)
    product = q @ k.transpose(-1, -2)

    def made(s: Tensor, f: Callable[[Tensor], Tensor] = torch.nn.functional.silu, last: int = 0) -> Tensor:
        return f(s).tril(last) / n @ v

    s = scale * product + bias
    yield _K.MASK, "each token sees the next one", made(s, last=1)
    yield _K.MASK, "no token sees itself", made(s, last=-1)
    yield _K.MASK, "every token sees all of them", made(s, last=tokens)
    for name, f in _ACTIVATIONS.items():
        yield _K.ACTIVATION, f"the activation is {name}", made(s, f)
    softmax = torch.where(torch.ones_like(s).tril() > 0, s, -torch.inf).softmax(-1)
    yield _K.ACTIVATION, "a softmax stands for the activation and the length", softmax @ v
    seen = torch.arange(1, tokens + 1, dtype=torch.float64)[:, None]
    for text, factor in (
        ("not divided by the length", torch.tensor(n)),
        ("divided by the number of tokens", torch.tensor(n / max(tokens, 1))),
        ("divided by the number of tokens that are seen", n / seen),
    ):
        yield _K.ATTRIBUTE, text, made(s) * factor
    yield _K.ATTENTION_SCALE, "the scale is missing", made(product + bias)
    yield _K.ATTENTION_SCALE, "the scale is 1 / sqrt(D)", made(product * q.shape[-1] ** -0.5 + bias)
    yield _K.HEAD_GROUPS, "values of the next head", torch.nn.functional.silu(s).tril() / n @ v.roll(1, 0)
    if asked.has(3):
        yield _K.BIAS, "the bias is missing", made(scale * product)
        yield _K.BIAS, "the bias is transposed", made(scale * product + bias.transpose(-1, -2))
        yield _K.BIAS, "the bias is that of another head", made(scale * product + bias.roll(1, 0))
