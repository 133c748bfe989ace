"""Steps that are calls of torch functions, judged like any other step of a recording."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from parity.backend.base import Node, Witness
from parity.backend.torch_call import encode_call
from parity.backend.torch_tensor import to_host
from parity.judge.traced import judge_steps
from parity.judge.verdict import Verdict
from parity.store.recording import Environment, Recording, StepRecord

pytestmark = pytest.mark.needs_torch


@pytest.fixture
def judged(plain, ref):
    """Judge one recorded call; `outputs` are what the device gave."""

    def ask(function, args, kwargs, *outputs, op=None, text=None, writes=(), ran="f32"):
        encoded, tensors = encode_call(function, args, kwargs, writes=writes)
        given = {f"x{i}": to_host(t) for i, t in enumerate(tensors)}
        made = {f"y{i}": to_host(t) for i, t in enumerate(outputs)}
        name = op or f"torch:{function_name(encoded)}"
        record = StepRecord(
            name="call",
            op=name,
            attrs={"call": encoded if text is None else text},
            inputs=tuple(ref(n, t) for n, t in given.items()),
            outputs=tuple(ref(n, t) for n, t in made.items()),
            witness=Witness(executed=(Node(kind="aten::call", device="cpu", precision=ran),)),
        )
        recording = Recording(
            case="test/call",
            revision="sha256:0",
            environment=Environment(backend="cpu", setting="strict", profile=plain, provenance={}),
            steps=(record,),
            tensors={t.digest(): t for t in (*given.values(), *made.values())},
        )
        return next(judge_steps(recording, weights=lambda _: None))

    return ask


def function_name(text):
    return text.split('"function":"')[1].split('"')[0]


@pytest.fixture
def x():
    return torch.randn(16, 24, generator=torch.Generator().manual_seed(5))


def test_a_right_result_is_within_with_its_evidence_and_formula(x, judged):
    step = judged(F.softplus, (x,), {}, F.softplus(x))
    assert (step.verdict, step.formula) == (Verdict.WITHIN, "monte_carlo")
    assert step.evidence.elements == x.numel()


def test_another_attribute_exceeds(x, judged):
    step = judged(F.softplus, (x,), {}, F.softplus(x, beta=1.001))
    assert step.verdict is Verdict.EXCEEDS


def test_a_call_that_writes_gives_what_it_wrote(x, judged):
    step = judged(torch.Tensor.mul_, (x, 1.5), {}, x * 1.5, writes=(x,))
    assert step.verdict is Verdict.WITHIN


def test_a_dtype_among_the_arguments_is_raised_for_the_oracle_alone(x, judged):
    low = x.to(torch.bfloat16)
    right = torch.cumprod(low, 0, dtype=torch.float32)
    assert judged(torch.cumprod, (low, 0), {"dtype": torch.float32}, right).verdict is Verdict.WITHIN
    stored = right.to(torch.bfloat16)
    wrong = judged(torch.cumprod, (low, 0), {"dtype": torch.float32}, stored, ran="bf16")
    assert (wrong.verdict, wrong.note) == (Verdict.EXCEEDS, "dtype is bf16, expected f32")


def test_what_is_random_is_unjudged_with_the_reason(x, judged):
    step = judged(F.dropout, (x, 0.5), {}, x)
    assert (step.verdict, step.note) == (Verdict.UNJUDGED, "aten::bernoulli_.float is random")


def test_a_call_that_cannot_be_read_is_unjudged(x, judged):
    step = judged(torch.cos, (x,), {}, x.cos(), text="{}")
    assert step.verdict is Verdict.UNJUDGED
    assert "record it again" in step.note


def test_a_call_of_another_function_than_its_op_names_is_unjudged(x, judged):
    step = judged(torch.cos, (x,), {}, x.cos(), op="torch:sin")
    note = "recorded as torch:sin, but its call is of cos"
    assert (step.verdict, step.note) == (Verdict.UNJUDGED, note)


@pytest.mark.parametrize("name", ["rms_norm", "scaled_dot_product_attention"])
def test_a_call_whose_formula_is_that_of_an_op_may_compute_as_wide_as_the_op(name, x, judged):
    low = x.to(torch.bfloat16)
    args = (low, (24,)) if name == "rms_norm" else (low[None, None],) * 3
    right = getattr(F, name)(*(a.float() if isinstance(a, torch.Tensor) else a for a in args))
    step = judged(getattr(F, name), args, {}, right.to(torch.bfloat16), ran="f32")
    assert step.verdict is Verdict.WITHIN


def test_another_call_that_ran_wider_throughout_is_substituted(x, judged):
    low = x.to(torch.bfloat16)
    step = judged(F.softplus, (low,), {}, F.softplus(low), ran="f32")
    assert step.verdict is Verdict.SUBSTITUTED
