"""Large steps judged by some of their rows: what is never flagged, what always is, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest

from parity.case.case import Step
from parity.case.op import OPS
from parity.judge.verdict import OutputJudgement, Verdict, worst

pytestmark = pytest.mark.needs_torch

DTYPES = ["bf16", "f32"]
K = 3072


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def sampled(plain):
    """Return what is said of one step, by its rows."""
    from parity.backend.torch_tensor import to_host
    from parity.judge.sampled import judge_sampled

    def ask(op, inputs, *outputs, profile=plain, key="k", **attrs):
        named = tuple(None if x is None else f"x{number}" for number, x in enumerate(inputs))
        step = Step(name=op, op=op, inputs=named, outputs=OPS[op].outputs, attrs=attrs)
        given = [None if x is None else to_host(x) for x in inputs]
        return judge_sampled(step, given, tuple(to_host(y.contiguous()) for y in outputs), profile, key=key)

    return ask


@pytest.fixture
def verdict(sampled):
    def ask(*arguments, **options):
        judged, *_ = sampled(*arguments, **options)
        return worst(o.verdict for o in judged).value

    return ask


@pytest.fixture(params=DTYPES)
def product(request, torch):
    """x [130, K], w [530, K] and x w^T, with more rows than are sampled and no size a multiple of 256."""
    draw = torch.Generator().manual_seed(1)
    to = torch.bfloat16 if request.param == "bf16" else torch.float32
    x = torch.randn(130, K, generator=draw).to(to)
    w = (torch.randn(530, K, generator=draw) / K**0.5).to(to)
    return x, w, torch.nn.functional.linear(x, w)


def other_ways(torch, x, w):
    order = torch.randperm(K, generator=torch.Generator().manual_seed(2))
    yield x[:, order].float() @ w[:, order].float().T
    yield sum(a.float() @ b.float().T for a, b in zip(x.chunk(7, 1), w.chunk(7, 1)))  # noqa: B905 - equal
    yield x.double() @ w.double().T


def test_a_product_summed_in_another_order_is_within(product, sampled, torch):
    x, w, y = product
    for other in (y, *(each.to(y.dtype) for each in other_ways(torch, x, w))):
        (judged,), _, note = sampled("linear", (x, w), other)
        assert judged.verdict is Verdict.WITHIN
        assert judged.elements + judged.probed == y.numel()
        assert 0 < judged.elements < y.numel() / 4
        assert "of 130 rows compared, the rest in" in note


def changed(y, place, value):
    made = y.clone()
    made[place] = value
    return made


def low_accumulate(torch, x, w):
    y = torch.zeros(len(x), len(w), dtype=torch.bfloat16)
    for a, b in zip(x.split(64, 1), w.split(64, 1)):  # noqa: B905 - equal
        y = (y.float() + a.float() @ b.float().T).bfloat16()
    return y


FAULTS = {
    "a row of the step before": lambda t, x, w, y: changed(y, 77, y[78]),
    "a column of a neighbour": lambda t, x, w, y: changed(y, (slice(None), 401), y[:, 402]),
    "one element 0": lambda t, x, w, y: changed(y, (77, int(y[77].abs().argmax())), 0),
    "the last columns 0": lambda t, x, w, y: changed(y, (slice(None), slice(-18, None)), 0),
    "a tile of K dropped": lambda t, x, w, y: (
        y.float() - x[:, 512:576].float() @ w[:, 512:576].float().T
    ).to(y.dtype),
    "a thousandth too large": lambda t, x, w, y: (1.001 * (x.double() @ w.double().T)).to(y.dtype),
    "a low-precision accumulator": lambda t, x, w, y: low_accumulate(t, x, w).to(y.dtype),
    "an infinity": lambda t, x, w, y: changed(y, (77, 5), float("inf")),
    "a NaN": lambda t, x, w, y: changed(y, (77, 5), float("nan")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_anywhere_in_a_product_exceeds(fault, product, sampled, torch):
    x, w, y = product
    (judged,), *_ = sampled("linear", (x, w), FAULTS[fault](torch, x, w, y))
    assert judged.verdict is Verdict.EXCEEDS
    if fault in {"a row of the step before", "one element 0", "an infinity", "a NaN"}:
        assert judged.worst_index[0] == 77


def test_an_addend_and_factors_belong_to_the_product(product, verdict, torch):
    x, w, y = product
    bias = torch.linspace(-3, 3, len(w)).to(y.dtype)
    right = torch.nn.functional.linear(x, w, bias)
    assert verdict("linear", (x, w, bias), right) == "within"
    assert verdict("linear", (x, w, bias), y) == "exceeds"
    c = torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype)
    given, attrs = (c, x, w.T.contiguous()), {"alpha": 0.5, "beta": 2.0}
    assert verdict("addmm", given, torch.addmm(*given, **attrs), **attrs) == "within"
    assert verdict("addmm", given, torch.addmm(*given, alpha=0.5, beta=1.0), **attrs) == "exceeds"


def test_an_input_that_is_not_finite_is_judged_in_full(product, verdict, torch):
    x, w, _ = product
    x = changed(x, (50, 3), float("inf"))
    y = torch.nn.functional.linear(x, w)
    assert verdict("linear", (x, w), y) == "within"
    assert verdict("linear", (x, w), changed(y, (50, 9), 1.0)) == "exceeds"


def test_few_rows_are_compared_whole(product, sampled):
    x, w, y = product
    (judged,), _, note = sampled("linear", (x[:5], w), y[:5])
    assert (judged.verdict, judged.elements, judged.probed, note) == (Verdict.WITHIN, 5 * 530, 0, "")


def test_a_result_of_another_shape_is_left_to_the_full_oracle(product, sampled):
    x, w, y = product
    assert sampled("linear", (x, w), y[:, :-1]) is None
    assert sampled("linear", (x, w), y[:-1]) is None


def row_wise(torch, to):
    draw = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=draw).to(to)

    angles = torch.rand(130, 8, generator=draw)
    segments = torch.tensor([[0, 100, 0], [100, 29, 40], [129, 1, 7]])
    slots = torch.randperm(177, generator=draw)
    pages = (normal(177, 2, 16), normal(177, 2, 16), slots, segments)
    chosen = torch.rand(130, 6, generator=draw).topk(2).indices
    shares = torch.rand(130, 2, generator=draw)
    experts = (chosen, normal(6, 64, 32) / 6, normal(6, 32, 32) / 6)
    route = {"top": 2, "scores": "softmax", "groups": 1, "top_groups": 1, "group_best": 1}
    norm = {"eps": 1e-5, "offset": 0.0, "rounds_first": True}
    attend = {"scale": 0.25, "window": None, "softcap": None}
    yield "weighted_rms_norm", (normal(130, 96), normal(96)), norm
    yield "gated", (normal(130, 96),), {"activation": "silu"}
    yield "rotate", (normal(130, 3, 16), angles.cos().to(to), angles.sin().to(to)), {"interleaved": False}
    yield "add", (normal(130, 96), normal(130, 96)), {}
    yield "softmax", (normal(130, 96),), {"dim": -1}
    yield "scaled_embedding", (normal(50, 96), torch.arange(130) % 50), {"scale": 1.0}
    yield "paged_attention", (normal(130, 4, 16), *pages), attend
    yield (
        "route",
        (normal(130, 32), normal(6, 32) / 6, None),
        {
            **route,
            "normalise": True,
            "scale": 1.0,
            "wide": False,
        },
    )
    yield "experts", (normal(130, 32), shares, *experts), {"activation": "silu"}
    codes = normal(130, 64).to(torch.float8_e4m3fn), normal(33, 64).to(torch.float8_e5m2)
    each, one = torch.rand(130, 1) + 0.5, torch.tensor(0.25)
    yield "scaled_mm", (*codes, each, one), {"out": "bf16"}
    yield "dequantised_mm", (*codes, one, torch.rand(33, 1) + 0.5), {"out": "f32"}
    by_block = (torch.rand(130, 2) + 0.5, torch.rand(3, 2) + 0.5)
    yield "block_scaled_mm", (*codes, *by_block), {"block": 32, "block_rows": 16, "out": "f32"}
    yield "routed_mm", (normal(130, 32), torch.arange(260).view(130, 2) % 5, normal(5, 9, 32)), {}


@pytest.fixture
def on_cpu():
    """What is declared of torch's CPU kernels, which store what lies between their parts."""
    from parity.backend.registry import create
    from parity.backend.spec import BackendSpec, Setting

    backend = create(BackendSpec.parse("cpu"), Setting.STRICT)
    backend.open()
    return backend.profile()


@pytest.mark.parametrize("dtype", DTYPES)
def test_ops_by_rows_are_within_and_a_stale_row_exceeds(dtype, verdict, on_cpu, torch):
    from parity.backend.torch_ops import PLAIN_OPS

    for op, inputs, attrs in row_wise(torch, torch.bfloat16 if dtype == "bf16" else torch.float32):
        made = PLAIN_OPS[op](*inputs, **attrs)
        outputs = made if isinstance(made, tuple) else (made,)
        assert verdict(op, inputs, *outputs, profile=on_cpu, **attrs) == "within", op
        stale = changed(outputs[0], 77, outputs[0][78])
        assert verdict(op, inputs, stale, *outputs[1:], profile=on_cpu, **attrs) == "exceeds", op


def test_the_rows_of_a_table_are_all_compared(sampled, torch):
    table, ids = torch.randn(4000, 8), torch.arange(130) * 7
    (judged,), _, note = sampled("scaled_embedding", (table, ids), table[ids], scale=1.0)
    assert (judged.verdict, judged.elements, judged.probed, note) == (Verdict.WITHIN, 130 * 8, 0, "")


def test_the_same_recording_is_judged_by_the_same_rows_and_another_by_others(product, sampled):
    x, w, y = product
    asked = [sampled("linear", (x, w), y, key=key)[0][0] for key in ("a", "a", "b")]
    assert asked[0] == asked[1]
    assert asked[0].rms != asked[2].rms


def test_what_is_large_is_decided_by_work_and_by_memory(tensor):
    from parity.judge.sampled import is_large

    small, wide = tensor(np.zeros((4, 8)), "f32"), tensor(np.zeros((2048, 2049)), "f32")
    assert not is_large("linear", (small, small), (small,))
    assert is_large("linear", (small, wide), (small,))
    assert is_large("add", (wide, wide), (wide,))


def test_a_step_is_judged_by_rows_when_that_is_asked_for(product, plain, ref, torch):
    from parity.backend.base import Node, Witness
    from parity.backend.torch_tensor import to_host
    from parity.judge.sampled import Sampling
    from parity.judge.traced import judge_steps
    from parity.store.recording import Environment, Recording, StepRecord

    x, w, y = map(to_host, product)
    node = Node(kind="aten::linear", device="cpu", precision=x.dtype.name)
    record = StepRecord(
        name="L00.down",
        op="linear",
        attrs={},
        inputs=(ref("x", x), ref("w", w)),
        outputs=(ref("y", y),),
        witness=Witness(executed=(node,)),
    )
    environment = Environment(backend="cpu", setting="strict", profile=plain, provenance={})
    recording = Recording(
        case="test/one",
        revision="sha256:0",
        environment=environment,
        steps=(record,),
        tensors={t.digest(): t for t in (x, w, y)},
    )
    compared = {}
    for sampling in Sampling:
        (judged,) = judge_steps(recording, weights=lambda _: None, sampling=sampling)
        assert judged.verdict is Verdict.WITHIN
        compared[sampling] = judged.evidence.elements
    assert compared[Sampling.NEVER] == compared[Sampling.LARGE] == y.numel
    assert compared[Sampling.ALWAYS] < y.numel


def test_what_was_only_probed_is_no_evidence():
    with pytest.raises(ValueError, match="an element that was compared"):
        OutputJudgement(
            name="y", dtype="f32", shape=(4,), verdict=Verdict.WITHIN, elements=0, probed=4, free=0
        )
    with pytest.raises(ValueError, match="every element accounted for"):
        OutputJudgement(name="y", dtype="f32", shape=(4,), verdict=Verdict.WITHIN, elements=2, probed=1)
