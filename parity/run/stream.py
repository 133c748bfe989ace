"""A network of which one part at a time is there: the embedding, a layer, or what makes scores.

The weights of a part are read when it runs and gone when it is done, and of experts only the chosen
ones are read at all, so a device needs room for no more than one layer. All steps of a plan pass a
part before the next part is loaded: with given tokens, no step waits for scores. Does not record;
`stream_subject` does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import parity.engine.ops.cpu
import parity.engine.ops.npu
import parity.engine.ops.reference  # noqa: F401  # declares the ops
from parity.engine.kv.pool import LayerPool, Pool
from parity.engine.model.arch import Arch
from parity.engine.model.names import Weight
from parity.engine.model.names import weights as weights_in
from parity.engine.model.net import build_entrance, build_exit, build_layer
from parity.engine.model.weights import Weights
from parity.engine.ops.op import Binder, Op, Wrap
from parity.engine.run.batch import Batch, Run, flatten

__all__ = ["Around", "Read", "Streamed", "parts"]

# Reads a weight, or of a stacked one the matrices of these numbers, onto the device.
Read = Callable[[Weight, "Sequence[int] | None"], Tensor]
# Runs a step of the plan, which it is told the number of.
Around = Callable[[int, Callable[[], Tensor]], Tensor]


def _nothing_around(_: int, step: Callable[[], Tensor]) -> Tensor:
    return step()


def parts(arch: Arch) -> list[str]:
    """Return the parts of a network as an option names them; they sort in the order in which they run."""
    names = ["embed", *(f"L{number:02}" for number in range(len(arch.layers))), "head"]
    width = len(str(len(names) - 1))
    return [f"{number:0{width}}-{name}" for number, name in enumerate(names)]


class Streamed:
    """A network of which one part at a time is there. `read` brings a weight to `device`."""

    def __init__(
        self,
        arch: Arch,
        runs: Sequence[Sequence[Run]],
        slots: int,
        *,
        read: Read,
        device: torch.device,
        force: Sequence[str] = (),
    ) -> None:
        self.arch, self._slots, self._read, self._device = arch, slots, read, device
        self._force = force
        self._known = {weight.name: weight for weight in weights_in(arch)}
        self.batches = [flatten(list(step), device=device) for step in runs]
        self.chosen: list[list[int]] = []

    def pass_through(
        self,
        number: int,
        hidden: Sequence[Tensor],
        *,
        wrap: Wrap | None = None,
        around: Around = _nothing_around,
    ) -> list[Tensor]:
        """Run every step of the plan through part `number`, each as `around` runs it.

        `hidden` are what the part before gave, one a step, nothing for the first part. `chosen` are
        then the numbers of the experts that were read, one list a step that has experts.
        """
        self.chosen = []
        function = self._part(number, wrap)
        made = []
        for place, batch in enumerate(self.batches):
            x = hidden[place] if hidden else batch.tokens
            made.append(around(place, partial(function, x, batch)))
        return made

    def _part(self, number: int, wrap: Wrap | None) -> Callable[[Tensor, Batch], Tensor]:
        name = parts(self.arch)[number].partition("-")[2]
        binder = Binder(self._device.type, force=self._force, wrap=self._with_experts(wrap))
        if name == "embed":
            enter = build_entrance(self.arch, self._held(["embed"]), binder)
            return lambda tokens, _: enter(tokens)
        if name == "head":
            held = self._held(["norm", "embed" if self.arch.tied else "head"])
            return build_exit(self.arch, held, binder)
        held = self._held([each for each in self._known if each.startswith(f"{name}.")])
        kind = held[f"{name}.norm1"]
        assert isinstance(kind, Tensor)
        return build_layer(self.arch, number - 1, held, self._pool(number - 1, kind.dtype), binder)

    def _pool(self, number: int, dtype: torch.dtype) -> LayerPool:
        alone = dataclasses.replace(self.arch, layers=(self.arch.layers[number],))
        return Pool(alone, self._slots, dtype=dtype, device=self._device).layers[0]

    def _held(self, names: Sequence[str]) -> Weights:
        """Read weights; of experts none before they are chosen."""
        return {
            name: torch.empty((0, *self._known[name].shape[1:]), device=self._device)
            if self._known[name].stacked
            else self._read(self._known[name], None)
            for name in names
        }

    def _with_experts(self, wrap: Wrap | None) -> Wrap:
        def bind(
            site: str, op: Op, function: Callable[..., Any], bound: Mapping[str, Any]
        ) -> Callable[..., Any]:
            if op.name != "experts":
                return wrap(site, op, function, bound) if wrap else function

            def some(x: Tensor, weights: Tensor, chosen: Tensor) -> Any:
                numbers = sorted(set(chosen.flatten().tolist()))
                self.chosen.append(numbers)
                up, down = (self._read(self._known[f"{site}.{n}"], numbers) for n in ("gate_up", "down"))
                held = {**bound, "up": up, "down": down}
                call: Callable[..., Any] = partial(op.choose(self._device.type, held), **held)
                call = wrap(site, op, call, held) if wrap else call
                places = torch.searchsorted(torch.tensor(numbers), chosen.cpu()).to(chosen.device)
                return call(x, weights, places)

            return some

        return bind
