"""Processes that judge beside the launcher: every task answered once, whatever becomes of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import MappingProxyType

import pytest

from parity.run import judges
from parity.run.judges import Judges

LARGE = 1 << 20  # of bytes, more than any pipe holds


@pytest.fixture(autouse=True)
def worthwhile(monkeypatch):
    """Any judging that is left pays for one more process."""
    monkeypatch.setattr(judges, "_WORTH_S", 0.0)


def slow(task):
    time.sleep(0.02)
    return task, os.getpid()


def dies_elsewhere(task):
    number, launcher = task
    time.sleep(0.01)
    if number > 2 and os.getpid() != launcher:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def raises_elsewhere(task):
    number, launcher = task
    time.sleep(0.01)
    if os.getpid() != launcher:
        raise ArithmeticError(number)
    return number


def echoes(task):
    time.sleep(0.01)
    return task["bytes"] * 2


def everything(judge, tasks, *, processes=1, started=None):
    found = []
    with Judges(judge, processes=processes) as all_judges:
        for count, task in enumerate(tasks):
            found += all_judges.give(task, left=len(tasks) - count)
            if started and count == 1:  # a process needs a while to start, longer than these tasks
                started(all_judges)
        found += all_judges.rest()
    return found


def wait_for_first_answer(all_judges):
    deadline = time.monotonic() + 60
    while not all_judges._others[0]._pipe.poll(0.05):
        assert time.monotonic() < deadline


def test_every_task_is_answered_once_and_another_process_answers_its_share():
    found = everything(slow, list(range(40)), started=wait_for_first_answer)
    assert sorted(task for task, _ in found) == list(range(40))
    assert all(task == answer[0] for task, answer in found)
    pids = {answer[1] for _, answer in found}
    assert os.getpid() in pids and len(pids) == 2


def test_one_process_alone_answers_in_order():
    found = everything(slow, list(range(5)), processes=0)
    assert [task for task, _ in found] == list(range(5))
    assert {answer[1] for _, answer in found} == {os.getpid()}


def test_no_process_starts_for_what_is_judged_sooner_than_it_would_start(monkeypatch):
    monkeypatch.setattr(judges, "_WORTH_S", 10.0)
    assert {answer[1] for _, answer in everything(slow, list(range(20)))} == {os.getpid()}


@pytest.mark.parametrize("judge", [dies_elsewhere, raises_elsewhere])
def test_what_another_process_does_not_answer_is_answered_here(judge):
    tasks = [(number, os.getpid()) for number in range(30)]
    found = everything(judge, tasks, started=wait_for_first_answer)
    assert sorted(answer for _, answer in found) == list(range(30))


def test_an_error_in_judging_is_raised_where_the_check_was_asked_for():
    with pytest.raises(ZeroDivisionError):
        everything(divides, [1, 1, 1, 0, 1])


def divides(task):
    return 1 // task


def test_tasks_and_answers_larger_than_a_pipe_block_nobody():
    tasks = [MappingProxyType({"bytes": bytes([number]) * LARGE}) for number in range(12)]
    found = everything(echoes, tasks, started=wait_for_first_answer)
    assert sorted(answer[0] for _, answer in found) == list(range(12))
    assert all(answer == task["bytes"] * 2 for task, answer in found)


LAUNCHER = """
import os, signal, time
from parity.run import judges

def sleeps(task):
    time.sleep(600 if task else 0.01)

if __name__ == "__main__":
    judges._WORTH_S = 0.0
    with judges.Judges(sleeps, processes=1) as held:
        for task in (0, 1):
            list(held.give(task, left=9))
        print(held._others[0]._process.pid, flush=True)
        time.sleep(3)  # the other process is in its task
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_end_of_the_launcher_ends_a_process_in_the_middle_of_a_task(tmp_path, gone):
    script = tmp_path / "launcher.py"
    script.write_text(LAUNCHER, encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script)]
    ended = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert gone(int(ended.stdout))
