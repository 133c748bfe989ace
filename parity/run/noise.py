"""How far honest evaluations of a network lie from exact: the network itself, every site rounded at random.

A sample is the network in its own type, on any device, with each site's result moved as its arithmetic
would: what is stored in 16 bits by one last place with a probability of 1/12, which is the variance of
one rounding to nearest; float32 by a rounding, and sums by what their order changes (NUMERICS.md 2).
The network's own roundings are in a sample too, so honest runs lie a little closer to exact than it.
Does not compare; `judge.end_to_end` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from parity.engine.ops.op import Op, Wrap
from parity.engine.serve.engine import Engine

__all__ = ["engine_scores", "logit_samples", "shaken"]

# rms of one rounding to nearest in units of u (`judge.budget.RMS_ROUNDING`).
_RMS_ROUNDING = 0.42
_U = 2.0**-24
_EXACT = frozenset({"store"})
# Their results are sums: how many terms, from what they are called with.
_SUMS = frozenset({"attend", "experts", "latent_attend", "linear"})


def shaken(seed: int) -> Wrap:
    """Return a wrap under which every site's result is off by a rounding, drawn from `seed`."""
    draw = torch.Generator().manual_seed(seed)

    def wrap(site: str, op: Op, function: Callable[..., Any], bound: Mapping[str, Any]) -> Callable[..., Any]:
        del site
        if op.name in _EXACT or (op.name == "embed" and bound.get("scale") == 1.0):
            return function

        def called(*arguments: Any, **options: Any) -> Any:
            made = function(*arguments, **options)
            spread = _spread(op, arguments, {**bound, **options}, made)
            if isinstance(made, tuple):
                return tuple(_moved(y, 0.0, draw) for y in made)
            return _moved(made, spread, draw)

        return called

    return wrap


def _spread(op: Op, arguments: Sequence[Any], options: Mapping[str, Any], y: Any) -> Tensor | float:
    """Return what the order of a float32 sum changes, in units of its rounding: sqrt(n (q / 6 + s^2 / 3)).

    q sums the squares of the terms: exactly for a product with a dense matrix, else as large as the
    squares of the results of a row, which are sums of as many such terms with random signs.
    """
    if op.name not in _SUMS or y.dtype is not torch.float32:
        return 0.0
    terms, matrix = arguments[0].shape[-1], options.get("w")
    if op.name in ("attend", "latent_attend"):
        terms += max(s.context + s.length for s in options["batch"].segments)
    if op.name == "linear" and isinstance(matrix, Tensor):
        squares = arguments[0].square() @ matrix.square().T
    else:
        squares = y.square().mean(-1, keepdim=True)
    spread: Tensor = (terms * (squares / 6 + y.square() / 3)).sqrt()
    return spread


def _moved(y: Any, order: Tensor | float, draw: torch.Generator) -> Any:
    if not isinstance(y, Tensor) or not y.is_floating_point():
        return y
    noise = torch.rand(y.shape, generator=draw).to(y.device)
    if y.dtype in (torch.bfloat16, torch.float16):
        ways = (noise > 1 - 1 / 24).to(torch.int16) - (noise < 1 / 24).to(torch.int16)
        # The next 16-bit code away from zero or towards it is the next last place; zero itself stays.
        moved = (y.contiguous().view(torch.int16) + ways).view(y.dtype)
        return torch.where((y == 0) | ~moved.isfinite() | ~y.isfinite(), y, moved)
    y = y * (1 + (2 * noise - 1) * math.sqrt(3) * _RMS_ROUNDING * _U)
    if isinstance(order, Tensor):
        y = y + torch.randn(y.shape, generator=draw).to(y.device) * order * (_RMS_ROUNDING * _U)
    return y


def logit_samples(scores: Callable[[Wrap | None], Tensor], *, count: int = 8, seed: int = 0) -> list[Tensor]:
    """Return `count` samples of a network's scores; `scores(wrap)` runs it, its sites bound through one."""
    return [scores(shaken(seed + number)) for number in range(count)]


def engine_scores(engine: Engine, tokens: Sequence[int]) -> Callable[[Wrap | None], Tensor]:
    """Return what scores `tokens` under a wrap: [T, vocab], teacher-forced."""

    def scores(wrap: Wrap | None) -> Tensor:
        engine.rebind(wrap=wrap)
        try:
            return engine.score(tokens)
        finally:
            engine.rebind()

    return scores
