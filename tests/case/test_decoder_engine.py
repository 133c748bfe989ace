"""The layers of the cases are the engine's: the same sites in the same order, the same bits.

The engine's own network is built from a case's weights and pages and run on its tokens; each site
must give what the case's step of that name gives. Rotary tables are the case's in both.
"""

from __future__ import annotations

import pytest
import torch

from parity.backend.cpu import CpuBackend
from parity.backend.spec import BackendSpec, Setting
from parity.backend.torch_tensor import to_torch
from parity.case.catalog import Catalog, builtin_cases
from parity.case.dist_pages import slots_of, spans
from parity.case.ids import CaseId
from parity.case.inputs import generate
from parity.engine.kv.pool import LayerPool
from parity.engine.model import arch
from parity.engine.model.net import build
from parity.engine.model.rope import Rope
from parity.engine.ops.op import Binder
from parity.engine.run.batch import Run, flatten
from parity.run.journal import Journal
from parity.run.recorder import record

pytestmark = pytest.mark.needs_torch

CPU = torch.device("cpu")
ROPE = Rope(dim=16, theta=1e4)
GQA = {"heads": 4, "kv_heads": 2, "key_dim": 16, "value_dim": 16, "scale": 0.25, "rope": ROPE}
SMALL = {**GQA, "key_dim": 12, "value_dim": 12, "scale": 12**-0.5, "qk_norm": True}
GEMMA = {**GQA, "scale": 24**-0.5}
V2 = {"experts": 8, "top": 3, "groups": 4, "top_groups": 2, "normalise": False, "scale": 1.5, "wide": True}
V3 = {**V2, "scores": "sigmoid", "group_best": 2, "bias": True, "normalise": True, "scale": 2.5}
TURNING = Rope(dim=8, theta=1e4, interleaved=True)
LATENT = {"heads": 4, "kv_heads": 4, "key_dim": 20, "value_dim": 10, "scale": 20**-0.5, "rope": TURNING}


def dense(activation="silu"):
    return arch.FeedForward(width=48, activation=activation)


def mixture(width, shared=0, **router):
    return arch.FeedForward(width=width, activation="silu", router=arch.Router(**router), shared=shared)


def latent(rank):
    return arch.Attention(**LATENT, mla=arch.MLA(query_rank=rank, latent=16, nope=12, rope=8))


# The engine's words for what `cases/layers/decoder.py` says in its own.
MODELS = {
    "llama": (arch.Attention(**GQA), dense(), {"eps": 1e-5, "hidden": 48}),
    "mistral": (arch.Attention(**GQA, window=7), dense(), {}),
    "qwen2": (arch.Attention(**GQA, qkv_bias=True), dense(), {}),
    "qwen3": (arch.Attention(**SMALL), dense(), {}),
    "gemma2": (
        arch.Attention(**GEMMA, window=6, softcap=3.0),
        dense("gelu_pytorch_tanh"),
        {"norm_offset": 1.0},
    ),
    "gemma3": (
        arch.Attention(**{**GEMMA, "kv_heads": 1}, qk_norm=True),
        dense("gelu_pytorch_tanh"),
        {"norm_offset": 1.0},
    ),
    "mixtral": (arch.Attention(**GQA), mixture(24, experts=5, top=2), {"eps": 1e-5}),
    "qwen3-moe": (arch.Attention(**SMALL), mixture(24, experts=6, top=2), {}),
    "deepseek-v2": (latent(None), mixture(16, shared=32, **V2), {}),
}
# Built apart, or absorbed: not as the engine's reference does it.
NOT_COMPARED = {"llama-bias", "deepseek-v3"}


class Pages:
    def __init__(self, keys, values):
        self.layers = [LayerPool(keys, values)]


def network(model, tokens, hidden):
    attention, feed_forward, more = MODELS[model]
    layer = arch.Layer(attention=attention, feed_forward=feed_forward, sandwich=bool(more.get("norm_offset")))
    options = {"eps": 1e-6, **more, "hidden": hidden}
    return arch.Arch(
        family=model, vocab=tokens, layers=(layer,), max_positions=64, tied=True, names="llama", **options
    )


def weights_of(made, x):
    """The engine's names for a case's weights; the table of tokens is the stream, a row each."""
    found = {"embed": x, "norm": torch.ones(x.shape[1], dtype=x.dtype)}
    for name, tensor in made.items():
        if name.startswith("L00.") and not name.endswith(".pool"):
            found[name.removesuffix(".weight")] = tensor
    return found


def engine_outputs(case, made):
    """What each site of the engine gives, in the order in which they ran."""
    params = dict(case.id.params)
    x, plan = made["x"], params["plan"]
    found = {}

    def recording(site, op, function, _bound):
        def call(*arguments, **options):
            if op.name == "rotate":
                arguments = (arguments[0], *(made[f"{p}.table"][made["positions"]] for p in ("cos", "sin")))
            result = function(*arguments, **options)
            found[site] = result
            return result

        return call

    keys = next(t for n, t in made.items() if n in ("L00.store_k.pool", "L00.store_kv.pool")).clone()
    values = made.get("L00.store_v.pool")
    pages = Pages(keys, None if values is None else values.clone())
    runs, start = [], 0
    for (context, length), slots in zip(spans(plan), slots_of(plan, len(keys)), strict=True):
        tokens = range(start, start + length)
        runs.append(Run(tokens=list(tokens), context=context, slots=slots.tolist(), logits=length))
        start += length
    built = build(
        network(params["model"], len(x), x.shape[1]),
        weights_of(made, x),
        pages,
        Binder("cpu", force=("*",), wrap=recording),
    )
    built(flatten(runs, device=CPU))
    found["L00.store_k"] = found["L00.store_kv"] = pages.layers[0].keys
    found["L00.store_v"] = pages.layers[0].values
    return {site: made for site, made in found.items() if site.startswith("L00.")}


def equal(ours, theirs):
    return torch.equal(ours.view(torch.uint8), theirs.reshape(ours.shape).contiguous().view(torch.uint8))


@pytest.fixture(scope="module")
def catalog():
    return Catalog.load([builtin_cases() / "layers"])


def test_every_model_is_compared(catalog):
    models = {dict(case.params)["model"] for case in catalog.ids() if case.path == "layers/decoder"}
    assert models == set(MODELS) | NOT_COMPARED


@pytest.mark.parametrize("model", MODELS)
def test_a_layer_gives_the_bits_of_the_engine_at_every_site(catalog, model):
    ids = [case for case in catalog.ids() if case.path == "layers/decoder"]
    for case in (catalog.get(one) for one in ids if ("model", model) in one.params):
        backend = CpuBackend(BackendSpec.parse("cpu"), Setting.STRICT)
        backend.open()
        recording = record(case, backend, journal=Journal())
        inputs = {name: to_torch(tensor, CPU) for name, tensor in generate(case).items()}
        theirs = engine_outputs(case, inputs)
        ran = [step.name for step in case.steps if step.name in theirs]
        assert ran == [s for s in theirs if s in ran], case.id
        missing = {"L00.store_k", "L00.store_v", "L00.store_kv"} - set(ran)
        assert set(theirs) == set(ran) | missing, case.id
        for name in ran:
            refs = recording.step(name).outputs
            given = theirs[name] if isinstance(theirs[name], tuple) else (theirs[name],)
            for ref, engine in zip(refs, given, strict=True):
                assert equal(to_torch(recording.tensors[ref.digest], CPU), engine), (str(case.id), ref.name)


def test_another_layer_than_the_engine_s_is_seen(catalog):
    case = catalog.get(CaseId.parse("layers/decoder:dist=normal,dtype=f32,model=llama,plan=0+17"))
    inputs = {name: to_torch(tensor, CPU) for name, tensor in generate(case).items()}
    right = engine_outputs(case, inputs)["L00.res2"]
    inputs["L00.norm2.weight"] = inputs["L00.norm2.weight"] * 2
    assert not equal(right, engine_outputs(case, inputs)["L00.res2"])
