"""The normal workflow: record on host A, carry a folder, check on host B, or judge both on a laptop."""

from __future__ import annotations

import json

import pytest

RECORD = ("record", "--backend", "cpu", "--golden", "from-a", "--cases", "cases", "port")
CHECK = ("check", "--ref", "from-a", "--target", "cpu", "--cases", "cases", "--json", "run.json", "port")
LAYER = "port/layer:rows=7"
pytestmark = pytest.mark.needs_torch


@pytest.fixture
def a(host):
    """Host A, which has recorded."""
    machine = host("a")
    done = machine.parity(*RECORD)
    assert done.returncode == 0, done.stderr
    return machine


@pytest.fixture
def b(host, other_numpy, other_user):
    """Host B: another numpy, folder and user."""
    return host("b", numpy=other_numpy, user=other_user)


def verdicts(machine):
    found = json.loads((machine.folder / "run.json").read_text())
    return {case["id"]: (case["verdict"], case["reference"]["verdict"]) for case in found["cases"]}


def note(machine, case):
    found = json.loads((machine.folder / "run.json").read_text())
    (one,) = [c for c in found["cases"] if c["id"] == case]
    return one["note"] or one["reference"]["note"]


def test_a_folder_recorded_on_one_host_is_the_reference_on_another(a, b, carry):
    carry(a, "from-a", b)
    done = b.parity(*CHECK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(verdicts(b).values()) == {("within", "within")}
    assert len(verdicts(b)) == 3
    goldens = {path.name: path.read_bytes() for path in (a.folder / "from-a").rglob("*.arrow")}
    assert goldens == {path.name: path.read_bytes() for path in (b.folder / "from-a").rglob("*.arrow")}


def test_hosts_with_other_numpy_and_user_record_the_same_bytes(a, b):
    assert b.parity(*RECORD).returncode == 0
    recorded = [
        {path.relative_to(m.folder): path.read_bytes() for path in (m.folder / "from-a").rglob("*.arrow")}
        for m in (a, b)
    ]
    assert len(recorded[0]) == 3
    assert recorded[0] == recorded[1]


def test_two_folders_are_judged_on_a_laptop_without_either_device(a, b, host, carry):
    b.parity("record", "--backend", "cpu", "--golden", "from-b", "--cases", "cases", "port")
    laptop = host("laptop")
    carry(a, "from-a", laptop)
    carry(b, "from-b", laptop)
    done = laptop.parity(
        "check", "--ref", "from-a", "--target", "from-b", "--cases", "cases", "--json", "run.json", "port"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(verdicts(laptop).values()) == {("within", "within")}


def test_a_host_without_the_weights_says_which_and_blames_no_device(a, b, carry):
    carry(a, "from-a", b)
    (b.folder / "weights" / "tiny" / "model.safetensors").unlink()
    done = b.parity(*CHECK)
    assert done.returncode == 3
    assert verdicts(b)[LAYER] == ("unjudged", "unjudged")
    assert "tensor 'head.weight' of weights 'tiny/model.safetensors'" in note(b, LAYER)
    assert "is not here" in note(b, LAYER)
    assert [v for case, v in verdicts(b).items() if case != LAYER] == [("within", "within")] * 2


def test_a_host_with_other_weights_says_so_and_blames_no_device(a, b, carry):
    carry(a, "from-a", b)
    path = b.folder / "weights" / "tiny" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x41")
    done = b.parity(*CHECK)
    assert done.returncode == 3
    assert verdicts(b)[LAYER] == ("unjudged", "unjudged")
    assert "other weights are here" in note(b, LAYER)


def test_a_host_with_another_revision_of_a_case_is_told_so(a, b, carry):
    carry(a, "from-a", b)
    file = b.folder / "cases" / "port.py"
    file.write_text(file.read_text().replace("shape=(int(p.rows), 16)", "shape=(int(p.rows), 17)"))
    done = b.parity(*CHECK)
    assert done.returncode == 3
    assert verdicts(b)["port/plain:rows=3"] == ("within", "unjudged")
    assert "was recorded from another revision of this case" in note(b, "port/plain:rows=3")
    assert verdicts(b)[LAYER] == ("within", "within")
