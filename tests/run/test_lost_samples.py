"""A sample of torch's op database that ends its process costs that sample, and not the others of its op."""

from __future__ import annotations

import pytest

from parity.backend.spec import BackendSpec, Setting
from parity.case.catalog import Catalog, builtin_cases
from parity.case.ids import CaseId
from parity.judge.judge import judge
from parity.run.pool import run_cases
from parity.run.subject import weights_of
from parity.store import arrow

pytestmark = pytest.mark.needs_torch
pytest.importorskip("expecttest", reason="torch's test modules import it")


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Run one case on a simulated chip, whose every process ends at the step of this number."""

    def verdicts(name, *, number):
        monkeypatch.setenv("PARITY_SIM_FAULTS", f"segfault@#{number}")
        case = Catalog.load([builtin_cases()]).get(CaseId.parse(name))
        spec = BackendSpec.parse("sim/ideal")
        (done,) = run_cases([case], spec, Setting.STRICT, folder=tmp_path, case_folders=[builtin_cases()])
        judgement = judge(case, arrow.read(done.path), weights=weights_of(case))
        return done, [step.verdict.value for step in judgement.steps]

    return verdicts


def test_the_other_samples_are_run_by_the_next_process(ran):
    done, verdicts = ran("opinfo/exp:dtype=f32,inputs=samples", number=2)
    # The second process runs the first and the third sample, which is again its second.
    assert verdicts == ["within", "crashed", "crashed"]
    assert done.failure is None

    done, verdicts = ran("opinfo/exp:dtype=f32,inputs=samples", number=3)
    assert verdicts == ["within", "within", "crashed"]


def test_a_case_of_which_many_samples_end_their_process_is_given_up(ran, monkeypatch):
    monkeypatch.setattr("parity.run.lane._LOST_MOST", 1)
    done, verdicts = ran("opinfo/add:dtype=f32,inputs=samples", number=1)
    assert verdicts == ["crashed", "crashed"]
    assert done.failure is not None and "SIGSEGV" in done.failure.text
