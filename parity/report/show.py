"""What a case runs, on which inputs, and how each step is judged, for `parity show`."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator

from parity.case.case import Case, Step, TensorSpec
from parity.case.op import OPS

__all__ = ["lines"]


def lines(case: Case, *, formula: Callable[[str], str]) -> Iterator[str]:
    """Yield the description of a case; `formula` gives the documentation of an op's budget."""
    yield str(case.id)
    if case.source:
        yield f" --> {case.source}"
    yield f"revision    {case.revision}"
    yield ""
    yield "inputs"
    for spec in case.inputs:
        yield f"  {_tensor(spec)}"
    for step in case.steps:
        yield ""
        yield f"step {step.name}"
        yield f"  {_call(step)}"
        yield f"  meaning    {OPS[step.op].formula}"
        yield "  judged by"
        for paragraph in formula(step.op).split("\n\n"):
            yield from textwrap.wrap(
                " ".join(paragraph.split()), 76, initial_indent="    ", subsequent_indent="    "
            )
    yield ""
    yield f"next    parity check {case.id}"


def _tensor(spec: TensorSpec) -> str:
    options = "".join(f", {name} {value}" for name, value in sorted(spec.options.items()))
    made = f"{spec.dist}, {spec.layout}, {spec.role.value}{options}"
    return f"{spec.name:<10} {spec.dtype}{list(spec.shape)}  {made}"


def _call(step: Step) -> str:
    arguments = [str(name) for name in step.inputs]
    arguments += [f"{name}={value!r}" for name, value in step.attrs.items()]
    return f"{', '.join(step.outputs)} = {step.op}({', '.join(arguments)})"
