"""A checkpoint one part at a time: the same steps as whole, in the memory of one layer."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from parity.case.checkpoint import FOLDERS
from parity.errors import UsageError
from parity.judge.verdict import Verdict

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are folders of files, not packages

pytestmark = pytest.mark.needs_torch

SLACK = 300 << 20
TOKENS = 32


@pytest.fixture
def tools():
    from run import streaming

    return streaming


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, tools):
    """Write a checkpoint in shards where cases look for it."""
    import torch

    monkeypatch.setenv(FOLDERS, str(tmp_path))

    def write(**config):
        folder = tmp_path / "random"
        tools.write_checkpoint(folder, {**tools.SMALL, **config}, shards=3, dtype=torch.bfloat16)
        return folder

    return write


MIXTURE = {"model_type": "mixtral", "num_local_experts": 5, "num_experts_per_tok": 2}


def test_every_part_is_within_and_its_steps_have_the_names_of_the_whole(checkpoint, tools):
    cases = tools.part_cases(checkpoint(), dtype="bf16", plan="decode:9+2", tokens=11)
    made = list(tools.checked(cases))
    assert [judgement.verdict for _, judgement in made] == [Verdict.WITHIN] * 5
    names = [step.name for recording, _ in made for step in recording.steps]
    assert names[:3] == ["s0.embed", "s1.embed", "s2.embed"]
    assert "s2.L01.attend" in names
    assert names[-1] == "s2.head"


def test_parts_give_what_the_whole_network_gives(checkpoint, tools):
    from parity.case.case import Case, Subject, SubjectKind
    from parity.case.ids import CaseId

    cases = tools.part_cases(checkpoint(), dtype="bf16", plan="decode:9+2", tokens=11)
    options = {name: value for name, value in cases[0].subject.options.items() if name != "part"}
    subject = Subject(kind=SubjectKind.ENGINE, options=options)
    whole = Case(id=CaseId.of("model/whole", {}), inputs=cases[0].inputs, subject=subject)
    *_, (last, _) = tools.checked(cases)
    ((together, _),) = tools.checked([whole])
    assert [ref.digest for ref in last.results] == [ref.digest for ref in together.results]
    steps = {step.name: [ref.digest for ref in step.outputs] for step in together.steps}
    assert all(steps[step.name] == [ref.digest for ref in step.outputs] for step in last.steps)


def test_a_part_alone_is_fed_as_if_the_others_had_run(checkpoint, tools):
    cases = tools.part_cases(checkpoint(), dtype="bf16", plan="prefill:9", tokens=9)
    *_, (in_turn, _) = tools.checked(cases)
    ((alone, judgement),) = tools.checked(cases[-1:])
    assert judgement.verdict is Verdict.WITHIN
    assert [ref.digest for ref in alone.results] == [ref.digest for ref in in_turn.results]


def test_only_chosen_experts_are_read_and_their_numbers_are_in_the_name(checkpoint, tools, monkeypatch):
    from parity.run import stream_weights

    read = []
    original = stream_weights.read_experts
    monkeypatch.setattr(
        stream_weights,
        "read_experts",
        lambda files, weight, experts, **options: (
            read.append(tuple(experts)) or original(files, weight, experts, **options)
        ),
    )
    cases = tools.part_cases(checkpoint(**MIXTURE), dtype="bf16", plan="prefill:1", tokens=1)
    ((recording, judgement),) = tools.checked(cases[1:2])
    assert judgement.verdict is Verdict.WITHIN
    step = next(step for step in recording.steps if step.op == "experts")
    assert set(map(len, read)) == {2}
    up = step.inputs[3]
    assert up.name == f"L00.experts.gate_up.w[{read[-1][0]},{read[-1][1]}]"
    assert up.shape[0] == 2


def test_a_wrong_layer_is_found_in_its_own_part(checkpoint, tools, monkeypatch):
    from parity.engine.ops import reference

    cases = tools.part_cases(checkpoint(), dtype="bf16", plan="prefill:9", tokens=9)
    list(tools.checked(cases[:2]))
    right = reference.gated.reference
    monkeypatch.setattr(reference.gated, "reference", lambda x, **options: right(x, **options) * 1.05)
    ((_, judgement),) = tools.checked(cases[2:3])
    assert [step.name for step in judgement.steps if step.verdict is Verdict.EXCEEDS] == ["L01.gated"]


def test_a_part_that_the_network_lacks_is_refused(checkpoint, tools):
    (case, *_) = tools.part_cases(checkpoint(), dtype="bf16", plan="prefill:9", tokens=9)
    subject = dataclasses.replace(case.subject, options={**case.subject.options, "part": "9-L08"})
    with pytest.raises(UsageError, match="part '9-L08' is none of 0-embed … 4-head"):
        list(tools.checked([dataclasses.replace(case, subject=subject)]))


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """A checkpoint in 8 shards, of 24 layers of 13 MB; return its folder and the bytes of a layer."""
    import torch
    from run import streaming

    folder = tmp_path_factory.mktemp("weights") / "layers"
    config = {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    }
    largest = streaming.write_checkpoint(
        folder, {**streaming.SMALL, **config}, shards=8, dtype=torch.bfloat16
    )
    return folder, largest


def rose(folder, *options):
    """Check a checkpoint part by part in a process of its own; return how far its memory rose."""
    command = [sys.executable, str(Path(__file__).with_name("streaming.py")), str(folder), str(TOKENS)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environ = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["verdicts"]) == {"within"}
    return found["rose"]


def test_recording_and_judging_layer_by_layer_needs_the_memory_of_one_layer(layers):
    folder, largest = layers
    activations = 24 * TOKENS * 4 * 2048 * 4  # all that one part records, at its widest
    assert rose(folder) <= largest + activations + SLACK


def test_a_layer_that_is_kept_shows_in_that_memory(layers):
    folder, largest = layers
    assert rose(folder, "leak") > 2 * largest + SLACK
