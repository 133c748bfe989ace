"""The checks that make environments: torch-free tests under every Python, and the wheel."""

import os
import sys


def test_torch_free_fails_when_there_is_nothing_to_run(project):
    project.replace("tests/case/test_ids.py", "from parity", "import torch\nfrom parity")
    assert "no test is torch-free: what would run under another Python?" in project.fails("torch-free")


def test_torch_free_names_the_python_and_the_test_that_fails(project, tmp_path):
    project.append("tests/case/test_ids.py", '\n\ndef test_fault():\n    assert parse("a") == "b"\n')
    project.write(
        "tests/judge/test_needs_torch.py", "import torch\n\n\ndef test_not_run():\n    raise OSError\n"
    )
    done = project.gate("torch-free", PATH=str(tmp_path))  # the running Python alone is at hand
    assert done.returncode == 1
    assert f"Python {'.'.join(map(str, sys.version_info[:3]))}: $ " in done.stdout
    assert "FAILED tests/case/test_ids.py::test_fault" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def select(project):
    done = project.checks("from checks.torch_free import *; print(torch_free_tests(root))")
    return done.stdout.strip()


def test_torch_free_tests_are_those_that_load_nothing_else(project):
    project.write("parity/backend/cpu.py", "import torch\n")
    project.write("tests/helpers.py", "import parity.backend.cpu\n")
    project.write("tests/backend/test_late.py", "def test_late():\n    import parity.backend.cpu\n")
    project.write("tests/backend/test_through_a_helper.py", "import tests.helpers\n")
    project.write("tests/run/conftest.py", "import torch\n")
    project.write("tests/run/test_by_its_conftest.py", "import os\n")
    project.write("tests/store/conftest.py", "def fixture():\n    import torch\n")
    project.write("tests/store/test_beside_a_fixture.py", "import os\n")
    project.write("tests/backend/test_if_there.py", "import pytest\n\npytest.importorskip('torch')\n")
    project.write("tests/packaging/test_all.py", "import os\n")
    project.write("tests/report/test_view.py", "import rich\n")
    assert select(project) == (
        "['tests/backend/test_if_there.py', 'tests/case/test_ids.py', 'tests/store/test_beside_a_fixture.py']"
    )


def fake(folder, name, script):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_pythons_are_believed_only_when_they_run(project, tmp_path):
    programs = tmp_path / "programs"
    answer = "echo /python {} {} 1"
    fake(programs, "pyenv", "echo 3.10.2; echo 3.12.1")
    fake(programs, "python3.9", answer.format(3, 9))
    fake(programs, "python3.10", '[ "$PYENV_VERSION" = 3.10.2:3.12.1 ] && ' + answer.format(3, 10))
    fake(programs, "python3.12", "exit 127")
    fake(programs, "python3.13", answer.format(3, 9))
    fake(programs, "python3.14", answer.format(3, 14))
    done = project.checks("from checks.pythons import pythons; print(*pythons())", PATH=str(programs))
    own = sys.version_info
    expected = {f"{own[0]}.{own[1]}.{own[2]}", "3.10.1", "3.14.1"} - ({"3.10.1"} if own[1] == 10 else set())
    assert set(done.stdout.split()) == expected, done.stderr


def test_wheel_names_what_it_lacks(project):
    project.replace("pyproject.toml", '["parity", "cases", "golden"]', '["parity", "golden"]')
    assert "  the wheel lacks parity/_bundled/cases/ops/softmax.py" in project.fails("wheel").splitlines()


def test_wheel_names_what_it_should_not_hold(project):
    project.replace(
        "pyproject.toml", '["parity", "cases", "golden"]', '["parity", "cases", "golden", "tests"]'
    )
    assert (
        "  the wheel holds tests/case/test_ids.py, which is not in the checkout"
        in project.fails("wheel").splitlines()
    )


def test_wheel_needs_goldens(project):
    (project.folder / "golden/README.md").unlink()
    assert "  golden/ holds no file" in project.fails("wheel").splitlines()


def test_wheel_finds_a_command_that_works_only_in_the_checkout(project):
    before, rest = (project.folder / "pyproject.toml").read_text().split("dependencies = [\n", 1)
    project.write("pyproject.toml", f"{before}dependencies = [\n]\n{rest.split(']', 1)[1]}")
    project.replace("parity/cli.py", 'here / "_bundled/cases", ', "")
    output = project.fails("wheel")
    assert f"{os.sep}parity --version\n  no cases\n  exit code 1" in output
