"""One network, the same tokens, another schedule: the same scores.

Scores are compared in float32 and float64 within the noise that `noise` derives; moving data alone
(pages, their order and size) must not change a bit; tokens are compared in float64, where no
honest rounding reaches the gap between the two best. Each property has a planted fault, beside it:
hence the length.
"""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from engine.noise import U, limit

from parity.engine import Engine, Finish, Limits, SamplingParams
from parity.engine.kv.blocks import Blocks
from parity.engine.ops import reference
from parity.engine.ops.op import OPS
from parity.engine.run.batch import Run, flatten

ROUNDOFF = {"f64": 2.0**-53, "f32": U}
DRAW = random.Random(7)
TOKENS = [DRAW.randrange(37) for _ in range(24)]
OTHERS = [[DRAW.randrange(37) for _ in range(n)] for n in (3, 9, 17)]
LONGER = [DRAW.randrange(37) for _ in range(30)]
every_dtype = pytest.mark.parametrize("dtype", ["f32", "f64"])
families = pytest.mark.parametrize(
    "name", ["smallest", "mistral", "gemma2", "gemma3", "mixtral", "deepseek-v3"]
)


def forced(engine, parts, slots=None, tokens=TOKENS):
    """Scores of every position, computed in parts of these sizes, keys and values in these slots."""
    slots = slots or list(range(len(tokens)))
    made, context = [], 0
    for size in parts:
        end = context + size
        run = Run(tokens=tokens[context:end], context=context, slots=slots[:end], logits=size)
        made.append(compute(engine, run))
        context = end
    return torch.cat(made)


def compute(engine, *runs):
    with torch.no_grad():
        return engine._network(flatten(runs, device=engine.device))


def apart(one, two):
    return float((one.double() - two.double()).abs().max())


def cut_worst(engine):
    whole = forced(engine, [len(TOKENS)])
    cuts = range(1, len(TOKENS))
    return max(apart(whole, forced(engine, [cut, len(TOKENS) - cut])) for cut in cuts)


def decode_worst(engine):
    return apart(forced(engine, [len(TOKENS)]), forced(engine, [1] * len(TOKENS)))


def company_worst(engine):
    """The last token decodes and the last five are a chunk, beside others, in every place."""
    whole = forced(engine, [len(TOKENS)])
    worst = 0.0
    for context in (len(TOKENS) - 1, len(TOKENS) - 5):
        forced(engine, [context])
        base, runs = 30, []
        for other in (*OTHERS, LONGER):
            slots = list(range(base, base + len(other)))
            compute(engine, Run(tokens=other[:-1], context=0, slots=slots[:-1]))
            runs.append(Run(tokens=other[-1:], context=len(other) - 1, slots=slots))
            base += len(other)
        size = len(TOKENS) - context
        mine = Run(tokens=TOKENS[context:], context=context, slots=list(range(len(TOKENS))), logits=size)
        for place in range(len(runs) + 1):
            rows = compute(engine, *runs[:place], mine, *runs[place:])[place : place + size]
            worst = max(worst, apart(rows, whole[context:]))
    return worst


PROPERTIES = {"chunked at every cut": cut_worst, "decoded": decode_worst, "in company": company_worst}
every_property = pytest.mark.parametrize("law", sorted(PROPERTIES))


@families
@every_dtype
@every_property
def test_scores_are_those_of_the_whole_prompt_alone(checkpoint, engine, name, dtype, law):
    folder = checkpoint(name)
    made = engine(folder, dtype=dtype, kv_tokens=128)
    assert PROPERTIES[law](made) < limit(folder, TOKENS, ROUNDOFF[dtype])


def drop_a_mask_row(segment, window, device):
    seen = VISIBLE(segment, window, device)
    if segment.context and segment.length > 1:
        seen[0, 0] = False
    return seen


def a_position_late(runs, *, device):
    batch = FLATTEN(runs, device=device)
    late = torch.tensor([int(r.context > 0) for r in runs for _ in r.tokens])
    return dataclasses.replace(batch, positions=batch.positions + late)


def of_decodes(**changes):
    """A fault in how single tokens are laid side by side."""

    def wrong(runs, *, device):
        batch = FLATTEN(runs, device=device)
        if batch.decodes is None:
            return batch
        now = {name: change(getattr(batch.decodes, name)) for name, change in changes.items()}
        return dataclasses.replace(batch, decodes=dataclasses.replace(batch.decodes, **now))

    return wrong


VISIBLE, FLATTEN = reference.visible, flatten
FLATTEN_FAULTS = {
    "a position late": a_position_late,
    "padding is seen": of_decodes(seen=lambda seen: seen | True),
    "a window one too far on": of_decodes(lengths=lambda lengths: lengths + 1),
    "the first token is another's": of_decodes(slots=lambda slots: slots.roll(1, 0)),
}


@every_dtype
@pytest.mark.parametrize(
    "law, name, fault",
    [
        ("chunked at every cut", "smallest", "a mask row is dropped"),
        ("chunked at every cut", "smallest", "a position late"),
        ("decoded", "smallest", "a position late"),
        ("in company", "smallest", "padding is seen"),
        ("in company", "smallest", "the first token is another's"),
        ("in company", "mistral", "a window one too far on"),
    ],
)
def test_a_planted_fault_exceeds_the_noise(checkpoint, engine, monkeypatch, dtype, law, name, fault):
    folder = checkpoint(name)
    allowed = limit(folder, TOKENS, ROUNDOFF[dtype])
    if fault in FLATTEN_FAULTS:
        monkeypatch.setitem(globals(), "flatten", FLATTEN_FAULTS[fault])
    else:  # rewrites make masks of their own
        monkeypatch.setattr(OPS["attend"], "implementations", [])
        monkeypatch.setattr(reference, "visible", drop_a_mask_row)
    assert PROPERTIES[law](engine(folder, dtype=dtype, kv_tokens=128)) > 100 * allowed


@families
@every_dtype
def test_where_pages_lie_does_not_change_a_bit(checkpoint, engine, name, dtype):
    made = engine(checkpoint(name), dtype=dtype, kv_tokens=128)
    parts = [7, 1, 1, 8, 7]
    straight = forced(made, parts)
    for seed in range(5):
        slots = random.Random(seed).sample(range(128), len(TOKENS))
        assert torch.equal(forced(made, parts, slots), straight)


def test_a_slot_that_is_read_for_another_changes_scores(checkpoint, engine, monkeypatch):
    made = engine(checkpoint("smallest"), kv_tokens=128)
    straight = forced(made, [12, 12])

    def wrong(runs, *, device):
        batch = FLATTEN(runs, device=device)
        for segment in batch.segments:
            if segment.context:
                segment.slots[0] = segment.slots[1]
        return batch

    monkeypatch.setitem(globals(), "flatten", wrong)
    assert apart(forced(made, [12, 12]), straight) > 1e-3


def said(engine, prompts, params, **options):
    """Tokens and log-probabilities of requests that are served together."""
    requests = [engine.add(p, params, **options) for p in prompts]
    while engine.busy:
        engine.step()
    engine.scheduler.blocks.check([])
    return [(tuple(r.output), tuple(s.logprob for s in r.scores)) for r in requests], requests


def params_of(count=10, **options):
    return SamplingParams(max_tokens=count, ignore_eos=True, logprobs=0, **options)


def agree(one, two, allowed):
    """Tokens are equal and log-probabilities within the noise; a NaN agrees with nothing."""
    return all(
        a == b and all(abs(x - y) <= allowed for x, y in zip(p, q, strict=True))
        for (a, p), (b, q) in zip(one, two, strict=True)
    )


def noise_of(folder):
    return 2 * limit(folder, TOKENS + TOKENS[:10], ROUNDOFF["f64"])


every_style = pytest.mark.parametrize(
    "style", [{}, {"temperature": 1.0, "seed": 9}, {"temperature": 0.8, "frequency_penalty": 0.5}]
)


@families
@every_style
@pytest.mark.parametrize("length", [15, 16, 17])
def test_a_cached_beginning_says_what_a_cold_one_does(checkpoint, engine, name, style, length):
    """16 tokens are four full pages: of a fully cached prompt one page is computed again."""
    folder = checkpoint(name)
    made = engine(folder, page_size=4)
    prompt = TOKENS[:length]
    cold, _ = said(made, [prompt], params_of(**style))
    warm, (request,) = said(made, [prompt], params_of(**style))
    assert request.cached == (length - 1) // 4 * 4
    further, (longer,) = said(made, [prompt + list(cold[0][0][:4])], params_of(6, **style))
    assert longer.cached >= length // 4 * 4  # what was generated is cached too
    assert agree(warm, cold, noise_of(folder))
    assert style.get("frequency_penalty") or further[0][0] == cold[0][0][4:]


@pytest.mark.parametrize("fault", ["stale", "hash"])
def test_a_wrong_hit_is_heard(engine, monkeypatch, tiny, fault):
    made = engine(page_size=4, kv_tokens=48, check=False)
    prompt = TOKENS[:16]
    cold, _ = said(made, [prompt], params_of())
    if fault == "stale":
        (page,) = [p for key, p in made.scheduler.blocks._index.items() if key[2] == tuple(prompt[:4])]
        for layer in made._pool.layers:
            layer.keys[page * 4 : page * 4 + 4] = layer.keys[page * 4 + 4 : page * 4 + 8].clone() * 0.5
        asked = prompt
    else:
        asked = [*prompt[:4][::-1], *prompt[4:]]
        cold, _ = said(engine(page_size=4), [asked], params_of())
        same_sum = {(k[0], k[1], sum(k[2])): page for k, page in made.scheduler.blocks._index.items()}

        class Hashed(dict):
            def get(self, key, default=None):
                return same_sum.get((key[0], key[1], sum(key[2])), default)

        made.scheduler.blocks._index = Hashed(made.scheduler.blocks._index)
    warm, (request,) = said(made, [asked], params_of())
    assert request.cached == 12
    assert not agree(warm, cold, noise_of(tiny))


@families
@pytest.mark.parametrize("cached", [True, False])
def test_preempted_at_every_step_says_what_undisturbed_does(checkpoint, engine, name, cached):
    folder = checkpoint(name)
    style = {"temperature": 0.8, "frequency_penalty": 0.5}
    want, _ = said(engine(folder), [TOKENS[:9]], params_of(**style))
    allowed = noise_of(folder)
    made = engine(folder, page_size=4, limits=Limits(chunk=5, prefix_cache=cached))
    for when in range(1, 11):
        request = made.add(TOKENS[:9], params_of(**style), domain=f"{when}")
        for _ in range(when):
            made.step()
        made.scheduler._preempt(request)
        while made.busy:
            made.step()
        got = [(tuple(request.output), tuple(s.logprob for s in request.scores))]
        assert agree(got, want, allowed), when
        assert (request.preempted, request.cached > 0) == (1, cached and when > 0)


def test_a_resumed_request_without_what_it_said_is_heard(engine, monkeypatch, tiny):
    want, _ = said(engine(), [TOKENS[:9]], params_of())
    made = engine()
    request = made.add(TOKENS[:9], params_of())
    for _ in range(4):
        made.step()
    made.scheduler._preempt(request)
    request.output[-1] = (request.output[-1] + 1) % 37
    while made.busy:
        made.step()
    assert tuple(request.output) != want[0][0]


@families
@pytest.mark.parametrize("static", [False, True])
def test_page_size_arrival_order_and_policy_change_nothing(checkpoint, engine, name, static):
    folder = checkpoint(name)
    prompts = [TOKENS[:9], *OTHERS]
    want = [said(engine(folder), [p], params_of())[0][0] for p in prompts]
    for page_size, order in ((1, [0, 1, 2, 3]), (3, [3, 2, 1, 0]), (16, [2, 0, 3, 1])):
        made = engine(folder, page_size=page_size, limits=Limits(static=static, budget=11))
        got, _ = said(made, [prompts[n] for n in order], params_of())
        assert agree(got, [want[n] for n in order], noise_of(folder))


def row_by_row(site, op, function, bound):
    """A wrap that makes every op but attention compute one row at a time: batch-invariant by construction.

    The reference of attention computes one request at a time.
    """
    if op.name in ("attend", "latent_attend", "store", "embed"):
        return function

    def rows(*arguments, **options):
        if len(arguments[0]) < 2:
            return function(*arguments, **options)
        each = [function(*(a[n : n + 1] for a in arguments), **options) for n in range(len(arguments[0]))]
        return torch.cat(each)

    return rows


@pytest.mark.parametrize("name, dtype", [("smallest", "f32"), ("mistral", "f64"), ("gemma3", "f32")])
@pytest.mark.parametrize("when", [1, 2, 3, 5, 8])
def test_an_abort_leaves_the_others_bitwise_as_they_were(checkpoint, engine, name, dtype, when):
    """Under kernels that do not see their neighbours: else another batch size is another rounding."""

    def play(abort):
        made = engine(checkpoint(name), dtype=dtype, page_size=4, force=["attend"], wrap=row_by_row)
        made.scheduler.limits = Limits(chunk=6)
        requests = [made.add(p, params_of()) for p in (OTHERS[2], TOKENS[:9], OTHERS[1])]
        step = 0
        while made.busy:
            if abort and step == when:
                made.abort(requests[0])
            made.step()
            step += 1
        return [(r.output, [s.logprob for s in r.scores]) for r in requests], requests

    undisturbed, _ = play(abort=False)
    disturbed, (aborted, *_) = play(abort=True)
    assert disturbed[1:] == undisturbed[1:]
    assert aborted.finish is Finish.ABORT


def test_an_abort_that_frees_a_neighbours_page_is_heard(engine, monkeypatch):
    def release(self, held):
        if self.freed:
            held.pages.append(self.freed.pop())
        original(self, held)

    original = Blocks.release
    made = engine(page_size=4, kv_tokens=48, check=False, limits=Limits(prefix_cache=False))
    victim = made.add(TOKENS[:9], params_of())
    want, _ = said(engine(), [TOKENS[:9]], params_of())
    gone = made.add(OTHERS[0], params_of())
    made.step()
    made.scheduler.blocks.freed = [victim.held.pages[0]]
    monkeypatch.setattr(Blocks, "release", release)
    made.abort(gone)
    made.add(OTHERS[2], params_of())
    while made.busy:
        made.step()
    assert tuple(victim.output) != want[0][0]


def test_the_same_schedule_twice_is_the_same_to_the_bit(engine):
    def once():
        return said(engine(dtype="f32", limits=Limits(budget=7)), [TOKENS, *OTHERS], params_of())[0]

    assert once() == once()


def test_an_engine_of_another_device_type_computes_by_the_references(engine, tiny):
    """What is bound for a device without rewrites is what `force` gives."""
    forced_ones = Engine(tiny, dtype="f64", force=["*"])
    assert apart(forced_ones.score(TOKENS), engine().score(TOKENS)) < limit(tiny, TOKENS, 2.0**-53)
