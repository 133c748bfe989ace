"""The engine's doors: outputs, streams side by side, aborts, ends, refusals; and that nothing is left.

Longer than a file should be: every door has its ways to be left early.
"""

from __future__ import annotations

import asyncio
import json
import shutil

import numpy as np
import pytest
import torch

from parity.engine import Engine, Finish, Limits, SamplingParams
from parity.errors import UsageError

PROMPTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10]]


def greedy(count=6, **options):
    return SamplingParams(max_tokens=count, ignore_eos=True, **options)


def idle(engine):
    """Whether nothing of any request is left."""
    blocks = engine.scheduler.blocks
    blocks.check([])
    return not (engine.busy or engine._growing or engine._inboxes) and blocks.available == blocks.count


def test_outputs_come_in_the_order_of_prompts(engine):
    made = engine()
    outputs = made.generate(PROMPTS, greedy())
    assert [list(o.prompt) for o in outputs] == PROMPTS
    assert [o.tokens for o in outputs] == [made.generate([p], greedy())[0].tokens for p in PROMPTS]
    assert {o.finish for o in outputs} == {Finish.LENGTH}
    assert [o.text for o in outputs] == ["", "", ""]  # no tokenizer
    assert idle(made)


def test_an_engine_without_prompts_has_nothing_to_do(engine):
    made = engine()
    assert made.generate([]) == []
    assert made.step() == {}


@pytest.mark.parametrize("page_size", [1, 3, 4, 16])
def test_max_tokens_of_zero_computes_the_prompt_and_says_nothing(engine, page_size):
    made = engine(page_size=page_size)
    (output,) = made.generate([[1, 2, 3]], greedy(0))
    assert (output.tokens, output.finish) == ((), Finish.LENGTH)
    assert [p.finish for p in made.stream([1, 2, 3], greedy(0))] == [Finish.LENGTH]
    assert idle(made)


@pytest.mark.parametrize("count", [4, 8])
def test_a_prompt_that_fills_its_pages_exactly_goes_on(engine, count):
    prompt = list(range(count))
    want = engine(page_size=64).generate([prompt], greedy())[0].tokens
    assert engine(page_size=4).generate([prompt], greedy())[0].tokens == want
    # As many pages as prompt and output need, and not one more.
    assert engine(page_size=4, kv_tokens=count + 4).generate([prompt], greedy(5))[0].tokens == want[:5]


def test_budgets_of_one_change_nothing(engine):
    want = [o.tokens for o in engine().generate(PROMPTS, greedy())]
    for limits in (Limits(budget=1), Limits(chunk=1), Limits(requests=1), Limits(budget=1, requests=1)):
        assert [o.tokens for o in engine(limits=limits).generate(PROMPTS, greedy())] == want


def test_an_end_token_ends_unless_it_is_ignored(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "copy")
    tokens = Engine(folder, dtype="f64").generate([[1, 2, 3]], greedy())[0].tokens
    end = tokens[2]
    upto = tokens[: tokens.index(end) + 1]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [36, end]}))
    made = Engine(folder, dtype="f64")
    (output,) = made.generate([[1, 2, 3]], SamplingParams(max_tokens=6))
    assert (output.tokens, output.finish) == (upto, Finish.STOP)
    assert made.generate([[1, 2, 3]], greedy())[0].tokens == tokens
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": end}))
    assert Engine(folder, dtype="f64").generate([[1, 2, 3]], SamplingParams(max_tokens=6))[0].tokens == upto


def test_a_stop_token_of_the_request_ends_even_where_ends_are_ignored(engine):
    made = engine()
    tokens = made.generate([[1, 2, 3]], greedy())[0].tokens
    (output,) = made.generate([[1, 2, 3]], greedy(stop_tokens=(tokens[1],)))
    assert (output.tokens, output.finish) == (tokens[: tokens.index(tokens[1]) + 1], Finish.STOP)


def test_a_stop_text_ends_and_is_not_part_of_the_text(trained):
    made = Engine(trained, dtype="f64", check=True)
    (output,) = made.generate(["ROMEO:"], greedy(48, stop=("moiety", "my lord")))
    assert (output.text, output.finish) == ("\nAlas, I'll not be a ", Finish.STOP)
    pieces = list(made.stream("ROMEO:", greedy(48, stop=("moiety", "my lord"))))
    assert "".join(p.text for p in pieces) == output.text
    assert tuple(t for p in pieces for t in p.tokens) == output.tokens
    assert idle(made)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_streaming_is_not_streaming(trained, temperature):
    made = Engine(trained, dtype="f64", check=True)
    params = SamplingParams(max_tokens=60, temperature=temperature, seed=3)
    (output,) = made.generate(["The king é"], params)
    pieces = list(made.stream("The king é", params))
    assert "".join(p.text for p in pieces) == output.text == made.text.decode(output.tokens)
    assert tuple(t for p in pieces for t in p.tokens) == output.tokens
    assert [p.finish for p in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish is output.finish
    assert idle(made)


def test_a_stream_that_loses_a_piece_is_not_the_output(trained, monkeypatch):
    made = Engine(trained, dtype="f64")
    params = SamplingParams(max_tokens=30)
    (output,) = made.generate(["The king"], params)
    original = Engine._said

    def wrong(self, request, token):
        piece = original(self, request, token)
        return piece if len(request.output) != 5 else type(piece)(text="", tokens=(), finish=None)

    monkeypatch.setattr(Engine, "_said", wrong)
    assert "".join(p.text for p in made.stream("The king", params)) != output.text


def test_streams_read_in_turn_say_what_each_says_alone(engine):
    made = engine()
    want = [made.generate([p], greedy())[0].tokens for p in PROMPTS]
    streams = [made.stream(p, greedy()) for p in PROMPTS]
    said = [[] for _ in streams]
    for _ in range(6):
        for stream, tokens in zip(streams, said, strict=True):
            tokens.extend(next(stream).tokens)
    assert [tuple(tokens) for tokens in said] == want
    assert [next(stream, None) for stream in streams] == [None] * 3
    assert idle(made)


def test_a_stream_that_is_read_late_has_missed_nothing(engine):
    made = engine()
    slow = made.stream(PROMPTS[0], greedy())
    first = next(slow)
    want = made.generate([PROMPTS[0]], greedy())[0].tokens  # the slow one advances with it
    assert first.tokens + tuple(t for p in slow for t in p.tokens) == want
    assert idle(made)


def test_a_closed_stream_aborts_its_request_and_no_other(engine):
    made = engine()
    want = made.generate([PROMPTS[1]], greedy())[0].tokens
    one, two = made.stream(PROMPTS[0], greedy(200)), made.stream(PROMPTS[1], greedy())
    next(one)
    said = next(two).tokens
    one.close()
    assert said + tuple(t for p in two for t in p.tokens) == want
    assert idle(made)


def test_async_streams_advance_together(engine):
    made = engine()
    want = [made.generate([p], greedy())[0].tokens for p in PROMPTS]
    order = []

    async def collect(number):
        tokens = []
        async for piece in made.astream(PROMPTS[number], greedy()):
            order.append(number)
            tokens += piece.tokens
        return tuple(tokens)

    async def together():
        return await asyncio.gather(*(collect(n) for n in range(3)))

    assert asyncio.run(together()) == want
    assert order[:6] != sorted(order)[:6]
    assert idle(made)


def test_an_async_stream_that_is_left_aborts_its_request(engine):
    made = engine()

    async def first():
        stream = made.astream(PROMPTS[0], greedy(200))
        piece = await anext(stream)
        await stream.aclose()
        return piece.tokens

    assert len(asyncio.run(first())) == 1
    assert idle(made)


def test_a_request_that_is_queued_is_aborted_before_it_runs(engine):
    made = engine(limits=Limits(requests=1))
    one, two = made.add(PROMPTS[0], greedy()), made.add(PROMPTS[1], greedy())
    made.step()
    made.abort(two)
    while made.busy:
        made.step()
    assert (one.finish, two.finish) == (Finish.LENGTH, Finish.ABORT)
    assert (len(one.output), two.output) == (6, [])
    assert idle(made)


def test_an_abort_is_said_in_its_stream_with_the_text_that_was_held_back(trained):
    made = Engine(trained, dtype="f64", check=True)
    stream = made.stream("ROMEO:", greedy(48, stop=("\nAlas, and no more",)))
    assert next(stream).text == ""  # all of it may begin the stop
    (request,) = made.scheduler.running
    made.abort(request)
    rest = list(stream)
    assert [(p.text, p.finish) for p in rest] == [("\n", Finish.ABORT)]
    assert idle(made)


def test_aborting_what_has_ended_changes_nothing(engine):
    made = engine()
    request = made.add(PROMPTS[0], greedy())
    while made.busy:
        made.step()
    made.abort(request)
    assert request.finish is Finish.LENGTH
    assert idle(made)


def test_a_refused_prompt_takes_its_companions_along(engine):
    made = engine()
    with pytest.raises(UsageError, match="token 99 is not in the vocabulary of 37"):
        made.generate([PROMPTS[0], [99]], greedy())
    assert idle(made)


@pytest.mark.parametrize("call", ["generate", "score", "stream"])
def test_an_interrupted_call_leaves_nothing(engine, monkeypatch, call):
    made = engine()
    steps = []

    def interrupted():
        steps.append(0)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return original()

    original = made.step
    made.scheduler.limits = Limits(chunk=2)
    monkeypatch.setattr(made, "step", interrupted)
    calls = {
        "generate": lambda: made.generate(PROMPTS, greedy()),
        "score": lambda: made.score(PROMPTS[2]),
        "stream": lambda: list(made.stream(PROMPTS[2], greedy())),
    }
    with pytest.raises(KeyboardInterrupt):
        calls[call]()
    assert idle(made)


def test_scores_are_teacher_forced_for_every_position_whatever_the_chunks(engine):
    tokens = list(range(20))
    whole = engine().score(tokens)
    assert whole.shape == (20, 37)
    parts = engine(limits=Limits(chunk=3)).score(tokens)
    assert float((whole - parts).abs().max()) < 1e-12
    assert float((engine().score(tokens[:7]) - whole[:7]).abs().max()) < 1e-12


def test_scores_are_not_taken_from_the_cache(engine):
    made = engine(page_size=4)
    first = made.score(list(range(12)))
    assert torch.equal(made.score(list(range(12))), first)


def test_domains_do_not_share_a_cache(engine):
    made = engine(page_size=4)

    def cached(domain):
        request = made.add(list(range(12)), greedy(), domain=domain)
        while made.busy:
            made.step()
        return request.cached

    assert [cached(""), cached(""), cached("other"), cached("other"), cached("")] == [0, 8, 0, 8, 8]


@pytest.mark.parametrize("prompt", [[37], [-1], [1.5], ["a"], [None], [10**30]])
def test_what_is_no_token_is_refused(engine, prompt):
    with pytest.raises(UsageError) as caught:
        engine().generate([prompt])
    assert str(caught.value) == f"token {prompt[0]!r} is not in the vocabulary of 37"


@pytest.mark.parametrize("prompt", [np.array([1, 2, 3]), torch.tensor([1, 2, 3]), (1, 2, 3), range(1, 4)])
def test_tokens_may_come_in_any_sequence(engine, prompt):
    made = engine()
    assert made.generate([prompt], greedy())[0].tokens == made.generate([[1, 2, 3]], greedy())[0].tokens


@pytest.mark.parametrize(
    "options, error",
    [
        ({"logit_bias": {37: 1.0}}, "token 37 is not in the vocabulary of 37"),
        ({"stop": ("x",)}, "stop texts need a tokenizer, and {folder} has no tokenizer.json"),
        (
            {"max_tokens": 1022},
            (
                "a prompt of 3 tokens and up to 1,022 more need 1,024 positions, "
                "but the model was made for 256; shorten it or make room"
            ),
        ),
    ],
)
def test_parameters_that_cannot_be_served_are_refused_and_leave_nothing(engine, tiny, options, error):
    made = engine()
    with pytest.raises(UsageError) as caught:
        made.generate([[1, 2, 3]], SamplingParams(**options))
    assert str(caught.value) == error.format(folder=tiny)
    assert idle(made)


def test_text_without_a_tokenizer_is_refused(engine, tiny):
    with pytest.raises(UsageError) as caught:
        engine().generate(["ROMEO:"])
    assert str(caught.value) == f"{tiny}: has no tokenizer.json, so a prompt must be token numbers"


@pytest.mark.parametrize(
    "options, error",
    [
        ({"dtype": "bf17"}, "dtype 'bf17' is not known; did you mean 'bf16'?; known: f64, float64, "),
        ({"dtype": torch.int8}, "dtype 'int8' is not known; known: f64, float64, "),
        ({"kv_tokens": 0}, "kv_tokens and page_size must be 1 or more, got 0 and 16"),
        ({"page_size": 0}, "kv_tokens and page_size must be 1 or more, got 1024 and 0"),
    ],
)
def test_options_that_make_no_engine_are_refused(engine, options, error):
    with pytest.raises(UsageError) as caught:
        engine(**options)
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    "content, error",
    [
        (None, "{file}: is not there. Download the checkpoint again, all of its files"),
        ("{", "{file}: is not JSON: "),
        ("[]", "{file}: must be an object, got list"),
    ],
)
def test_a_damaged_config_is_one_error_that_names_it(tmp_path, content, error):
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError) as caught:
        Engine(tmp_path)
    assert str(caught.value).startswith(error.format(file=file))


def test_a_folder_that_is_not_there_is_one_error(tmp_path):
    with pytest.raises(UsageError, match=r"no such folder\. Name one that holds config.json"):
        Engine(tmp_path / "gone")


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_generation_config_is_one_error(tiny, tmp_path, content):
    folder = shutil.copytree(tiny, tmp_path / "copy")
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(UsageError, match=r"generation_config\.json: is not a JSON object"):
        Engine(folder)


def test_a_seed_says_the_same_in_any_company(engine):
    made = engine()
    params = SamplingParams(max_tokens=8, temperature=1.0, seed=5, ignore_eos=True)
    want = made.generate([[1, 2, 3]], params)[0].tokens
    assert [o.tokens for o in made.generate([[4], [1, 2, 3], [5, 6]], params)][1] == want
    other = SamplingParams(max_tokens=8, temperature=1.0, seed=6, ignore_eos=True)
    assert made.generate([[1, 2, 3]], other)[0].tokens != want


def test_penalties_survive_preemption(engine):
    params = greedy(10, repetition_penalty=1.8, frequency_penalty=0.7)
    want = engine().generate([[1, 2, 3]], params)[0].tokens
    made = engine()
    request = made.add([1, 2, 3], params)
    while made.busy:
        made.step()
        if request in made.scheduler.running:
            made.scheduler._preempt(request)
    assert tuple(request.output) == want
    assert request.preempted == 9
