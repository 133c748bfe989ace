"""A JUnit XML report: one test case a case, with the block of the terminal report as its failure."""

from __future__ import annotations

from xml.etree import ElementTree

from parity.judge.verdict import Outcome, Verdict
from parity.report.terminal import block
from parity.report.view import Run

__all__ = ["dumps"]


def dumps(run: Run) -> str:
    """Return the report as XML text: departures are failures, what was not judged is an error."""
    failures = sum(o.gate.departs for o in run.outcomes)
    errors = sum(o.gate is Verdict.UNJUDGED for o in run.outcomes)
    suite = ElementTree.Element(
        "testsuite",
        name=f"parity {run.reference.spec} {run.target.spec}",
        tests=str(len(run.outcomes)),
        failures=str(failures),
        errors=str(errors),
        time=f"{run.seconds:.3f}",
    )
    for outcome in run.outcomes:
        _case(suite, outcome, run)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, outcome: Outcome, run: Run) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=outcome.case.path.replace("/", "."),
        name=str(outcome.case),
        time=f"{outcome.seconds:.3f}",
    )
    text = "\n".join(block(outcome, run))
    # XML 1.0 cannot carry control characters, and a device's own words may hold some.
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    if outcome.gate.departs:
        ElementTree.SubElement(case, "failure", message=outcome.verdict.value).text = text
    elif outcome.gate is Verdict.UNJUDGED:
        ElementTree.SubElement(case, "error", message="unjudged").text = text
