"""Every family against transformers, on the same random checkpoint.

transformers computes norms, softmax and rotary angles in float32 in a float64 model too, so float64
against float64 agrees to float32 noise only. With those casts lifted (`families.Lifted`) it agrees to
float64 noise, which an error of one part in 10^9 exceeds: that is the comparison that counts. `noise`
derives both limits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random

import pytest
import torch
from engine.families import FAMILIES, Lifted, theirs
from engine.noise import U, limit

from parity.engine import Engine, SamplingParams
from parity.engine.model.config import read
from parity.engine.model.names import weights
from parity.engine.model.weights import Checkpoint

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning:transformers")
VOCAB = 37  # of the smallest
U64 = 2.0**-53
every_family = pytest.mark.parametrize("name", sorted(FAMILIES))


def some_tokens(count, vocab=VOCAB, seed=5):
    draw = random.Random(seed)
    return [draw.randrange(vocab) for _ in range(count)]


TOKENS = some_tokens(40)


def scores_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].double()


def apart(ours, them):
    return float((ours.double() - them).abs().max())


@every_family
def test_scores_are_those_of_transformers_without_its_casts_to_float64_noise(checkpoint, name):
    folder = checkpoint(name)
    with Lifted():
        them = scores_of(theirs(folder, torch.float64), TOKENS)
    assert apart(Engine(folder, dtype="f64").score(TOKENS), them) < limit(folder, TOKENS, U64)


@every_family
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_scores_are_those_of_transformers_as_it_is_to_float32_noise(checkpoint, name, dtype):
    folder = checkpoint(name)
    engine = Engine(folder, dtype=dtype)
    them = scores_of(theirs(folder, engine.dtype), TOKENS)
    assert apart(engine.score(TOKENS), them) < limit(folder, TOKENS)


@every_family
def test_64_greedy_tokens_and_the_scores_of_each_are_those_of_transformers(checkpoint, name):
    folder = checkpoint(name)
    engine = Engine(folder, dtype="f64")
    params = SamplingParams(max_tokens=64, ignore_eos=True, logprobs=engine.arch.vocab)
    (ours,) = engine.generate([TOKENS], params)
    with Lifted():
        model = theirs(folder, torch.float64)
        model.generation_config.eos_token_id = None
        made = model.generate(
            torch.tensor([TOKENS]),
            attention_mask=torch.ones(1, len(TOKENS), dtype=torch.int64),
            max_new_tokens=64,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    assert list(ours.tokens) == made.sequences[0, len(TOKENS) :].tolist()
    allowed = 2 * limit(folder, [*TOKENS, *ours.tokens], U64)  # a log-probability moves twice as far
    for score, row in zip(ours.scores, made.logits, strict=True):
        logp = row[0].log_softmax(-1)
        assert max(abs(value - float(logp[token])) for token, value in score.top) < allowed


@every_family
def test_greedy_tokens_in_float32_are_best_for_transformers_or_as_good_within_the_noise(checkpoint, name):
    folder = checkpoint(name)
    engine = Engine(folder, dtype="f32")
    params = SamplingParams(max_tokens=64, ignore_eos=True, logprobs=engine.arch.vocab)
    (ours,) = engine.generate([TOKENS], params)
    tokens = [*TOKENS, *ours.tokens]
    allowed = 2 * limit(folder, tokens)
    them = scores_of(theirs(folder, torch.float32), tokens)[len(TOKENS) - 1 : -1].log_softmax(-1)
    for token, score, logp in zip(ours.tokens, ours.scores, them, strict=True):
        assert max(abs(value - float(logp[other])) for other, value in score.top) < allowed
        assert float(logp[token]) > float(logp.max()) - 2 * allowed


@every_family
def test_every_tensor_of_a_checkpoint_is_used_and_none_is_missing(checkpoint, name):
    folder = checkpoint(name)
    arch = read(json.loads((folder / "config.json").read_text()))
    files = Checkpoint(folder)
    used = [files.name_of(part.name) for w in weights(arch) for inner in w.parts for part in inner]
    assert sorted(used) == sorted(files.tensors)


def attention(**changes):
    """A fault in the attention of the last layer."""

    def fault(arch):
        last = arch.layers[-1]
        now = dataclasses.replace(last.attention, **{k: f(last.attention) for k, f in changes.items()})
        return dataclasses.replace(arch, layers=(*arch.layers[:-1], dataclasses.replace(last, attention=now)))

    return fault


def router(**changes):
    def fault(arch):
        last = arch.layers[-1]
        now = dataclasses.replace(last.feed_forward.router, **changes)
        ffn = dataclasses.replace(last.feed_forward, router=now)
        return dataclasses.replace(
            arch, layers=(*arch.layers[:-1], dataclasses.replace(last, feed_forward=ffn))
        )

    return fault


def rope(**changes):
    return attention(rope=lambda a: dataclasses.replace(a.rope, **{k: f(a.rope) for k, f in changes.items()}))


def option(name, factor):
    def changed(r):
        return tuple((k, v * factor if k == name else v) for k, v in r.options)

    return rope(options=changed)


FAULTS = {
    "an epsilon of 1.01e-6": ("llama", lambda arch: dataclasses.replace(arch, eps=1.01e-6)),
    "theta off by 1e-7": ("qwen3", rope(theta=lambda r: r.theta * (1 + 1e-7))),
    "llama3 scaling off by 1e-6": ("llama", option("factor", 1 + 1e-6)),
    "linear scaling off by 1e-7": ("llama-linear", option("factor", 1 + 1e-7)),
    "yarn's factor off by 1e-6": ("deepseek-v2", option("factor", 1 + 1e-6)),
    "yarn's magnitude dropped": ("deepseek-v3", rope(magnitude=lambda r: 1.0)),
    "yarn's score scale dropped": ("deepseek-v3", attention(scale=lambda a: a.key_dim**-0.5)),
    "pairs by halves": ("deepseek-v3", rope(interleaved=lambda r: False)),
    "a window one too wide": ("mistral", attention(window=lambda a: a.window + 1)),
    "a window one too narrow": ("mistral", attention(window=lambda a: a.window - 1)),
    "no window in one layer": ("qwen2-window", attention(window=lambda a: None)),
    "scores capped at 50.001": ("gemma2", attention(softcap=lambda a: 50.001)),
    "logits capped at 30.00001": ("gemma2", lambda arch: dataclasses.replace(arch, logit_softcap=30.00001)),
    "norms without their offset": ("gemma3", lambda arch: dataclasses.replace(arch, norm_offset=0.0)),
    "embeddings not scaled": ("gemma3", lambda arch: dataclasses.replace(arch, embed_scale=1.0)),
    "the local rope everywhere": ("gemma3", rope(theta=lambda r: 1e6)),
    "expert weights not normalised": ("qwen3-moe", router(normalise=False)),
    "one expert fewer": ("mixtral", router(top=1)),
    "all groups of experts": ("deepseek-v2", router(groups=1)),
    "a group counts its best expert alone": ("deepseek-v3", router(group_best=1)),
    "routed experts not scaled": ("deepseek-v2", router(scale=1.0)),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_fault_in_what_was_read_of_a_config_exceeds_the_noise(checkpoint, monkeypatch, fault):
    name, wrong = FAULTS[fault]
    folder = checkpoint(name)
    with Lifted():
        them = scores_of(theirs(folder, torch.float64), TOKENS)
    monkeypatch.setattr("parity.engine.serve.engine.read", lambda *a, **k: wrong(read(*a, **k)))
    assert apart(Engine(folder, dtype="f64").score(TOKENS), them) > 10 * limit(folder, TOKENS, U64)


def test_lifting_matters(checkpoint):
    folder = checkpoint("llama")
    ours = Engine(folder, dtype="f64").score(TOKENS)
    assert apart(ours, scores_of(theirs(folder, torch.float64), TOKENS)) > 1e4 * limit(folder, TOKENS, U64)
    assert U / U64 == 2**29


README = {201: 13.763420, 9: 5.683287, 390: 5.137986, 294: 3.987217, 527: 3.477219}
CONTINUATION = (
    "\nAlas, I'll not be a moiety of my heart.\n\nLADY ANNE:\nI'll not be so, my lord."
    "\n\nGLOUCESTER:\nI am a ta"
)


def test_the_trained_model_scores_as_its_readme_says(trained):
    engine = Engine(trained, dtype="f64")
    assert engine.text.encode("ROMEO:") == [861, 28]
    row = engine.score("ROMEO:")[-1]
    assert row.argsort(descending=True)[:5].tolist() == list(README)
    # Its six decimals were computed with float32 norms: half a unit of the last, and the noise.
    allowed = 0.5e-6 + limit(trained, [861, 28])
    assert max(abs(float(row[token]) - value) for token, value in README.items()) < allowed < 2e-4


@pytest.mark.parametrize("dtype", ["f64", "f32"])
def test_the_trained_model_goes_on_as_its_readme_says(trained, dtype):
    (output,) = Engine(trained, dtype=dtype).generate(["ROMEO:"], SamplingParams(max_tokens=48))
    assert output.text == CONTINUATION
    assert len(output.tokens) == 48


def test_the_trained_model_agrees_with_transformers_over_a_whole_context(trained):
    tokens = some_tokens(300, vocab=1024)
    with Lifted():
        them = scores_of(theirs(trained, torch.float64), tokens)
    assert apart(Engine(trained, dtype="f64").score(tokens), them) < limit(trained, tokens, U64)


def test_the_trained_model_is_the_file_that_its_readme_names(trained):
    digest = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
    assert digest == "d65b67cdb2caf3b61ac53e27b457f3d2c49a2c028ce83391cbf7a7708eeb08c8"
    assert digest in (trained / "README.md").read_text()
