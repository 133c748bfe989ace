from __future__ import annotations

import time
from pathlib import Path

import pytest

from parity.run.journal import Journal, Phase, last_entry


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


def test_the_last_entry_says_when_where_and_what(path):
    journal = Journal(path)
    before = time.monotonic()
    journal.enter(Phase.RUN, case="ops/exp:n=1", step='L03.attn, "quoted"\n')
    entry = last_entry(path)
    assert (entry.phase, entry.case, entry.step) == (Phase.RUN, "ops/exp:n=1", 'L03.attn, "quoted"\n')
    assert before <= entry.at_s <= time.monotonic()
    journal.close()


def test_there_is_no_entry_before_the_first(path):
    assert last_entry(path) is None
    Journal(path).close()
    assert last_entry(path) is None


def test_a_line_cut_short_or_written_by_a_library_is_passed_over(path):
    journal = Journal(path)
    journal.enter(Phase.FETCH, case="a/b", step="s")
    journal.close()
    with path.open("ab") as file:
        file.write(b'garbage\n{"a": 1}\n[1, 2]\n[1, "unknown phase", "", "", 0]\n\n[1, "ru')
    assert last_entry(path).step == "s"


def test_an_entry_stands_on_its_own_line_after_half_a_line_of_garbage(path):
    path.write_bytes(b"half a li")
    journal = Journal(path)
    journal.enter(Phase.RUN, case="a/b", step="s")
    journal.close()
    assert last_entry(path).step == "s"


def test_the_last_entry_is_found_at_the_end_of_a_long_journal(path):
    journal = Journal(path)
    for number in range(2000):
        journal.enter(Phase.RUN, case="a/b", step=str(number))
    journal.close()
    assert last_entry(path).step == "1999"


def descriptors():
    return sorted(file.name for file in Path("/proc/self/fd").iterdir())


def test_a_journal_without_a_path_keeps_nothing_and_opens_nothing():
    before = descriptors()
    journal = Journal()
    journal.enter(Phase.RUN, case="a/b", step="s")
    journal.close()
    assert descriptors() == before
