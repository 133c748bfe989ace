"""False alarms and misses of Monte-Carlo judging, over functions of torch that have no op of ours.

Legitimate results are torch's own kernel in the type, on other strides, on float32 copies rounded once,
and what torch's decompositions give in float32. A planted fault that equals one is dropped; one within
twice their envelope plus u |y| everywhere is hidden, as in `faults.suite`. `measure` is the door.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode

from parity.backend.profile import Profile
from parity.backend.torch_tensor import to_host
from parity.judge.compare import compare
from parity.judge.monte_carlo import Unjudgeable, expected_of
from parity.judge.verdict import Verdict

__all__ = ["FUNCTIONS", "Function", "Trial", "measure", "trials"]

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
_UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def _normal(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=draw)


def _heavy(draw: torch.Generator, *shape: int) -> Tensor:
    x = torch.randn(shape, generator=draw) / torch.rand(shape, generator=draw).add(0.02).sqrt()
    x[..., :: max(2, shape[-1] // 3)] *= 30
    return x


def _positive(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=draw) + 0.05


def _small(draw: torch.Generator, *shape: int) -> Tensor:
    return 1e-3 * torch.randn(shape, generator=draw)


def _close(draw: torch.Generator, *shape: int) -> Tensor:
    """Large and nearly equal: what is subtracted cancels."""
    return 10 + 0.1 * torch.randn(shape, generator=draw)


DISTS: dict[str, Callable[..., Tensor]] = {
    "normal": _normal,
    "heavy": _heavy,
    "positive": _positive,
    "small": _small,
    "close": _close,
}


@dataclass(frozen=True, kw_only=True)
class Function:
    """A call, how its inputs are made from a drawn tensor, and what it is when an attribute is wrong."""

    name: str
    call: Callable[..., Any]
    make: Callable[[Tensor, torch.Generator], tuple[Tensor, ...]] = lambda x, _: (x,)
    wrong: tuple[Callable[..., Any], ...] = ()
    shape: tuple[int, ...] = (24, 40)
    dists: tuple[str, ...] = tuple(DISTS)
    of: str = ""  # the function whose declared facts hold, where it is not the name


def _two(x: Tensor, draw: torch.Generator) -> tuple[Tensor, ...]:
    return x, torch.randn(x.shape, generator=draw)


def _apart(x: Tensor, draw: torch.Generator) -> tuple[Tensor, ...]:
    return x, torch.rand(x.shape, generator=draw) + 0.5


def _weighted(*shape: int, bias: int = 0) -> Callable[[Tensor, torch.Generator], tuple[Tensor, ...]]:
    def make(x: Tensor, draw: torch.Generator) -> tuple[Tensor, ...]:
        w = torch.randn(shape, generator=draw) / math.sqrt(math.prod(shape[1:]))
        return (x, w, torch.randn(bias, generator=draw)) if bias else (x, w)

    return make


def _affine(x: Tensor, draw: torch.Generator) -> tuple[Tensor, ...]:
    n = x.shape[1]
    return x, torch.randn(n, generator=draw), torch.randn(n, generator=draw)


def _running(x: Tensor, draw: torch.Generator) -> tuple[Tensor, ...]:
    n = x.shape[1]
    return x, torch.randn(n, generator=draw), torch.rand(n, generator=draw) + 0.5


def _indexed(x: Tensor, draw: torch.Generator) -> tuple[Tensor, ...]:
    return x, torch.randint(0, 6, x.shape, generator=draw)


def _f(name: str, call: Callable[..., Any], *wrong: Callable[..., Any], **rest: Any) -> Function:
    return Function(name=name, call=call, wrong=wrong, **rest)


def _rotary(x: Tensor, cos: Tensor) -> Tensor:
    return x * cos + torch.cat((-x[..., 20:], x[..., :20]), -1) * (1 - cos * cos).clamp(min=0).sqrt()


def _llama_norm(x: Tensor, w: Tensor) -> Tensor:
    h = x.float()
    return w * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype)


_POINT = (
    _f("softplus", F.softplus, lambda x: F.softplus(x, beta=1.02)),
    _f("mish", F.mish, lambda x: x * torch.tanh(F.softplus(x, beta=1.02))),
    _f("elu", F.elu, lambda x: F.elu(x, alpha=1.02)),
    _f("celu", lambda x: F.celu(x, 1.5), lambda x: F.celu(x, 1.45)),
    _f("selu", F.selu, F.elu),
    _f("hardswish", F.hardswish, F.silu),
    _f("hardsigmoid", F.hardsigmoid, torch.sigmoid),
    _f("hardtanh", F.hardtanh, lambda x: F.hardtanh(x, -1.01, 1)),
    _f("leaky_relu", F.leaky_relu, lambda x: F.leaky_relu(x, 0.0101)),
    _f("logsigmoid", F.logsigmoid, lambda x: torch.log(torch.sigmoid(x) + 1e-3)),
    _f("relu", F.relu, torch.abs),
    _f("relu6", F.relu6, F.relu),
    _f("gelu", F.gelu, lambda x: F.gelu(x, approximate="tanh")),
    _f("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), F.gelu),
    _f("tanhshrink", F.tanhshrink, lambda x: x - torch.tanh(1.01 * x)),
    _f("softsign", F.softsign, torch.tanh),
    _f("softshrink", F.softshrink, F.hardshrink),
    _f("hardshrink", F.hardshrink, F.softshrink),
    _f("threshold", lambda x: F.threshold(x, 0.1, 0.3), lambda x: F.threshold(x, 0.1, 0.31)),
    _f("cos", torch.cos, lambda x: torch.cos(x * 1.001)),
    _f("sin", torch.sin, lambda x: x - x**3 / 6 + x**5 / 120),
    _f("tan", torch.tan, torch.sin, dists=("normal", "small", "positive")),
    _f("atan", torch.atan, torch.tanh),
    _f("exp2", torch.exp2, torch.exp, dists=("normal", "positive", "small", "close")),
    _f("expm1", torch.expm1, lambda x: torch.exp(x) - 1, dists=("normal", "positive", "small", "close")),
    _f("log1p", lambda x: torch.log1p(x.abs()), lambda x: torch.log(x.abs() + 1.001)),
    _f("log2", lambda x: torch.log2(x.abs()), lambda x: torch.log2(x.abs() + 1e-3)),
    _f("log", lambda x: torch.log(x.abs() + 1e-6), lambda x: torch.log(x.abs() + 1e-5)),
    _f("sqrt", lambda x: torch.sqrt(x.abs()), lambda x: torch.sqrt(x.abs() + 1e-3)),
    _f("rsqrt_eps", lambda x: torch.rsqrt(x * x + 1e-5), lambda x: torch.rsqrt(x * x + 1e-6)),
    _f("reciprocal", torch.reciprocal, lambda x: 1 / (x + 1e-3)),
    _f("square", torch.square, torch.abs),
    _f("pow", lambda x: x.pow(2), lambda x: x.pow(2).add(1e-3)),
    _f("pow3", lambda x: x.pow(3), lambda x: x.pow(2), of="pow"),
    _f("pow_y", lambda x: x.abs().pow(1.7), lambda x: x.abs().pow(1.71), of="pow"),
    _f("sigmoid_glu", lambda x: F.glu(x, -1), lambda x: F.glu(x.flip(-1), -1)),
    _f("erfinv", lambda x: torch.erfinv(torch.tanh(x)), torch.atan, dists=("normal", "small")),
    _f("lgamma", lambda x: torch.lgamma(x.abs() + 3), lambda x: torch.lgamma(x.abs() + 3.01)),
    _f("xlogy", torch.xlogy, lambda x, y: torch.xlogy(x, y + 1e-3), make=_apart),
    _f("atan2", torch.atan2, lambda a, b: torch.atan(a / b), make=_two),
    _f("hypot", torch.hypot, lambda a, b: (a * a + b * b + 1e-3).sqrt(), make=_two),
    _f("logaddexp", torch.logaddexp, torch.maximum, make=_two),
    _f("lerp", lambda a, b: torch.lerp(a, b, 0.3), lambda a, b: torch.lerp(a, b, 0.31), make=_two),
    _f("addcmul", lambda a, b: torch.addcmul(a, a, b), lambda a, b: torch.addcmul(a, b, b), make=_two),
    _f("addcdiv", lambda a, b: torch.addcdiv(a, a, b), lambda a, b: torch.addcdiv(a, b, b), make=_apart),
    _f("remainder", torch.remainder, torch.fmod, make=_apart),
    _f("floor_divide", torch.floor_divide, lambda a, b: (a / b).trunc(), make=_apart),
    _f("round", torch.round, torch.floor),
    _f("clamp", lambda x: x.clamp(-0.5, 0.7), lambda x: x.clamp(-0.5, 0.71)),
    _f("nan_to_num", torch.nan_to_num, torch.neg),
    _f("sub", torch.sub, torch.add, make=_two),
    _f("rsub", lambda x: 1 - x, lambda x: x - 1),
    _f("maximum", torch.maximum, torch.minimum, make=_two),
)
_ROWS = (
    _f("var", lambda x: x.var(-1), lambda x: x.var(-1, unbiased=False)),
    _f("std", lambda x: x.std(-1), lambda x: x.std(-1, unbiased=False)),
    _f("norm", lambda x: x.norm(dim=-1), lambda x: x.norm(p=1, dim=-1)),
    _f("norm1", lambda x: x.norm(p=1, dim=-1), lambda x: x.sum(-1)),
    _f("norm3", lambda x: x.norm(p=3, dim=-1), lambda x: x.norm(p=2, dim=-1)),
    _f("normalize", lambda x: F.normalize(x, dim=-1), lambda x: F.normalize(x, dim=0)),
    _f("amax", lambda x: x.amax(-1), lambda x: x.amin(-1)),
    _f("max", lambda x: x.max(-1), lambda x: x.min(-1)),
    _f("prod", lambda x: (x * 0.3 + 1).prod(-1), lambda x: (x * 0.3 + 1)[..., :-1].prod(-1), shape=(24, 12)),
    _f("cumprod", lambda x: (x * 0.3 + 1).cumprod(-1), lambda x: (x * 0.3 + 1).cumsum(-1), shape=(24, 12)),
    _f("cummax", lambda x: x.cummax(-1)[0], lambda x: x.cummin(-1)[0]),
    _f("logcumsumexp", lambda x: x.logcumsumexp(-1), lambda x: x.logsumexp(-1, True) + 0 * x, shape=(24, 20)),
    _f("softmin", lambda x: F.softmin(x, dim=-1), lambda x: F.softmax(x, dim=-1)),
    _f("group_norm", lambda x: F.group_norm(x, 4), lambda x: F.group_norm(x, 5)),
    _f(
        "group_norm_w",
        lambda x, w, b: F.group_norm(x, 4, w, b),
        lambda x, w, b: F.group_norm(x, 4, b, w),
        make=_affine,
    ),
    _f("instance_norm", F.instance_norm, lambda x: F.instance_norm(x, eps=1e-3), shape=(3, 8, 40)),
    _f(
        "batch_norm",
        F.batch_norm,
        lambda x, m, v: F.batch_norm(x, m, v, eps=1e-3),
        make=_running,
    ),
    _f("cosine", F.cosine_similarity, lambda a, b: (a * b).mean(-1), make=_two),
    _f(
        "pairwise",
        F.pairwise_distance,
        lambda a, b: F.pairwise_distance(a, b, p=1),
        make=_two,
    ),
    _f("cdist", torch.cdist, lambda a, b: torch.cdist(a, b, p=1), make=_two),
    _f(
        "llama_norm",
        _llama_norm,
        lambda x, w: w * F.normalize(x, dim=-1),
        make=lambda x, d: (x, torch.randn(x.shape[-1], generator=d)),
    ),
    _f(
        "rotary",
        _rotary,
        lambda x, c: _rotary(x.flip(-1), c),
        make=lambda x, d: (x, torch.rand(x.shape, generator=d)),
    ),
    _f("mean2", lambda x: x.mean((0, 1)), lambda x: x[:, :-1].mean((0, 1))),
    _f("sum0", lambda x: x.sum(0), lambda x: x[1:].sum(0)),
    _f("argmax", lambda x: x.argmax(-1), lambda x: x.argmin(-1)),
)
_SUMS = (
    _f(
        "einsum",
        lambda a, b: torch.einsum("ik,jk->ij", a, b),
        lambda a, b: torch.einsum("ik,jk->ji", a, b),
        make=_two,
    ),
    _f("outer", lambda x: torch.outer(x[0], x[1]), lambda x: torch.outer(x[1], x[0])),
    _f(
        "baddbmm",
        lambda a, b: torch.baddbmm(a[None], (a @ b.T)[None], b[None]),
        lambda a, b: a[None] + b[None],
        make=_two,
    ),
    _f(
        "bilinear",
        F.bilinear,
        lambda a, b, w: F.bilinear(b, a, w),
        make=lambda x, d: (
            x[:, :12].contiguous(),
            torch.randn(x.shape[0], 12, generator=d),
            torch.randn(5, 12, 12, generator=d),
        ),
    ),
    _f(
        "conv_transpose1d",
        F.conv_transpose1d,
        lambda x, w: F.conv_transpose1d(x, w.flip(-1)),
        make=_weighted(8, 6, 3),
        shape=(2, 8, 20),
    ),
    _f(
        "conv3d",
        F.conv3d,
        lambda x, w: F.conv3d(x, w.flip(-1)),
        make=_weighted(4, 3, 2, 2, 2),
        shape=(1, 3, 5, 6, 7),
    ),
    _f("avg_pool2d", lambda x: F.avg_pool2d(x, 3), lambda x: F.max_pool2d(x, 3), shape=(2, 3, 12, 12)),
    _f(
        "adaptive_avg_pool",
        lambda x: F.adaptive_avg_pool2d(x, 5),
        lambda x: F.adaptive_max_pool2d(x, 5),
        shape=(2, 3, 12, 12),
    ),
    _f("max_pool2d", lambda x: F.max_pool2d(x, 2), lambda x: F.avg_pool2d(x, 2), shape=(2, 3, 12, 12)),
    _f(
        "interpolate",
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
        shape=(1, 3, 9, 9),
    ),
    _f(
        "scatter_add",
        lambda x, i: torch.zeros_like(x).scatter_add(-1, i, x),
        lambda x, i: torch.zeros_like(x).scatter(-1, i, x),
        make=_indexed,
    ),
    _f(
        "index_add",
        lambda x: torch.zeros(6, x.shape[1], dtype=x.dtype).index_add(0, torch.arange(24) % 6, x),
        lambda x: torch.zeros(6, x.shape[1], dtype=x.dtype).index_copy(0, torch.arange(6), x[:6]),
    ),
    _f(
        "scatter_mean",
        lambda x, i: x.scatter_reduce(-1, i, x, "mean"),
        lambda x, i: x.scatter_reduce(-1, i, x, "sum"),
        make=_indexed,
        of="scatter_reduce",
    ),
    _f("trace", lambda x: x[:, :24].trace(), lambda x: x[:, 1:25].trace()),
    _f("kron", lambda x: torch.kron(x[:4, :4], x[:5, :5]), lambda x: torch.kron(x[:5, :5], x[:4, :4])),
    _f(
        "unfold_fold",
        lambda x: F.fold(F.unfold(x, 3), (12, 12), 3),
        lambda x: 9 * x,
        shape=(1, 2, 12, 12),
        of="fold",
    ),
)
_MOVED = (
    _f("pad", lambda x: F.pad(x, (2, 1)), lambda x: F.pad(x, (1, 2))),
    _f(
        "pad_reflect",
        lambda x: F.pad(x, (2, 1), mode="reflect"),
        lambda x: F.pad(x, (2, 1), mode="replicate"),
    ),
    _f("roll", lambda x: x.roll(1, 0), lambda x: x.roll(-1, 0)),
    _f("flip", lambda x: x.flip(-1), lambda x: x.flip(0)),
    _f("repeat_interleave", lambda x: x.repeat_interleave(3, 0), lambda x: x.repeat(3, 1)),
    _f("stack", lambda a, b: torch.stack((a, b), 1), lambda a, b: torch.stack((b, a), 1), make=_two),
    _f("masked_fill", lambda x: x.masked_fill(x > 0.5, -1.5), lambda x: x.masked_fill(x >= 0.35, -1.5)),
    _f(
        "setitem",
        lambda x: x.clone().index_fill_(0, torch.tensor([1, 3]), 0.0),
        lambda x: x.clone().index_fill_(0, torch.tensor([1, 2]), 0.0),
    ),
    _f(
        "pixel_shuffle",
        lambda x: F.pixel_shuffle(x, 2),
        lambda x: F.pixel_shuffle(x.flip(1), 2),
        shape=(1, 8, 5, 6),
    ),
)
FUNCTIONS: tuple[Function, ...] = (*_POINT, *_ROWS, *_SUMS, *_MOVED)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One result and what was said of it; `kind` is legitimate, real, hidden or unjudged."""

    function: str
    dtype: str
    dist: str
    seed: int
    name: str
    kind: str
    accepted: bool
    note: str = ""


def trials(function: Function, *, dtype: str, dist: str, seed: int, profile: Profile) -> Iterator[Trial]:
    """Yield what the judge says of every legitimate and every faulty result of one problem."""
    draw = torch.Generator().manual_seed(seed)
    to = DTYPES[dtype]
    drawn = function.make(DISTS[dist](draw, *function.shape), draw)
    given = tuple(x.to(to) if x.is_floating_point() else x for x in drawn)
    trial = _Maker(function, dtype, dist, seed)
    try:
        name = f"torch:{function.of or function.name}"
        readings = list(expected_of(function.call, [to_host(x) for x in given], name=name, profile=profile))
    except Unjudgeable as reason:
        yield trial("none", "unjudged", False, str(reason))
        return

    def judge(outputs: tuple[Tensor, ...]) -> tuple[bool, str]:
        names = tuple(f"y{i}" for i in range(len(outputs)))
        good, judged = False, ()
        for expected in readings:
            judged = judged if good else compare(tuple(to_host(t) for t in outputs), names, expected)
            good = len(judged) == len(expected) and all(j.verdict is Verdict.WITHIN for j in judged)
        return good, "; ".join(
            f"{j.note} (worst {j.worst}, rms {j.rms}, flips {j.flips}/{j.flips_limit})"
            for j in judged
            if j.note
        )

    try:
        legitimate = dict(_legitimate(function, given))
    except NotImplementedError:  # a type that the CPU has no kernel for
        return
    for name, outputs in legitimate.items():
        yield trial(name, "legitimate", *judge(outputs))
    exact = _flat(function.call(*(x.double() if x.is_floating_point() else x for x in given)))
    for name, outputs in _faults(function, given, legitimate["kernel"], draw):
        kind = _kind(outputs, list(legitimate.values()), exact)
        if kind != "dropped":
            yield trial(name, kind, *judge(outputs))


@dataclass(frozen=True)
class _Maker:
    function: Function
    dtype: str
    dist: str
    seed: int

    def __call__(self, name: str, kind: str, accepted: bool, note: str) -> Trial:  # noqa: FBT001
        return Trial(
            function=self.function.name,
            dtype=self.dtype,
            dist=self.dist,
            seed=self.seed,
            name=name,
            kind=kind,
            accepted=accepted,
            note=note,
        )


def _flat(made: Any) -> tuple[Tensor, ...]:
    return (made,) if isinstance(made, Tensor) else tuple(made)


class _Decomposed(TorchDispatchMode):
    """Every op by torch's decomposition of it: another algorithm than the kernel's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        parts = decomposition_table.get(func)
        plain = func in (torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor)
        if parts is None or plain or torch.Tag.core in func.tags:
            return func(*args, **(kwargs or {}))
        return parts(*args, **(kwargs or {}))


def _legitimate(function: Function, given: tuple[Tensor, ...]) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    kernel = _flat(function.call(*given))
    yield "kernel", kernel
    strided = tuple(
        torch.empty((*x.shape, 2), dtype=x.dtype)[..., 0].copy_(x) if x.is_floating_point() else x
        for x in given
    )
    yield "strided", _flat(function.call(*strided))

    def rounded(made: Any) -> tuple[Tensor, ...]:
        return tuple(t.to(k.dtype) for t, k in zip(_flat(made), kernel, strict=True))

    high = tuple(x.float() if x.is_floating_point() else x for x in given)
    yield "float32", rounded(function.call(*high))
    if all(k.is_floating_point() for k in kernel):
        with _Decomposed():
            yield "decomposed", rounded(function.call(*high))
        yield "float64", rounded(function.call(*(x.double() if x.is_floating_point() else x for x in given)))


def _faults(
    function: Function, given: tuple[Tensor, ...], right: tuple[Tensor, ...], draw: torch.Generator
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    floats = tuple(x for x in right if x.is_floating_point())
    for number, wrong in enumerate(function.wrong):
        made = _flat(wrong(*given))
        yield f"wrong_{number}", tuple(m.to(r.dtype) for m, r in zip(made, right, strict=False))
    if not floats:
        return
    y, rest = right[0], right[1:]
    u = _UNIT[given[0].dtype]
    for k in (4, 16, 64):
        yield f"scaled_{k}u", ((y.double() * (1 + 4 * k * u)).to(y.dtype), *rest)
    yield "scaled_0.999", ((y.double() * 0.999).to(y.dtype), *rest)
    flat = y.reshape(-1)
    if flat.numel() > 8:
        for name, at in (
            ("tile", slice(-(-flat.numel() // 16), flat.numel() // 8 + 2)),
            ("tail", slice(-2, None)),
        ):
            changed = flat.clone()
            changed[at] = 0
            yield f"{name}_not_written", (changed.view(y.shape), *rest)
        one = flat.clone()
        one[flat.numel() // 3] = flat[-1]
        yield "one_wrong_element", (one.view(y.shape), *rest)
        bumped = flat.clone()
        bumped[flat.numel() // 3] *= 1.05
        yield "one_off_by_5_percent", (bumped.view(y.shape), *rest)
        yield "rolled", (flat.roll(1).view(y.shape), *rest)
        noisy = flat.double() * (1 + 8 * u * torch.randn(flat.shape, generator=draw))
        yield "noise_8u", (noisy.to(y.dtype).view(y.shape), *rest)
    yield "negated", (-y, *rest)
    low = torch.bfloat16 if y.dtype is not torch.bfloat16 else torch.float8_e4m3fn
    coarse = tuple(x.to(low).to(x.dtype) if x.is_floating_point() else x for x in given)
    yield "inputs_through_fewer_bits", _flat(function.call(*coarse))
    yield "stored_in_fewer_bits", (y.to(low).to(y.dtype), *rest)
    yield (
        "tf32_inputs" if y.dtype is torch.float32 else "f16_inputs",
        _flat(function.call(*(x.half().to(x.dtype) if x.is_floating_point() else x for x in given))),
    )


def _kind(
    outputs: tuple[Tensor, ...], legitimate: list[tuple[Tensor, ...]], exact: tuple[Tensor, ...]
) -> str:
    if any(
        len(o) == len(outputs) and all(_same(a, b) for a, b in zip(o, outputs, strict=True))
        for o in legitimate
    ):
        return "dropped"
    if any(o.shape != e.shape for o, e in zip(outputs, exact, strict=True)):
        return "real"
    for place, (got, value) in enumerate(zip(outputs, exact, strict=True)):
        if not got.is_floating_point():
            if not _same(got, legitimate[0][place]):
                return "real"
            continue
        errors = [(o[place].double() - value).abs().nan_to_num(0.0, 0.0) for o in legitimate]
        room = 2 * torch.stack(errors).amax(0) + _UNIT.get(got.dtype, 0.0) * value.abs()
        wide = got.double()
        near = ((wide - value).abs() <= room) | (wide == value) | (wide.isnan() & value.isnan())
        for o in legitimate:
            near |= wide == o[place].double()
        if not bool(near.all()):
            return "real"
    return "hidden"


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


@dataclass
class Tally:
    """Counts over trials, and those that a reader should see."""

    counts: Counter[tuple[str, str, bool]] = field(default_factory=Counter)
    alarms: list[Trial] = field(default_factory=list)
    missed: list[Trial] = field(default_factory=list)
    unjudged: list[Trial] = field(default_factory=list)

    def add(self, trial: Trial) -> None:
        self.counts[trial.dtype, trial.kind, trial.accepted] += 1
        if trial.kind == "legitimate" and not trial.accepted:
            self.alarms.append(trial)
        if trial.kind == "real" and trial.accepted:
            self.missed.append(trial)
        if trial.kind == "unjudged":
            self.unjudged.append(trial)

    def line(self, dtype: str) -> str:
        """One row of the table: false alarms of legitimate, misses of real and of hidden."""
        n = {
            k: self.counts[dtype, k, True] + self.counts[dtype, k, False]
            for k in ("legitimate", "real", "hidden")
        }
        return (
            f"{dtype:5} {self.counts[dtype, 'legitimate', False]:4} of {n['legitimate']:6,}"
            f"   {self.counts[dtype, 'real', True]:4} of {n['real']:6,}"
            f"   {self.counts[dtype, 'hidden', True]:4} of {n['hidden']:6,}"
            f"   {self.counts[dtype, 'unjudged', False]:4}"
        )


def measure(
    seeds: Iterable[int],
    *,
    profile: Profile,
    functions: Iterable[Function] = FUNCTIONS,
    dists: Sequence[str] = tuple(DISTS),
) -> Tally:
    """Run every function in every type on every distribution and seed; `Tally.line` prints a row a type."""
    tally = Tally()
    for seed in seeds:
        for function in functions:
            for dtype in DTYPES:
                for dist in (d for d in dists if d in function.dists):
                    for trial in trials(function, dtype=dtype, dist=dist, seed=seed, profile=profile):
                        tally.add(trial)
    return tally
