"""Models of Hugging Face as they are, in small: each call judged alone, on what it consumed."""

from __future__ import annotations

import pytest
import torch
import transformers

from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.judge.traced import judge_steps
from parity.judge.verdict import Verdict
from parity.run.environment import environment
from parity.run.module_recorder import observe
from parity.run.module_weights import weights_in
from parity.store.recording import Recording
from tests.engine.families import FAMILIES

pytestmark = pytest.mark.needs_torch


def model_of(family: str, dtype: torch.dtype) -> torch.nn.Module:
    kind, options = FAMILIES[family]
    torch.manual_seed(len(family))
    config = getattr(transformers, kind)(**{**options, "num_hidden_layers": 2})
    return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def run(model, steps=1, **kwargs):
    """Run a prompt, and one more token for each further step, on one cache."""
    tokens = torch.arange(2 * 9).reshape(2, 9)
    cache = transformers.DynamicCache()
    with torch.no_grad(), observe(model, **kwargs) as recorder:
        for _ in range(steps):
            output = model(tokens, past_key_values=cache)
            tokens = output.logits[:, -1:].argmax(-1)
    records, tensors = recorder.steps()
    return records, tensors, recorder.results()


def judged(model, records, tensors, results):
    backend = create(BackendSpec("cpu"), Setting.STRICT)
    backend.open()
    recording = Recording(
        case="models/theirs",
        revision=f"sha256:{0:064}",
        environment=environment(backend),
        steps=tuple(record for record in records if record.op != "module"),
        tensors=tensors,
        results=results,
    )
    return list(judge_steps(recording, weights=weights_in(model)))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_every_call_of_a_prompt_and_of_a_cached_token_is_within(family):
    model = model_of(family, torch.bfloat16)
    found = judged(model, *run(model, steps=2))
    assert [(step.name, step.note) for step in found if step.verdict is not Verdict.WITHIN] == []
    names = [step.name for step in found]
    assert len(set(names)) == len(names)
    assert "model.layers.1.mlp.down_proj@2/linear" in names


def test_what_of_a_mixture_of_experts_is_not_judged_is_named():
    model = model_of("mixtral", torch.float32)
    rest = [step for step in judged(model, *run(model)) if step.verdict is not Verdict.WITHIN]
    assert {(step.op, step.verdict) for step in rest} <= {("torch:_grouped_mm", Verdict.UNJUDGED)}
    assert all(step.note for step in rest)


def test_the_steps_of_a_layer_do_not_depend_on_how_attention_is_implemented():
    one, two = (model_of("llama", torch.float32) for _ in range(2))
    two.set_attn_implementation("eager")
    records = [{record.name: record for record in run(model)[0]} for model in (one, two)]
    modules = [{name: r.outputs[0] for name, r in held.items() if r.op == "module"} for held in records]
    assert set(modules[0]) == set(modules[1])
    shared = set(records[0]) & set(records[1])
    assert {"model.layers.0.self_attn.o_proj/linear", "model.layers.1.mlp/mul"} <= shared
    assert "model.layers.0.self_attn/scaled_dot_product_attention" in set(records[0]) - shared
    assert "model.layers.0.self_attn/softmax" in set(records[1]) - shared


def test_observing_changes_no_bit():
    model = model_of("llama", torch.bfloat16)
    tokens = torch.arange(2 * 9).reshape(2, 9)
    with torch.no_grad():
        plain = model(tokens).logits
        with observe(model) as recorder:
            observed = model(tokens).logits
    assert torch.equal(plain, observed)
    recorder.steps()
