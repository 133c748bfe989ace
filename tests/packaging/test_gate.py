"""Each check of the gate fails on an injected fault, and says where it is."""

import os
import sys

import pytest

QUICK = ("format", "lint", "types", "imports", "surface", "import-cost")


def test_every_quick_check_holds_on_a_clean_project(project):
    done = project.gate(*QUICK)
    assert [line.split()[:2] for line in done.stdout.splitlines()[:-1]] == [[name, "holds"] for name in QUICK]
    assert done.stdout.splitlines()[-1] == "gate: 6 of 6 checks hold"
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_unknown_name_is_refused_before_anything_runs(project):
    done = project.gate("imports", "style")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "no check is called 'style'; there are "
        "format, lint, types, imports, surface, import-cost, torch-free, wheel\n"
    )


def test_list_names_every_check(project):
    assert project.gate("--list").stdout.split() == [*QUICK, "torch-free", "wheel"]


def fails(project, check):
    done = project.gate(check)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"gate: 0 of 1 checks hold, not {check}"
    return done.stdout


def test_format_names_a_file_that_is_not_formatted(project):
    project.append("parity/judge/compare.py", "\nx  =  1\n")
    assert "parity/judge/compare.py:" in fails(project, "format")


def test_lint_names_an_import_that_nothing_uses(project):
    project.replace("parity/case/ids.py", "from parity.errors", "import json\n\nfrom parity.errors")
    assert "parity/case/ids.py:3:8: F401" in fails(project, "lint")


def test_lint_names_an_all_out_of_order(project):
    project.replace("parity/case/ids.py", '["parse"]', '["parse", "UsageError"]')
    assert "parity/case/ids.py:5:11: RUF022" in fails(project, "lint")


def test_types_names_a_wrong_return(project):
    project.replace("parity/case/ids.py", "return text", "return len(text)")
    assert "parity/case/ids.py:12: error: Incompatible return value type" in fails(project, "types")


def test_a_file_that_is_not_python_is_a_problem_and_not_a_traceback(project):
    project.write("parity/judge/compare.py", "def broken(:\n")
    assert "compare.py, line 1)" in fails(project, "imports")


IMPORT_FAULTS = {
    "a stage imports a later one": (
        "judge/compare.py",
        "from parity.report import view, terminal",
        "parity/judge/compare.py:3: judge may not import report, which comes after it",
    ),
    "a stage imports a later one through the package": (
        "judge/compare.py",
        "from parity import report",
        "parity/judge/compare.py:3: judge may not import report, which comes after it",
    ),
    "a stage imports a later one by a relative name": (
        "judge/compare.py",
        "from ..report import view",
        "parity/judge/compare.py:3: judge may not import report, which comes after it",
    ),
    "a stage imports a later one for its types": (
        "judge/compare.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import parity.report",
        "parity/judge/compare.py:5: judge may not import report, which comes after it",
    ),
    "a stage imports a later one by a literal name": (
        "judge/compare.py",
        "import importlib\nimportlib.import_module('parity.report')",
        "parity/judge/compare.py:4: judge may not import report, which comes after it",
    ),
    "a stage imports a door": (
        "report/__init__.py",
        "import parity.cli",
        "parity/report/__init__.py:3: report may not import cli, which comes after it",
    ),
    "the two doors import each other": (
        "pytest_plugin.py",
        "import parity.cli",
        "parity/pytest_plugin.py:3: pytest_plugin may not import cli, which stands beside it",
    ),
    "errors import a stage": (
        "errors.py",
        "import parity.case",
        "parity/errors.py:3: errors may not import case: of parity it may import errors alone",
    ),
    "the package imports a stage": (
        "__init__.py",
        "import parity.case",
        "parity/__init__.py:3: parity may not import case: of parity it may import errors alone",
    ),
    "the engine imports a stage": (
        "engine/net.py",
        "import parity.case",
        "parity/engine/net.py:3: engine may not import case: of parity it may import errors alone",
    ),
    "a stage imports the engine": (
        "judge/compare.py",
        "import parity.engine",
        "parity/judge/compare.py:3: judge may not import engine, which has no place in the flow",
    ),
    "a folder that is no stage": (
        "helpers/misc.py",
        "import parity.case",
        (
            "parity/helpers/misc.py:3: helpers, which has no place in the flow, may not import case: "
            "of parity it may import errors alone"
        ),
    ),
    "the package imports a case file": (
        "case/ids.py",
        "import cases.ops.softmax",
        "parity/case/ids.py:3: parity may not import cases: they are loaded by path",
    ),
    "pyarrow outside the one file": (
        "store/folder.py",
        "import pyarrow as pa",
        "parity/store/folder.py:3: pyarrow may be imported only in store/arrow.py",
    ),
    "a vendor's package outside a vendor's file": (
        "judge/compare.py",
        "import onnxruntime",
        (
            "parity/judge/compare.py:3: onnxruntime is no dependency of ours: "
            "only a vendor's file in parity/backend/ may import it"
        ),
    ),
    "a vendor's package in the backends' protocol": (
        "backend/base.py",
        "import habana_frameworks.torch",
        (
            "parity/backend/base.py:3: habana_frameworks is no dependency of ours: "
            "only a vendor's file in parity/backend/ may import it"
        ),
    ),
    "torch in a stage that has none": (
        "store/folder.py",
        "import torch",
        (
            "parity/store/folder.py:3: torch may be imported only in backend/*, judge/*, run/worker.py, "
            "run/recorder.py, engine/*, cli.py, pytest_plugin.py, __main__.py"
        ),
    ),
    "torch where a listing reads": (
        "backend/spec.py",
        "from torch import nn",
        "parity/backend/spec.py:3: torch may not be imported in a file that `parity list` or a report reads",
    ),
    "torch when a door is loaded": (
        "cli.py",
        "import torch",
        "parity/cli.py:1: loading parity.cli loads torch: parity.cli -> torch",
    ),
    "an import inside a function": (
        "judge/compare.py",
        "def late():\n    import json",
        (
            "parity/judge/compare.py:4: import of json inside a function: "
            "only a door or a vendor's file may defer a cost"
        ),
    ),
}


@pytest.mark.parametrize("name", IMPORT_FAULTS)
def test_imports_names_the_line_when(project, name):
    path, line, expected = IMPORT_FAULTS[name]
    project.write(f"parity/{path}", f'"""A fault."""\n\n{line}\n')
    if path == "cli.py":
        project.write("torch.py", "")
    problems = [text.strip() for text in fails(project, "imports").splitlines()[1:-1]]
    assert problems[0] == expected
    assert len(problems) == len(set(problems))


def test_imports_follows_what_a_door_loads_through_other_files(project):
    project.write("parity/check.py", '"""Join."""\n\nimport parity.judge.compare\n')
    project.replace("parity/cli.py", "import sys", "import parity.check\nimport sys")
    project.replace("parity/judge/compare.py", "from parity", "import torch\nfrom parity")
    assert (
        "parity/cli.py:1: loading parity.cli loads torch: "
        "parity.cli -> parity.check -> parity.judge.compare -> torch" in fails(project, "imports")
    )


def test_imports_allows_a_vendor_one_file_and_a_door_a_late_import(project):
    project.write("parity/backend/hpu.py", "def open():\n    import habana_frameworks.torch\n")
    project.write("parity/backend/runtimes/openvino.py", "import openvino\n")
    project.append("parity/cli.py", "\n\ndef late():\n    import torch\n\n    import parity.judge\n")
    assert project.gate("imports").returncode == 0
    project.write("parity/backend/gaudi.py", "import habana_frameworks\n")
    assert (
        "parity/backend/hpu.py:2: habana_frameworks is already imported by parity/backend/gaudi.py: "
        "a vendor's package has one file" in fails(project, "imports")
    )


SURFACE_FAULTS = {
    "parity/case/ids.py: 'LIMIT' is public but not in __all__": ('__all__ = ["parse"]\nLIMIT = 3\n'),
    "parity/case/ids.py: __all__ names 'parsed', which is not there": '__all__ = ["parse", "parsed"]\n',
    "parity/case/ids.py: __all__ names 'parse' twice": '__all__ = ["parse", "parse"]\n',
    "parity/case/ids.py: __all__ must be a list of literal strings": '__all__ = ["par" + "se"]\n',
    "parity/case/ids.py: no __all__, though it defines parse": "",
}


@pytest.mark.parametrize("expected", SURFACE_FAULTS)
def test_surface_says_that(project, expected):
    project.replace("parity/case/ids.py", '__all__ = ["parse"]\n', SURFACE_FAULTS[expected])
    assert f"  {expected}" in fails(project, "surface").splitlines()


def test_surface_sees_a_name_that_only_one_branch_defines(project):
    project.append(
        "parity/case/ids.py", "\nif parse:\n    try:\n        gated = 1\n    except OSError:\n        pass\n"
    )
    assert "  parity/case/ids.py: 'gated' is public but not in __all__" in fails(project, "surface")


def test_surface_leaves_commands_to_the_command_line(project):
    project.append("parity/cli.py", "\n\n@app.command()\ndef check():\n    pass\n")
    assert project.gate("surface").returncode == 0


@pytest.mark.parametrize("package", ["torch", "pyarrow"])
def test_import_cost_names_what_was_loaded(project, package):
    project.write(f"{package}.py", "")
    project.replace("parity/cli.py", "import sys", f"import sys\nimport {package}")
    output = fails(project, "import-cost").splitlines()
    assert f"  parity --help loads {package}" in output
    assert f"  parity list loads {package}" in output
    assert f"  import parity loads {package}" not in output


def test_import_cost_fails_only_far_over_its_aim(project):
    project.append("parity/__init__.py", "\nimport time\n\ntime.sleep(0.55)\n")
    output = fails(project, "import-cost")
    assert "  import parity took 0." in output
    assert "s, over 5 times its aim" in output


def test_import_cost_shows_how_a_command_ended(project):
    project.replace("parity/cli.py", "here = Path", "raise SystemExit(7)\n    here = Path")
    output = fails(project, "import-cost")
    assert "  parity --help: $ " in output
    assert "exit code 7" in output


def test_torch_free_fails_when_there_is_nothing_to_run(project):
    project.replace("tests/case/test_ids.py", "from parity", "import torch\nfrom parity")
    assert "no test is torch-free: what would run under another Python?" in fails(project, "torch-free")


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
    assert "  the wheel lacks parity/_bundled/cases/ops/softmax.py" in fails(project, "wheel").splitlines()


def test_wheel_names_what_it_should_not_hold(project):
    project.replace(
        "pyproject.toml", '["parity", "cases", "golden"]', '["parity", "cases", "golden", "tests"]'
    )
    assert (
        "  the wheel holds tests/case/test_ids.py, which is not in the checkout"
        in fails(project, "wheel").splitlines()
    )


def test_wheel_needs_goldens(project):
    (project.folder / "golden/README.md").unlink()
    assert "  golden/ holds no file" in fails(project, "wheel").splitlines()


def test_wheel_finds_a_command_that_works_only_in_the_checkout(project):
    before, rest = (project.folder / "pyproject.toml").read_text().split("dependencies = [\n", 1)
    project.write("pyproject.toml", f"{before}dependencies = [\n]\n{rest.split(']', 1)[1]}")
    project.replace("parity/cli.py", 'here / "_bundled/cases", ', "")
    output = fails(project, "wheel")
    assert f"{os.sep}parity --version\n  no cases\n  exit code 1" in output
