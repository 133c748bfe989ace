"""`parity doctor` and `parity devices` as a user types them, on machines in every kind of disorder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from parity.backend.registry import families
from tests.backend.vendor_site import Site
from tests.cli.conftest import Parity

HEAVY = ("torch", "functorch", "numpy", "pyarrow")


class Machine(Site):
    """A site that also has what the command line itself needs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
            if not path.name.startswith(HEAVY) and path.suffix != ".pth":
                (self.folder / path.name).symlink_to(path)

    def parity(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-S", "-m", "parity", *arguments],
            cwd=self.folder.parent,
            env=self.environ(**variables),
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "site")


@pytest.mark.needs_torch
def test_on_this_machine_nothing_is_broken_and_the_next_command_is_a_check(
    parity: Parity, tmp_path: Path
) -> None:
    done = parity("doctor", "--json", "out/doctor.json")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("parity          ok      ")
    assert lines[-1] == "next    parity check"
    assert not [line for line in lines if len(line) > 80]
    report = json.loads((tmp_path / "out/doctor.json").read_text())
    assert (report["version"], report["exit_code"]) == (1, 0)
    assert {finding["state"] for finding in report["findings"]} <= {"ok", "absent", "warning"}


REPLACED = """\
numpy           ok      2.4.6
pyarrow         ok      26.0.1
torch           broken  torch was replaced: its files say 2.13.0+cpu, pip
                        recorded 2.10.0a0+gitabc
  = start again from the vendor's image, or reinstall the vendor's own torch
    wheel; never pip install torch there
import torch    ok      works
"""


def test_a_replaced_torch_is_exit_1_with_its_remedy_below(machine: Machine, tmp_path: Path) -> None:
    machine.torch("2.13.0+cpu", recorded="2.10.0a0+gitabc")
    done = machine.parity("doctor", "--json", "doctor.json", PT_COMPILE_ONLY_MODE="1")
    assert done.returncode == 1, done.stderr
    assert REPLACED in done.stdout
    assert done.stdout.endswith(
        """\
environment     warning PT_COMPILE_ONLY_MODE=1: graphs are compiled and not
                        executed: results are garbage
  = unset PT_COMPILE_ONLY_MODE, unless the deployment that is tested sets it too

1 broken, 1 warning, 1 absent, 4 ok
next    parity doctor
"""
    )
    report = json.loads((tmp_path / "doctor.json").read_text())
    assert report["exit_code"] == 1
    assert [f for f in report["findings"] if f["subject"] == "torch"] == [
        {
            "subject": "torch",
            "state": "broken",
            "detail": "torch was replaced: its files say 2.13.0+cpu, pip recorded 2.10.0a0+gitabc",
            "remedy": (
                "start again from the vendor's image, or reinstall the vendor's own torch wheel; "
                "never pip install torch there"
            ),
        }
    ]


@pytest.mark.parametrize("name", ["torch", "numpy", "pyarrow"])
def test_a_package_that_ends_the_process_is_a_line_of_the_report(machine: Machine, name: str) -> None:
    machine.module(name, "2.9.0", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    done = machine.parity("doctor", "--json", "doctor.json")
    assert done.returncode == 1, done.stderr
    subject = "import torch" if name == "torch" else name
    assert f"{subject:<15} broken  ended the process with SIGSEGV\n" in done.stdout
    assert done.stderr == ""


def test_a_report_that_cannot_be_written_is_exit_2_before_anything_is_examined(machine: Machine) -> None:
    done = machine.parity("doctor", "--json", ".")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "UsageError: cannot write .: Is a directory\n"
    assert not machine.was_imported("torch")


def test_devices_has_one_line_for_each_family_with_the_reason(parity: Parity) -> None:
    done = parity("devices")
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert [family for family, *_ in lines] == list(families())
    assert {word for _, word, _ in lines} <= {"yes", "no"}
    assert all(reason.strip() for *_, reason in lines)


PLUGINS = ("torch_npu", "torch_xla", "torch_musa", "torch_mlu", "habana_frameworks.torch", "openvino")


def test_devices_imports_neither_torch_nor_a_vendors_package(machine: Machine) -> None:
    numpy = Path(sysconfig.get_paths()["purelib"]) / "numpy"
    shutil.rmtree(machine.folder / "numpy")
    (machine.folder / "numpy").symlink_to(numpy)
    (machine.folder / "numpy.libs").symlink_to(numpy.with_name("numpy.libs"))
    (machine.folder / "openvino").unlink(missing_ok=True)
    for name in PLUGINS:
        machine.module(name, "1.0", "import os\nos._exit(9)")
    machine.module("torch", "2.9.0", "import os\nos._exit(9)")
    done = machine.parity("devices")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(families())
    assert not [name for name in ("torch", *PLUGINS) if machine.was_imported(name)]
