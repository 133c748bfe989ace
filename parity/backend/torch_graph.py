"""Run one step compiled by torch.compile, or replayed from a device graph, with evidence.

Importing this imports torch's compiler, which takes a second. Does not choose the compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._dynamo import reset
from torch._dynamo.backends.registry import lookup_backend

from parity.backend.base import Node, Witness
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
    with supported(), torch.no_grad():
        phase("compile")
        compiled(*inputs)
        phase("run")
        outputs = as_tuple(compiled(*inputs))
    return outputs, seen.witness(device)


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


class Compiled:
    """A compiler for torch.compile that notes each graph it is handed and passes it to `inner`.

    Its witness says what was asked of the compiler, node by node and at which types, not what it
    made of it. A step that reached no compiler has an empty witness.
    """

    def __init__(self, inner: str | Callable[..., Any]) -> None:
        self._inner = lookup_backend(inner) if isinstance(inner, str) else inner
        self._name = inner if isinstance(inner, str) else getattr(inner, "__name__", "compiler")
        self._nodes: list[Node] = []

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
        return self._inner(graph, inputs, **options)

    def witness(self, device: torch.device) -> Witness:
        """Return the evidence; what the graph placed on another device ran on the host."""
        here = tuple(n for n in self._nodes if torch.device(n.device).type == device.type)
        return Witness(executed=here, host=tuple(n for n in self._nodes if n not in here))
