"""Recording torch's own samples of an op, and what the judge makes of a device that computes one wrongly."""

from __future__ import annotations

import pytest
import torch

from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.catalog import Catalog, builtin_cases
from parity.case.ids import CaseId
from parity.case.opinfo_db import samples
from parity.judge.judge import judge
from parity.judge.verdict import Verdict
from parity.run import opinfo_subject
from parity.run.journal import Journal
from parity.run.recorder import record
from parity.run.subject import weights_of

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's test modules warn of their own deprecations
pytest.importorskip("expecttest", reason="torch's test modules import it")


@pytest.fixture(scope="module")
def catalog():
    return Catalog.load([builtin_cases()])


@pytest.fixture(scope="module")
def cpu():
    was = torch.are_deterministic_algorithms_enabled()
    backend = create(BackendSpec.parse("cpu"), Setting.PRODUCTION)
    backend.open()
    yield backend
    torch.use_deterministic_algorithms(was)


@pytest.fixture
def judged(catalog, cpu):
    def ask(name, **options):
        case = catalog.get(CaseId.parse(name))
        recording = record(case, cpu, journal=Journal(), **options)
        return recording, judge(case, recording, weights=weights_of(case))

    return ask


@pytest.fixture
def planted(monkeypatch):
    """Give the device another function for an op; the judge calls it by torch's name."""

    def plant(function):
        monkeypatch.setattr(
            opinfo_subject._Run, "_call", lambda _, *args, **kwargs: function(*args, **kwargs)
        )

    return plant


@pytest.mark.parametrize(
    "name",
    [
        "opinfo/tan:dtype=f32,inputs=samples",
        "opinfo/tan:dtype=bf16,inputs=noncontiguous",
        "opinfo/add:dtype=f16,inputs=samples",
        "opinfo/bitwise_and:dtype=i64,inputs=samples",
        "opinfo/nn.functional.hardswish:dtype=f32,inputs=samples",  # torch does not list its function
        "opinfo/zero_:dtype=f32,inputs=samples",  # writes to what it is given
        "opinfo/linspace:dtype=f32,inputs=samples",
    ],
)
def test_the_cpu_is_within_on_every_sample(judged, name):
    recording, judgement = judged(name)
    assert {s.name: s.verdict for s in judgement.steps} == {s.name: Verdict.WITHIN for s in recording.steps}
    assert judgement.verdict is Verdict.WITHIN


def test_inputs_are_known_by_digest_and_not_stored(judged):
    recording, _ = judged("opinfo/tan:dtype=f32,inputs=samples")
    (read,) = {ref.role for step in recording.steps for ref in step.inputs}
    assert read == "input"
    assert not {ref.digest for step in recording.steps for ref in step.inputs} & recording.tensors.keys()


def test_an_op_of_the_table_is_judged_by_its_closed_form(judged):
    _, judgement = judged("opinfo/softmax:dtype=f32,inputs=samples")
    assert "softmax" in {step.formula for step in judgement.steps}


def test_what_draws_or_was_never_written_is_unjudged_with_its_reason(judged):
    for name, reason in (
        ("opinfo/rand_like:dtype=f32,inputs=samples", "draws random numbers"),
        ("opinfo/bernoulli:dtype=f32,inputs=samples", "draws random numbers"),
        ("opinfo/empty_like:dtype=f32,inputs=samples", "gives memory that nobody wrote"),
        ("opinfo/new_empty:dtype=f32,inputs=samples", "gives memory that nobody wrote"),
        ("opinfo/equal:dtype=f32,inputs=samples", "gives no tensor"),
    ):
        _, judgement = judged(name)
        assert {(s.verdict, s.note) for s in judgement.steps} == {(Verdict.UNJUDGED, reason)}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: torch.tan(x) * (1 + 2.0**-18),
        lambda x: torch.tan(x.bfloat16()).float(),
        lambda x: torch.where(torch.arange(x.numel()).view(x.shape) == x.numel() - 1, 0.0, torch.tan(x)),
        torch.sin,
    ],
)
def test_a_kernel_that_computes_something_else_is_caught(judged, planted, wrong):
    planted(wrong)
    _, judgement = judged("opinfo/tan:dtype=f32,inputs=samples")
    assert {s.verdict for s in judgement.steps} & {Verdict.EXCEEDS, Verdict.SUBSTITUTED}


def test_a_kernel_that_ignores_strides_is_caught_on_noncontiguous_samples(judged, planted):
    planted(lambda x: -x.as_strided(x.shape, torch.empty(x.shape).stride()))
    assert judged("opinfo/neg:dtype=i64,inputs=samples")[1].verdict is Verdict.WITHIN
    assert judged("opinfo/neg:dtype=i64,inputs=noncontiguous")[1].verdict is Verdict.EXCEEDS


def test_a_device_that_accepts_what_torch_refuses_departs(judged, planted):
    name = "opinfo/gather:dtype=f32,inputs=errors"
    assert judged(name)[1].verdict is Verdict.WITHIN
    planted(lambda *_, **__: torch.zeros(1))
    _, judgement = judged(name)
    assert {s.verdict for s in judgement.steps} == {Verdict.EXCEEDS}
    assert "accepted arguments for which torch documents RuntimeError" in judgement.steps[0].note


def test_another_type_of_error_is_said_and_no_departure(judged, planted):
    def refuse(*_, **__):
        raise KeyError("no")

    planted(refuse)
    _, judgement = judged("opinfo/gather:dtype=f32,inputs=errors")
    assert judgement.verdict is Verdict.WITHIN
    assert judgement.steps[0].note == "raised KeyError, torch documents RuntimeError"


def test_a_sample_that_raises_costs_that_step_alone(judged, planted):
    calls = []

    def fails_once(x, *rest):
        calls.append(x)
        if len(calls) == 1:
            raise RuntimeError("device lost its mind")
        return torch.tril(x, *rest)

    planted(fails_once)
    _, judgement = judged("opinfo/tril:dtype=f32,inputs=samples")
    assert judgement.steps[0].verdict is Verdict.CRASHED
    assert {s.verdict for s in judgement.steps[1:]} == {Verdict.WITHIN}


def test_samples_that_were_written_to_are_drawn_again(judged):
    before = [t.clone() for t in samples("zero_", dtype="f32", inputs="samples")[0].tensors()]
    judged("opinfo/zero_:dtype=f32,inputs=samples")
    again = samples("zero_", dtype="f32", inputs="samples")[0].tensors()
    assert all(torch.equal(a, b) for a, b in zip(before, again, strict=True))


def test_repeated_runs_that_agree_are_within(judged):
    recording, judgement = judged("opinfo/tan:dtype=f32,inputs=samples", repeat=2)
    assert all(len(step.repeats) == 1 for step in recording.steps)
    assert judgement.verdict is Verdict.WITHIN


def test_samples_that_torch_cannot_make_leave_the_case_unjudged_with_the_reason(judged):
    _, judgement = judged("opinfo/sparse.sampled_addmm:dtype=f32,inputs=noncontiguous")
    (step,) = judgement.steps
    assert (step.name, step.verdict) == ("none", Verdict.UNJUDGED)
    assert "torch's samples of sparse.sampled_addmm in f32 cannot be made: RuntimeError" in step.note


def test_what_torchs_own_test_of_strided_samples_expects_to_fail_is_unjudged(judged):
    _, judgement = judged("opinfo/view_as_complex:dtype=f32,inputs=noncontiguous")
    assert {(s.verdict, s.note) for s in judgement.steps} == {
        (Verdict.UNJUDGED, "Tensor must have a last dimension with stride 1")
    }
