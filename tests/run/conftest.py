from __future__ import annotations

import contextlib
import importlib
import os
import select
from collections.abc import Callable
from pathlib import Path

import pytest

from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Case
from parity.case.catalog import Catalog
from parity.case.ids import CaseId
from parity.run.pool import Finished, run_cases

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


class Plugin:
    """The faulty backend as an installed package, and the folder that is its device's memory."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def __enter__(self) -> Plugin:
        self._patch = pytest.MonkeyPatch()
        self._patch.syspath_prepend(str(HERE / "plugin"))
        self._patch.setenv("FAULTY_STATE", str(self.state))
        importlib.invalidate_caches()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def pids(self, what: str) -> list[int]:
        """Pids of the children that left a file of this name."""
        return sorted(int(file.stem) for file in self.state.glob(f"*.{what}"))


@pytest.fixture
def plugin(tmp_path) -> Plugin:
    (tmp_path / "state").mkdir()
    with Plugin(tmp_path / "state") as found:
        yield found


@pytest.fixture(scope="module")
def module_plugin(tmp_path_factory) -> Plugin:
    with Plugin(tmp_path_factory.mktemp("state")) as found:
        yield found


@pytest.fixture(scope="session")
def run(case_folder) -> Callable[..., list[Finished]]:
    """Run cases on the faulty backend to the end; recordings lie below `folder`."""

    def run_all(cases: list[Case], folder: Path, *, spec: str = "faulty", **options: object) -> list[Finished]:
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
    """Pids of this process's children."""

    def pids() -> set[int]:
        found = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[1]) == os.getpid():
                    found.add(int(stat.parent.name))
        return found

    return pids


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
