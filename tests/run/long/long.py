"""200 cases of four steps; PLAN, `case=step:fault` separated by commas, says where something goes wrong."""

import os

from parity.case.case import Step, TensorSpec
from parity.case.dtype import dtype
from parity.case.family import Parts, family

PLAN = dict(entry.split("=") for entry in os.environ.get("LONG_PLAN", "").split(",") if entry)


@family("long/run", n=tuple(f"{n:03}" for n in range(200)))
def run(p):
    """Each step is named after its place, or after the fault that is planned there."""
    at, _, fault = PLAN.get(p.n, "").partition(":")
    x = TensorSpec(name="x", dtype=dtype("f32"), shape=(16,))
    names = ["x", "a", "b", "c", "d"]
    steps = tuple(
        Step(
            name=fault if str(i) == at else f"step{i}",
            op="tanh",
            inputs=(names[i],),
            outputs=(names[i + 1],),
        )
        for i in range(4)
    )
    return Parts(inputs=(x,), steps=steps)
