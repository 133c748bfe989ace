from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import parity as package
from tests.cli.conftest import Parity, environment


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("check", "--target", "cpuu"), "UsageError: unknown backend 'cpuu'; did you mean 'cpu'?"),
        (("check", "--ref", "cpu+lazzy"), "UsageError: 'cpu+lazzy': cpu has no mode 'lazzy'"),
        (
            ("check", "--target", "CPU!"),
            "UsageError: 'CPU!' is not a backend: expected family[/flavour][:index][+mode]",
        ),
        (("check", "--target", "./nowhere"), "UsageError: nowhere: is not a folder of recordings"),
        (("check", "ops/sofmax"), "UsageError: 'ops/sofmax' names no case; did you mean 'ops/softmax'?"),
        (("check", "ops/softmax[bf16]"), "UsageError: 'ops/softmax[bf16]' is not a case or selector"),
        (("check", "--suite", "smok"), "UsageError: no suite 'smok'; did you mean 'smoke'?"),
        (("check", "--golden", "nowhere"), "UsageError: --golden nowhere: no such folder"),
        (("check", "--cases", "nowhere.py"), "UsageError: --cases nowhere.py: no such file or folder"),
        (("check", "--json", "."), "UsageError: cannot write .: it is a folder"),
        (("check", "--last-failed"), "UsageError: --last-failed: there is no .parity/last/run.json here"),
        (("record", "ops/exp"), "UsageError: record needs --backend and --golden DIR"),
        (("show", "ops/exp:dtype=f23"), "UsageError: no case 'ops/exp:dtype=f23'"),
    ],
)
def test_what_cannot_be_understood_is_said_in_one_line_with_exit_2(
    parity: Parity, arguments: tuple[str, ...], text: str
) -> None:
    done = parity(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(text)
    assert "Traceback" not in done.stderr


def test_an_unknown_option_is_exit_2(parity: Parity) -> None:
    done = parity("check", "--sute", "smoke")
    assert done.returncode == 2
    assert "--suite" in done.stderr


def test_a_path_whose_parameters_match_nothing_is_exit_3(parity: Parity) -> None:
    done = parity("check", "ops/exp:dtype=i8")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "no case matches ops/exp:dtype=i8; see what there is: parity list ops/exp\n"


def test_a_case_file_with_a_syntax_error_is_named(parity: Parity, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def f(:\n")
    done = parity("list", "--cases", "broken.py")
    assert done.returncode == 2
    assert done.stderr.startswith("UsageError: broken.py:1: ")
    assert "Traceback" not in done.stderr


def test_two_cases_of_one_id_are_both_named(parity: Parity, tmp_path: Path) -> None:
    text = (
        "from parity.case.family import family, one, tensor\n"
        "@family('mine/exp', n=('1',))\n"
        "def exp(p):\n    'Doc.'\n    return one('exp', tensor('x', 'f32', (2,)))\n"
    )
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(text)
    done = parity("list", "mine", "--cases", ".")
    assert done.returncode == 2
    assert "case 'mine/exp:n=1' is already defined at " in done.stderr
    assert "a.py:" in done.stderr and "b.py:" in done.stderr


def test_list_prints_one_id_a_line(parity: Parity) -> None:
    done = parity("list", "ops/exp:dtype=f32", "--suite", "smoke")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines
    assert all(line.startswith("ops/exp:") and "dtype=f32" in line for line in lines)


def test_a_reader_that_closes_the_pipe_early_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m parity list | head -1"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("engine/")


def test_a_verdict_is_kept_when_the_reader_has_gone(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "parity", "check", "--ref", "oracle", "--target", "sim/gaudi2"]
    case = "ops/gelu_erf:dist=normal,dtype=f32"
    try:
        done = subprocess.run(
            [*command, "--production", case],
            cwd=tmp_path,
            env=environment(),
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(write)
    assert done.returncode == 1  # every one is tanh-gelu
    assert "Error" not in done.stderr


def test_list_without_a_reader_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "parity", "list"]
    try:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(), stdout=write, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_show_says_what_runs_and_how_it_is_judged(parity: Parity) -> None:
    case = parity("list", "ops/softmax:dtype=bf16", "--suite", "smoke").stdout.splitlines()[0]
    done = parity("show", case)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{case}\n --> ")
    assert "y = softmax(x, dim=" in done.stdout
    assert "y = exp(-d) / sum, d = max - x" in done.stdout
    assert done.stdout.splitlines()[-1] == f"next    parity check {case}"


def test_version(parity: Parity) -> None:
    assert parity("--version").stdout == f"parity {package.__version__}\n"


def test_devices_has_one_line_for_each_family_with_a_reason(parity: Parity) -> None:
    done = parity("devices")
    assert done.returncode == 0
    families = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    assert families["cpu"] == "yes"
    assert "openvino" in families


@pytest.mark.parametrize("arguments", [["--help"], ["list", "ops/exp"], ["check", "--help"]])
def test_what_needs_no_device_imports_neither_torch_nor_pyarrow(tmp_path: Path, arguments: list[str]) -> None:
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(sorted({'torch', 'pyarrow'} & set(sys.modules)), file=sys.stderr))\n"
        f"sys.argv = ['parity', *{arguments!r}]\n"
        "from parity.cli import main\nmain()\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said_before_the_run(parity: Parity, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        done = parity("check", "ops/exp")
    finally:
        tmp_path.chmod(0o700)
    assert done.returncode == 2
    assert done.stderr.startswith("UsageError: cannot write here: ")
