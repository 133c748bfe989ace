"""The recorder at the engine's sites: what it keeps, what it costs nothing, and which faults it pins."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import parity.engine.ops.inputs  # noqa: F401  # registers what the ops are drawn from
from parity.backend.base import Node, Unsupported, Witness
from parity.backend.cpu_profile import cpu_profile
from parity.backend.spec import Setting
from parity.backend.torch_tensor import to_torch
from parity.engine.kv.pool import Pool
from parity.engine.model.net import build
from parity.engine.ops.op import OPS, Binder
from parity.engine.run.batch import Run, flatten
from parity.judge.traced import judge_steps
from parity.judge.verdict import Verdict
from parity.run.engine_model import model_of
from parity.run.engine_recorder import Recorder, compose
from parity.run.sites import CANONICAL
from parity.store.recording import Environment, FailureKind, Recording

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are folders of files, not packages

CPU = torch.device("cpu")
TOKENS = [3, 14, 15, 9, 2, 6]
SLOTS = [20, 3, 4, 17, 8, 11, 30, 5]


class Net:
    """A tiny generated Llama on the CPU, bound anew for each run over one pool."""

    def __init__(self, arch="llama"):
        from run.engine_case import engine_case

        self.model = model_of(engine_case(arch))
        names = self.model.weights()
        self.weights = {name: to_torch(self.model.make(weight), CPU) for name, weight in names.items()}
        self.pool = Pool(self.model.arch, 32, dtype=torch.float32, device=CPU)

    def bound(self, wrap=None):
        return build(self.model.arch, self.weights, self.pool, Binder("cpu", wrap=wrap))

    def prefill(self, wrap=None):
        return self.run(self.bound(wrap), Run(tokens=TOKENS, context=0, slots=SLOTS[:6]))

    def run(self, network, *runs):
        with torch.no_grad():
            return network(flatten(runs, device=CPU))


@pytest.fixture
def net():
    return Net()


def judged(recorder, weights=None):
    """Verdict and note by step of what a recorder holds."""
    steps, tensors = recorder.steps()
    recording = Recording(
        case="engine/here:n=0",
        revision=f"sha256:{'0' * 64}",
        environment=Environment(
            backend="cpu", setting="strict", profile=cpu_profile(Setting.STRICT), provenance={}
        ),
        steps=tuple(steps),
        tensors=tensors,
    )
    held = recorder.weights() if weights is None else weights
    return {j.name: j for j in judge_steps(recording, weights=lambda ref: held.get(ref.name))}


def departing(recorder):
    return {name: j.verdict for name, j in judged(recorder).items() if j.verdict is not Verdict.WITHIN}


def at(place, change):
    """A wrap that puts `change(function)` in the place of one site's function."""

    def wrap(site, op, function, bound):
        return change(function) if site == place else function

    return wrap


@pytest.mark.parametrize("name", CANONICAL)
def test_an_engine_op_is_the_step_that_it_is_recorded_as(name):
    """The reference of each op, on inputs that reach every branch, is within as that step."""
    calls = list(OPS[name].inputs(torch.Generator().manual_seed(7), 5))
    assert calls
    for call in calls:
        named = dict(call.options)
        batch = {"batch": named.pop("batch")} if "batch" in named else {}
        recorder = Recorder()
        run = recorder.wrap("L00.site", OPS[name], functools.partial(OPS[name].reference, **named), named)
        run(*call.arguments, **batch)
        assert list(judged(recorder)) == ["L00.site"]
        assert not departing(recorder)


def test_inputs_are_named_after_the_step_that_made_them(net):
    recorder = Recorder()
    net.prefill(recorder.wrap)
    steps = {step.name: step for step in recorder.steps()[0]}
    assert [ref.name for ref in steps["L00.res1"].inputs] == ["embed", "L00.out"]
    assert [ref and ref.name for ref in steps["L00.gate_up"].inputs] == ["L00.norm2", "L00.gate_up.w", None]
    assert [ref.name for ref in steps["L00.attend"].inputs] == [
        f"L00.attend.{name}" for name in ("q", "keys", "values", "slots", "segments")
    ]
    assert [ref.role for ref in steps["L00.norm1"].inputs] == ["activation", "weight"]


def test_pages_are_explicit_each_row_once_and_counted_from_the_first(net):
    recorder = Recorder(complete=True)
    network = net.bound(recorder.wrap)
    net.run(network, Run(tokens=TOKENS, context=0, slots=SLOTS[:6]))
    # A second request shares the first two rows, as a prefix cache has it.
    other = [20, 3, 25]
    net.run(
        network,
        Run(tokens=[1], context=6, slots=SLOTS[:7]),
        Run(tokens=[2], context=2, slots=other),
    )
    steps, tensors = recorder.steps()
    (step,) = [step for step in steps if step.name == "s1.L01.attend"]
    _, keys, _, slots, segments = (tensors[ref.digest].array() for ref in step.inputs)
    read = sorted({*SLOTS[:7], *other})
    assert len(keys) == len(read) == 8
    assert [read[place] for place in slots] == SLOTS[:7] + other
    assert segments.tolist() == [[0, 1, 6], [1, 1, 2]]
    assert not departing(recorder)


def test_a_store_gives_what_can_be_read_back(net):
    recorder = Recorder()
    net.prefill(recorder.wrap)
    steps, tensors = recorder.steps()
    (step,) = [step for step in steps if step.name == "L01.store_k"]
    assert (step.op, step.outputs[0].digest) == ("copy", step.inputs[0].digest)
    np.testing.assert_array_equal(
        tensors[step.outputs[0].digest].array(), net.pool.layers[1].keys[SLOTS[:6]].numpy()
    )


def test_steps_are_numbered_as_soon_as_there_is_a_second_turn(net):
    recorder = Recorder()
    network = net.bound(recorder.wrap)
    net.run(network, Run(tokens=TOKENS, context=0, slots=SLOTS[:6]))
    assert recorder.steps()[0][0].name == "embed"
    net.run(network, Run(tokens=[1], context=6, slots=SLOTS[:7]))
    names = [step.name for step in recorder.steps()[0]]
    assert (names[0], names[-1], len(set(names))) == ("s0.embed", "s1.head", len(names))


def test_a_recorder_that_is_cleared_begins_anew(net):
    recorder = Recorder()
    net.prefill(recorder.wrap)
    first = recorder.steps()
    recorder.clear()
    assert recorder.steps() == ([], {})
    net.prefill(recorder.wrap)
    again = recorder.steps()[0]
    assert [step.outputs for step in again] == [step.outputs for step in first[0]]


def test_the_last_wrap_sees_what_the_ones_before_it_did(net):
    recorder = Recorder()
    double = at("L01.gated", lambda function: lambda x: function(x) * 2)
    net.prefill(compose(double, recorder.wrap))
    assert departing(recorder) == {"L01.gated": Verdict.EXCEEDS}


def test_a_wrap_outside_the_recorder_is_seen_where_its_result_is_read(net):
    recorder = Recorder()
    double = at("L01.gated", lambda function: lambda x: function(x) * 2)
    net.prefill(compose(recorder.wrap, double))
    assert not departing(recorder)
    (step,) = [step for step in recorder.steps()[0] if step.name == "L01.down"]
    assert step.inputs[0].name == "L01.down.x"  # not what L01.gated gave


def test_an_input_that_was_written_to_unseen_is_pinned_to_the_step_that_reads_it(net):
    recorder, held = Recorder(), []

    def holding(function):
        def keep(x):
            held.append(function(x))
            return held[-1]

        return keep

    def trampling(function):
        def trample(*arguments, **options):
            held[0].numpy()[2] += 1.0  # by its memory, as a kernel that writes out of bounds does
            return function(*arguments, **options)

        return trample

    tramples = compose(at("L00.norm1", holding), at("embed", lambda f: f), recorder.wrap)
    net.prefill(compose(tramples, at("L00.qkv", trampling)))
    found = judged(recorder)
    assert departing(recorder)["L00.qkv"] is Verdict.EXCEEDS
    assert found["L00.qkv"].note == ("reads a 'x' that is not what 'L00.norm1' was: it changed in between")


def test_a_row_that_is_overwritten_in_the_pool_is_pinned_to_the_attention_that_reads_it(net):
    recorder = Recorder()

    def overwriting(function):
        def store(x, **options):
            function(x, **options)
            net.pool.layers[0].keys[SLOTS[1]] = 0.5

        return store

    # Inside store_v, whose own rows are untouched.
    net.prefill(compose(at("L00.store_v", overwriting), recorder.wrap))
    assert departing(recorder) == {"L00.attend": Verdict.EXCEEDS}
    assert judged(recorder)["L00.attend"].note == (
        "reads 1 rows of 'keys' that no step stored so: stale or overwritten"
    )


def test_a_store_to_another_slot_is_pinned_to_the_store(net):
    recorder = Recorder()

    def elsewhere(function):
        def store(x, *, batch, **options):
            function(x.roll(1, 0), batch=batch, **options)

        return store

    net.prefill(compose(at("L01.store_k", elsewhere), recorder.wrap))
    assert departing(recorder) == {"L01.store_k": Verdict.EXCEEDS}


def test_rows_that_nobody_stored_are_a_fault_only_where_all_were_recorded(net):
    net.prefill()  # unseen
    for complete, expected in ((False, {}), (True, {"L00.attend", "L01.attend"})):
        recorder = Recorder(complete=complete)
        net.run(net.bound(recorder.wrap), Run(tokens=[1], context=6, slots=SLOTS[:7]))
        assert set(departing(recorder)) == set(expected)


def test_what_raises_is_a_step_with_its_words_and_is_passed_on(net):
    for error, kind in (
        (Unsupported("no kernel"), FailureKind.UNSUPPORTED),
        (ValueError("x"), FailureKind.CRASHED),
    ):
        recorder = Recorder()

        def refuse(*_, error=error, **__):
            raise error

        with pytest.raises(type(error)):
            net.prefill(compose(at("L00.gated", lambda _, refuse=refuse: refuse), recorder.wrap))
        steps = recorder.steps()[0]
        assert (steps[-1].name, steps[-1].failure.kind, recorder.failed) == ("L00.gated", kind, True)
        assert steps[-1].inputs[0].name == "L00.gate_up"


def test_each_step_is_announced_before_it_begins(net):
    announced, began = [], []
    recorder = Recorder(enter=announced.append, numbered=True)

    def noting(site, op, function, bound):
        def noted(*arguments, **options):
            began.append((site, announced[-1]))
            return function(*arguments, **options)

        return noted

    net.prefill(compose(noting, recorder.wrap))
    assert began
    assert all(name == f"s0.{site}" for site, name in began)


def test_evidence_comes_from_whoever_observes(net):
    node = Node(kind="own", device="chip", precision="f32")
    asked = []

    def observe(function, op):
        asked.append(op)
        return function(), Witness(executed=(node,))

    recorder = Recorder(observe=observe)
    net.prefill(recorder.wrap)
    assert asked[:3] == ["scaled_embedding", "weighted_rms_norm", "linear"]
    assert all(step.witness.executed == (node,) for step in recorder.steps()[0])


@pytest.mark.parametrize(
    "kind, told",
    [("aten::silu", {"L00.gated", "L01.gated"}), ("aten::index_put", "stores"), ("vendor::other", "all")],
)
def test_what_fell_back_somewhere_is_said_of_every_step_that_may_have_asked(net, kind, told):
    recorder = Recorder()
    net.prefill(recorder.wrap)
    recorder.fell_back([Node(kind=kind, device="cpu", precision="f32")])
    steps = recorder.steps()[0]
    everyone = {step.name for step in steps}
    stores = {name for name in everyone if "store" in name}
    assert {step.name for step in steps if step.witness.host} == {"all": everyone, "stores": stores}.get(
        told if isinstance(told, str) else "", told
    )


def test_layers_are_recorded_by_what_enters_and_leaves_them(net):
    recorder = Recorder("layer")
    net.prefill(recorder.wrap)
    steps, tensors = recorder.steps()
    assert [step.name for step in steps] == ["embed", "L00", "L01", "norm", "head"]
    layer = steps[1]
    assert [ref.name for ref in layer.inputs] == ["embed", "L00.slots", "L00.segments"]
    assert [ref.name for ref in layer.outputs] == ["L00", "L00.store_k", "L00.store_v"]
    assert steps[2].inputs[0].name == "L00"
    rows = net.pool.layers[0].keys[SLOTS[:6]].numpy()
    np.testing.assert_array_equal(tensors[layer.outputs[1].digest].array(), rows)
    # Nothing says that a layer is right: who wants to know records its sites.
    assert {name for name, j in judged(recorder).items() if j.verdict is Verdict.UNJUDGED} == {"L00", "L01"}


def test_layers_hold_the_same_values_as_their_sites(net):
    whole, parts = Recorder("layer"), Recorder()
    net.prefill(whole.wrap)
    net.prefill(parts.wrap)
    sites = {ref.name: ref.digest for step in parts.steps()[0] for ref in step.outputs}
    for step in whole.steps()[0]:
        if step.op == "layer":
            assert step.outputs[0].digest == sites[f"{step.name}.res2"]


def test_by_layers_all_other_sites_keep_their_function(net):
    seen = {}

    def outer(site, op, function, bound):
        seen[site] = function
        return function

    plain = {}

    def inner(site, op, function, bound):
        plain[site] = function
        return function

    net.bound(compose(inner, Recorder("layer").wrap, outer))
    kept = {site for site, function in seen.items() if function is plain[site]}
    assert kept == {
        f"L0{n}.{s}" for n in (0, 1) for s in ("qkv", "rope", "attend", "out", "res1", "norm2")
    } | {f"L0{n}.{s}" for n in (0, 1) for s in ("gate_up", "gated", "down")}


def test_an_unknown_depth_is_refused():
    with pytest.raises(ValueError, match="depth must be one of op, layer, got 'module'"):
        Recorder("module")


def test_a_tied_head_is_the_embedding_by_name():
    net = Net("gemma")
    recorder = Recorder()
    net.prefill(recorder.wrap)
    steps = {step.name: step for step in recorder.steps()[0]}
    assert steps["head"].inputs[1] == steps["embed"].inputs[0]
    assert steps["head"].inputs[1].name == "embed.w"


@pytest.mark.parametrize("arch", ["llama", "gemma", "latent"])
def test_recording_changes_no_bit(arch):
    net = Net(arch)
    plain = net.prefill()
    for depth in ("op", "layer"):
        assert torch.equal(net.prefill(Recorder(depth).wrap), plain)
