"""Capture into a device graph, for vendors whose module follows `torch.cuda`'s shape.

Does not replay: it returns what does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from parity.backend.base import Unsupported
from parity.backend.vendor_api import find

__all__ = ["capture"]

_WARM_UPS = 3  # libraries choose algorithms and allocate in their first calls, which no graph may hold


def capture(
    module: Any, kind: str, device: Any, function: Callable[..., Any], inputs: Sequence[Any]
) -> Callable[[], Any]:
    """Return what replays `function(*inputs)` and returns its static outputs.

    `module` has the class `kind` and the context managers `graph` and `stream`. Raises Unsupported
    where this version has no such class, and for what the vendor says cannot be captured.
    """
    if find(module, kind) is None or find(module, "graph") is None:
        raise Unsupported(f"this version has no {kind}")
    graph = getattr(module, kind)()
    stream, current = module.Stream(device), module.current_stream(device)
    stream.wait_stream(current)
    with module.stream(stream):
        for _ in range(_WARM_UPS):
            function(*inputs)
    current.wait_stream(stream)
    try:
        with module.graph(graph):
            outputs = function(*inputs)
    except RuntimeError as error:
        # As CUDA words it: "operation not permitted when stream is capturing".
        if "captur" not in str(error):
            raise
        raise Unsupported(str(error).splitlines()[0]) from error

    def replay() -> Any:
        graph.replay()
        return outputs

    return replay
