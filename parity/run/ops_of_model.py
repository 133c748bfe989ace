"""Every operation that a model needs, from its config alone: unique op, shapes, dtype and attributes.

The engine's network is built over weights on torch's meta device and stepped once for each plan;
at each site the call is described as it would be recorded, and nothing is computed. Reads no weight;
writes no case: `ops_case_file` does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import parity.engine.ops.reference  # noqa: F401  # declares the ops
from parity.backend.torch_tensor import dtype_of
from parity.case.dtype import DType
from parity.case.op import OPS, Attr
from parity.engine.kv.pool import Pool
from parity.engine.model.arch import Arch
from parity.engine.model.names import weights
from parity.engine.model.net import build
from parity.engine.model.weights import Weights, weight_dtype
from parity.engine.ops.op import Binder, Op
from parity.engine.run.batch import Run, flatten
from parity.run.sites import Described, Named, Pages, describe

__all__ = ["Needed", "Spec", "needed"]

# Elements of a weight from which on a case takes fewer of its rows (outputs, entries of a table): more
# would take longer to generate than to run. The reduced dimension and the rest stay whole.
_MOST = 1 << 24
_META = torch.device("meta")
_ACTIVATION = "activation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One input: what generates it, in its dtype and shape. `cut` is how many rows it has in the model."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    dist: str
    options: Mapping[str, Attr]
    cut: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """One operation of a model; `sites` are where it was met."""

    op: str
    attrs: Mapping[str, Attr]
    inputs: tuple[Spec | None, ...]
    sites: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What makes it another one than all others."""
        shapes = [None if s is None else [s.dtype, s.shape, s.cut, dict(s.options)] for s in self.inputs]
        return json.dumps([self.op, dict(self.attrs), shapes], sort_keys=True)

    @property
    def shape(self) -> str:
        """The shapes of its float inputs, as they stand in an id."""
        floats = [s.shape for s in self.inputs if s is not None and s.dtype[0] in "bf"]
        return ".".join("x".join(map(str, shape)) for shape in floats)


def needed(arch: Arch, dtype: torch.dtype, *, prefill: int, depth: int) -> list[Needed]:
    """Return the unique operations of a prompt of `prefill` tokens, and of one token `depth` deep.

    And attention's of a step that mixes them. In the order of the network.
    """
    found: dict[str, Needed] = {}
    whole = ((0, prefill),)
    for plan in (whole, ((depth, 1),), (*whole, (depth, 1), (depth, 2))):
        for one in _step(arch, dtype, plan):
            if len(plan) > 1 and not one.op.endswith("attention"):
                continue
            held = found.get(one.key)
            sites = (*(held.sites if held else ()), *one.sites)
            found[one.key] = replace(one, sites=tuple(dict.fromkeys(sites)))
    return list(found.values())


def _step(arch: Arch, dtype: torch.dtype, plan: Sequence[tuple[int, int]]) -> Iterator[Needed]:
    """Step the network through one plan of (context, length) and yield each call."""
    looker = _Looker(".".join(f"{context}+{length}" for context, length in plan))
    held: Weights = {
        w.name: torch.empty(w.shape, dtype=weight_dtype(w, dtype), device=_META) for w in weights(arch)
    }
    total = sum(context + length for context, length in plan)
    slots = iter(range(total))
    runs = [
        Run(tokens=[0] * length, context=context, slots=[next(slots) for _ in range(context + length)])
        for context, length in plan
    ]
    network = build(
        arch, held, Pool(arch, total, dtype=dtype, device=_META), Binder("meta", wrap=looker.wrap)
    )
    network(flatten(runs, device=torch.device("cpu")))
    return iter(looker.found)


class _Looker:
    """Stands in for every site: describes its call, and gives a tensor of the right form."""

    def __init__(self, plan: str) -> None:
        self.found: list[Needed] = []
        self._plan = plan
        self._pages: dict[int, Pages] = {}
        self._route: Needed | None = None

    def wrap(self, site: str, op: Op, _: Callable[..., Any], bound: Mapping[str, Any]) -> Callable[..., Any]:
        """Return what takes the place of the function at a site."""

        def looked(*arguments: Any, **options: Any) -> Any:
            every = {**bound, **options}
            called = describe(site, op, every, arguments, self._pages_of)
            self._take(site, called)
            return _FORMS[op.name](every, *arguments)

        return looked

    def _pages_of(self, batch: Any) -> Pages:
        return self._pages.setdefault(id(batch), Pages(batch))

    def _take(self, site: str, called: Described) -> None:
        names = [name.rstrip("?") for name in OPS[called.op].inputs]
        sizes = {
            name: _kept(called.op, named)
            for name, named in zip(names, called.inputs, strict=False)
            if named is not None
        }
        specs = [
            None if named is None else self._spec(called.op, name, named, sizes)
            for name, named in zip(names, called.inputs, strict=False)
        ]
        self.found.append(Needed(op=called.op, attrs=called.attrs, inputs=tuple(specs), sites=(site,)))

    def _spec(self, op: str, name: str, named: Named, sizes: Mapping[str, int]) -> Spec:
        shape, kind = _form(named)
        if name in {"weights", "chosen"}:  # a row cannot choose more experts than there are
            shape = (shape[0], min(shape[1], sizes["up"]))
        dist, options = self._values(op, name, shape, sizes)
        return Spec(
            name=name,
            dtype=kind.name,
            shape=(sizes[name], *shape[1:]) if shape else (),
            dist=dist,
            options=options,
            cut=shape[0] if shape and sizes[name] != shape[0] else 0,
        )

    def _values(
        self, op: str, name: str, shape: tuple[int, ...], sizes: Mapping[str, int]
    ) -> tuple[str, dict[str, Attr]]:
        """Return what is drawn for an input; `activation` is what each distribution of a case is for."""
        match name:
            case "slots":
                return "slots", {"plan": self._plan, "slots": shape[0]}
            case "segments":
                return "segments", {"plan": self._plan}
            case "ids":
                return "index", {"low": 0, "high": sizes["table"]}
            case "chosen":
                return "permutation", {"high": sizes["up"]}
            case "cos" | "sin":
                return "angles", {"part": name}
            case "g" | "weights":
                return "positive", {}
            case "bias":
                return "normal", {"exponent": -3}
            case "w" | "up" | "down":
                return "normal", {"exponent": -round(math.log2(shape[-1]) / 2)}
            case _:
                return ("normal" if op == "scaled_embedding" else _ACTIVATION), {}


def _form(named: Named) -> tuple[tuple[int, ...], DType]:
    value = named.value
    kind = dtype_of(value.dtype) if isinstance(value, Tensor) else dtype_of(torch.int64)
    return tuple(value.shape), kind


def _kept(op: str, named: Named) -> int:
    """Return how many of its first rows a case has of an input: all, but of a very large weight."""
    shape, _ = _form(named)
    if not shape:
        return 0
    # Rows of the other weights are shared out to heads or groups.
    if not named.is_weight or op in {"route", "latent_attention"}:
        return shape[0]
    return min(shape[0], max(_MOST // max(math.prod(shape[1:]), 1), 1))


def _like(_: Mapping[str, Any], x: Tensor, *__: Any) -> Tensor:
    return x


def _heads(bound: Mapping[str, Any], q: Tensor) -> Tensor:
    return q.new_empty((*q.shape[:2], bound["values"].shape[-1]))


def _latent_heads(bound: Mapping[str, Any], q: Tensor) -> Tensor:
    return q.new_empty((*q.shape[:2], bound["w"].shape[0] // q.shape[1] - bound["nope"]))


def _chosen(bound: Mapping[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], bound["router"].top)
    wide = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty(shape, dtype=wide), x.new_empty(shape, dtype=torch.int64)


# What each op gives, as far as the next one needs to know: its form.
_FORMS: Mapping[str, Callable[..., Any]] = {
    "add": _like,
    "attend": _heads,
    "embed": lambda bound, tokens: bound["w"].new_empty((len(tokens), bound["w"].shape[1])),
    "experts": _like,
    "gated": lambda _, x: x.new_empty((*x.shape[:-1], x.shape[-1] // 2)),
    "latent_attend": _latent_heads,
    "linear": lambda bound, x: x.new_empty((*x.shape[:-1], bound["w"].shape[0])),
    "rms_norm": _like,
    "rotate": _like,
    "route": _chosen,
    "softcap": _like,
    "store": lambda *_: None,
}
