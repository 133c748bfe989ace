"""A decoder's case under construction: its tensors and steps, named like the engine's sites.

Weights are drawn, or those of a checkpoint; what a step reads besides (slots, segments, angles)
follows from the plan of the pass. Does not know what a layer is made of; `decoder` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from parity.case.case import Role, Step, TensorSpec
from parity.case.dist_pages import spans
from parity.case.dtype import DType, dtype
from parity.case.family import Parts, parts, step
from parity.case.op import Attr
from parity.errors import UsageError

__all__ = ["Checkpoint", "Draft"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A safetensors file that gives weights; `names` maps a weight of ours to a tensor of it.

    `stored` is the type of the file's tensors. See `checkpoint.py` for `file` and `digest`.
    """

    file: str
    digest: str
    stored: str
    names: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class Draft:
    """Tensors and steps so far. `run` and `layer` go before a step's name, `layer` before a weight's.

    Weights are drawn as `dist`, normal or heavy, unless a `checkpoint` has them. A case may run
    several passes (`begin`), which share weights and pools.
    """

    dtype: str
    dist: str = "normal"
    checkpoint: Checkpoint | None = None
    slots: int = 0
    plan: str = ""
    run: str = ""
    layer: str = ""
    tensors: dict[str, TensorSpec] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    pools: dict[str, str] = field(default_factory=dict)

    def begin(self, plan: str, *, run: str = "") -> None:
        """Begin a pass: one run of the network on the tokens of a plan (`dist_pages`).

        `run` is a prefix of its steps. The first pass sizes the pool: later ones fit in, or say
        before how many `slots` there are.
        """
        self.plan, self.run = plan, run
        # Some slots more than tokens, so that there are some that nobody wrote.
        self.slots = self.slots or sum(context + length for context, length in spans(plan)) + 5

    @property
    def tokens(self) -> int:
        """Rows of this pass."""
        return sum(length for _, length in spans(self.plan))

    def input(self, name: str, of: str, shape: tuple[int, ...], dist: str, **options: Attr) -> str:
        """Declare an input once and return its name."""
        return self._declare(name, dtype(of), shape, dist, Role.INPUT, options)

    def weight(self, name: str, shape: tuple[int, ...], dist: str = "", **options: Attr) -> str:
        """Declare a weight of this layer.

        One of no distribution of its own is a matrix [..., out, in], drawn so that what has a mean
        square of 1 keeps about that.
        """
        name, made = self.layer + name, dict(options)
        if self.checkpoint is not None:
            source = self.checkpoint
            dist = "checkpoint"
            made = {"file": source.file, "digest": source.digest, "tensor": source.names[name]}
            if source.stored != self.dtype:
                made["stored"] = source.stored
        elif not dist:
            dist, made = self.dist, {"exponent": _matrix_exponent(self.dist, shape[-1])}
        return self._declare(name, dtype(self.dtype), shape, dist, Role.WEIGHT, made)

    def _declare(
        self,
        name: str,
        of: DType,
        shape: tuple[int, ...],
        dist: str,
        role: Role,
        options: Mapping[str, Attr],
    ) -> str:
        fixed = MappingProxyType(dict(options))
        spec = TensorSpec(name=name, dtype=of, shape=shape, dist=dist, role=role, options=fixed)
        if self.tensors.setdefault(name, spec) != spec:
            raise UsageError(f"tensor '{name}' is declared twice, and not the same")
        return name

    def step(self, op: str, *inputs: str | None, name: str, outputs: str = "", **attrs: Attr) -> str:
        """Add a step; its one output has its name. Returns that, or the first of `outputs`."""
        full = self.run + self.layer + name
        made = step(op, *inputs, name=full, outputs=outputs or full, **attrs)
        self.steps.append(made)
        return made.outputs[0]

    def linear(self, name: str, x: str, shape: tuple[int, int], *, bias: bool = False) -> str:
        """Add x w^T (+ bias) for w [out, in]."""
        b = self.weight(f"{name}.bias", shape[:1], "normal", exponent=-1) if bias else None
        return self.step("linear", x, self.weight(f"{name}.weight", shape), b, name=name)

    def norm(self, name: str, x: str, size: int, *, eps: float, offset: float) -> str:
        """Add a norm of the last dimension; with an offset it rounds once, at the end, as Gemma does."""
        dist: tuple[str, int] = ("normal", -2) if offset else ("positive", 0)
        g = self.weight(f"{name}.weight", (size,), dist[0], exponent=dist[1])
        return self.step(
            "weighted_rms_norm", x, g, name=name, eps=eps, offset=offset, rounds_first=not offset
        )

    def slice(self, x: str, index: str, *, name: str) -> str:
        """Add `x[index]`."""
        return self.step("slice", x, name=name, index=f"x[{index}]")

    def reshape(self, x: str, *shape: int, name: str) -> str:
        """Add x in another shape."""
        return self.step("reshape", x, name=name, shape="x".join(map(str, shape)))

    def angles(self, rotated: int, *, magnitude: float = 1.0) -> tuple[str, str]:
        """Look up cos and sin [T, rotated / 2] of this pass's positions, once a pass."""
        shape = (max(context + length for context, length in spans(self.plan)) + 1, rotated // 2)
        found = []
        for part in ("cos", "sin"):
            name = f"{self.run}{part}{'' if rotated == shape[1] * 2 else rotated}"
            found.append(name)
            if any(made.name == name for made in self.steps):
                continue
            table = self.input(f"{name}.table", self.dtype, shape, "angles", part=part, magnitude=magnitude)
            where = self.planned("positions", (self.tokens,))
            self.steps.append(step("index", table, where, name=name, outputs=name))
        return found[0], found[1]

    def planned(self, what: str, shape: tuple[int, ...], **options: Attr) -> str:
        """Declare positions, segments or slots of this pass, as int64."""
        kind = "slots" if "slots" in what else what
        return self.input(f"{self.run}{what}", "i64", shape, kind, plan=self.plan, **options)

    def store(self, name: str, x: str, shape: tuple[int, ...]) -> str:
        """Write a row [...] a token into its slot of a pool [slots, ...] and return the pool."""
        site = self.layer + name
        exponent = -4 if self.dist == "heavy" else 0  # outlier channels of about 10, as in trained keys
        pool = self.pools.get(site) or self.input(
            f"{site}.pool",
            *(self.dtype, (self.slots, *shape), "pages"),
            plan=self.plan,
            values=self.dist,
            exponent=exponent,
        )
        new = self.planned("new_slots", (self.tokens,), slots=self.slots, new=True)
        self.pools[site] = self.step("index_put", pool, new, x, name=name, accumulate=False)
        return self.pools[site]

    def batch(self) -> tuple[str, str]:
        """Declare which slots the requests of this pass read, and their segments."""
        plan = spans(self.plan)
        held = sum(context + length for context, length in plan)
        return self.planned("slots", (held,), slots=self.slots), self.planned("segments", (len(plan), 3))

    def parts(self) -> Parts:
        """Return the case without its id."""
        return parts(tuple(self.tensors.values()), *self.steps)


def _matrix_exponent(dist: str, columns: int) -> int:
    """The power of two that makes a row's sum of squares about 1; of heavy rows, about 30.

    Heavy rows have one channel of about 100 that outweighs the rest. It rarely meets the one of a
    normed x, whose other channels are about 0.1: so products, too, are between 0.1 and 10.
    """
    return -5 if dist == "heavy" else -round(math.log2(columns) / 2)
