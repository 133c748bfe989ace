"""Samples of a network's rounding: every site moved as its arithmetic would, and nothing left behind."""

from __future__ import annotations

import pytest
import torch

from parity.case.builtin import builtin_cases
from parity.engine import Engine
from parity.engine.ops.op import OPS
from parity.run.noise import engine_scores, logit_samples, shaken

pytestmark = pytest.mark.needs_torch


@pytest.fixture(scope="module")
def engines():
    folder = builtin_cases() / "models" / "tiny-llama"
    return {dtype: Engine(folder, dtype=dtype, kv_tokens=64) for dtype in ("f32", "bf16")}


@pytest.fixture
def moved():
    """Call an op's site under the wrap."""

    def ask(name, *arguments, seed=1, **bound):
        def function(*given, **options):
            return OPS[name].reference(*given, **options, **bound)

        return shaken(seed)("L00.site", OPS[name], function, bound)(*arguments)

    return ask


def test_one_of_twelve_16_bit_results_moves_by_one_last_place(moved):
    x = torch.randn(200, 300).to(torch.bfloat16)
    zero = torch.zeros_like(x)
    codes = moved("add", x, zero).view(torch.int16).int() - x.view(torch.int16).int()
    assert codes.abs().max() == 1
    assert abs(float(codes.abs().float().mean()) - 1 / 12) < 0.004
    assert abs(float(codes.float().mean())) < 0.004
    assert torch.equal(moved("add", zero, zero), zero)


def test_what_is_not_finite_stays_and_nothing_overflows(moved):
    x = torch.full((50, 50), torch.finfo(torch.bfloat16).max, dtype=torch.bfloat16)
    x[0, :] = float("inf")
    x[1, :] = float("nan")
    made = moved("add", x, torch.zeros_like(x))
    assert bool(made[0].isinf().all())
    assert bool(made[1].isnan().all())
    assert bool(made[2:].isfinite().all())


def test_a_float32_result_moves_by_the_rms_of_one_rounding_and_a_sum_by_more(moved):
    x = torch.randn(400, 64)
    one = ((moved("add", x, torch.zeros_like(x)) - x) / x)[x.abs() > 1e-3]
    assert 0.4 < float(one.square().mean().sqrt()) * 2**24 < 0.6
    w = torch.randn(96, 64)
    made = moved("linear", x, w=w) - OPS["linear"].reference(x, w=w)
    size = float((x.square() @ w.square().T).mean().sqrt())
    expected = 0.42 * 2.0**-24 * (64 / 6 + 64 / 3) ** 0.5 * size
    assert 0.8 < float(made.square().mean().sqrt()) / expected < 1.3


def test_rows_that_are_only_read_or_stored_do_not_move(moved):
    w = torch.randn(10, 8).to(torch.bfloat16)
    tokens = torch.tensor([1, 5, 9])
    assert torch.equal(moved("embed", tokens, w=w, scale=1.0), w[tokens])


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_samples_of_an_engine_differ_from_each_other_and_come_again_from_their_seed(dtype, engines):
    scores = engine_scores(engines[dtype], [5, 9, 13, 200, 77])
    before = scores(None)
    first, second = logit_samples(scores, count=2)
    assert not torch.equal(first, second)
    assert not torch.equal(first, before)
    assert torch.equal(logit_samples(scores, count=1)[0], first)
    assert torch.equal(scores(None), before)


def test_an_engine_that_fails_under_a_wrap_is_left_without_it(engines):
    sites = engines["f32"].sites

    def broken(_site, _op, _function, _bound):
        def call(*_, **__):
            raise RuntimeError("broken")

        return call

    with pytest.raises(RuntimeError, match="broken"):
        engine_scores(engines["f32"], [1, 2])(broken)
    assert engines["f32"].sites == sites
