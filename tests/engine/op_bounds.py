"""How far a result computed with roundoff u may lie from the exact one, for each class of op.

u is half a unit in the last place. Sums of n terms: (n + 2) u times the sum of absolute terms
(Higham, Accuracy and Stability, 3.1), every intermediate that is rounded counted as one term more.
Attention: a score that is off by d changes its weight by exp(2 d), numerator and denominator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from parity.engine.ops import reference
from parity.engine.ops.op import Call

U = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


def cast(x, dtype):
    return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


def with_dtype(call: Call, dtype) -> Call:
    arguments = tuple(cast(x, dtype) for x in call.arguments)
    return Call(arguments, {name: cast(x, dtype) for name, x in call.options.items()})


def result(function, call: Call):
    """What a call gives, as a tuple of tensors: of `store`, the pool afterwards."""
    options = dict(call.options)
    if "pool" in options:
        options["pool"] = options["pool"].clone()
        function(*call.arguments, **options)
        return (options["pool"],)
    made = function(*call.arguments, **options)
    return made if isinstance(made, tuple) else (made,)


def bound(op, call: Call, exact, u: float):
    """The bound of each of the results; `call` and `exact` are float64."""
    return BOUNDS[op.name](call, exact, u)


def _exact(call, exact, u):
    return (torch.zeros_like(exact[0]),)


def _embed(call, exact, u):
    # A scale is rounded to the type, and the product is.
    return (exact[0].abs() * (0 if call.options["scale"] == 1.0 else 2.1 * u),)


def _linear(call, exact, u):
    (x,), w, b = call.arguments, call.options["w"], call.options["b"]
    terms = reference.linear.reference(x.abs(), w=w.abs(), b=None if b is None else b.abs())
    return ((w.shape[1] + 2) * u * terms,)


def _rms_norm(call, exact, u):
    terms = call.arguments[0].shape[-1]
    moved = (terms / 2 + 6) * u * exact[0].abs()
    if call.options["offset"]:  # w + offset may cancel
        w = call.options["w"]
        moved = moved * ((w.abs() + call.options["offset"]) / (w + call.options["offset"]).abs())
    return (moved,)


def _add_rms_norm(call, exact, u):
    (moved,) = _rms_norm(call, exact[1:], u)
    # The sum is rounded first: by u of each term, and so by at most u of the root of their mean.
    return 1.001 * u * exact[0].abs(), moved + 2.01 * u * exact[1].abs()


def _pointwise(call, exact, u):
    return (u * exact[0].abs() * 4,)


def _add(call, exact, u):
    return (1.001 * u * exact[0].abs(),)


def _gated(call, exact, u):
    gate, up = call.arguments[0].chunk(2, dim=-1)
    # The functions have an error of a few units of gate * up: 1 + erf and 1 + tanh may cancel.
    return (8 * u * (exact[0].abs() + (gate * up).abs()),)


def _rotate(call, exact, u):
    x, cos, sin = (t.abs() for t in call.arguments)
    sizes = [reference.rotate.reference(x, cos, s, **call.options).abs() for s in (sin, -sin)]
    return (3.1 * u * torch.maximum(*sizes),)


def _attention(call, exact, u, depth=1.0):
    """`depth` counts the roundings that a key or value has had when it was made, in units of terms."""
    (q,), options = call.arguments, call.options
    keys, values = options["keys"].abs(), options["values"].abs()
    largest = 0.0
    for segment in options["batch"].segments:
        rows = q[segment.start : segment.start + segment.length].abs().amax(0)  # [H, D]
        held = keys[segment.slots].amax(0).repeat_interleave(q.shape[1] // keys.shape[1], 0)
        largest = max(largest, float((rows * held).sum(-1).max()) * options["scale"])
    off = (q.shape[-1] + 6 + depth) * u * largest
    seen = max(segment.context + segment.length for segment in options["batch"].segments)
    plain = {**options, "keys": options["keys"], "values": values}
    weighed = reference.attend.reference(q, **plain)
    return ((torch.tensor(2 * off).exp() - 1 + (seen + 4 + depth) * u) * weighed,)


def _latent(call, exact, u):
    (q,), o = call.arguments, call.options
    rank, heads = o["w"].shape[1], q.shape[1]

    def made(latents, w):
        wide = (latents[:, :rank] @ w.T).view(len(latents), heads, -1)
        shared = latents[:, None, rank:].expand(-1, heads, -1)
        return torch.cat((wide[..., : o["nope"]], shared), dim=-1), wide[..., o["nope"] :]

    keys, _ = made(o["latents"], o["w"])
    # Bounded by the attention over keys and values in absolute terms, whose making adds `rank` terms.
    large_keys, large_values = made(o["latents"].abs(), o["w"].abs())
    options = {"batch": o["batch"], "scale": o["scale"], "window": None, "softcap": None}
    small = _attention(Call((q,), {**options, "keys": keys, "values": large_values}), exact, u, rank + 2)[0]
    large = _attention(
        Call((q,), {**options, "keys": large_keys, "values": large_values}), exact, u, rank + 2
    )[0]
    return (torch.maximum(small, large.amax(-1, keepdim=True)),)


def _route(call, exact, u):
    (x,), w = call.arguments, call.options["w"]
    off = (x.shape[-1] + 6) * u * (x.abs() @ w.abs().T).amax(-1, keepdim=True)
    return ((2 * off).exp() * 1.1 - 1.1 + 20 * u) * exact[0], torch.zeros_like(exact[1])


def _experts(call, exact, u):
    x, weights, chosen = call.arguments
    up, down = call.options["up"], call.options["down"]
    total = torch.zeros_like(exact[0])
    for row in range(len(x)):
        for weight, expert in zip(weights[row], chosen[row].tolist(), strict=True):
            gate, high = (up[expert].abs() @ x[row].abs()).chunk(2)
            total[row] += weight * (down[expert].abs() @ (gate * high))
    terms = up.shape[-1] * 2 + down.shape[-1] + len(weights[0]) + 12
    return (terms * u * total,)


BOUNDS = {
    "embed": _embed,
    "store": _exact,
    "linear": _linear,
    "rms_norm": _rms_norm,
    "add": _add,
    "add_rms_norm": _add_rms_norm,
    "rotate": _rotate,
    "attend": _attention,
    "latent_attend": _latent,
    "gated": _gated,
    "route": _route,
    "experts": _experts,
    "softcap": _pointwise,
}
