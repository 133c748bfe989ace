"""Binding: which function a site gets, who sees it, and that nothing is paid for what is off."""

from __future__ import annotations

import functools
import types

import pytest
import torch

from parity.engine import Engine
from parity.engine.ops.op import OPS, Binder, Cost, Implementation, op
from parity.errors import UsageError

TOKENS = [1, 2, 3, 4]


@pytest.fixture
def double(monkeypatch):
    """An op with a rewrite, declared for one test."""
    monkeypatch.setattr("parity.engine.ops.op.OPS", {})

    @op(budget="pointwise", cost=lambda x, **_: Cost(x.numel(), 8 * x.numel()))
    def double(x, *, by=2):
        return x * by

    @double.impl("cpu", when=lambda bound: bound.get("by", 2) == 2)
    def twice(x, *, by=2):
        return x + x

    return double, twice


def test_a_bound_op_is_the_implementation_itself(double):
    _, twice = double
    assert Binder("cpu").bind("here", "double") is twice
    bound = Binder("cpu").bind("here", "double", by=2)
    assert type(bound) is functools.partial
    assert (bound.func, bound.args, bound.keywords) == (twice, (), {"by": 2})


def test_the_reference_is_taken_where_no_rewrite_fits(double):
    declared, _ = double
    assert Binder("cuda").bind("here", "double") is declared.reference
    assert Binder("cpu").bind("here", "double", by=3).func is declared.reference


def test_the_latest_rewrite_that_fits_is_taken(double):
    declared, _ = double
    later = declared.impl("cpu")(lambda x: x)
    assert Binder("cpu").bind("here", "double") is later


@pytest.mark.parametrize("force", ["double", "here", "*"])
def test_a_forced_op_or_site_keeps_its_reference(double, force):
    declared, twice = double
    binder = Binder("cpu", force=[force])
    assert binder.bind("here", "double") is declared.reference
    assert (binder.bind("there", "double") is twice) == (force == "here")


def test_a_name_that_forces_nothing_is_refused(double):
    binder = Binder("cpu", force=["duoble"])
    binder.bind("here", "double")
    with pytest.raises(UsageError) as caught:
        binder.check()
    assert str(caught.value) == ("force='duoble': no op and no site of this network; did you mean 'double'?")


def test_an_engine_refuses_a_name_that_forces_nothing(engine):
    with pytest.raises(UsageError, match=r"force='L09\.qkv': no op and no site of this network"):
        engine(force=["L09.qkv"])


def test_a_wrap_sees_every_site_once_with_its_op_and_what_is_bound(engine):
    seen = []

    def wrap(site, declared, function, bound):
        seen.append((site, declared.name, sorted(bound)))
        return function

    made = engine(wrap=wrap)
    assert [(site, name) for site, name, _ in seen] == list(made.sites)
    assert len({site for site, _, _ in seen}) == len(seen)
    assert ("L01.qkv", "linear", ["b", "w"]) in seen
    assert {name for _, name, _ in seen} == {
        "add", "attend", "embed", "gated", "linear", "rms_norm", "rotate", "store"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["smallest", "gemma2", "gemma3", "mixtral", "deepseek-v2", "deepseek-v3"])
def test_every_bound_site_is_called_once_a_step_and_in_order(engine, checkpoint, name):
    called = []

    def wrap(site, declared, function, bound):
        def watched(*arguments, **options):
            called.append((site, declared.name))
            return function(*arguments, **options)

        return watched

    made = engine(checkpoint(name), wrap=wrap)
    made.score(TOKENS)
    assert len(called) == len(set(called))
    assert sorted(called) == sorted(made.sites)


def test_without_a_wrap_the_network_calls_the_implementations_themselves(engine, monkeypatch):
    bound = []
    original = Binder.bind

    def bind(self, *arguments, **options):
        bound.append(original(self, *arguments, **options))
        return bound[-1]

    monkeypatch.setattr(Binder, "bind", bind)
    engine()
    known = {f for o in OPS.values() for f in (o.reference, *(i.function for i in o.implementations))}
    assert all(getattr(b, "func", b) in known for b in bound)
    assert {type(b) for b in bound} == {functools.partial, types.FunctionType}


def test_rebinding_keeps_weights_and_cache(engine):
    made = engine()
    before = made.score(TOKENS)
    weights = dict(made._weights)
    sites = made.sites
    made.rebind(wrap=lambda site, declared, function, bound: functools.partial(function))
    assert torch.equal(made.score(TOKENS), before)
    made.rebind()
    assert made.sites == sites
    assert all(made._weights[name] is t for name, t in weights.items())


def test_a_wrap_can_replace_what_a_site_makes(engine):
    def zero(site, declared, function, bound):
        return (lambda x: torch.zeros_like(function(x))) if site == "head" else function

    assert not engine(wrap=zero).score(TOKENS).any()


@pytest.mark.parametrize("name", ["smallest", "gemma2", "mistral", "qwen2-window", "deepseek-v3"])
@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16"])
def test_forcing_every_reference_changes_scores_by_no_more_than_noise(checkpoint, engine, name, dtype):
    folder = checkpoint(name)
    own = engine(folder, dtype=dtype).score(TOKENS * 3).double()
    forced = engine(folder, dtype=dtype, force=["*"]).score(TOKENS * 3).double()
    roundoff = {"f64": 2.0**-53, "f32": 2.0**-24, "bf16": 2.0**-9}[dtype]
    from engine.noise import limit

    assert float((own - forced).abs().max()) < limit(folder, TOKENS * 3, roundoff)


@pytest.mark.parametrize("name", ["smallest", "gemma2", "gemma3", "mixtral", "deepseek-v3"])
def test_the_cost_of_every_op_is_positive_and_grows_with_tokens(checkpoint, engine, name):
    costs = {}

    def wrap(site, declared, function, bound):
        def counted(*arguments, **options):
            cost = declared.cost(*arguments, **{**bound, **options})
            costs.setdefault(len(costs_of), {})[site] = cost
            return function(*arguments, **options)

        return counted

    costs_of = []
    made = engine(checkpoint(name), wrap=wrap)
    made.score([1] * 2)
    costs_of.append(1)
    made.score([1] * 8)
    short, long = costs[0], costs[1]
    assert sorted(short) == sorted(site for site, _ in made.sites)
    for site, cost in short.items():
        assert cost.bytes > 0
        if site.endswith(("qkv", "out", "gate_up", "down", "q_a", "kv_a")) and "experts" not in site:
            assert long[site].flops == 4 * cost.flops
        # The head scores the rows that are asked for, which here are all.
        assert long[site].bytes >= cost.bytes


def test_the_cost_of_a_product_is_that_of_its_formula():
    cost = OPS["linear"].cost(torch.zeros(3, 4), w=torch.zeros(5, 4))
    assert cost == Cost(2 * 3 * 4 * 5, 4 * (3 * 4 + 5 * 4 + 3 * 5))


@pytest.fixture
def fused_on_cpu(monkeypatch):
    """A device rewrite of the fused op, as a vendor's is; counts its calls."""
    calls = []

    def rewrite(x, y, **bound):
        calls.append(1)
        return real.reference(x, y, **bound)

    real = OPS["add_rms_norm"]
    made = Implementation(device="cpu", function=rewrite)
    monkeypatch.setattr(real, "implementations", [made])
    return calls


def test_a_fused_op_takes_the_place_of_the_sites_it_swallows(tiny, fused_on_cpu):
    engine = Engine(tiny, dtype="f64")
    plain = Engine(tiny, dtype="f64", force=["add_rms_norm"])
    assert engine.score([1, 2, 3]).equal(plain.score([1, 2, 3]))
    assert len(fused_on_cpu) == len(engine.arch.layers)
    assert ("L00.res1+L00.norm2", "add_rms_norm") in engine.sites
    assert ("L00.norm2", "rms_norm") not in engine.sites
    assert ("L00.norm2", "rms_norm") in plain.sites


@pytest.mark.parametrize("force", ["*", "add_rms_norm", "add", "rms_norm", "L00.norm2", "L00.res1"])
def test_who_wants_a_swallowed_site_gets_it_apart(tiny, fused_on_cpu, force):
    engine = Engine(tiny, dtype="f64", force=[force])
    assert ("L00.res1", "add") in engine.sites
    assert ("L00.norm2", "rms_norm") in engine.sites


def test_a_wrap_sees_every_site_apart(tiny, fused_on_cpu):
    seen = []

    def wrap(site, op, function, bound):
        seen.append(site)
        return function

    Engine(tiny, dtype="f64", wrap=wrap).score([1, 2])
    assert {"L00.res1", "L00.norm2"} <= set(seen)
    assert fused_on_cpu == []


def test_ascends_kernel_is_taken_where_torch_npu_has_registered_it(monkeypatch):
    bound = {"w": torch.ones(4), "eps": 1e-5, "offset": 0.0}
    op = OPS["add_rms_norm"]
    assert op.choose("npu", bound) is op.reference

    def kernel(x, y, gamma, epsilon):  # as torch_npu returns: the norm, the reciprocal root, the sum
        total, normal = op.reference(x, y, w=gamma, eps=epsilon, offset=0.0)
        return normal, None, total

    monkeypatch.setattr(torch.ops.npu, "npu_add_rms_norm", kernel, raising=False)
    x, y = torch.randn(2, 4), torch.randn(2, 4)
    got = op.choose("npu", bound)(x, y, **bound)
    assert all(map(torch.equal, got, op.reference(x, y, **bound)))
    assert op.choose("npu", {**bound, "offset": 1.0}) is op.reference
