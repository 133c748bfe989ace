from __future__ import annotations

from pathlib import Path

import pytest

from parity.backend.spec import BackendSpec, Setting
from parity.errors import BackendError
from parity.run.probing import run_probes

NAMES = ("int64", "gelu", "division", "fp8")


@pytest.fixture
def device(tmp_path, monkeypatch):
    """The state of a device that opens often and has no fault."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "probed_plugin"))
    monkeypatch.setenv("PROBED_STATE", str(tmp_path))
    (tmp_path / "opens").write_text("9")
    (tmp_path / "fault").write_text("")
    return tmp_path


@pytest.fixture
def probed(device):
    def run(*, fault="", opens=9, timeout_s=30.0):
        (device / "fault").write_text(fault)
        (device / "opens").write_text(str(opens))
        return run_probes(
            BackendSpec("probed"),
            Setting.STRICT,
            folder=device / "run",
            names=NAMES,
            timeout_s=timeout_s,
            pause_s=0.0,
        )

    return run


def opened(device):
    return 9 - int((device / "opens").read_text())


def test_facts_come_back_beside_what_is_declared_and_where_they_differ(device, probed):
    found = probed()
    assert found.known == {"int64": "i64", "gelu": "erf", "division": "ieee", "fp8": "unsupported"}
    assert found.declared == {"gelu": "tanh", "division": "ieee", "batch": "yes"}
    assert found.unknown == {}
    assert found.findings() == [("gelu", "tanh", "erf")]
    assert found.exit_code == 1
    assert found.environment.provenance == {"flavour": "numpy"}
    assert found.provenance()["probe.gelu"] == "erf"
    assert opened(device) == 1


def test_a_crash_costs_its_own_facts_and_the_next_child_carries_on(device, probed):
    found = probed(fault="gelu_erf segfault")
    assert found.known == {"int64": "i64", "division": "ieee", "fp8": "unsupported"}
    assert found.unknown == {"gelu": "SIGSEGV; last words: about to read address 0"}
    assert found.exit_code == 0
    assert opened(device) == 2


def test_a_hang_costs_its_own_facts_and_the_next_child_carries_on(device, probed):
    found = probed(fault="gelu_erf hang", timeout_s=2.0)
    assert found.known == {"int64": "i64", "division": "ieee", "fp8": "unsupported"}
    assert found.unknown == {"gelu": "no progress for 2 s; last words: waiting for the card"}
    assert opened(device) == 2


def test_an_error_after_which_the_device_answers_no_more_starts_another_child(device, probed):
    found = probed(fault="gelu_erf lost")
    assert found.known == {"int64": "i64", "division": "ieee", "fp8": "unsupported"}
    assert found.unknown == {"gelu": "RuntimeError: device-side assert triggered"}
    assert opened(device) == 2


def test_a_device_that_does_not_come_back_leaves_the_rest_unknown(device, probed):
    found = probed(fault="gelu_erf segfault", opens=1)
    assert found.known == {"int64": "i64"}
    lost = "the device did not come back: RuntimeError: device is busy"
    assert (found.unknown["division"], found.unknown["fp8"]) == (lost, lost)
    assert (device / "opens").read_text() == "-2"  # it was tried once more


def test_nothing_that_could_be_probed_is_exit_code_three(probed):
    found = probed(fault="add segfault", opens=1)
    assert (found.known, found.exit_code) == ({}, 3)


def test_a_backend_that_does_not_open_is_one_error_with_its_reason(probed):
    with pytest.raises(BackendError) as error:
        probed(opens=0)
    assert str(error.value) == "'probed' cannot be opened: RuntimeError: device is busy"


def test_compiling_in_a_probe_is_journalled_as_such(device, probed):
    probed()
    journal = (device / "run" / "probe.journal").read_text()
    assert '"compile", "", "gelu"' in journal and '"run", "", "gelu"' in journal
