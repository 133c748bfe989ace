"""A third party's backend in numpy whose steps go wrong when they are named after a fault.

What must outlive a process, such as a poisoned device, is a file in the folder FAULTY_STATE.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from parity.backend.base import Availability, Node, Unsupported, Witness
from parity.backend.profile import Accumulator, Profile
from parity.case.dtype import dtype
from parity.case.tensor import HostTensor


class FaultyBackend:
    def __init__(self, spec, setting):
        self.spec = spec
        self.setting = setting
        self.on_phase = None
        self.overwrites = self.asynchronous = self.unfetchable = None
        self.state = Path(os.environ.get("FAULTY_STATE", "."))

    def env(self):
        return {"FAULTY_DEVICE": ",".join(map(str, self.spec.index)), "FAULTY_SETTING": self.setting.value}

    def available(self):
        if (self.state / "unplugged").exists():
            return Availability(ok=False, reason="no card in the slot", hint="plug it in")
        return Availability(ok=True, reason="it is numpy")

    def open(self):
        atexit.register((self.state / f"{os.getpid()}.left").touch)
        if self._opens_left() < 0 or (self.state / f"busy{self.spec.index}").exists():
            raise RuntimeError("device is busy")
        (self.state / f"{os.getpid()}.opened").touch()

    def _opens_left(self):
        """Count down how often the device may still be opened; `recovers` lifts that at the end."""
        with contextlib.suppress(FileNotFoundError), (self.state / "opens").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            left = int(file.read()) - 1
            file.seek(0)
            file.write(str(left))
            if left < 0 and (self.state / "recovers").exists():
                (self.state / "opens").unlink()
            return left
        return 0

    def provenance(self):
        start = Path("/proc/self/environ").read_bytes().split(b"\0")
        return {line.split("=")[0]: line for line in map(os.fsdecode, start) if line.startswith("FAULTY_")}

    def profile(self):
        return Profile(accumulator=Accumulator(dtype=dtype("f32")))

    def put(self, tensor):
        if (self.state / f"{os.getpid()}.sticky").exists():
            raise RuntimeError("device-side assert triggered")
        return np.array(tensor.array(), dtype=np.float32)

    def get(self, handle):
        if handle is self.unfetchable:
            raise RuntimeError("copy failed")
        kind = "f64" if handle.dtype == np.float64 else "f32"
        return HostTensor.of(np.array(handle), dtype(kind))

    def run(self, step, inputs):
        return FAULTS.get(step.name, _healthy)(self, *inputs)

    def synchronize(self):
        error, self.asynchronous = self.asynchronous, None
        if error:
            raise error

    def witness(self):
        return Witness(executed=(Node(kind="numpy", device="faulty", precision="f32"),))


def _healthy(_backend, x):
    return (np.tanh(x),)


def _segfault(_backend, _x):
    sys.stdout.write("about to read address 0\n")
    ctypes.string_at(0)


def _killed(_backend, _x):
    os.kill(os.getpid(), signal.SIGKILL)


def _closes_pipes(_backend, _x):
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(fd.readlink()).startswith("pipe:"):
                os.close(int(fd.name))
    time.sleep(600)


def _leaves_a_child(backend, _x):
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (backend.state / "sleeper").write_text(str(sleeper.pid))
    os.kill(os.getpid(), signal.SIGKILL)


def _hang(_backend, _x):
    sys.stdout.write("waiting for the card\n")
    time.sleep(600)


def _compile_hang(backend, _x):
    backend.on_phase("compile")
    time.sleep(600)


def _compile(backend, x):
    backend.on_phase("compile")
    time.sleep(0.05)
    backend.on_phase("run")
    return (np.tanh(x),)


def _raises(_backend, _x):
    raise RuntimeError("\n  out of luck in kernel 7\n  and a long explanation")


def _out_of_memory(_backend, _x):
    raise MemoryError("tried to allocate 3 TiB")


def _unsupported(_backend, _x):
    raise Unsupported("no kernel for tanh on this card")


def _asynchronous(backend, x):
    backend.asynchronous = RuntimeError("launch failed")
    return (x,)


def _unfetchable(backend, x):
    backend.unfetchable = np.tanh(x)
    return (backend.unfetchable,)


def _sticky(backend, _x):
    (backend.state / f"{os.getpid()}.sticky").touch()
    raise RuntimeError("device-side assert triggered")


def _overwrites(_backend, x):
    y = np.tanh(x)
    x[0] = 7
    return (y,)


def _unstable(backend, x):
    backend.runs = getattr(backend, "runs", 0) + 1
    return (np.tanh(x) + np.float32(backend.runs),)


def _garbage(_backend, x):
    """Writes what no one asked for wherever it can: the log, the pool's pipe, the journal."""
    sys.stdout.write("garbage on stdout " * 50)
    for fd in range(1, 64):
        with contextlib.suppress(OSError):
            target = str(Path(f"/proc/self/fd/{fd}").readlink())
            if target.startswith("pipe:") or target.endswith((".log", ".journal")):
                os.write(fd, b'garbage {"news": "recorded", "case": "faults/at"}')
    return (np.tanh(x),)


def _reads_stdin(_backend, x):
    assert os.read(0, 4096) == b"", "the pool's tasks are not for a library"
    return (np.tanh(x),)


def _meets(backend, x):
    """Returns once another process runs the same step at the same time."""
    (backend.state / f"{os.getpid()}.met").touch()
    while len(list(backend.state.glob("*.met"))) < 2:
        time.sleep(0.01)
    return (np.tanh(x),)


def _poison(backend, _x):
    (backend.state / "opens").write_text((backend.state / "opens_after_poison").read_text())
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS = {
    "abort": lambda *_: os.abort(),
    "async": _asynchronous,
    "close_fds": lambda *_: os.closerange(3, 256),
    "closes_pipes": _closes_pipes,
    "compile": _compile,
    "compile_hang": _compile_hang,
    "exit_0": lambda *_: os._exit(0),
    "garbage": _garbage,
    "hang": _hang,
    "leaves_a_child": _leaves_a_child,
    "meets": _meets,
    "no_outputs": lambda *_: (),
    "not_a_tuple": lambda _, x: np.tanh(x),
    "out_of_memory": _out_of_memory,
    "overwrites": _overwrites,
    "poison": _poison,
    "raises": _raises,
    "reads_stdin": _reads_stdin,
    "real_time": lambda *_: os.kill(os.getpid(), signal.SIGRTMIN + 1),
    "segfault": _segfault,
    "sigkill": _killed,
    "sticky": _sticky,
    "sys_exit": lambda *_: sys.exit(0),
    "unfetchable": _unfetchable,
    "unstable": _unstable,
    "unsupported": _unsupported,
    "wrong_dtype": lambda _, x: (np.tanh(x).astype(np.float64),),
    "wrong_shape": lambda _, x: (np.tanh(x)[:1],),
}
