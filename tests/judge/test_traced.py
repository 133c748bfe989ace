"""A subject's recording is judged from what it holds: what it lacks, or holds otherwise, is never within."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from parity.judge.judge import judge
from parity.judge.verdict import Verdict
from parity.run.subject import steps_of, weights_of

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are folders of files, not packages
pytestmark = pytest.mark.needs_torch

PLAN = {"plan": "decode:5+1", "tokens": 6}


@pytest.fixture(scope="module")
def tools():
    # They need torch, which collecting tests must not.
    return importlib.import_module("run.engine_case")


@pytest.fixture(scope="module")
def case(tools):
    return tools.engine_case(**PLAN)


@pytest.fixture(scope="module")
def recording(tools, case):
    return tools.recorded(case)


def judged(case, recording, **changes):
    options = {"weights": weights_of(case), "steps": steps_of(case), **changes}
    return judge(case, recording, **options)


@pytest.mark.parametrize("arch", ["llama", "gemma", "latent"])
def test_the_steps_that_a_recording_must_have_are_those_that_it_has(tools, arch):
    case = tools.engine_case(arch, **PLAN)
    made = tools.recorded(case)
    assert sorted(steps_of(case)) == sorted(step.name for step in made.steps)
    assert judged(case, made).verdict is Verdict.WITHIN


@pytest.mark.parametrize("place", [0, 7, -1])
def test_a_step_that_was_left_out_is_named_and_nothing_is_within(case, recording, place):
    lost = recording.steps[place]
    rest = tuple(step for step in recording.steps if step is not lost)
    judgement = judged(case, dataclasses.replace(recording, steps=rest))
    assert judgement.verdict is Verdict.UNJUDGED
    assert judgement.note == f"step '{lost.name}' was not recorded"


def test_results_that_differ_without_hooks_are_said_and_not_within(case, recording):
    other = dataclasses.replace(recording.unobserved[0], digest=f"sha256:{'0' * 64}")
    changed = dataclasses.replace(recording, unobserved=(other, *recording.unobserved[1:]))
    judgement = judged(case, changed)
    assert judgement.verdict is Verdict.UNJUDGED
    assert judgement.note == "changed by being observed: the same run without hooks gave other results"


def test_steps_whose_weights_are_not_here_are_unjudged(case, recording):
    judgement = judged(case, recording, weights=lambda _: None)
    reading = [step for step in judgement.steps if "weight" in step.note]
    assert judgement.verdict is Verdict.UNJUDGED
    assert reading[0].note == "weight 'embed.w' is not in the recording"


def test_other_weights_are_never_blamed_on_a_device(case, recording):
    find = weights_of(case)

    def other(ref):
        weight = find(ref)
        changed = np.array(weight.array())
        changed.reshape(-1)[0] += 1
        return dataclasses.replace(weight, storage=changed.reshape(-1))

    judgement = judged(case, recording, weights=other)
    assert judgement.verdict is Verdict.UNJUDGED
    assert all(step.verdict is not Verdict.EXCEEDS for step in judgement.steps)
    assert "is another one here" in judgement.steps[0].note


def test_one_changed_element_of_one_step_is_that_step_alone(case, recording):
    name = "s0.L01.qkv"
    record = recording.step(name)
    ref = record.outputs[0]
    bits = np.array(recording.tensors[ref.digest].array())
    bits.reshape(-1)[3] *= 2
    made = dataclasses.replace(recording.tensors[ref.digest], storage=bits.reshape(-1))
    moved = dataclasses.replace(ref, digest=made.digest())
    steps = tuple(
        dataclasses.replace(step, outputs=(moved,)) if step is record else step for step in recording.steps
    )
    tensors = {**recording.tensors, moved.digest: made}
    judgement = judged(case, dataclasses.replace(recording, steps=steps, tensors=tensors))
    assert [step.name for step in judgement.steps if step.verdict is Verdict.EXCEEDS] == [name]


def test_an_op_that_nobody_knows_is_unjudged(case, recording):
    first = dataclasses.replace(recording.steps[0], op="magic")
    judgement = judged(case, dataclasses.replace(recording, steps=(first, *recording.steps[1:])))
    assert judgement.steps[0].verdict is Verdict.UNJUDGED
    assert judgement.verdict is Verdict.UNJUDGED
