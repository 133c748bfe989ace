"""`parity generate` and `parity bench-engine` as a user types them."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from parity import cli_engine
from parity.errors import BackendError
from tests.cli.conftest import Parity, environment

pytestmark = pytest.mark.needs_torch

SAID = "\nAlas, I'll not be a mo"


def test_the_continuation_alone_is_on_stdout_and_its_speed_on_stderr(parity: Parity) -> None:
    done = parity("generate", "tiny-llama", "--prompt", "ROMEO:", "--max-tokens", "12", "--dtype", "f32")
    assert (done.returncode, done.stdout) == (0, SAID)
    assert done.stderr.startswith("12 tokens, the first after ")
    assert done.stderr.endswith(" tokens/s\n")
    assert done.stderr.count("\n") == 1


def test_a_stream_and_a_folder_say_the_same(parity: Parity) -> None:
    folder = str(Path(__file__).parents[2] / "cases" / "models" / "tiny-llama")
    arguments = ("--prompt", "ROMEO:", "--max-tokens", "12", "--dtype", "f32", "--stream")
    assert parity("generate", folder, *arguments).stdout == SAID


def test_a_seed_gives_the_same_text_again_and_another_gives_another(parity: Parity) -> None:
    def said(seed: str) -> str:
        options = ("--temperature", "1.5", "--seed", seed, "--max-tokens", "8")
        return parity("generate", "tiny-llama", "--prompt", "ROMEO:", *options).stdout

    first = said("7")
    assert said("7") == first
    assert said("8") != first


def test_log_probabilities_are_a_line_a_token_on_stderr(parity: Parity) -> None:
    options = ("--max-tokens", "2", "--logprobs", "2", "--dtype", "f64")
    done = parity("generate", "tiny-llama", "--prompt", "ROMEO:", *options)
    assert done.stdout == "\nA"
    assert done.stderr.splitlines()[0] == "201 '\\n' -0.0014  of  201 '\\n' -0.0014  9 \"'\" -8.0815"
    assert len(done.stderr.splitlines()) == 3


@pytest.mark.parametrize(
    "arguments, code, text",
    [
        (
            ("generate", "tiny-lama", "--prompt", "a"),
            2,
            "UsageError: tiny-lama: no such folder, and no model of that name; did you mean 'tiny-llama'?",
        ),
        (
            ("generate", "tiny-llama", "--prompt", ""),
            2,
            "UsageError: an empty prompt has no token to go on from",
        ),
        (
            ("generate", "tiny-llama", "--prompt", "a", "--max-tokens", "-1"),
            2,
            "UsageError: max_tokens must be 0 or more, got -1",
        ),
        (
            ("generate", "tiny-llama", "--prompt", "a", "--max-tokens", "600"),
            2,
            "UsageError: a prompt of 1 tokens and up to 600 more need 600 positions",
        ),
        (
            ("generate", "tiny-llama", "--prompt", "a", "--dtype", "f33"),
            2,
            "UsageError: dtype 'f33' is not known; did you mean",
        ),
        (
            ("generate", "tiny-llama", "--prompt", "a", "--device", "gaudi"),
            2,
            "UsageError: device 'gaudi' is not known to torch; such as: cpu, cuda, cuda:1",
        ),
        (
            ("generate", "tiny-llama", "--prompt", "a", "--device", "meta"),
            3,
            "BackendError: device 'meta' cannot be used here: ",
        ),
        (("generate", ".", "--prompt", "a"), 2, "UsageError: config.json: is not there"),
        (("bench-engine",), 2, "UsageError: bench-engine takes MODEL or --random SIZE"),
        (("bench-engine", "tiny-llama", "--random", "125m"), 2, "UsageError: bench-engine takes MODEL or"),
        (("bench-engine", "tiny-llama", "--against", "vllm"), 2, "UsageError: bench-engine takes MODEL or"),
        (("bench-engine", "--random", "125"), 2, "UsageError: no random model is called '125'; did you mean"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    parity: Parity, arguments: tuple[str, ...], code: int, text: str
) -> None:
    done = parity(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(text)
    assert done.stderr.count("\n") == 1


def test_a_package_that_is_not_installed_is_named_with_what_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    present = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tokenizers" else present(name)
    )
    with pytest.raises(BackendError) as found:
        cli_engine.generate("tiny-llama", "ROMEO:")
    assert str(found.value) == (
        "the engine needs tokenizers, which is not installed. pip install 'chip-parity[engine]'"
    )


def started(folder: Path) -> subprocess.Popen[bytes]:
    """A stream of many tokens whose first piece has been read."""
    options = ("--max-tokens", "500", "--stream", "--temperature", "1")
    command = [sys.executable, "-m", "parity", "generate", "tiny-llama", "--prompt", "ROMEO:", *options]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A runner in the background ignores SIGINT, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - one call, no locks
    )
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 1)
    return process


def test_an_interrupt_ends_the_text_where_it_is(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 3
    assert stderr.startswith(b"\ninterrupted after ")
    assert b"Traceback" not in stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(timeout=120) == 0


def test_the_benchmark_prints_each_task_beside_its_limit(parity: Parity) -> None:
    done = parity("bench-engine", "tiny-llama", "--rounds", "1", "--dtype", "f32")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["tokens/s", "engine", "limit", "of", "it", "bound", "by"]
    assert [line.rpartition("  ")[0][:16].strip() for line in lines[1:]] == [
        "decode, batch 1",
        "decode, batch 4",
        "decode, batch 16",
        "prefill 512",
    ]
    assert all("%   " in line for line in lines[1:])
