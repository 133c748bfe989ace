"""The import rule names the line that breaks it, in words that say why."""

import pytest

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
            "parity/store/folder.py:3: torch may be imported only in case/opinfo_db.py, backend/*, judge/*, "
            "run/*, localize/*, selftest/*, engine/*, cli.py, cli_engine.py, cli_localize.py, cli_model.py, "
            "cli_selftest.py, pytest_plugin.py, __main__.py"
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
    problems = [text.strip() for text in project.fails("imports").splitlines()[1:-1]]
    assert problems[0] == expected
    assert len(problems) == len(set(problems))


def test_imports_follows_what_a_door_loads_through_other_files(project):
    project.write("parity/check.py", '"""Join."""\n\nimport parity.judge.compare\n')
    project.replace("parity/cli.py", "import sys", "import parity.check\nimport sys")
    project.replace("parity/judge/compare.py", "from parity", "import torch\nfrom parity")
    assert (
        "parity/cli.py:1: loading parity.cli loads torch: "
        "parity.cli -> parity.check -> parity.judge.compare -> torch" in project.fails("imports")
    )


def test_imports_allows_a_vendor_one_file_and_a_door_a_late_import(project):
    project.write("parity/backend/hpu.py", "def open():\n    import habana_frameworks.torch\n")
    project.write("parity/backend/runtimes/openvino.py", "import openvino\n")
    project.append("parity/cli.py", "\n\ndef late():\n    import torch\n\n    import parity.judge\n")
    project.append("parity/cli.py", "\n\ndef serve():\n    import parity.engine\n")
    assert project.gate("imports").returncode == 0
    project.write("parity/backend/gaudi.py", "import habana_frameworks\n")
    assert (
        "parity/backend/hpu.py:2: habana_frameworks is already imported by parity/backend/gaudi.py: "
        "a vendor's package has one file" in project.fails("imports")
    )
