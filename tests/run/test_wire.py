from __future__ import annotations

import pytest

from parity.backend.profile import Accumulator, Declared, Profile
from parity.case.dtype import dtype
from parity.run.wire import Event, News, Orders, Task
from parity.store.recording import Environment

PROFILE = Profile(
    accumulator=Accumulator(dtype=dtype("f32"), block=4),
    ulps={"exp": 2.0},
    declared=(Declared(fact="tanh_gelu", ops=("gelu_erf",), dtypes=("bf16",), source="gelu_gen.cpp:41"),),
)
ENVIRONMENT = Environment(
    backend="hpu:3+lazy", setting="strict", profile=PROFILE, provenance={"torch": "2.11"}
)


def through(event):
    found = [Event.decode(line, "token") for line in event.encode("token").split(b"\n")]
    (event,) = [each for each in found if each is not None]
    return event


@pytest.mark.parametrize(
    "event",
    [
        Event(news=News.READY, environment=ENVIRONMENT),
        Event(news=News.NOT_RUN, case="a/b:c=d", text="two\nlines", seconds=0.5),
    ],
)
def test_an_event_arrives_as_it_was_sent(event):
    assert through(event) == event


def test_orders_and_tasks_arrive_as_they_were_sent():
    orders = Orders(
        spec="cpu",
        setting="strict",
        case_folders=("/a", "/b"),
        folder="/f",
        journal="/j",
        repeat=2,
        event_fd=5,
        token="t",
        parent=1,
    )
    task = Task(case="a/b:c=d", revision="sha256:0")
    assert Orders.decode(orders.encode()) == orders
    assert Task.decode(task.encode()) == task


@pytest.mark.parametrize(
    "line", [b"", b"loading kernels", b'{"news": "recorded"}', b'other {"news": "recorded"}']
)
def test_what_a_library_writes_into_the_pipe_is_no_event(line):
    assert Event.decode(line, "token") is None
