"""Run one step compiled by torch.compile, or replayed from a device graph, with evidence.

Importing this imports torch's compiler, which takes a second. Does not choose the compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._dynamo import reset
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.exc import Unsupported as GraphBreak
from torch._inductor.graph import GraphLowering
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from parity.backend import inductor
from parity.backend.base import Node, Unsupported, Witness
from parity.backend.torch_eager import as_tuple, supported, torch_function
from parity.backend.torch_tensor import name_of
from parity.backend.torch_witness import Trace, tensors
from parity.case.case import Step

__all__ = ["Compiled", "run_captured", "run_compiled"]

_Phase = Callable[[str], None]


def run_compiled(
    step: Step,
    inputs: Sequence[torch.Tensor | None],
    *,
    device: torch.device,
    compiler: str | Callable[..., Any],
    phase: _Phase,
) -> tuple[tuple[torch.Tensor, ...], Witness]:
    """Compile one step by itself, for its shapes and without a graph break, and run it.

    `compiler` is a backend of torch.compile or its name. The first call compiles and runs; the
    second, on the same inputs, is the one that counts.
    """
    seen = Compiled(compiler)
    reset()
    compiled = torch.compile(torch_function(step, device), backend=seen, fullgraph=True, dynamic=False)
    with _traceable(), supported(), torch.no_grad():
        phase("compile")
        compiled(*inputs)
        phase("run")
        outputs = as_tuple(compiled(*inputs))
    return outputs, seen.witness(device, outputs)


def run_captured(
    step: Step,
    inputs: Sequence[torch.Tensor | None],
    *,
    device: torch.device,
    reduced: str | None,
    capture: Callable[..., Callable[[], Any]],
    phase: _Phase,
) -> tuple[tuple[torch.Tensor, ...], Witness]:
    """Capture one step into a device graph and replay it. The witness is what was captured."""
    with supported(), torch.no_grad():
        phase("compile")
        with Trace(device, reduced=reduced) as trace:
            replay = capture(torch_function(step, device), inputs)
        phase("run")
        outputs = as_tuple(replay())
    return outputs, trace.witness(outputs)


@contextmanager
def _traceable() -> Iterator[None]:
    """Turn what would break the graph, or needs a number from the data to trace, into Unsupported."""
    try:
        yield
    except (GraphBreak, BackendCompilerFailed) as error:
        cause = getattr(error, "inner_exception", error)
        if not isinstance(cause, (GraphBreak, GuardOnDataDependentSymNode)):
            raise
        words = (str(cause).splitlines() or ["no reason given"])[0]
        raise Unsupported(f"torch.compile: {words}") from error


class Compiled:
    """A compiler for torch.compile that notes each graph it is handed and passes it to `inner`.

    Of C++ that Inductor made for the CPU, the witness is the generated kernels with the types in
    their code, and what they left to libraries as it was dispatched. Of any other program it says what
    was asked of the compiler, node by node and at which types, not what it made of it. A step that
    reached no compiler has an empty witness.
    """

    def __init__(self, inner: str | Callable[..., Any]) -> None:
        self._inner = lookup_backend(inner) if isinstance(inner, str) else inner
        self._name = inner if isinstance(inner, str) else getattr(inner, "__name__", "compiler")
        self._nodes: list[Node] = []
        self._programs: list[str] = []
        self._traces: dict[int, Trace] = {}

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor], **options: Any) -> Any:
        """Note the operations of a graph and compile it."""
        for node in graph.graph.nodes:
            results = tensors(node.meta.get("example_value"))
            if node.op.startswith("call_") and results:
                kind = f"{self._name}:{getattr(node.target, '__name__', node.target)}"
                deciding = next((t for t in results if t.is_floating_point()), results[0])
                self._nodes.append(
                    Node(kind=kind, device=str(deciding.device), precision=name_of(deciding.dtype))
                )
        with _generated() as programs:
            made = self._inner(graph, inputs, **options)
        if not programs or any(torch.device(node.device).type != "cpu" for node in self._nodes):
            return made
        self._programs += programs
        return self._traced(made, len(self._programs))

    def _traced(self, made: Callable[..., Any], number: int) -> Callable[..., Any]:
        """Run a program and keep what its latest run dispatched."""

        def traced(*arguments: Any) -> Any:
            with Trace(torch.device("cpu"), reduced=None) as self._traces[number]:
                return made(*arguments)

        return traced

    def witness(self, device: torch.device, outputs: tuple[torch.Tensor, ...]) -> Witness:
        """Return the evidence; what the graph placed on another device ran on the host."""
        if not self._programs:
            here = tuple(n for n in self._nodes if torch.device(n.device).type == device.type)
            return Witness(executed=here, host=tuple(n for n in self._nodes if n not in here))
        made = tuple(node for program in self._programs for node in inductor.kernels(program))
        # A program that only gives views of its inputs, or empty tensors, executes nothing else.
        seen = [trace.witness(() if made else outputs) for trace in self._traces.values()]
        return Witness(
            executed=(*made, *(node for each in seen for node in each.executed)),
            moved=tuple(node for each in seen for node in each.moved),
            host=tuple(node for each in seen for node in each.host),
            borrowed=sum(inductor.borrowed(program) for program in self._programs),
        )


@contextmanager
def _generated() -> Iterator[list[str]]:
    """Collect the programs that Inductor makes, or takes from its cache, while the block runs."""
    programs: list[str] = []
    before = GraphLowering.save_output_code
    GraphLowering.save_output_code = staticmethod(programs.append)
    try:
        yield programs
    finally:
        GraphLowering.save_output_code = before
