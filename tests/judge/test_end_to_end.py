"""Scores of a whole run beside exact ones and their noise, made from numbers and by the engine."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.backend.torch_tensor import to_host
from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor
from parity.judge.end_to_end import compare_scores, judge_scores
from parity.judge.end_to_end_cache import compare_caches
from parity.judge.end_to_end_free import judge_generation
from parity.judge.verdict import EndToEnd, Verdict
from parity.store.recording import StepRecord

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are folders of files, not packages
from faults.engine_nets import folder_of
from judge.end_to_end_suite import FAULTS, HONEST, Subject, measure, through_bf16

pytestmark = pytest.mark.needs_torch

T, V, NOISE = 600, 50, 0.01


@pytest.fixture(scope="module")
def scores():
    """Exact scores, eight samples of their noise and an honest run, of independent numbers."""
    draw = torch.Generator().manual_seed(11)
    exact = 3 * torch.randn(T, V, generator=draw, dtype=torch.float64)
    runs = [exact + NOISE * torch.randn(T, V, generator=draw, dtype=torch.float64) for _ in range(9)]
    return exact, runs[:8], runs[8]


@pytest.fixture
def judged(scores):
    exact, samples, _ = scores

    def ask(run, *, samples=samples, **options):
        return judge_scores(
            to_host(run), oracle=to_host(exact), samples=[to_host(s) for s in samples], **options
        )

    return ask


def test_an_honest_run_is_within_and_has_its_figures(scores, judged):
    result = judged(scores[2])
    assert (result.verdict, result.illegal, result.positions) == (Verdict.WITHIN, 0, T)
    assert 0.9 < result.z < 1.1
    assert result.kl[0] < result.kl[1] < result.kl[2]
    assert result.needed < T


def test_noise_half_as_large_again_exceeds_by_its_sigmas_and_its_divergence(scores, judged):
    exact, _, run = scores
    result = judged(exact + 1.5 * (run - exact))
    assert result.verdict is Verdict.EXCEEDS
    assert result.note.startswith("mean KL is 2.2") or result.note.startswith("mean KL is 2.3")
    assert result.note.endswith("sigmas out")


def test_a_best_token_that_changes_against_its_margin_exceeds_alone(scores, judged):
    exact, _, run = scores
    gaps = exact.topk(2).values.diff(dim=-1).abs()[:, 0]
    row = int((gaps - 0.2).abs().argmin())  # twenty sigmas: more than the margin, and a small divergence
    best, other = exact[row].topk(2).indices
    changed = run.clone()
    changed[row, other] = run[row, best] + 0.001
    result = judged(changed)
    assert (result.verdict, result.illegal) == (Verdict.EXCEEDS, 1)
    assert result.note == "1 best tokens changed against the margin"


def test_a_best_token_that_changes_within_its_margin_is_legal(scores, judged):
    exact, samples, run = (scores[0].clone(), scores[1], scores[2].clone())
    best, other = exact[7].topk(2).indices
    exact[7, other] = exact[7, best] - 0.001
    near = [s.clone() for s in samples]
    for each in near:
        each[7, other] = exact[7, other] + (each[7, best] - exact[7, best]) * -1
    run[7, best], run[7, other] = exact[7, best] - 0.01, exact[7, other] + 0.01
    result = judge_scores(to_host(run), oracle=to_host(exact), samples=[to_host(s) for s in near])
    assert (result.verdict, result.illegal, result.flips >= 1) == (Verdict.WITHIN, 0, True)


def test_too_few_positions_are_unjudged_unless_something_departs(scores):
    exact, samples, run = (scores[0][:2], [s[:2] for s in scores[1]], scores[2][:2])
    host = [to_host(s) for s in samples]
    few = judge_scores(to_host(run), oracle=to_host(exact), samples=host)
    assert few.verdict is Verdict.UNJUDGED
    assert few.note == f"2 positions, and {few.needed} are needed to tell a departure from chance"
    assert judge_scores(to_host(run + 9 * torch.eye(2, V)), oracle=to_host(exact), samples=host).illegal


@pytest.mark.parametrize(
    "spoil, verdict, note",
    [
        (lambda t: t[:, :-1].contiguous(), Verdict.EXCEEDS, "scores of shape [600, 49], expected [600, 50]"),
        (lambda t: t.log(), Verdict.EXCEEDS, None),
    ],
)
def test_scores_that_cannot_be_measured_exceed(spoil, verdict, note, scores, judged):
    result = judged(spoil(scores[2]))
    assert result.verdict is verdict
    assert note is None or result.note == note
    assert note is not None or result.note.endswith("of 30,000 scores are not finite")


def test_without_samples_distances_are_information_only(scores, judged):
    result = judged(scores[2], samples=scores[1][:1])
    assert result.verdict is Verdict.UNJUDGED
    assert result.note == "no usable samples of the noise: distances are information only"
    assert result.kl[0] > 0
    assert judged(scores[2], samples=[scores[0]] * 3).verdict is Verdict.UNJUDGED


def test_a_reference_alone_never_makes_a_run_within(scores):
    result = compare_scores(to_host(scores[0]), to_host(scores[0]))
    assert (result.verdict, result.kl[2], result.flips) == (Verdict.UNJUDGED, 0.0, 0)


def test_tokens_that_followed_give_log_probabilities_and_perplexity_with_its_interval(scores, judged):
    followed = scores[0].argmax(-1).tolist()[:-1]
    result = judged(scores[2], followed=followed)
    mean, _, largest = result.logprob
    change, low, high = result.perplexity
    assert 0 < mean < largest < 0.1
    assert low < change < high
    assert low < 0 < high


@pytest.mark.parametrize(
    "change",
    [
        {"illegal": 1},
        {"illegal": None},
        {"z": 1.3},
        {"z": float("nan")},
        {"kl_limit": 0.0},
        {"needed": 10_000},
    ],
)
def test_a_record_cannot_be_within_beyond_a_gate(change, scores, judged):
    right = judged(scores[2])
    with pytest.raises(ValueError, match="end to end cannot be within"):
        dataclasses.replace(right, **change)
    assert isinstance(right, EndToEnd)


def test_continuations_are_compared_up_to_the_first_other_token(scores):
    exact, samples, _ = scores
    oracle, drawn = to_host(exact[:6]), [to_host(s[:6]) for s in samples]
    best = exact[:6].argmax(-1).tolist()
    same = judge_generation(best, best, oracle=oracle, samples=drawn)
    assert (same.verdict, same.compared, same.margin) == (Verdict.WITHIN, 6, None)
    worst = [*best[:3], int(exact[3].argmin()), 0, 0]
    other = judge_generation(best, worst, oracle=oracle, samples=drawn)
    assert (other.verdict, other.compared, other.beyond) == (Verdict.EXCEEDS, 3, 2)
    assert other.margin > 100
    legal = judge_generation(worst[:4], best[:4], oracle=oracle, samples=drawn)
    assert (legal.verdict, legal.compared) == (Verdict.WITHIN, 3)
    assert judge_generation([], [], oracle=oracle, samples=drawn).verdict is Verdict.UNJUDGED
    assert judge_generation(best, best, oracle=oracle, samples=[]).verdict is Verdict.UNJUDGED


def test_caches_are_compared_by_layer_and_head_and_nothing_unmatched_is_silent(case, recorded, ref):
    rows = np.arange(24, dtype=np.float32).reshape(3, 2, 4) + 1
    off = rows.copy()
    off[1, 1] *= 1.5

    def with_stores(**arrays):
        tensors = {name: HostTensor.of(a, DTYPES["f32"]) for name, a in arrays.items()}
        steps = tuple(
            StepRecord(name=f"L00.{name}", op="copy", attrs={}, inputs=(), outputs=(ref("y", t),))
            for name, t in tensors.items()
        )
        held = {t.digest(): t for t in tensors.values()}
        return dataclasses.replace(recorded(case), steps=steps, tensors=held)

    nan = rows.copy()
    nan[0, 0, 0] = np.nan
    result = compare_caches(
        with_stores(store_k=rows, store_v=rows, store_x=rows),
        with_stores(store_k=off, store_v=nan, store_y=rows),
    )
    keys, values = result.layers
    assert (keys.step, keys.worst, keys.relative_l2[0], keys.largest) == ("L00.store_k", 1, 0.0, (0.0, 8.0))
    assert (values.mismatched, values.relative_l2) == (1, (0.0, 0.0))
    assert result.unmatched == ("'L00.store_y' only on the target", "'L00.store_x' only on the reference")


@pytest.fixture(scope="module", params=["f32", "bf16"])
def subject(request, tmp_path_factory):
    """A random network with heavy tails in one type, on two prompts."""
    root = tmp_path_factory.mktemp("nets")
    folder = through_bf16(folder_of("capped", root, seed=7), root / "bf16")
    draw = torch.Generator().manual_seed(3)
    prompts = [torch.randint(0, 67, (120,), generator=draw).tolist() for _ in range(2)]
    return request.param, Subject.of(folder, request.param, prompts)


def test_honest_runs_of_an_engine_pass_every_gate_and_large_faults_none(subject):
    dtype, net = subject
    results = {name: (kind, result) for kind, name, result, _ in measure(net)}
    assert set(HONEST) <= set(results)
    assert len(results) > len(HONEST) + len(FAULTS) - 3
    for kind, result in results.values():
        if kind == "honest":
            assert result.verdict is not Verdict.EXCEEDS
    for name in ("tile dropped", "one key ahead", "head repeated", "residual lost"):
        assert results[name][1].verdict is Verdict.EXCEEDS
    assert (results["sums in bf16"][1].verdict is Verdict.EXCEEDS) == (dtype == "f32")
