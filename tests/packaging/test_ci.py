"""`.ci/run` takes README's test command, runs it on a fresh copy, then the gate; either may fail it."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
START = "python3 -m venv --help > /dev/null"


@pytest.fixture
def checkout(project):
    """A git checkout whose gate says where it runs."""
    (project.folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", project.folder / ".ci/run")
    project.write("tools/gate", "#!/bin/sh\necho gate in $PWD, $(ls)\n")
    project.run("git", "init", "-q")
    project.run("git", "add", "-A")
    return project


def test_the_real_readme_holds_the_three_commands():
    fresh = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt"
    commands = [
        line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("python3 -m ")
    ]
    assert commands == [
        f"{fresh} '.[engine]' && .venv/bin/parity check",
        f"{fresh} -e '.[dev]' && .venv/bin/pytest -n auto",
        "python3 -m pip list --format=freeze > installed.txt && python3 -m pip install -c installed.txt .",
    ]


def test_tests_run_before_the_gate_in_a_copy_without_what_git_ignores(checkout):
    checkout.write("README.md", f"```\n{START} && touch .venv && echo pytest in $PWD\n```\n")
    checkout.write(".venv/stale", "")
    checkout.write("tracked_later.txt", "")
    (checkout.folder / "LICENSE").unlink()
    done = checkout.run(".ci/run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["$", "pytest", "$", "gate"]
    copy = lines[1].removeprefix("pytest in ")
    assert lines[3].startswith(f"gate in {copy}, ")
    assert "tracked_later.txt" in lines[3]
    assert "LICENSE" not in lines[3]
    assert copy != str(checkout.folder)
    assert not Path(copy).exists()
    assert (checkout.folder / ".venv/stale").exists()


def test_a_failing_test_fails_the_run_and_keeps_the_gate_from_running(checkout):
    checkout.write("README.md", f"{START} && false && echo pytest\n")
    done = checkout.run(".ci/run")
    assert done.returncode == 1
    assert "gate" not in done.stdout


def test_a_failing_gate_fails_the_run(checkout):
    checkout.write("README.md", f"{START} && echo pytest\n")
    checkout.write("tools/gate", "#!/bin/sh\nexit 3\n")
    assert checkout.run(".ci/run").returncode == 3


@pytest.mark.parametrize("commands", ["", f"{START} && pytest\n" * 2])
def test_a_readme_without_exactly_one_test_command_is_refused(checkout, commands):
    checkout.write("README.md", f"# parity\n{commands}")
    done = checkout.run(".ci/run")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(
        "README.md must hold exactly one line 'python3 -m venv … pytest …'; found: "
    )
