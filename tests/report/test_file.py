from __future__ import annotations

from pathlib import Path

import pytest

from parity.errors import UsageError
from parity.report.file import require_writable, write_text


def test_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"cannot write {tmp_path}: it is a folder"):
        require_writable(tmp_path)


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(UsageError, match=r"cannot write .*f/run\.json: "):
        require_writable(tmp_path / "f" / "run.json")


def test_a_device_that_is_full_is_refused_when_it_is_written() -> None:
    with pytest.raises(UsageError, match="cannot write /dev/full: No space left on device"):
        write_text(Path("/dev/full"), "x" * 100_000)


def test_probing_leaves_nothing_behind_and_keeps_an_old_report(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("old")
    require_writable(path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    assert path.read_text() == "old"


def test_a_report_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.json"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]
