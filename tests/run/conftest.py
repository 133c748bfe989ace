from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Case
from parity.case.catalog import Catalog
from parity.case.ids import CaseId

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def case_folder() -> Path:
    return HERE / "cases"


@pytest.fixture(scope="session")
def case(case_folder) -> Callable[[str], Case]:
    """Case by a short name: `segfault`, or `none:n=3` for one in which nothing goes wrong."""
    catalog = Catalog.load([case_folder])

    def find(name: str) -> Case:
        return catalog.get(CaseId.parse(f"faults/{name}" if ":" in name else f"faults/at:fault={name}"))

    return find


@dataclass
class Plugin:
    """The folder that is the memory of the faulty backend's device."""

    state: Path

    def pids(self, what: str) -> list[int]:
        """Pids of the children that left a file of this name."""
        return sorted(int(file.stem) for file in self.state.glob(f"*.{what}"))


@contextlib.contextmanager
def installed(state: Path) -> Iterator[Plugin]:
    """The faulty backend as a package on the import path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE / "plugin"))
        patch.setenv("FAULTY_STATE", str(state))
        yield Plugin(state)


@pytest.fixture
def plugin(tmp_path_factory) -> Iterator[Plugin]:
    with installed(tmp_path_factory.mktemp("state")) as found:
        yield found


@pytest.fixture(scope="module")
def module_plugin(tmp_path_factory) -> Iterator[Plugin]:
    with installed(tmp_path_factory.mktemp("state")) as found:
        yield found


@pytest.fixture(scope="session")
def run(case_folder) -> Callable[..., list]:
    """Run cases on the faulty backend to the end; recordings lie below `folder`."""
    # Not above: the tests that need no pyarrow share this file.
    from parity.run.pool import run_cases

    def run_all(cases: list[Case], folder: Path, *, spec: str = "faulty", **options: object) -> list:
        running = run_cases(
            cases,
            BackendSpec.parse(spec),
            Setting.STRICT,
            folder=folder,
            case_folders=[case_folder],
            **{"timeout_s": 30.0, "pause_s": 0.05, **options},
        )
        return list(running)

    return run_all


@pytest.fixture
def children() -> Callable[[], set[int]]:
    """Pids of the children begun since the test did: Python's resource tracker, once begun, stays."""

    def pids() -> set[int]:
        found = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[1]) == os.getpid():
                    found.add(int(stat.parent.name))
        return found

    before = pids()
    return lambda: pids() - before


@pytest.fixture
def gone() -> Callable[[int], bool]:
    """Whether a process ends within a while, told by the kernel; a zombie has ended."""

    def ends(pid: int, *, within_s: float = 20.0) -> bool:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            return bool(select.select([fd], [], [], within_s)[0])
        finally:
            os.close(fd)

    return ends
