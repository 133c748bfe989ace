"""A model named on the command line: the case file that it becomes, and what is refused by name."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from parity.case.catalog import Catalog
from parity.case.checkpoint import FOLDERS
from parity.case.inputs import generate
from parity.errors import UsageError

pytestmark = pytest.mark.needs_torch

TINY = Path(__file__).parents[2] / "cases" / "models" / "tiny-llama"

MODULE = """
import torch


def net():
    return torch.nn.Linear(4, 4), (torch.ones(2, 4),), {}
"""


@pytest.fixture
def cases(tmp_path, monkeypatch):
    """Return the cases of what is asked for, as a child finds them."""
    from parity.run.model_case import Asked, write_model_cases

    monkeypatch.setenv(FOLDERS, "")
    monkeypatch.chdir(tmp_path)

    def ask(model=str(TINY), **options):
        file = write_model_cases(Asked(model=model, **options), home=tmp_path / "home")
        return Catalog.load([file]).select([], suite=None)

    return ask


def test_a_prompt_is_run_at_once_and_its_last_tokens_one_at_a_time(cases, tmp_path):
    (tmp_path / "t.txt").write_text("[5, 6, 7,\n8 9]")
    decode, prefill = cases(tokens=tmp_path / "t.txt", dtype="f32")
    assert prefill.subject.options["plan"] == "prefill:5"
    assert decode.subject.options["plan"] == "decode:1+4"
    assert generate(prefill)["tokens"].array().tolist() == [5, 6, 7, 8, 9]
    assert dict(prefill.id.params) | {"prompt": ""} == {
        "dtype": "f32",
        "model": "tiny-llama",
        "prompt": "",
        "tokens": "5",
    }


def test_a_prompt_is_known_by_its_digest_and_nothing_else(cases, tmp_path):
    (first, *_), (second, *_) = cases(prompt="One day the dog"), cases(prompt="One day the cat")
    assert first.id != second.id
    assert re.fullmatch("[0-9a-f]{8}", dict(first.id.params)["prompt"])
    for file in (tmp_path / "home").rglob("*"):
        assert not file.is_file() or b"day" not in file.read_bytes()


def test_the_same_model_and_prompt_are_the_same_case_on_another_host(cases, tmp_path):
    copied = tmp_path / "elsewhere" / TINY.name
    shutil.copytree(TINY, copied)
    here, there = cases(prompt="One day"), cases(str(copied), prompt="One day")
    assert [case.revision for case in here] == [case.revision for case in there]


def test_a_stream_has_a_case_for_each_part_in_the_order_of_the_network(cases):
    found = [case.subject.options["part"] for case in cases(stream=True)]
    assert found == ["0-embed", "1-L00", "2-L01", "3-L02", "4-L03", "5-L04", "6-L05", "7-head"]


def test_a_module_is_a_case_and_a_wrong_name_of_it_is_refused(cases, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_for_a_test.py").write_text(MODULE)
    (case,) = cases("mine_for_a_test:net")
    assert dict(case.subject.options) == {"target": "mine_for_a_test:net"}
    with pytest.raises(UsageError, match="did you mean 'net'"):
        cases("mine_for_a_test:met")
    with pytest.raises(UsageError, match="--ops is for checkpoint folders"):
        cases("mine_for_a_test:net", ops=True)
    sys.modules.pop("mine_for_a_test", None)


REFUSED = {
    "[1, 5000]": "token 5000 is not in the vocabulary of 1,024",
    "[1, -2]": "token -2 is not in the vocabulary of 1,024",
    "[1, two]": "'two' is no token number; write numbers, as in [1, 15]",
    "": "holds no token",
    " ".join(["7"] * 5000): "5,000 tokens are more than the context of",
}


@pytest.mark.parametrize("tokens", REFUSED, ids=REFUSED.values())
def test_tokens_that_the_model_cannot_read_are_named(tokens, cases, tmp_path):
    (tmp_path / "t.txt").write_text(tokens)
    with pytest.raises(UsageError, match=re.escape(f"--tokens {tmp_path / 't.txt'}: {REFUSED[tokens]}")):
        cases(tokens=tmp_path / "t.txt")


def test_a_checkpoint_that_is_not_whole_is_named(cases, tmp_path):
    folder = tmp_path / "cut"
    folder.mkdir()
    with pytest.raises(UsageError, match=r"config\.json: is not there"):
        cases(str(folder))
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UsageError, match=r"model\.safetensors: cannot be read"):
        cases(str(folder))
    weights.unlink()
    with pytest.raises(UsageError, match=r"model\.safetensors: is not there"):
        cases(str(folder))
    assert cases(str(folder), ops=True)  # which needs the config alone


def test_options_that_do_not_go_together_are_named(cases, tmp_path):
    for options, text in (
        ({"prompt": "x", "tokens": tmp_path}, "--prompt and --tokens exclude each other"),
        ({"ops": True, "stream": True}, "--ops needs no weights, no prompt and no --stream"),
        ({"dtype": "f64"}, "float64 cannot be judged by a float64 oracle"),
        ({"dtype": "f61"}, "dtype 'f61' is not known; did you mean 'f64'?"),
        ({"tokens": tmp_path / "no.txt"}, "cannot be read"),
    ):
        with pytest.raises(UsageError, match=re.escape(text)):
            cases(**options)
