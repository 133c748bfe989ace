"""What layers and the engine give on OpenVINO in both settings, and the arithmetic that explains it.

A few small cases stand for all; `parity check layers engine --target openvino` runs the rest.
"""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.catalog import Catalog, builtin_cases
from parity.case.ids import Selector
from parity.case.inputs import generate
from parity.judge import deviations
from parity.judge.judge import judge
from parity.judge.oracle import to_float64
from parity.judge.verdict import Verdict
from parity.run.journal import Journal
from parity.run.recorder import record

LATENT = "layers/latent:dist=heavy,dtype=bf16,plan=16+1.33+1.5+1"
EXPERTS = "layers/moe:activation=gelu,dist=normal,dtype=bf16,router=sigmoid"
HEAD = "layers/head:dtype=f32,softcap=none,tokens=33"
HEAD_16 = "layers/head:dist=normal,dtype=f16,softcap=none"
# What a verdict is after the declarations, and the ops that depart.
OUTCOMES = {
    ("strict", LATENT): (Verdict.KNOWN, {"latent_attention"}),
    ("strict", EXPERTS): (Verdict.KNOWN, {"experts"}),
    ("strict", HEAD): (Verdict.WITHIN, set()),
    ("strict", HEAD_16): (Verdict.KNOWN, {"linear"}),
    ("production", HEAD): (Verdict.KNOWN, {"linear"}),
    ("production", HEAD_16): (Verdict.KNOWN, {"linear"}),
}


@pytest.fixture(scope="module")
def catalog():
    return Catalog.load([builtin_cases()])


@pytest.fixture(scope="module")
def declared(catalog):
    return deviations.load([builtin_cases()], "openvino", catalog.ids())


@pytest.fixture(scope="module")
def ran(catalog):
    """Return a function that runs a case once and returns (case, recording)."""
    opened, known = {}, {}

    def run(setting, text):
        if setting not in opened:
            opened[setting] = create(BackendSpec("openvino"), Setting(setting))
            opened[setting].open()
        if (setting, text) not in known:
            (case,) = catalog.select([Selector.parse(text)], suite=None)
            known[setting, text] = case, record(case, opened[setting], journal=Journal())
        return known[setting, text]

    return run


def step_of(ran, setting, text, op):
    """Return the inputs and the first output of a case's only step of an op."""
    case, recording = ran(setting, text)
    (step,) = (s for s in recording.steps if s.op == op)
    if recording.environment.provenance["openvino_bf16"] != "1":
        pytest.skip("this processor does not compute in bf16")
    made = dict(generate(case))
    held = {ref.name: recording.tensors[ref.digest] for s in recording.steps for ref in s.outputs}
    inputs = [to_float64({**made, **held}[ref.name]) for ref in step.inputs if ref is not None]
    return inputs, to_float64(recording.tensors[step.outputs[0].digest]), step.attrs


def stored(x):
    return x.to(torch.float32).to(torch.bfloat16).to(torch.float64)


@pytest.mark.parametrize("setting, text", OUTCOMES)
def test_a_departure_of_a_layer_is_a_declared_one_at_the_step_that_it_reaches(declared, ran, setting, text):
    case, recording = ran(setting, text)
    provenance = recording.environment.provenance
    if (provenance["openvino_bf16"], provenance["openvino_f16"]) != ("1", "0"):
        pytest.skip("declared for processors that compute in bf16 and not in f16")
    judged = judge(case, recording)
    verdict, _ = deviations.apply(
        declared, case.id, judged.verdict, mode="eager", setting=setting, provenance=provenance
    )
    departing = {step.op for step in judged.steps if step.verdict is not Verdict.WITHIN}
    assert (verdict, departing) == OUTCOMES[setting, text]


def test_the_scale_of_latent_attention_is_truncated_to_bf16(ran):
    (q, latents, w, slots, segments), y, attrs = step_of(ran, "strict", LATENT, "latent_attention")
    assert attrs["scale"] == 20**-0.5

    def emulated(scale):
        parts, first = [], 0
        for start, length, context in segments.long().tolist():
            held = latents[slots.long()[first : first + length + context]]
            made = stored(held[:, : w.shape[1]] @ w.T).unflatten(1, (q.shape[1], -1))
            shared = held[:, None, w.shape[1] :].expand(-1, q.shape[1], -1)
            keys = stored(torch.cat((made[..., : attrs["nope"]], shared), -1) * scale)
            scores = stored(torch.einsum("thd,shd->hts", q[start : start + length], keys))
            weights = stored(scores.softmax(-1))  # single tokens see every key
            parts.append(stored(torch.einsum("hts,shd->thd", weights, made[..., attrs["nope"] :])))
            first += length + context
        return torch.cat(parts)

    assert segments[:, 1].tolist() == [1] * len(segments)
    assert torch.equal(emulated(0.22265625), y)
    assert not torch.equal(emulated(0.2236328125), y)  # the nearest bf16 of 1 / sqrt(20)


def test_bf16_sums_of_experts_are_stored_after_every_four(ran):
    (x, weights, chosen, up, down), y, _ = step_of(ran, "strict", EXPERTS, "experts")

    def emulated(after):
        total = torch.zeros_like(y)
        for expert in range(len(up)):
            gate, linear = stored(x @ up[expert].T).chunk(2, -1)
            made = stored(stored(F.gelu(gate) * linear) @ down[expert].T)
            total = total + stored(made * (weights * (chosen == expert)).sum(-1, keepdim=True))
            total = stored(total) if expert in after else total
        return stored(total)

    assert torch.equal(emulated({3}), y)
    assert not torch.equal(emulated(set(range(8))), y)
    assert not torch.equal(emulated(set()), y)


def test_production_computes_an_f32_product_from_bf16(ran):
    (x, w), y, _ = step_of(ran, "production", HEAD, "linear")
    read, size = stored(x) @ stored(w).T, stored(x).abs() @ stored(w).abs().T
    # A float32 sum of K exact products: each of its K roundings is at most u times what is summed.
    bound = x.shape[-1] * 2**-24 * size
    assert bool(((y - read).abs() <= bound).all())
    assert not bool(((y - x @ w.T).abs() <= bound).all())
