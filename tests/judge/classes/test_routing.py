from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from parity.backend.profile import Accumulator, Profile
from parity.backend.torch_ops import TORCH_OPS
from parity.backend.torch_tensor import to_host
from parity.case.dtype import DTYPES
from parity.judge.compare import compare
from parity.judge.oracle import answers

STORED = "every intermediate stored"
ROUTE = {
    "top": 2,
    "scores": "softmax",
    "groups": 1,
    "top_groups": 1,
    "group_best": 1,
    "normalise": True,
    "scale": 1.0,
    "wide": False,
}
GROUPED = ROUTE | {"scores": "sigmoid", "groups": 4, "top_groups": 2, "group_best": 2, "scale": 2.5}


def normal(seed, *shape):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def scored(logits, kind):
    if kind == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def chosen_of(rank, attrs):
    parts = np.split(np.arange(len(rank)), attrs["groups"])
    best = sorted(parts, key=lambda part: -np.sort(rank[part])[-attrs["group_best"] :].sum())
    ids = np.concatenate(best[: attrs["top_groups"]])
    return sorted(ids, key=lambda e: -rank[e])[: attrs["top"]]


def weighed(s, chosen, attrs):
    w = np.take_along_axis(s, chosen, -1)
    return (w / w.sum(-1, keepdims=True) if attrs["normalise"] else w) * attrs["scale"]


def routed(x, w, bias, attrs, *, kept=lambda x: x):
    s = scored(kept(x @ w.T), attrs["scores"])
    rank = s if bias is None else s + bias
    chosen = np.array([chosen_of(row, attrs) for row in rank])
    return weighed(s, chosen, attrs), chosen, s, rank


@pytest.fixture
def operands(tensor, values):
    """x of 17 rows, w of 8 experts, a bias in f32; and their exact values."""

    def make(dtype):
        given = [tensor(normal(1, 17, 32), dtype), tensor(normal(2, 8, 32) / 6, dtype)]
        given.append(tensor(normal(3, 8) / 4, "f32"))
        return given, [values(t) for t in given]

    return make


@pytest.fixture
def routes(held, tensor):
    def ask(given, weights, chosen, **attrs):
        return held("route", given, tensor(weights, "f32"), tensor(chosen, "i64"), **attrs)

    return ask


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize(
    "attrs, biased",
    [(ROUTE, False), (GROUPED, True), (ROUTE | {"normalise": False, "scale": 16.0}, False)],
)
def test_a_choice_is_held_with_its_logits_stored_or_not(
    routes, operands, tensor, values, dtype, attrs, biased
):
    given, (x, w, bias) = operands(dtype)
    given, bias = (given, bias) if biased else (given[:2], None)
    weights, chosen, _, _ = routed(x, w, bias, attrs)
    assert routes(given, weights, chosen, **attrs) == ""
    if dtype != "f32":
        weights, chosen, _, _ = routed(x, w, bias, attrs, kept=lambda t: values(tensor(t, dtype)))
        assert routes(given, weights, chosen, **attrs) == "logits stored"
        assert routes(given, weights, chosen, **(attrs | {"wide": True})) is None


def test_the_order_of_a_row_is_free_but_not_that_of_its_weights_alone(routes, operands):
    given, (x, w, _) = operands("f32")
    weights, chosen, _, _ = routed(x, w, None, ROUTE)
    assert routes(given[:2], weights[:, ::-1], chosen[:, ::-1], **ROUTE) == ""
    assert routes(given[:2], weights[:, ::-1], chosen, **ROUTE) is None


def test_equal_experts_are_chosen_freely_but_not_twice(routes, tensor, values):
    x, w = tensor(normal(1, 3, 16), "bf16"), tensor(np.tile(normal(2, 1, 16), (4, 1)), "bf16")
    halves = np.full((3, 2), 0.5)
    for chosen, wanted in (([0, 1], ""), ([3, 1], ""), ([2, 2], None), ([0, 4], None), ([-1, 0], None)):
        assert routes([x, w], halves, [chosen] * 3, **ROUTE) == wanted


def test_scores_closer_than_their_errors_may_be_ranked_either_way(routes, tensor, values):
    x = tensor(normal(1, 5, 64), "f32")
    near = np.stack((normal(2, 64), normal(2, 64) * (1 + 2**-23), -normal(2, 64)))
    w = tensor(near, "f32")
    attrs = ROUTE | {"top": 1, "normalise": False}
    s = scored(values(x) @ values(w).T, "softmax")
    for apart, wanted in ((np.abs(s[:, :1] - s[:, 1:2]), ""), (None, None)):
        other = (
            np.where(s[:, :1] > s[:, 2:], [[1]] * 5, [[0]] * 5)
            if apart is not None
            else s.argmin(-1)[:, None]
        )
        mine = np.where(s[:, :1] > s[:, 2:], other, 2) if apart is not None else other
        assert routes([x, w], weighed(s, mine, attrs), mine, **attrs) == wanted


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(
    "fault", ["groups ignored", "bias weighed", "bias ignored", "second best", "scale", "sum"]
)
def test_a_planted_fault_exceeds(routes, operands, fault, dtype):
    given, (x, w, bias) = operands(dtype)
    weights, chosen, s, rank = routed(x, w, bias, GROUPED)
    match fault:
        case "groups ignored":
            weights, chosen, _, _ = routed(x, w, bias, GROUPED | {"groups": 1, "top_groups": 1})
        case "bias weighed":
            weights = weighed(rank, chosen, GROUPED)
        case "bias ignored":
            weights, chosen, _, _ = routed(x, w, None, GROUPED)
        case "second best":
            chosen = np.argsort(-rank, -1)[:, 1:3]
            weights = weighed(s, chosen, GROUPED)
        case "scale":
            weights = weights / 2.5
        case "sum":
            weights = np.take_along_axis(s, chosen, -1) * 2.5
    assert routes(given, weights, chosen, **GROUPED) is None


def test_a_weight_is_judged_by_its_error_and_not_by_a_mask(judged, operands, tensor):
    given, (x, w, _) = operands("f32")
    weights, chosen, _, _ = routed(x, w, None, ROUTE)
    weights[3, 1] *= 1.001
    found = judged("route", given[:2], [tensor(weights, "f32"), tensor(chosen, "i64")], **ROUTE)
    assert [o.verdict.value for o in found] == ["exceeds", "within"]
    assert found[0].worst_index == (3, 1) and found[0].worst > 100


def test_a_row_of_nan_weighs_nan_and_may_choose_whatever_it_likes(routes, operands, tensor):
    given, (x, w, _) = operands("f32")
    x[4] = np.nan
    weights, chosen, _, _ = routed(np.nan_to_num(x), w, None, ROUTE)
    weights[4] = np.nan
    given[0] = tensor(x, "f32")
    assert routes(given[:2], weights, chosen, **ROUTE) == ""
    weights[4] = 0.5
    assert routes(given[:2], weights, chosen, **ROUTE) is None


FORMS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_pytorch_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


@pytest.fixture
def mixture(tensor, values):
    """x of 9 rows, two weights and experts of five each, up and down; and their exact values."""

    def make(dtype):
        chosen = np.stack([np.random.Generator(np.random.PCG64(n)).permutation(5)[:2] for n in range(9)])
        up, down = normal(6, 5, 16, 32) / 6, normal(7, 5, 32, 8) / 3
        given = [tensor(normal(4, 9, 32), dtype), tensor(np.abs(normal(5, 9, 2)), "f32")]
        given += [tensor(chosen, "i64"), tensor(up, dtype), tensor(down, dtype)]
        return given, [values(t) for t in given]

    return make


def mixed(x, weights, chosen, up, down, *, kind="silu", kept=lambda x: x):
    y = np.zeros_like(x)
    for e in range(len(up)):
        for t, j in zip(*np.nonzero(chosen == e), strict=True):
            gate, high = np.split(kept(up[e] @ x[t]), 2)
            made = kept(down[e] @ kept(kept(FORMS[kind](gate)) * high))
            y[t] = kept(y[t] + kept(made * weights[t, j]))
    return y


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("kind", FORMS)
def test_experts_are_held_with_their_intermediates_stored_or_not(held, mixture, tensor, values, kind, dtype):
    given, exact = mixture(dtype)
    attrs = {"activation": kind}
    assert held("experts", given, tensor(mixed(*exact, kind=kind), dtype), **attrs) == ""
    if dtype != "f32":
        chain = mixed(*exact, kind=kind, kept=lambda x: values(tensor(x, dtype)))
        assert held("experts", given, tensor(chain, dtype), **attrs) == STORED


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize(
    "fault", ["another expert", "weights of the next row", "dropped", "gate and up", "gelu"]
)
def test_experts_with_a_planted_fault_exceed(held, mixture, tensor, fault, dtype):
    given, (x, weights, chosen, up, down) = mixture(dtype)
    match fault:
        case "another expert":
            wrong = mixed(x, weights, (chosen + 1) % 5, up, down)
        case "weights of the next row":
            wrong = mixed(x, np.roll(weights, 1, 0), chosen, up, down)
        case "dropped":
            weights = weights.copy()
            weights[8, 1] = 0
            wrong = mixed(x, weights, chosen, up, down)
        case "gate and up":
            wrong = mixed(x, weights, chosen, np.roll(up, 8, 1), down)
        case _:
            wrong = mixed(x, weights, chosen, up, down, kind="gelu")
    assert held("experts", given, tensor(wrong, dtype), activation="silu") is None


def test_an_expert_that_nobody_chose_is_not_read(held, mixture, tensor):
    given, (x, weights, chosen, up, down) = mixture("f32")
    chosen = chosen % 4
    chosen[:, 1] = (chosen[:, 0] + 1) % 4
    up = up.copy()
    up[4] = np.nan
    given[2], given[3] = tensor(chosen, "i64"), tensor(up, "f32")
    y = mixed(x, weights, chosen, up, down)
    assert np.isfinite(y).all()
    assert held("experts", given, tensor(y, "f32"), activation="silu") == ""
    y[3] = np.nan
    assert held("experts", given, tensor(y, "f32"), activation="silu") is None


def test_an_infinite_input_leaves_every_group_open_and_ends_nothing():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    x[1, 2] = float("inf")
    w = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    attrs = GROUPED
    inputs = (to_host(x), to_host(w), None)
    profile = Profile(accumulator=Accumulator(dtype=DTYPES["f32"]))
    outputs = tuple(to_host(t) for t in TORCH_OPS["route"](x, w, None, **attrs))
    expected = next(answers("route", inputs, attrs, profile)).expected
    judged = compare(outputs, ("weights", "chosen"), expected)
    assert all(each.elements + each.free == 6 for each in judged)
