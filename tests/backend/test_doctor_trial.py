"""One import in a child: what it may do to itself, and that nothing of it is left."""

import time
from pathlib import Path

import pytest

from parity.backend.doctor_trial import Trial, attempt


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write the module `subject`, which a child of this process finds."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text):
        (tmp_path / "subject.py").write_text(text)

    return write


def test_a_module_answers_its_version_and_its_noise_is_not_read(module, capfd):
    module("import sys\nprint('{}')\nprint('banner', file=sys.stderr)\n__version__ = '1.2'")
    assert attempt("subject", "signal", timeout_s=60) == Trial(
        answers={"subject": "1.2", "signal": ""}, warnings=[]
    )
    assert capfd.readouterr() == ("", "")


def test_a_question_is_answered_unless_it_fails_or_has_no_answer(module):
    module("def ask(what):\n    return {'a': 7, 'b': None}[what]")
    questions = ["subject:ask:a", "subject:ask:b", "subject:ask:c", "subject:other:a"]
    trial = attempt("subject", questions=questions, timeout_s=60)
    assert trial == Trial(answers={"subject": "", "subject:ask:a": "7"}, warnings=[])


def test_warnings_are_kept_each_on_one_line(module):
    module("import warnings\nwarnings.warn('one\\n  two')")
    assert attempt("subject", timeout_s=60).warnings == ["one two"]


def test_a_failure_is_one_line_of_bounded_length(module):
    module("raise ValueError('a\\nb\\x1b[31m' + 'c' * 1000)")
    trial = attempt("subject", timeout_s=60)
    assert not trial.ok
    assert trial.failure == f"ValueError: a b [31m{'c' * 380}…"
    assert trial.answers == {}


@pytest.mark.parametrize("given, wanted", [(True, "as it was"), (False, "0")])
def test_loading_of_plugins_is_switched_off_only_when_asked(module, monkeypatch, given, wanted):
    monkeypatch.setenv("TORCH_DEVICE_BACKEND_AUTOLOAD", "as it was")
    module("import os\n__version__ = os.environ['TORCH_DEVICE_BACKEND_AUTOLOAD']")
    assert attempt("subject", autoload=given, timeout_s=60).answers == {"subject": wanted}


@pytest.mark.parametrize(
    "ending, words",
    [
        ("", ""),
        ("os.kill(os.getpid(), signal.SIGTERM)", "ended the process with SIGTERM"),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 3)", "ended the process with signal 37"),
        ("signal.pause()", "did not end within 5 s"),
    ],
)
def test_what_an_import_started_ends_with_it(module, tmp_path, ending, words):
    note = tmp_path / "pid"
    module(
        "import os, signal, subprocess, sys\n"
        "helper = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        f"open({str(note)!r}, 'w').write(str(helper.pid))\n{ending}"
    )
    assert attempt("subject", timeout_s=5 if "within" in words else 60).failure == words
    deadline = time.monotonic() + 30
    while is_running(int(note.read_text())):
        assert time.monotonic() < deadline


def is_running(pid):
    """Whether it is there and no zombie: its own parent is gone, so another reaps it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
