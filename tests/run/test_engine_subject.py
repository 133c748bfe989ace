"""An engine case on a backend: what its recording holds, and what becomes of a device that fails."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path

import pytest

from parity.backend.spec import BackendSpec, Setting
from parity.errors import GoldenError, UsageError
from parity.judge.verdict import Verdict
from parity.run.environment import environment
from parity.run.journal import Journal
from parity.run.recorder import record
from parity.store import arrow
from parity.store.recording import Failure, FailureKind

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are folders of files, not packages

pytestmark = pytest.mark.needs_torch

PLANS = {"prefill:9": 9, "decode:9+2": 11, "mixed:p3,c9+4,d5": 22, "score:9": 9}


@pytest.fixture
def tools():
    from run import engine_case

    return engine_case


@pytest.mark.parametrize("arch", ["llama", "gemma", "latent"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_every_step_of_every_plan_is_within_on_the_cpu(tools, arch, plan, dtype):
    case = tools.engine_case(arch, plan=plan, tokens=PLANS[plan], dtype=dtype)
    judgement = tools.judged(case, tools.recorded(case))
    assert not tools.departing(judgement)
    assert judgement.verdict is Verdict.WITHIN
    assert len({step.name for step in judgement.steps}) == len(judgement.steps)


def test_steps_are_the_sites_of_the_engine_in_order(tools):
    recording = tools.recorded(tools.engine_case())
    assert [step.name for step in recording.steps] == [
        "embed",
        *(
            f"L0{layer}.{site}"
            for layer in range(2)
            for site in (
                *("norm1", "qkv", "rope", "store_k", "store_v", "attend", "out", "res1"),
                *("norm2", "gate_up", "gated", "down", "res2"),
            )
        ),
        "norm",
        "head",
    ]


def test_steps_of_several_turns_begin_with_their_turn(tools):
    recording = tools.recorded(tools.engine_case(plan="decode:9+2", tokens=11))
    assert {step.name.split(".")[0] for step in recording.steps} == {"s0", "s1", "s2"}
    assert [ref.name for ref in recording.results] == ["s0.logits", "s1.logits", "s2.logits"]


def test_weights_are_named_and_never_stored(tools):
    recording = tools.recorded(tools.engine_case())
    weights = {ref for step in recording.steps for ref in step.inputs if ref and ref.role == "weight"}
    assert {"embed.w", "L00.norm1.w", "L00.qkv.w", "L01.down.w", "norm.w", "head.w"} <= {
        ref.name for ref in weights
    }
    assert not {ref.digest for ref in weights} & recording.tensors.keys()


def test_a_score_plan_gives_the_scores_of_every_position(tools):
    (score,) = tools.recorded(tools.engine_case(plan="score:9")).results
    (prefill,) = tools.recorded(tools.engine_case(plan="prefill:9")).results
    assert (score.shape, prefill.shape) == ((9, 37), (1, 37))


def test_the_same_run_without_hooks_is_recorded_beside_it(tools):
    recording = tools.recorded(tools.engine_case())
    assert [ref.digest for ref in recording.unobserved] == [ref.digest for ref in recording.results]


def test_a_run_that_is_changed_by_being_observed_is_unjudged(tools, monkeypatch):
    from parity.run.engine_recorder import Recorder

    own = Recorder.wrap

    def changing(self, site, op, function, bound):
        if site == "L00.gated":
            return own(self, site, op, lambda *a, **k: function(*a, **k) * 1.0000001, bound)
        return own(self, site, op, function, bound)

    monkeypatch.setattr(Recorder, "wrap", changing)
    case = tools.engine_case()
    judgement = tools.judged(case, tools.recorded(case))
    assert not tools.departing(judgement)
    assert judgement.verdict is Verdict.UNJUDGED
    assert judgement.note == "changed by being observed: the same run without hooks gave other results"


def test_a_device_that_gives_other_bits_each_time_is_not_said_to_be_changed_by_being_observed(
    tools, monkeypatch
):
    from parity.engine.ops.op import OPS

    own, calls = OPS["gated"].reference, itertools.count()

    def drifting(x, *, activation):
        return own(x, activation=activation) * (1 + 2.0**-20 * next(calls))

    monkeypatch.setattr(OPS["gated"], "reference", drifting)
    recording = tools.recorded(tools.engine_case())
    assert recording.unobserved == ()
    assert recording.environment.provenance["engine"] == (
        "observed runs differ: whether observing changes a run is not known"
    )


def test_a_recording_is_the_same_file_twice(tools, tmp_path):
    case = tools.engine_case("latent", plan="mixed:p3,c9+4,d5", tokens=22)
    files = [tmp_path / "a.arrow", tmp_path / "b.arrow"]
    for file in files:
        recording = tools.recorded(case)
        steps = tuple(dataclasses.replace(step, seconds=None) for step in recording.steps)
        arrow.write(dataclasses.replace(recording, steps=steps), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert arrow.read(files[0]).steps == steps


def test_repeated_runs_are_kept_by_digest(tools):
    recording = tools.recorded(tools.engine_case(), repeat=3)
    assert all(len(step.repeats) == 2 for step in recording.steps)
    assert all(run == step.outputs for step in recording.steps for run in step.repeats)


@pytest.mark.parametrize("arch", ["llama", "gemma", "latent"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_the_ideal_chip_gives_the_bits_of_the_hosts_references(tools, arch, dtype):
    import json

    case = tools.engine_case(
        arch,
        plan="decode:9+2",
        tokens=11,
        dtype=dtype,
        config=json.dumps(tools.CONFIGS[arch]),
        weights="heavy",
        force="*",
    )
    host, chip = tools.recorded(case), tools.recorded(case, tools.opened("sim/ideal"))
    for ours, theirs in zip(host.steps, chip.steps, strict=True):
        assert [ref.digest for ref in ours.outputs] == [ref.digest for ref in theirs.outputs], ours.name
    assert host.results == chip.results


def test_a_chip_whose_products_are_not_ieee_departs_at_its_products_alone(tools):
    case = tools.engine_case()
    recording = tools.recorded(case, tools.opened("sim/gaudi2", Setting.PRODUCTION))
    found = tools.departing(tools.judged(case, recording))
    assert found["L00.qkv"] is Verdict.EXCEEDS
    assert {name.rpartition(".")[2] for name in found} <= {
        "attend", "down", "gate_up", "head", "out", "qkv"
    }  # fmt: skip


def test_a_lazy_chip_runs_each_turn_as_few_graphs(tools):
    backend = tools.opened("sim/gaudi2+lazy", Setting.PRODUCTION)
    case = tools.engine_case(dtype="bf16")
    counted = environment(backend)  # asks the device what types it has
    before = backend.recompiles()
    recording = record(case, backend, journal=Journal(), environment=counted)
    # The engine reads the positions back for its angles, so a turn is two graphs; as many again unobserved.
    assert backend.recompiles() - before == 4
    assert not tools.departing(tools.judged(case, recording))


def test_what_a_lazy_chip_ran_on_the_host_is_said_of_the_steps_that_asked_for_it(tools):
    case = tools.engine_case(dtype="f16")
    recording = tools.recorded(case, tools.opened("sim/gaudi2+lazy", Setting.PRODUCTION))
    found = tools.departing(tools.judged(case, recording))
    assert found["L00.qkv"] is Verdict.FELL_BACK
    assert recording.step("L00.res1").witness.host == ()


class Steps:
    """A backend that runs steps of the op table and says nothing of a torch device."""

    def __init__(self, inner):
        self._inner = inner
        self.spec, self.setting = inner.spec, inner.setting

    def __getattr__(self, name):
        if name in {"device", "in_use"}:
            raise AttributeError(name)
        return getattr(self._inner, name)


@pytest.mark.parametrize("arch", ["llama", "gemma", "latent"])
def test_a_backend_without_a_torch_device_runs_every_site(tools, arch):
    case = tools.engine_case(arch, plan="mixed:p3,c9+4,d5", tokens=22, dtype="bf16")
    direct, hosted = tools.recorded(case), tools.recorded(case, Steps(tools.opened()))
    assert [step.name for step in hosted.steps] == [step.name for step in direct.steps]
    assert not tools.departing(tools.judged(case, hosted))
    assert hosted.environment.provenance["engine"].startswith("hosted: each site ran on the target")
    assert "engine" not in direct.environment.provenance


def test_the_call_that_a_device_refuses_ends_the_run_and_keeps_what_was_before(tools):
    backend = tools.opened("sim/gaudi2")  # strict: no host for what it has no kernel for
    case = tools.engine_case(dtype="f16")
    recording = tools.recorded(case, backend)
    assert [step.name for step in recording.steps] == ["embed", "L00.norm1", "L00.qkv"]
    assert recording.steps[-1].failure.kind is FailureKind.UNSUPPORTED
    assert "aten::mm is not supported for f16" in recording.steps[-1].failure.text
    judgement = tools.judged(case, recording)
    assert judgement.steps[-1].verdict is Verdict.UNSUPPORTED
    assert recording.unobserved == ()


def test_a_site_that_raises_is_a_crash_with_its_words(tools, monkeypatch):
    monkeypatch.setenv("PARITY_SIM_FAULTS", "out_of_memory@paged_attention")
    case = tools.engine_case()
    recording = tools.recorded(case, tools.opened("sim/ideal"))
    assert recording.steps[-1].name == "L00.attend"
    assert recording.steps[-1].failure == Failure(
        kind=FailureKind.CRASHED,
        text="OutOfMemoryError: sim out of memory. Tried to allocate more than the chip has",
    )
    assert tools.judged(case, recording).verdict is Verdict.CRASHED


CASE_FILE = """
import json
from parity.case.family import family, observed, tensor

@family("mine/engine", dtype=("f32",))
def engine(p):
    '''A process that is lost.'''
    tokens = tensor("tokens", "i64", (11,), "index", low=0, high=37)
    return observed("engine", tokens, config={config!r}, weights="heavy", dtype=p.dtype, plan="decode:9+2")
"""


@pytest.mark.parametrize(
    "fault, kind, words",
    [
        ("segfault@paged_attention@#20", FailureKind.CRASHED, "SIGSEGV"),
        ("hang@paged_attention@#20", FailureKind.TIMED_OUT, "no progress for 3 s"),
    ],
)
def test_a_process_that_is_lost_is_pinned_to_the_site_that_ran(
    tools, tmp_path, monkeypatch, fault, kind, words
):
    import json

    from parity.case.catalog import Catalog
    from parity.run.pool import run_cases

    (tmp_path / "case.py").write_text(CASE_FILE.format(config=json.dumps(tools.CONFIGS["llama"])))
    (case,) = Catalog.load([tmp_path / "case.py"]).select((), suite="mine")
    monkeypatch.setenv("PARITY_SIM_FAULTS", fault)
    (done,) = run_cases(
        [case],
        BackendSpec.parse("sim/ideal"),
        Setting.STRICT,
        folder=tmp_path / "out",
        case_folders=[tmp_path / "case.py"],
        timeout_s=3.0,
        pause_s=0.05,
    )
    recording = arrow.read(done.path)
    (step,) = recording.steps
    # The 20th call of the first turn is the second layer's attention.
    assert step.name == "s0.L01.attend"
    assert step.failure.kind is kind
    assert words in step.failure.text


def test_weights_that_are_not_here_are_named(tools, monkeypatch, tmp_path):
    monkeypatch.setenv("PARITY_WEIGHTS", str(tmp_path))
    case = tools.engine_case(checkpoint="absent", digest="sha256:" + "0" * 64)
    for act in (tools.recorded, tools.weights_of):
        with pytest.raises(GoldenError, match=r"checkpoint 'absent' with sha256:0+: is not here \(looked in"):
            act(case)


def test_other_weights_of_that_name_are_refused(tools, monkeypatch, tmp_path):
    model = tmp_path / "mine"
    model.mkdir()
    (model / "config.json").write_text("{}")
    monkeypatch.setenv("PARITY_WEIGHTS", str(tmp_path))
    case = tools.engine_case(checkpoint="mine", digest="sha256:" + "0" * 64)
    with pytest.raises(GoldenError, match=r"another one is here: .*mine has sha256:"):
        tools.weights_of(case)


def test_a_weight_that_was_another_on_the_device_is_no_departure_of_the_chip(tools):
    case = tools.engine_case()
    recording = tools.recorded(case)

    def changed(ref):
        if ref is None or ref.name != "L00.qkv.w":
            return ref
        return dataclasses.replace(ref, digest="sha256:" + "1" * 64)

    steps = tuple(
        dataclasses.replace(step, inputs=tuple(map(changed, step.inputs))) for step in recording.steps
    )
    judgement = tools.judged(case, dataclasses.replace(recording, steps=steps))
    assert tools.departing(judgement) == {"L00.qkv": Verdict.UNJUDGED}
    (note,) = [step.note for step in judgement.steps if step.name == "L00.qkv"]
    assert "weight 'L00.qkv.w' is another one here" in note


@pytest.mark.parametrize(
    "options, words",
    [
        ({"weigths": "heavy"}, "no option 'weigths'; did you mean 'weights'?"),
        ({"config": "{}", "weights": "heavy", "dtype": "e4m3fn"}, "dtype 'e4m3fn' is none of f32, bf16, f16"),
        ({"config": "{", "weights": "heavy"}, "the option 'config' is not JSON"),
        ({"config": "{}"}, "model_type 'None' is not known"),
        ({"weights": "heavy"}, "needs the option 'config', a text; got None"),
        ({"checkpoint": "tiny-llama"}, "needs the option 'digest', a text; got None"),
    ],
)
def test_options_that_make_no_network_are_refused(tools, options, words):
    with pytest.raises(UsageError) as caught:
        tools.recorded(tools.engine_case(**options))
    assert words in str(caught.value)


def test_a_plan_that_needs_other_tokens_is_refused(tools):
    with pytest.raises(UsageError, match="the plan needs 11 tokens, the case has 9"):
        tools.recorded(tools.engine_case(plan="decode:9+2"))
