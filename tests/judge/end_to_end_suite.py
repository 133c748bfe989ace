"""Honest and faulty runs of the engine beside the exact one: what `judge_scores` says of each.

Honest ones sum in another order, in split sums or in more precise types, and take another exponential.
Faults are in one layer, on top of an honest variant. `measure` is the door.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from safetensors.torch import load_file, save_file
from torch import Tensor

from parity.backend.torch_tensor import to_host
from parity.engine import Engine
from parity.engine.ops.reference import visible, wide
from parity.judge.end_to_end import judge_scores
from parity.judge.verdict import EndToEnd
from parity.run.noise import engine_scores, logit_samples

__all__ = ["FAULTS", "HONEST", "Subject", "measure", "through_bf16"]

Change = Callable[[Callable[..., Any], Mapping[str, Any]], Callable[..., Any]]


def through_bf16(folder: Path, into: Path) -> Path:
    """Copy a checkpoint with its weights rounded to bf16, so that every type computes with the same ones."""
    into.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name == "config.json":
            fields = json.loads(path.read_text(encoding="utf-8"))
            (into / path.name).write_text(json.dumps({**fields, "dtype": "bfloat16"}), encoding="utf-8")
        elif path.suffix == ".safetensors":
            save_file({k: v.to(torch.bfloat16) for k, v in load_file(path).items()}, into / path.name)
    return into


def _permuted(_: Callable[..., Any], bound: Mapping[str, Any]) -> Callable[..., Any]:
    w, b = bound["w"], bound.get("b", None)
    order = torch.randperm(w.shape[1], generator=torch.Generator().manual_seed(1))
    return lambda x: F.linear(x[:, order], w[:, order], b)


def _split(_: Callable[..., Any], bound: Mapping[str, Any]) -> Callable[..., Any]:
    w, b = wide(bound["w"]), bound.get("b")

    def linear(x: Tensor) -> Tensor:
        parts = [F.linear(wide(x[:, k : k + 24]), w[:, k : k + 24]) for k in range(0, w.shape[1], 24)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return (total if b is None else total + wide(b)).to(x.dtype)

    return linear


def _precise(_: Callable[..., Any], bound: Mapping[str, Any]) -> Callable[..., Any]:
    w, b = bound["w"].double(), bound.get("b")
    return lambda x: F.linear(x.double(), w, None if b is None else b.double()).to(x.dtype)


def _attend(
    exp: Callable[[Tensor], Tensor], *, scale: float = 1.0, ahead: int = 0, heads: Sequence[int] = ()
) -> Change:
    """Attention in float32 throughout, by an exponential of one's own; `ahead` keys more are seen."""

    def change(function: Callable[..., Any], bound: Mapping[str, Any]) -> Callable[..., Any]:
        def attend(q: Tensor, *, batch: Any) -> Tensor:
            if "keys" not in bound:  # a latent cache: only what it is called with can be changed
                return function(q * scale, batch=batch)
            keys, values, made = bound["keys"], bound["values"], []
            for segment in batch.segments:
                repeat = q.shape[1] // keys.shape[1]
                rows = wide(q[segment.start : segment.start + segment.length]).transpose(0, 1)
                k = wide(keys[segment.slots]).transpose(0, 1).repeat_interleave(repeat, 0)
                v = wide(values[segment.slots]).transpose(0, 1).repeat_interleave(repeat, 0)
                scores = rows @ k.transpose(1, 2) * (bound["scale"] * scale)
                if bound["softcap"] is not None:
                    scores = torch.tanh(scores / bound["softcap"]) * bound["softcap"]
                seen = visible(segment, bound["window"], q.device)
                seen = seen | torch.roll(seen, ahead, -1) if ahead else seen
                scores = scores.masked_fill(~seen, -math.inf)
                p = exp(scores - scores.amax(-1, keepdim=True))
                made.append((p / p.sum(-1, keepdim=True) @ v).transpose(0, 1))
            y = torch.cat(made)
            for head in heads:
                y[:, head] = y[:, head - 1]
            return y.to(q.dtype)

        return attend

    return change


def _exp2(x: Tensor) -> Tensor:
    return torch.exp2(x * 1.4426950408889634)


def _norm(eps: float = 1.0, kind: torch.dtype = torch.float64) -> Change:
    def change(_: Callable[..., Any], bound: Mapping[str, Any]) -> Callable[..., Any]:
        def norm(x: Tensor) -> Tensor:
            high = x.to(kind)
            normal = high * torch.rsqrt(high.square().mean(-1, keepdim=True) + bound["eps"] * eps)
            if bound["offset"]:
                return (normal * (bound["w"].to(kind) + bound["offset"])).to(x.dtype)
            return normal.to(x.dtype) * bound["w"]

        return norm

    return change


# Of every site whose op is named.
HONEST: dict[str, dict[str, Change]] = {
    "as it is": {},
    "permuted sums": {"linear": _permuted},
    "split sums": {"linear": _split},
    "more precise": {"linear": _precise, "rms_norm": _norm()},
    "other attention": {"attend": _attend(_exp2)},
    "all of them": {"linear": _split, "attend": _attend(_exp2), "rms_norm": _norm()},
}


def _result(change: Callable[[Tensor], Tensor]) -> Change:
    return lambda function, _: lambda *a, **k: change(function(*a, **k))


def _weight(change: Callable[[Tensor], Tensor]) -> Change:
    def altered(_: Callable[..., Any], bound: Mapping[str, Any]) -> Callable[..., Any]:
        w = change(bound["w"])
        return lambda x: F.linear(x, w, bound.get("b"))

    return altered


def _int8(w: Tensor) -> Tensor:
    scale = w.abs().amax(-1, keepdim=True) / 127
    return ((w / scale).round() * scale).to(w.dtype)


def _without_tile(w: Tensor) -> Tensor:
    w = w.clone()
    w[:, -16:] = 0
    return w


def _in_bf16(_: Callable[..., Any], bound: Mapping[str, Any]) -> Callable[..., Any]:
    w = bound["w"].to(torch.bfloat16)

    def linear(x: Tensor) -> Tensor:
        total = torch.zeros(len(x), len(w), dtype=torch.bfloat16)
        for k in range(0, w.shape[1], 8):
            total = total + F.linear(x[:, k : k + 8].to(torch.bfloat16), w[:, k : k + 8])
        return total.to(x.dtype)

    return linear


def _tanh_gelu(_: Callable[..., Any], __: Mapping[str, Any]) -> Callable[..., Any]:
    def gated(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return F.gelu(gate, approximate="tanh") * up

    return gated


def _wrong_angles(function: Callable[..., Any], _: Mapping[str, Any]) -> Callable[..., Any]:
    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        angle = torch.atan2(sin.double(), cos.double()) * 1.01
        return function(x, angle.cos().to(x.dtype), angle.sin().to(x.dtype))

    return rotate


# Of one site: its end of name, and what happens there.
FAULTS: dict[str, tuple[str, Change]] = {
    "tile dropped": ("down", _weight(_without_tile)),
    "scaled by 1.01": ("out", _result(lambda y: y * 1.01)),
    "scaled by 1.1": ("out", _result(lambda y: y * 1.1)),
    "sums in bf16": ("down", _in_bf16),
    "weights in int8": ("gate_up", _weight(_int8)),
    "gelu for silu": ("gated", _tanh_gelu),
    "epsilon x 1000": ("norm2", _norm(1000.0, torch.float32)),
    "one key ahead": ("attend", _attend(torch.exp, ahead=1)),
    "scale of attention x 1.05": ("attend", _attend(torch.exp, scale=1.05)),
    "head repeated": ("attend", _attend(torch.exp, heads=(1,))),
    "angles x 1.01": ("rope", _wrong_angles),
    "residual lost": ("res2", lambda _, __: lambda x, y: y),
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A checkpoint in one type, on prompts: exact scores and samples of its noise."""

    engine: Engine
    exact: Engine
    prompts: tuple[tuple[int, ...], ...]
    oracle: Tensor
    samples: tuple[Tensor, ...]

    @classmethod
    def of(cls, folder: Path, dtype: str, prompts: Sequence[Sequence[int]]) -> Subject:
        room = {"kv_tokens": max(len(p) for p in prompts) + 32}
        exact, engine = Engine(folder, dtype="f64", **room), Engine(folder, dtype=dtype, **room)
        each = [logit_samples(engine_scores(engine, p)) for p in prompts]
        return cls(
            engine=engine,
            exact=exact,
            prompts=tuple(tuple(p) for p in prompts),
            oracle=torch.cat([exact.score(p) for p in prompts]),
            samples=tuple(torch.cat(parts) for parts in zip(*each, strict=True)),
        )

    def judged(self, wrap: Any) -> EndToEnd:
        scores = torch.cat([engine_scores(self.engine, p)(wrap) for p in self.prompts])
        return judge_scores(
            to_host(scores.float()),
            oracle=to_host(self.oracle),
            samples=[to_host(s.float()) for s in self.samples],
        )

    def signal(self, wrap: Any) -> float:
        """Return how far a fault moves exact scores, in rms of the samples' distance from them."""
        moved = torch.cat([engine_scores(self.exact, p)(wrap) for p in self.prompts]) - self.oracle
        noise = torch.stack([s.double() - self.oracle for s in self.samples])
        return float(moved.square().mean().sqrt() / noise.square().mean().sqrt())


def _wrap(honest: Mapping[str, Change], site: str = "", fault: Change | None = None) -> Any:
    def wrap(name: str, op: Any, function: Any, bound: Any) -> Any:
        if fault is not None and name == site:
            return fault(function, bound)
        change = honest.get(op.name)
        return change(function, bound) if change else function

    return wrap


def measure(subject: Subject, *, layer: int = 1) -> Iterator[tuple[str, str, EndToEnd, float]]:
    """Yield kind, name, judgement and signal: of every honest variant, then of every fault in one layer."""
    for name, changes in HONEST.items():
        yield "honest", name, subject.judged(_wrap(changes)), 0.0
    known = {site for site, _ in subject.engine.sites}
    for name, (end, fault) in FAULTS.items():
        site = f"L{layer:02}.{end}"
        if site in {s for part in known for s in part.split("+")} | known | {f"L{layer:02}.norm2"}:
            judged = subject.judged(_wrap(HONEST["permuted sums"], site, fault))
            yield "fault", name, judged, subject.signal(_wrap({}, site, fault))
