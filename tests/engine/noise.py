"""How far two correct evaluations of a network in float32 may lie apart: measured on the network itself.

Every input and output of every op of a float64 engine is moved by a random fraction of a roundoff,
cos and sin by as many of them as there are positions, which is the most that rounding an angle does.
`limit` is the largest change of any score in any draw, twice, since both evaluations are rounded.
Honest pairs were measured at 0.02 to 0.18 of it, over all families.
"""

from __future__ import annotations

import torch

from parity.engine import Engine

U = 2.0**-24
DRAWS = 3


def moved(seed):
    """A wrap under which every op computes on inputs and to outputs that are off by a rounding."""
    draw = torch.Generator().manual_seed(seed)

    def off(x, by=None):
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            return x
        r = (2 * torch.rand(x.shape, generator=draw, dtype=torch.float64) - 1) * U
        return x * (1 + r) if by is None else x + by * r

    def wrap(site, op, function, bound):
        def called(*arguments, **options):
            if op.name == "rotate":
                x, cos, sin = arguments
                arguments = (off(x), off(cos, len(x)), off(sin, len(x)))
            else:
                arguments = tuple(off(x) for x in arguments)
            made = function(*arguments, **options)
            return tuple(off(x) for x in made) if isinstance(made, tuple) else off(made)

        return called

    return wrap


def limit(folder, tokens, roundoff=U):
    """The largest honest difference of two evaluations' scores at any position."""
    engine = Engine(folder, dtype="f64", kv_tokens=len(tokens) + 16)
    exact = engine.score(tokens)
    changes = []
    for seed in range(DRAWS):
        engine.rebind(wrap=moved(seed))
        changes.append(float((engine.score(tokens) - exact).abs().max()))
    # Moved by float32's roundoff even for float64's: the change is far above the engine's own rounding.
    return 2 * max(changes) * (roundoff / U)
