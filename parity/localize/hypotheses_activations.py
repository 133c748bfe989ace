"""Another activation, or gate and up in other places."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from parity.localize.cause import CauseKind
from parity.localize.hypotheses_base import Asked, Guess, hypothesis, valued
from parity.localize.hypotheses_rounding import nearest

__all__ = []

_K = CauseKind


def _quick(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _gelu(x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x)


def _gelu_tanh(x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": torch.nn.functional.silu,
    "gelu": _gelu,
    "gelu_pytorch_tanh": _gelu_tanh,
    "x sigmoid(1.702 x)": _quick,
    "relu": torch.relu,
    "relu squared": lambda x: torch.relu(x).square(),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": torch.nn.functional.softplus,
    "leaky relu": torch.nn.functional.leaky_relu,
    "hard swish": torch.nn.functional.hardswish,
    "the identity": lambda x: x,
}


_OWN = {"gelu_erf": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}


@hypothesis("silu", "gelu_erf", "gelu_tanh", "sigmoid", "tanh")
def _activation(asked: Asked) -> Iterator[Guess]:
    for name, function in _ACTIVATIONS.items():
        if name != _OWN.get(asked.op, asked.op):
            yield valued(asked, _K.ACTIVATION, f"the activation is {name}", function(asked.x(0)))


@hypothesis("swiglu", "gated")
def _gates(asked: Asked) -> Iterator[Guess]:
    if asked.op == "swiglu":
        gate, up, own = asked.x(0), asked.x(1), "silu"
    else:
        (gate, up), own = asked.x(0).chunk(2, -1), str(asked.attrs["activation"])
    right, dtype = _ACTIVATIONS[own], asked.right[0].dtype.name
    for name, function in _ACTIVATIONS.items():
        if name != own:
            made = function(gate)
            yield valued(asked, _K.ACTIVATION, f"the activation is {name}", made * up)
            # Model code has the activation as a tensor, a fused kernel has not.
            yield valued(asked, _K.ACTIVATION, f"the activation is {name}", nearest(made, dtype) * up)
    yield valued(asked, _K.GATE_UP, "gate and up are exchanged", right(up) * gate)
    whole = torch.cat((gate, up), -1)
    if asked.op == "gated":
        even, odd = whole[..., ::2], whole[..., 1::2]
        yield valued(asked, _K.GATE_UP, "gate and up were read as neighbours", right(even) * odd)
        yield valued(asked, _K.GATE_UP, "up and gate were read as neighbours", right(odd) * even)
    yield valued(asked, _K.OPERAND, "up is missing", right(gate))
    yield valued(asked, _K.OPERAND, "one was added to up", right(gate) * (up + 1))
    for limit in (7.0, 10.0):
        value = right(gate.clamp(max=limit)) * up.clamp(-limit, limit)
        yield valued(asked, _K.SATURATED, f"gate and up were clipped at {limit:g}", value)
    if asked.inputs[0] is not None:
        name = "bf16" if asked.inputs[0].dtype.name == "f32" else asked.inputs[0].dtype.name
        yield valued(
            asked, _K.INTERMEDIATE, f"the activation was rounded to {name}", nearest(right(gate), name) * up
        )
