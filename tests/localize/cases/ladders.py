"""Cases of several steps, small, for the ladder and for replays."""

from __future__ import annotations

from parity.case.case import Step, TensorSpec
from parity.case.dtype import dtype
from parity.case.family import Params, Parts, family, tensor

LAYERS = 3


@family("ladders/mlp", dtype=("f32", "bf16"))
def mlp(p: Params) -> Parts:
    """Three layers of norm, two products around silu, and a residual, named as an engine's sites are."""
    x = tensor("x", p.dtype, (5, 72), "normal")
    inputs: list[TensorSpec] = [x]
    steps: list[Step] = []
    at = "x"
    for layer in range(LAYERS):
        name = f"L{layer:02d}"
        inputs += [
            tensor(f"{name}.g", p.dtype, (72,), "normal"),
            tensor(f"{name}.up", p.dtype, (96, 72), "normal"),
            tensor(f"{name}.down", p.dtype, (72, 96), "normal"),
        ]
        made = [
            ("norm", "rms_norm", (at, f"{name}.g"), {"eps": 1e-6}),
            ("up", "linear", (f"{name}.norm.y", f"{name}.up"), {}),
            ("act", "silu", (f"{name}.up.y",), {}),
            ("down", "linear", (f"{name}.act.y", f"{name}.down"), {}),
            ("res", "add", (at, f"{name}.down.y"), {}),
        ]
        steps += [
            Step(name=f"{name}.{s}", op=op, inputs=reads, outputs=(f"{name}.{s}.y",), attrs=attrs)
            for s, op, reads, attrs in made
        ]
        at = f"{name}.res.y"
    return Parts(inputs=tuple(inputs), steps=tuple(steps))


@family("ladders/gelu", dtype=("f32",))
def gelu(p: Params) -> Parts:
    """A product whose huge results go through gelu: torch's CPU kernel overflows there (2.13)."""
    x = TensorSpec(name="x", dtype=dtype(p.dtype), shape=(9, 64), dist="normal", options={"exponent": 126})
    w = tensor("w", p.dtype, (64,), "normal")
    steps = (
        Step(name="scale", op="mul", inputs=("x", "w"), outputs=("y",)),
        Step(name="gelu", op="gelu_erf", inputs=("y",), outputs=("z",)),
        Step(name="half", op="mul", inputs=("z", "w"), outputs=("out",)),
    )
    return Parts(inputs=(x, w), steps=steps)


@family("ladders/exact", dtype=("f32",))
def exact(p: Params) -> Parts:
    """A result that must be equal to the bit, and one of which several are right."""
    x = tensor("x", p.dtype, (6, 16), "normal")
    steps = (
        Step(name="lower", op="tril", inputs=("x",), outputs=("y",), attrs={"diagonal": 0}),
        Step(
            name="largest",
            op="topk",
            inputs=("x",),
            outputs=("values", "indices"),
            attrs={"k": 4, "dim": -1, "largest": True},
        ),
    )
    return Parts(inputs=(x,), steps=steps)
