from __future__ import annotations

from xml.etree import ElementTree

from parity.judge.verdict import Verdict
from parity.report import junit
from parity.report.view import Run
from tests.report.conftest import departing, outcome, run_of


def test_departures_are_failures_and_unjudged_is_an_error(mixed: Run) -> None:
    suite = ElementTree.fromstring(junit.dumps(mixed))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "2", "1")
    assert [[child.tag for child in case] for case in suite] == [[], ["failure"], ["failure"], ["error"]]
    failure = suite[1][0]
    assert failure.get("message") == "exceeds"
    assert failure.text is not None
    assert failure.text.startswith("EXCEEDS ops/softmax:dtype=f16,shape=2x8\n")


def test_control_characters_of_a_device_do_not_break_the_file() -> None:
    case = departing(Verdict.CRASHED, note="\x1b[31mboom\x00")
    suite = ElementTree.fromstring(junit.dumps(run_of(outcome("ops/a:x=1", case))))
    assert "boom" in str(suite[0][0].text)
