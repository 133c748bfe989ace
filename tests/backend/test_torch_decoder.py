from __future__ import annotations

import pytest
import torch

from parity.backend.torch_ops import TORCH_OPS
from parity.engine.ops import inputs  # noqa: F401 - registers what the engine's ops are called with
from parity.engine.ops.op import OPS

MASKED = ("paged_attention", "latent_attention", "experts")


def _norm(call):
    bound = call.options
    attrs = {"eps": bound["eps"], "offset": bound["offset"], "rounds_first": not bound["offset"]}
    return "weighted_rms_norm", (*call.arguments, bound["w"]), attrs


def _plan(batch):
    found = [[s.start, s.length, s.context] for s in batch.segments]
    return torch.cat([s.slots for s in batch.segments]), torch.tensor(found)


def _attend(call):
    bound = call.options
    tensors = (*call.arguments, bound["keys"], bound["values"], *_plan(bound["batch"]))
    return "paged_attention", tensors, {name: bound[name] for name in ("scale", "window", "softcap")}


def _latent(call):
    bound = call.options
    tensors = (*call.arguments, bound["latents"], bound["w"], *_plan(bound["batch"]))
    return "latent_attention", tensors, {"nope": bound["nope"], "scale": bound["scale"], "absorbed": False}


def _route(call):
    bound, router = call.options, call.options["router"]
    names = ("top", "scores", "groups", "top_groups", "group_best", "normalise", "scale", "wide")
    return "route", (*call.arguments, bound["w"], bound["bias"]), {n: getattr(router, n) for n in names}


def _experts(call):
    bound = call.options
    return "experts", (*call.arguments, bound["up"], bound["down"]), {"activation": bound["activation"]}


CANONICAL = {
    "embed": lambda c: ("scaled_embedding", (c.options["w"], *c.arguments), {"scale": c.options["scale"]}),
    "rms_norm": _norm,
    "rotate": lambda c: ("rotate", c.arguments, c.options),
    "gated": lambda c: ("gated", c.arguments, c.options),
    "softcap": lambda c: ("softcap", c.arguments, c.options),
    "attend": _attend,
    "latent_attend": _latent,
    "route": _route,
    "experts": _experts,
}


def _calls(name, dtype):
    def cast(value):
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(dtype) if floats else value

    for size in (1, 7):
        for call in OPS[name].inputs(torch.Generator().manual_seed(size), size):
            bound = {key: cast(value) for key, value in call.options.items()}
            yield type(call)(tuple(map(cast, call.arguments)), bound)


def _each(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CANONICAL)
def test_an_op_of_the_engine_and_its_canonical_one_give_the_same_bits(name, dtype):
    for call in _calls(name, dtype):
        op, tensors, attrs = CANONICAL[name](call)
        wanted = _each(OPS[name].reference(*call.arguments, **call.options))
        for got, want in zip(_each(TORCH_OPS[op](*tensors, **attrs)), wanted, strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("name", ["attend", "latent_attend", "experts"])
def test_what_a_compiler_is_given_reads_no_number_and_gives_the_same(name, monkeypatch):
    for call in _calls(name, torch.float64):
        op, tensors, attrs = CANONICAL[name](call)
        wanted = TORCH_OPS[op](*tensors, **attrs)
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            patch.setattr(torch.Tensor, "tolist", None)
            got = TORCH_OPS[op](*tensors, **attrs)
        torch.testing.assert_close(got, wanted, rtol=1e-13, atol=1e-14)


def test_absorbed_and_materialised_latents_give_the_same():
    for call in _calls("latent_attend", torch.float64):
        op, tensors, attrs = _latent(call)
        absorbed = TORCH_OPS[op](*tensors, **(attrs | {"absorbed": True}))
        torch.testing.assert_close(absorbed, TORCH_OPS[op](*tensors, **attrs), rtol=1e-12, atol=1e-13)
