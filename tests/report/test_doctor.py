import json

import pytest

from parity.backend.finding import Finding, State
from parity.errors import UsageError
from parity.report import doctor


def finding(state, detail="as it is", subject="torch"):
    return Finding(subject=subject, state=state, detail=detail, remedy="" if state is State.OK else "mend it")


@pytest.mark.parametrize(
    "states, code, last",
    [
        ([State.OK], 0, ["1 ok", "next    parity check"]),
        ([State.OK, State.WARNING, State.ABSENT], 0, ["1 warning, 1 absent, 1 ok", "next    parity check"]),
        ([State.BROKEN, State.OK, State.BROKEN], 1, ["2 broken, 1 ok", "next    parity doctor"]),
    ],
)
def test_only_what_is_broken_is_exit_1_and_asks_for_another_look(states, code, last):
    findings = [finding(state) for state in states]
    assert doctor.exit_code(findings) == code
    assert list(doctor.lines(findings))[-2:] == last


def test_a_finding_is_a_line_and_its_remedy_below_within_80_columns():
    long = "its files say 2.13.0+cpu, pip recorded 2.10.0a0+gitabc, and both cannot be the one in force"
    assert list(doctor.lines([finding(State.BROKEN, long), finding(State.OK, subject="numpy")])) == [
        "torch           broken  its files say 2.13.0+cpu, pip recorded 2.10.0a0+gitabc,",
        "                        and both cannot be the one in force",
        "  = mend it",
        "numpy           ok      as it is",
        "",
        "1 broken, 1 ok",
        "next    parity doctor",
    ]


def test_json_carries_the_same_findings(tmp_path):
    path = tmp_path / "new/doctor.json"
    doctor.require_writable(path)
    doctor.save([finding(State.ABSENT)], path)
    report = json.loads(path.read_text())
    assert list(report) == ["version", "parity", "exit_code", "findings"]
    assert report["findings"] == [
        {"subject": "torch", "state": "absent", "detail": "as it is", "remedy": "mend it"}
    ]


def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"^cannot write .*/file/doctor\.json: "):
        doctor.require_writable(tmp_path / "file/doctor.json")
    with pytest.raises(UsageError, match=r"^cannot write .*: Is a directory$"):
        doctor.save([], tmp_path)
