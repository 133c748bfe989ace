"""`parity check --model`: a checkpoint, its operations, its layers, any module."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs_torch

TINY = Path(__file__).parents[2] / "cases" / "models" / "tiny-llama"
SIDES = ("--ref", "oracle", "--target", "cpu")

MODULE = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.Linear(16, 32)

    def forward(self, x):
        return torch.nn.functional.silu(self.up(x))


def net():
    torch.manual_seed(0)
    return Net(), (torch.linspace(-1, 1, 48).reshape(3, 16),), {}
"""


def steps(folder, case):
    """The verdict of each step of a case in the last run's JSON, by name."""
    run = json.loads((folder / ".parity/last/run.json").read_text())
    (found,) = (each for each in run["cases"] if each["id"].startswith(case))
    return {step["name"]: step["verdict"] for step in found["steps"]}


def test_a_prompt_is_checked_whole_and_one_token_at_a_time(parity, tmp_path):
    done = parity("check", "--model", "tiny-llama", *SIDES, "--prompt", "One day the dog ran")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 within, 2 cases" in done.stdout
    assert set(steps(tmp_path, "model/prefill").values()) == {"within"}
    assert "s4.L05.attend" in steps(tmp_path, "model/decode")
    (file,) = (tmp_path / ".parity/model").rglob("cases.py")
    assert "dog" not in done.stdout + file.read_text()
    listed = parity("list", "model", "--cases", str(file.relative_to(tmp_path))).stdout.splitlines()
    assert [line.partition(":")[0] for line in listed] == ["model/decode", "model/prefill"]


def test_every_operation_is_a_case_and_needs_no_weights(parity, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(TINY / "config.json", folder)
    done = parity("check", "--model", "bare", "--ops", *SIDES, "--output", "concise")
    assert done.returncode == 0, done.stdout + done.stderr
    run = json.loads((tmp_path / ".parity/last/run.json").read_text())
    ops = {case["id"].partition(":")[0] for case in run["cases"]}
    assert {"model-ops/linear", "model-ops/paged_attention", "model-ops/rotate"} <= ops


def test_a_stream_is_a_case_for_each_part_in_order(parity, tmp_path):
    done = parity("check", "--model", "tiny-llama", "--stream", *SIDES, "-j", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 within, 8 cases" in done.stdout
    assert {
        name.split(".")[1] for name in steps(tmp_path, "model/stream:dtype=bf16,model=tiny-llama,part=3")
    } == {"L02"}


def test_a_module_is_named_by_what_makes_it(parity, tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)
    parity("check", "--model", "mine:net", *SIDES)
    found = steps(tmp_path, "model/module")
    assert found["up/linear"] == "within"


def test_an_option_without_a_model_and_a_model_that_is_not_there_are_refused(parity):
    for options, text in {
        ("--prompt", "x"): "UsageError: --prompt says how a model is checked: name it with --model",
        ("--model", "tiny-lama"): "did you mean 'tiny-llama'?",
    }.items():
        done = parity("check", *options, *SIDES)
        assert (done.returncode, done.stdout) == (2, "")
        assert text in done.stderr
