"""Two sides in this process: torch on the CPU, and the same with a fault in named steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from parity.backend.cpu import CpuBackend
from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Case
from parity.case.catalog import Catalog
from parity.case.ids import CaseId
from parity.run.environment import environment
from parity.run.journal import Journal
from parity.run.recorder import record
from parity.run.replay import replay
from parity.store.recording import Recording

CASES = Path(__file__).parent / "cases"


class Faulty(CpuBackend):
    """torch on the CPU; `faults` change what the steps of these names give."""

    def __init__(self, faults: Mapping[str, Callable[[Any], Any]]) -> None:
        super().__init__(BackendSpec("cpu"), Setting.STRICT)
        self.faults = dict(faults)

    def run(self, step, inputs):
        outputs = super().run(step, inputs)
        fault = self.faults.get(step.name.partition("~")[0])
        return outputs if fault is None else tuple(fault(y) for y in outputs)


def backend(**faults: Callable[[Any], Any]) -> Faulty:
    """An open backend; a fault is named by its step with underscores for dots."""
    made = Faulty({name.replace("_", "."): fault for name, fault in faults.items()})
    made.open()
    return made


def case(name: str) -> Case:
    return Catalog.load([CASES]).get(CaseId.parse(f"ladders/{name}"))


def recorded(of: Case, **faults: Callable[[Any], Any]) -> Recording:
    return record(of, backend(**faults), journal=Journal())


class Here:
    """Stands in for a replayer: asks an open backend in this process."""

    def __init__(self, on: Faulty) -> None:
        self.on = on

    def replay(self, recording: Recording) -> Recording:
        return replay(recording, self.on, journal=Journal(), environment=environment(self.on))
