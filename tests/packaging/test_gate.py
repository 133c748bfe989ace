"""Each check of the gate fails on an injected fault, and says where it is."""

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


def test_format_names_a_file_that_is_not_formatted(project):
    project.append("parity/judge/compare.py", "\nx  =  1\n")
    assert "parity/judge/compare.py:" in project.fails("format")


def test_lint_names_an_import_that_nothing_uses(project):
    project.replace("parity/case/ids.py", "from parity.errors", "import json\n\nfrom parity.errors")
    assert "parity/case/ids.py:3:8: F401" in project.fails("lint")


def test_lint_names_an_all_out_of_order(project):
    project.replace("parity/case/ids.py", '["parse"]', '["parse", "UsageError"]')
    assert "parity/case/ids.py:5:11: RUF022" in project.fails("lint")


def test_types_names_a_wrong_return(project):
    project.replace("parity/case/ids.py", "return text", "return len(text)")
    assert "parity/case/ids.py:12: error: Incompatible return value type" in project.fails("types")


def test_a_file_that_is_not_python_is_a_problem_and_not_a_traceback(project):
    project.write("parity/judge/compare.py", "def broken(:\n")
    assert "compare.py, line 1)" in project.fails("imports")


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
    assert f"  {expected}" in project.fails("surface").splitlines()


def test_surface_sees_a_name_that_only_one_branch_defines(project):
    project.append(
        "parity/case/ids.py", "\nif parse:\n    try:\n        gated = 1\n    except OSError:\n        pass\n"
    )
    assert "  parity/case/ids.py: 'gated' is public but not in __all__" in project.fails("surface")


def test_surface_leaves_commands_to_the_command_line(project):
    project.append("parity/cli.py", "\n\n@app.command()\ndef check():\n    pass\n")
    assert project.gate("surface").returncode == 0


@pytest.mark.parametrize("package", ["torch", "pyarrow"])
def test_import_cost_names_what_was_loaded(project, package):
    project.write(f"{package}.py", "")
    project.replace("parity/cli.py", "import sys", f"import sys\nimport {package}")
    output = project.fails("import-cost").splitlines()
    assert f"  parity --help loads {package}" in output
    assert f"  parity list loads {package}" in output
    assert f"  import parity loads {package}" not in output


def test_import_cost_fails_only_far_over_its_aim(project):
    project.append("parity/__init__.py", "\nimport time\n\ntime.sleep(0.55)\n")
    output = project.fails("import-cost")
    assert "  import parity took 0." in output
    assert "s, over 5 times its aim" in output


def test_import_cost_shows_how_a_command_ended(project):
    project.replace("parity/cli.py", "here = Path", "raise SystemExit(7)\n    here = Path")
    output = project.fails("import-cost")
    assert "  parity --help: $ " in output
    assert "exit code 7" in output
