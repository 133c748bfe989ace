"""A project small enough to gate in a second: the real tools and settings round a few lines of code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REAL = (
    ".gitignore",
    "LICENSE",
    "constraints.txt",
    "pyproject.toml",
    "tests/conftest.py",
    "tools/checks",
    "tools/gate",
)
SMALL = {
    "README.md": "# parity\n",
    "cases/ops/softmax.py": '"""Softmax."""\n',
    "golden/README.md": "The format.\n",
    "parity/py.typed": "",
    "parity/__init__.py": '''"""The package."""

__all__ = ["__version__"]

__version__ = "0.1.0"
''',
    "parity/errors.py": '''"""Errors."""

__all__ = ["UsageError"]


class UsageError(Exception):
    """The request cannot be understood."""
''',
    "parity/case/__init__.py": '"""What runs."""\n',
    "parity/case/ids.py": '''"""Case ids."""

from parity.errors import UsageError

__all__ = ["parse"]


def parse(text: str) -> str:
    """Read an id."""
    if not text:
        raise UsageError("an id is not empty")
    return text
''',
    "parity/judge/__init__.py": '"""Whether it is the same."""\n',
    "parity/judge/compare.py": '''"""Compare."""

from parity.case.ids import parse

__all__ = ["same"]


def same(first: str, second: str) -> bool:
    """Tell whether two ids are one."""
    return parse(first) == parse(second)
''',
    "parity/report/__init__.py": '"""What is said of it."""\n',
    "parity/cli.py": '''"""The door."""

import sys
from pathlib import Path

__all__ = ["main"]


def main() -> None:
    """Print the cases that stand beside the package, or in the checkout."""
    here = Path(__file__).parent
    folders = [folder for folder in [here / "_bundled/cases", here.parent / "cases"] if folder.is_dir()]
    if not folders:
        sys.exit("no cases")
    sys.stdout.write(f"{sorted(path.name for path in folders[0].rglob('*.py'))}\\n")
''',
    "tests/case/test_ids.py": """from parity.case.ids import parse


def test_an_id_reads_as_itself():
    assert parse("ops/softmax") == "ops/softmax"
""",
}


class Project:
    """A temporary checkout; `write` injects a fault, `gate` runs the real script of the copy."""

    def __init__(self, folder):
        self.folder = folder
        for name in REAL:
            source, place = ROOT / name, folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, place)
        for name, text in SMALL.items():
            self.write(name, text)

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def append(self, name, text):
        self.write(name, (self.folder / name).read_text() + text)

    def replace(self, name, old, new):
        text = (self.folder / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def gate(self, *names, **env):
        return self.run(sys.executable, self.folder / "tools/gate", *names, **env)

    def fails(self, check):
        """Run one check, which must not hold, and return what it prints."""
        done = self.gate(check)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == f"gate: 0 of 1 checks hold, not {check}"
        return done.stdout

    def checks(self, code, **env):
        """Run Python in which `checks` can be imported and `root` is the project."""
        start = "import sys; from pathlib import Path; root = Path.cwd(); sys.path.insert(0, 'tools')"
        done = self.run(sys.executable, "-c", f"{start}; {code}", **env)
        assert done.returncode == 0, done.stderr
        return done

    def run(self, *command, **env):
        return subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env={**os.environ, **env},
            text=True,
            capture_output=True,
        )


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    return Project(folder)
