"""Plant one fault at one site of a network whose other sites are right in another way, and look for it.

The network is run once on the plan of `engine_nets`, recorded and judged step by step, with no
reference. A fault that leaves the bits of a right way, or that changes nothing, is none; one within
twice their envelope plus u |y| everywhere is hidden: no criterion could tell it from rounding,
element by element. Does not count; `tools/bench.py localize` does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from faults.engine_kernels import BUGS, VARIANTS, Way, computed
from faults.engine_nets import folder_of, plan
from faults.engine_outputs import OUTPUT_FAULTS
from torch import Tensor

from parity.backend.base import Node, Witness
from parity.case.tensor import HostTensor
from parity.engine import Engine
from parity.engine.ops.op import OPS, Op
from parity.judge.traced import judge_steps
from parity.judge.verdict import Cause, StepJudgement, Verdict
from parity.localize.diagnose import diagnose
from parity.localize.localize import earlier_than
from parity.run.engine_recorder import Recorder, compose
from parity.selftest.criteria import PLAIN_PROFILE
from parity.store.recording import Environment, Recording

__all__ = ["Fault", "Found", "Subject", "faults_of", "hunt", "quiet"]

# Where a fault has something to change: a square weight, a bias, massive activations.
_WHERE = {
    "weight_transposed": "out",
    "bias_missing": "qkv",
    "bias_twice": "qkv",
    "saturated_e4m3": "02.res1",
    "saturated_e4m3_240": "01.res2",
}
_REVISION = f"sha256:{'0' * 64}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A bug by name at a site. Its `kind` is what a table counts: `linear/k_tile_dropped`, `any/sign`."""

    site: str
    op: str
    name: str
    inside: bool

    @property
    def kind(self) -> str:
        return f"{self.op if self.inside else 'any'}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What became of a fault. `flagged` are the steps that exceed, in their order."""

    net: str
    dtype: str
    seed: int
    variant: str
    fault: Fault
    changed: bool
    hidden: bool
    flagged: tuple[str, ...]
    causes: tuple[Cause, ...] = ()

    @property
    def detected(self) -> bool:
        return bool(self.flagged)

    @property
    def exact(self) -> bool:
        """Whether the first step that is flagged is the planted one."""
        return bool(self.flagged) and self.flagged[0].split(".", 1)[1] == self.fault.site


class Subject:
    """An engine on its plan; every run begins with pools of NaN, as the first did."""

    def __init__(self, net: str, dtype: str, seed: int, root: Path) -> None:
        self.net, self.dtype, self.seed = net, dtype, seed
        self.engine = Engine(folder_of(net, root, seed=seed), dtype=dtype, kv_tokens=64)
        self.batches = plan(self.engine.arch.vocab, seed=seed, device=self.engine.device)
        self._recorder = Recorder(observe=self._observe, complete=True, numbered=True)
        self._weights: dict[str, HostTensor] = {}

    @property
    def sites(self) -> tuple[tuple[str, str], ...]:
        return self.engine.sites

    def _observe(self, call: Callable[[], Any], op: str) -> tuple[Any, Witness]:
        # How a kernel of ours reaches its result is no evidence of a device: the numbers alone are judged.
        node = Node(kind=op, device="cpu", precision=self.dtype)
        return call(), Witness(executed=(node,))

    def run(self, wrap: Callable[..., Any]) -> tuple[Recording, Callable[[Any], HostTensor | None]]:
        """Return the recording of one run, and what finds its weights."""
        for layer in self.engine._pool.layers:
            for pool in (layer.keys, layer.values):
                if pool is not None:
                    pool.fill_(float("nan"))
        recorder = self._recorder
        recorder.clear()
        self.engine.rebind(wrap=compose(wrap, recorder.wrap))
        for batch in self.batches:
            with torch.no_grad():
                self.engine._network(batch)
        steps, tensors = recorder.steps()
        recording = Recording(
            case="engine/hunt:n=1",
            revision=_REVISION,
            environment=Environment(backend="cpu", setting="strict", profile=PLAIN_PROFILE, provenance={}),
            steps=tuple(steps),
            tensors=tensors,
        )
        self._weights = self._weights or recorder.weights()
        return recording, lambda ref: self._weights.get(ref.name)


def quiet(subject: Subject, variant: str) -> tuple[str, ...]:
    """Return the steps that are flagged, or not judged, where every site is right in one way."""
    recording, weights = subject.run(_right_everywhere(VARIANTS[variant]))
    return tuple(
        f"{j.name}: {j.verdict.value} {j.note}"
        for j in judge_steps(recording, weights=weights)
        if j.verdict is not Verdict.WITHIN
    )


def faults_of(subject: Subject, *, seed: int) -> Iterator[Fault]:
    """Yield every kind of fault that the network has room for, each at a site drawn at random."""
    draw = random.Random(seed)
    by_op: dict[str, list[str]] = {}
    for site, op in subject.sites:
        by_op.setdefault(op, []).append(site)
    for op, sites in by_op.items():
        for name in BUGS[op]:
            if name == "exp_bf16" and subject.dtype != "f32":
                continue  # model code rounds the softmax weights itself
            ends = _WHERE.get(name, "")
            fitting = [site for site in sites if site.endswith(ends)] or sites
            yield Fault(site=draw.choice(fitting), op=op, name=name, inside=True)
    computing = [(site, op) for site, op in subject.sites if op not in ("store", "route")]
    for name in OUTPUT_FAULTS:
        ends = _WHERE.get(name, "")
        site, op = draw.choice([pair for pair in computing if pair[0].endswith(ends)])
        yield Fault(site=site, op=op, name=name, inside=False)


def hunt(subject: Subject, fault: Fault, variant: str) -> Found:
    """Run with the fault planted, and return what was flagged and what it was taken for."""
    planted = _Planted(fault, VARIANTS[variant])
    recording, weights = subject.run(planted.wrap)
    judged = list(judge_steps(recording, weights=weights))
    flagged = [j for j in judged if j.verdict is not Verdict.WITHIN]
    return Found(
        net=subject.net,
        dtype=subject.dtype,
        seed=subject.seed,
        variant=variant,
        fault=fault,
        changed=planted.changed,
        hidden=planted.changed and not planted.shows,
        flagged=tuple(j.name for j in flagged),
        causes=_causes(flagged[0], recording, weights) if flagged else (),
    )


def _causes(
    judged: StepJudgement, recording: Recording, weights: Callable[[Any], HostTensor | None]
) -> tuple[Cause, ...]:
    record = recording.step(judged.name)
    assert record is not None

    def of(ref: Any) -> HostTensor | None:
        return None if ref is None else recording.tensors.get(ref.digest) or weights(ref)

    got = [recording.tensors[ref.digest] for ref in record.outputs]
    consumed = [of(ref) for ref in record.inputs]
    earlier = earlier_than(record, recording, like=[*got, *(x for x in consumed if x is not None)])
    profile = recording.environment.profile
    return diagnose(record, consumed, got, profile, earlier=earlier)


def _right_everywhere(way: Way) -> Callable[..., Any]:
    def wrap(_site: str, op: Op, _function: Any, bound: Mapping[str, Any]) -> Callable[..., Any]:
        kernel = computed(op.name, way, "")
        return lambda *arguments, **options: kernel(*arguments, **bound, **options)

    return wrap


class _Planted:
    """A wrap with the fault at its site, which sees what the fault changes."""

    def __init__(self, fault: Fault, way: Way) -> None:
        self._fault, self._way = fault, way
        self._right = _right_everywhere(way)
        self._before: Tensor | None = None
        self.changed = False
        self.shows = False

    def wrap(self, site: str, op: Op, function: Any, bound: Mapping[str, Any]) -> Callable[..., Any]:
        right = self._right(site, op, function, bound)
        if site != self._fault.site:
            return right
        if op.name == "store":
            return self._stored(right, bound)

        def wrong(*arguments: Any, **options: Any) -> Any:
            made = right(*arguments, **options)
            if self._fault.inside:
                bad = computed(op.name, self._way, self._fault.name)(*arguments, **bound, **options)
            else:
                bad = OUTPUT_FAULTS[self._fault.name](made, self._before)
                self._before = made
                bad = made if bad is None else bad.contiguous()
            self._look(op, made, bad, arguments, {**bound, **options})
            return bad

        return wrong

    def _stored(self, right: Callable[..., Any], bound: Mapping[str, Any]) -> Callable[..., Any]:
        def wrong(x: Tensor, *, batch: Any) -> None:
            computed("store", self._way, self._fault.name)(x, pool=bound["pool"], batch=batch)
            differs = not torch.equal(bound["pool"][batch.slots], x)
            self.changed, self.shows = self.changed or differs, self.shows or differs

        del right
        return wrong

    def _look(self, op: Op, made: Any, bad: Any, arguments: Any, options: Mapping[str, Any]) -> None:
        """See whether the fault changes bits, and whether it leaves twice the envelope of right ways."""
        if _same(made, bad):
            return
        others = [computed(op.name, way, "")(*arguments, **options) for way in VARIANTS.values()]
        if any(_same(other, bad) for other in others):
            return
        self.changed = True
        if isinstance(made, tuple):
            self.shows = (
                self.shows
                or not torch.equal(made[1], bad[1])
                or self._leaves(made[0], bad[0], [o[0] for o in others], OPS[op.name], None, None)
            )
            return
        self.shows = self.shows or self._leaves(made, bad, others, OPS[op.name], arguments, options)

    @staticmethod
    def _leaves(
        made: Tensor, bad: Tensor, others: list[Tensor], op: Op, arguments: Any, options: Any
    ) -> bool:
        if not bool((bad.isfinite() == made.isfinite()).all()):
            return True
        if arguments is None:
            exact = torch.stack([o.double() for o in others]).mean(0)
        else:
            exact = op.reference(*map(_double, arguments), **{k: _double(v) for k, v in options.items()})
        envelope = torch.stack([(o.double() - exact).abs() for o in [made, *others]]).amax(0)
        room = 2 * envelope + torch.finfo(bad.dtype).eps / 2 * exact.abs()
        return bool(((bad.double() - exact).abs() > room).any())


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _same(a: Any, b: Any) -> bool:
    pairs = zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
    return all(torch.equal(x.nan_to_num(nan=1e30), y.nan_to_num(nan=1e30)) for x, y in pairs)
