from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import parity
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.run.environment import child_environ, environment, host_facts

STANDARD = str(Path(os.__file__).parent)


@pytest.mark.usefixtures("plugin")
def test_a_sides_environment_is_what_the_open_backend_says():
    backend = create(BackendSpec.parse("faulty:3+lazy"), Setting.PRODUCTION)
    backend.open()
    found = environment(backend)
    assert (found.backend, found.setting) == ("faulty:3+lazy", "production")
    assert found.profile == backend.profile()
    assert found.provenance == backend.provenance()


def test_the_backends_variables_lie_over_the_parents(monkeypatch):
    monkeypatch.setenv("KEPT", "parent")
    monkeypatch.setenv("CHANGED", "parent")
    environ = child_environ({"CHANGED": "backend", "ADDED": "backend"})
    assert (environ["KEPT"], environ["CHANGED"], environ["ADDED"]) == ("parent", "backend", "backend")


def test_a_child_has_the_parents_own_import_path_and_not_the_interpreters(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    path = child_environ({})["PYTHONPATH"].split(os.pathsep)
    assert path[0] == str(tmp_path)
    assert not [entry for entry in path if entry.startswith(STANDARD)]


def test_the_current_folder_is_named_in_full(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert child_environ({})["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path)


def test_an_import_path_of_the_backend_follows_ours(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    path = child_environ({"PYTHONPATH": "/opt/vendor/python"})["PYTHONPATH"].split(os.pathsep)
    assert (path[0], path[-1]) == (str(tmp_path), "/opt/vendor/python")


def test_there_is_no_import_path_when_the_interpreter_knows_everything(monkeypatch):
    monkeypatch.setattr(sys, "path", [STANDARD])
    assert "PYTHONPATH" not in child_environ({})


def test_a_child_imports_the_same_parity_from_any_folder(tmp_path):
    where = subprocess.run(
        [sys.executable, "-c", "import parity; print(parity.__file__)"],
        cwd=tmp_path,
        env=child_environ({}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.strip() == parity.__file__


def test_the_facts_of_a_host_are_texts_and_none_is_empty():
    facts = host_facts()
    assert sorted(facts) == ["cores", "date", "host", "machine", "processor", "python", "system"]
    assert all(isinstance(value, str) and value for value in facts.values())
    assert facts["date"].endswith("+00:00")
