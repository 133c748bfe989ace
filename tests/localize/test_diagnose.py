"""What is planted is named first; what follows no pattern is not explained away."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tests.localize.planted_more  # noqa: F401  # enters its faults into the table
from parity.backend.profile import Accumulator, Profile
from parity.backend.torch_call import encode_call
from parity.backend.torch_tensor import to_host
from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor
from parity.judge.oracle import CLASSES
from parity.localize.cause import CauseKind
from parity.localize.diagnose import diagnose
from parity.localize.hypotheses_base import HYPOTHESES, Asked, Guess
from parity.store.recording import StepRecord, TensorRef
from tests.localize.planted import PLANTED, TORCH, Attention, Draw, Linear, Planted, host, out

pytestmark = pytest.mark.needs_torch

PROFILE = Profile(accumulator=Accumulator(dtype=DTYPES["f32"]))
# One of the two types for each kind, so that both are met and the suite stays quick; `diagnosed.py`
# measures both on many seeds.
CASES = [
    pytest.param(name, dtypes[number % len(dtypes)], id=f"{name}-{dtypes[number % len(dtypes)]}")
    for number, (name, (_, _, dtypes)) in enumerate(PLANTED.items())
]


def _causes(planted: Planted, **more):
    record = StepRecord(name="L03.step", op=planted.op, attrs=planted.attrs, inputs=(), outputs=())
    return diagnose(record, planted.inputs, planted.got, PROFILE, earlier=planted.earlier, **more)


def _linear(change, *, seed=3, dtype="f32", **options):
    case = Linear(Draw(seed, dtype), **options)
    return case.planted(change(case.y()))


@pytest.mark.parametrize("name, dtype", CASES)
def test_the_first_cause_is_the_one_that_was_planted(name, dtype):
    kinds, make, _ = PLANTED[name]
    causes = _causes(make(Draw(11, dtype)))
    assert CauseKind(causes[0].kind) in kinds, causes


def test_at_least_forty_kinds_of_faults_are_planted():
    assert len(PLANTED) >= 40


def test_a_cause_counts_what_it_explains_of_what_fails():
    (cause, *_) = _causes(_linear(lambda y: torch.where(torch.arange(len(y))[:, None] == 5, 0.0, y)))
    assert (cause.step, cause.kind, cause.explained) == ("L03.step", "zeroed", cause.failing)
    assert cause.text == f"zero, in rows 5: explains {cause.failing} of {cause.failing} failing elements"


def test_causes_are_at_most_three_and_each_kind_stands_once():
    causes = _causes(_linear(lambda y: y.roll(1, 1)))
    assert 1 <= len(causes) <= 3
    assert len({c.kind for c in causes}) == len(causes)
    assert causes[0].kind == "roll"


def test_nothing_that_fails_is_not_explained():
    (cause,) = _causes(_linear(lambda y: y))
    assert (cause.kind, cause.text, cause.failing) == ("unknown", "no known pattern", 0)


def test_numbers_without_a_pattern_have_no_known_cause():
    def others(y):
        return 3 * torch.randn(y.shape, generator=torch.Generator().manual_seed(2))

    (cause,) = _causes(_linear(others))
    assert (cause.kind, cause.text, cause.explained) == ("unknown", "no known pattern", 0)
    assert cause.failing > 1000


def test_noise_of_the_size_of_a_result_is_no_low_precision():
    def noisy(y):
        return y * (1 + 0.5 * torch.randn(y.shape, generator=torch.Generator().manual_seed(4)))

    assert [c.kind for c in _causes(_linear(noisy))] == ["unknown"]


def test_low_precision_of_operands_and_of_sums_are_told_apart():
    case = Linear(Draw(5, "f32"))
    operands = case.y(case.x.to(torch.bfloat16).float(), case.w.to(torch.bfloat16).float())
    assert _causes(case.planted(operands))[0].kind == "inputs_rounded"
    total = torch.zeros_like(operands)
    for k in range(case.K):
        total = (total + case.x[:, k, None] * case.w[:, k]).to(torch.bfloat16).float()
    assert _causes(case.planted(total))[0].kind == "accumulation"


def test_what_an_earlier_call_left_is_named_by_where_it_came_from():
    case = Linear(Draw(6, "f32"))
    before, y = torch.randn(case.T, case.N), case.y()
    y[2:4] = before[2:4]
    planted = case.planted(y, earlier={"s1.L03.qkv": host(before)})
    assert _causes(planted)[0].text.startswith("holds what 's1.L03.qkv' held, in rows 2 to 3: explains")


def test_a_row_that_a_longer_call_left_is_named_by_the_row_it_stood_in():
    case = Linear(Draw(6, "f32"))
    before, y = torch.randn(case.T + 9, case.N), case.y()
    y[-1] = before[-1]
    (cause, *_) = _causes(case.planted(y, earlier={"s0.L03.qkv": host(before)}))
    last, stood = case.T - 1, case.T + 8
    assert cause.kind == "stale"
    assert cause.text.startswith(f"row {last} holds what 's0.L03.qkv' held in row {stood}: explains")


def test_a_guess_that_only_gives_more_room_explains_nothing():
    # An exact sum of bf16 a step off: clipping at a limit that nothing reaches would round it once more.
    x = torch.randn(24, 32, generator=torch.Generator().manual_seed(3)).bfloat16()
    y = (x.view(torch.int16) - 1).view(torch.bfloat16).float()
    planted = Planted(
        op="add", attrs={}, inputs=(out(x, "bf16"), out(torch.zeros(24, 32), "bf16")), got=(out(y, "bf16"),)
    )
    assert {c.kind for c in _causes(planted)}.isdisjoint({"saturated", "non_finite", "row_scale"})


def test_another_shape_or_type_is_said_and_not_guessed_at():
    case = Linear(Draw(7, "f32"))
    y = case.y()
    (cause,) = _causes(case.planted(y.T))
    assert (cause.kind, cause.text) == (
        "form", f"gave f32[{case.N}, {case.T}] where f32[{case.T}, {case.N}] is expected"
    )  # fmt: skip
    lost = Planted(op="linear", attrs={}, inputs=case.planted(y).inputs, got=())
    (cause,) = _causes(lost)
    assert (cause.kind, cause.text) == ("form", "gave 0 outputs where 1 are expected")


def test_an_op_without_a_formula_has_no_known_cause():
    (cause,) = _causes(Planted(op="fold", attrs={}, inputs=(), got=()))
    assert (cause.kind, cause.text) == ("unknown", "no known pattern: no formula for op 'fold'")


def _called(function, x, y):
    text, _ = encode_call(function, (x,), {})
    tensors = host(x), host(y)
    refs = tuple(
        TensorRef(
            name=name,
            role="activation",
            dtype=tensor.dtype,
            shape=tensor.shape,
            stride=tensor.stride,
            offset=0,
            digest=tensor.digest(),
        )
        for name, tensor in zip("xy", tensors, strict=True)
    )
    op = "torch:nn.functional.softplus"
    record = StepRecord(name="act", op=op, attrs={"call": text}, inputs=refs[:1], outputs=refs[1:])
    return diagnose(record, tensors[:1], tensors[1:], PROFILE)


def test_a_call_of_torch_without_a_formula_is_diagnosed_by_its_own_float64_form():
    softplus = torch.nn.functional.softplus
    x = torch.randn(20, 30, generator=torch.Generator().manual_seed(8))
    assert _called(softplus, x, softplus(x).roll(1, 1))[0].kind == "roll"
    low = softplus(x.to(torch.bfloat16).float())
    assert _called(softplus, x, low)[0].text.startswith("input 0 rounded to bf16: explains")
    noise = torch.randn(20, 30, generator=torch.Generator().manual_seed(9))
    assert [c.kind for c in _called(softplus, x, noise)] == ["unknown"]


@pytest.mark.parametrize("kind", ["roll", "terms", "zeroed"])
def test_a_large_product_is_asked_about_in_part_and_counted_whole(kind):
    d = Draw(9, "bf16")
    d.heavy = False
    x, w = d.x(128, 512), d.x(512, 512, scale=0.1)
    y = x @ w.T
    changed = {
        "roll": y.roll(1, 1),
        "terms": x[:, 64:] @ w[:, 64:].T,
        "zeroed": torch.where(torch.arange(128)[:, None] == 100, 0.0, y),
    }[kind]
    planted = Planted(
        op="linear", attrs={}, inputs=(out(x, "bf16"), out(w, "bf16")), got=(out(changed, "bf16"),)
    )
    (cause, *_) = _causes(planted)
    assert cause.kind == kind
    assert cause.explained > 0.95 * cause.failing
    assert cause.failing > {"roll": 60_000, "terms": 60_000, "zeroed": 500}[kind]
    if kind == "zeroed":
        assert "in rows 100:" in cause.text


def test_a_step_beyond_the_full_oracle_is_asked_about_around_its_worst_row(monkeypatch):
    monkeypatch.setattr("parity.localize.hypotheses_reach.is_large", lambda *_: True)
    d = Draw(10, "bf16")
    d.heavy = False
    x, w = d.x(64, 32), d.x(2304, 32, scale=0.1)
    y = x @ w.T
    y[50, 2290:] = 0
    planted = Planted(op="linear", attrs={}, inputs=(out(x, "bf16"), out(w, "bf16")), got=(out(y, "bf16"),))
    (cause, *_) = _causes(planted)
    assert cause.kind == "zeroed"
    assert (
        "in rows 50, columns 2290 to 2303" in cause.text or "in columns 2290 to 2303, rows 50" in cause.text
    )
    assert cause.text.endswith("(16 of 64 rows and 2048 of 2,304 columns looked at)")


def test_queries_of_a_large_attention_are_kept_together(monkeypatch):
    monkeypatch.setattr("parity.localize.hypotheses_reach.is_large", lambda *_: True)
    case = Attention(Draw(12, "f32"))
    (cause, *_) = _causes(case.planted(case.y(ahead=1)))
    assert (cause.kind, "sees the key after its own" in cause.text) == ("mask", True)
    assert cause.text.endswith("rows looked at)")


def test_every_hypothesis_is_for_ops_that_the_judge_knows():
    assert {op for entry in HYPOTHESES for op in entry.ops} <= set(CLASSES)


def test_a_question_that_fails_costs_no_other_answer(monkeypatch):
    def broken(asked: Asked):
        yield Guess(kind=CauseKind.SCALE, text="never", expected=(None,))
        raise ValueError("no such shape")

    first = type(HYPOTHESES[0])(ops=(), function=broken, whole=False)
    monkeypatch.setattr("parity.localize.hypotheses_weigh.HYPOTHESES", [first, *HYPOTHESES])
    assert _causes(_linear(lambda y: -y))[0].kind == "sign"


@pytest.mark.parametrize("dtype", TORCH)
def test_a_scalar_and_an_empty_result_can_be_diagnosed(dtype):
    attrs = {"dim": 0, "keepdim": False}
    x = torch.ones(40)
    planted = Planted(op="sum", attrs=attrs, inputs=(out(x, dtype),), got=(out(torch.tensor(20.0), dtype),))
    assert _causes(planted)[0].failing == 1
    empty = HostTensor.of(np.zeros((0, 3), DTYPES[dtype].storage), DTYPES[dtype])
    (cause,) = _causes(Planted(op="copy", attrs={}, inputs=(empty,), got=(empty,)))
    assert (cause.kind, cause.failing) == ("unknown", 0)


@pytest.mark.parametrize("op", ["linear", "matmul"])
def test_products_of_two_bf16_parts_are_told_from_low_sums(op):
    draw = torch.Generator().manual_seed(5)
    a, b = torch.randn(24, 64, generator=draw), torch.randn(64, 48, generator=draw)

    def parts(x):
        high = x.bfloat16().float()
        return high, (x - high).bfloat16().float()

    (ah, al), (bh, bl) = parts(a), parts(b)
    made = ah @ bh + (ah @ bl + al @ bh)
    inputs = [to_host(t) for t in (a, b.T.contiguous() if op == "linear" else b)]
    record = StepRecord(name="s", op=op, attrs={}, inputs=(), outputs=())
    (first, *_) = diagnose(record, inputs, [to_host(made)], PROFILE)
    assert (first.kind, "two bf16 parts" in first.text) == ("inputs_rounded", True)
