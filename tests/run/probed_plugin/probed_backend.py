"""A third party's backend in numpy with a few ops, of which one may go wrong.

The folder PROBED_STATE holds what outlives a process: `fault`, which is `op name`, and `opens`,
how often the device may still be opened.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import time
from pathlib import Path

import numpy as np

from parity.backend.arithmetic import Arithmetic
from parity.backend.base import Availability, Node, Unsupported, Witness
from parity.backend.profile import Accumulator, Profile
from parity.case.dtype import dtype
from parity.case.tensor import HostTensor


class ProbedBackend:
    def __init__(self, spec, setting):
        self.spec, self.setting = spec, setting
        self.on_phase = None
        self.is_lost = False
        self.state = Path(os.environ["PROBED_STATE"])

    def env(self):
        return {}

    def available(self):
        return Availability(ok=True, reason="it is numpy")

    def open(self):
        left = int((self.state / "opens").read_text()) - 1
        (self.state / "opens").write_text(str(left))
        if left < 0:
            raise RuntimeError("device is busy")

    def provenance(self):
        return {"flavour": "numpy"}

    def profile(self):
        return Profile(accumulator=Accumulator(dtype=dtype("f32")))

    def arithmetic(self):
        return Arithmetic(gelu="tanh", division="ieee", batch=True)

    def put(self, tensor):
        if self.is_lost:
            raise RuntimeError("the card fell off the bus")
        return tensor.array()

    def get(self, handle):
        names = {"float32": "f32", "int64": "i64"}
        return HostTensor.of(np.ascontiguousarray(handle), dtype(names[handle.dtype.name]))

    def synchronize(self):
        pass

    def witness(self):
        return Witness(executed=(Node(kind="numpy", device="probed", precision="f32"),))

    def run(self, step, inputs):
        self.on_phase("compile")
        self.on_phase("run")
        op, _, fault = (self.state / "fault").read_text().partition(" ")
        if step.op == op:
            FAULTS[fault](self)
        if step.op not in OPS:
            raise Unsupported(f"no {step.op} in this backend")
        return (OPS[step.op](*inputs),)


def _gelu(x):
    wide = x.astype(np.float64)
    return (0.5 * wide * (1.0 + np.vectorize(math.erf)(wide / math.sqrt(2.0)))).astype(np.float32)


def _segfault(_backend):
    sys.stdout.write("about to read address 0\n")
    ctypes.string_at(0)


def _hang(_backend):
    sys.stdout.write("waiting for the card\n")
    time.sleep(600)


def _lost(backend):
    backend.is_lost = True
    raise RuntimeError("device-side assert triggered")


OPS = {"add": np.add, "div": np.divide, "gelu_erf": _gelu}
FAULTS = {"segfault": _segfault, "hang": _hang, "lost": _lost}
