"""The engine on a backend that runs steps and has no torch device: each site there, the rest here.

Every call of a site becomes a step of the op table that the backend runs; what lies between sites,
and the cache, stay on the host's CPU. Any backend that runs the table's steps runs the engine so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from parity.backend.base import Backend, Handle, Witness
from parity.backend.torch_tensor import to_host, to_torch
from parity.case.case import Step
from parity.case.dtype import dtype
from parity.case.tensor import HostTensor
from parity.engine.ops.op import Op
from parity.engine.run.batch import Batch
from parity.run.sites import Named, Pages, describe

__all__ = ["NOTE", "Hosted"]

NOTE = "each site ran on the target; what lies between sites and the cache of keys and values on the host"
_CPU = torch.device("cpu")


class Hosted:
    """The innermost wrap of such an engine; `observe` goes with it, for a recorder."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        # By object, which is kept so that no other gets its identity.
        self._weights: dict[int, tuple[Tensor, Handle]] = {}
        self._pages: tuple[Batch, Pages] | None = None
        self._witness = Witness()

    def wrap(self, site: str, op: Op, _: Callable[..., Any], bound: Mapping[str, Any]) -> Callable[..., Any]:
        """Return what has the backend run the site, in place of the engine's own function."""

        def hosted(*arguments: Any, **options: Any) -> Any:
            return self._call(site, op, {**bound, **options}, arguments)

        return hosted

    def observe(self, function: Callable[[], Any], op: str) -> tuple[Any, Witness]:
        """Run a hosted site and return the backend's evidence of its step."""
        del op
        return function(), self._witness

    def _call(self, site: str, op: Op, bound: Mapping[str, Any], arguments: tuple[Any, ...]) -> Any:
        called = describe(site, op, bound, arguments, self._pages_of)
        step = Step(
            name=site,
            op=called.op,
            inputs=tuple(None if named is None else named.name for named in called.inputs),
            outputs=called.outputs,
            attrs=called.attrs,
        )
        self._witness = Witness()
        handles = [None if named is None else self._put(named) for named in called.inputs]
        made = self._backend.run(step, handles)
        self._backend.synchronize()
        self._witness = self._backend.witness()
        values = tuple(to_torch(self._backend.get(handle), _CPU) for handle in made)
        if called.stored_in is not None and called.pages is not None:
            called.stored_in[torch.from_numpy(called.pages.written)] = values[0]
            return None
        return values if len(values) > 1 else values[0]

    def _put(self, named: Named) -> Handle:
        value = named.value
        if not isinstance(value, Tensor):
            return self._backend.put(HostTensor.of(value, dtype("i64")))
        if not named.is_weight:
            return self._backend.put(to_host(value))
        if id(value) not in self._weights:
            self._weights[id(value)] = (value, self._backend.put(to_host(value)))
        return self._weights[id(value)][1]

    def _pages_of(self, batch: Batch) -> Pages:
        if self._pages is None or self._pages[0] is not batch:
            self._pages = (batch, Pages(batch))
        return self._pages[1]
