"""What a host lacks to run or judge a subject is said of the case, each time it is asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs_torch

ROOT = Path(__file__).parents[2]
# An engine's package that is not installed, seen twice: half of it stays loaded after the first time.
CODE = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
sys.modules["tokenizers"] = None
from parity.errors import UsageError
from parity.run.subject import ends_of, weights_of
from run.engine_case import engine_case
for find in (weights_of, weights_of, ends_of):
    try:
        find(engine_case())
    except UsageError as error:
        print(str(error).partition(": running")[2])
"""


def test_a_package_that_is_not_there_is_named_with_the_command_that_installs_it():
    code = CODE.format(root=str(ROOT), tests=str(ROOT / "tests"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    words = (
        " an engine needs the package 'tokenizers', which is not installed: pip install 'chip-parity[engine]'"
    )
    assert (done.stdout.splitlines(), done.stderr) == ([words] * 3, "")
