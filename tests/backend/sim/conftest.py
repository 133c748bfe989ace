from __future__ import annotations

from collections.abc import Callable

import pytest

from parity.backend.sim.backend import PATH_VARIABLE, SimBackend
from parity.backend.sim.chip import Chip, Quirk
from parity.backend.sim.faults import FAULTS_VARIABLE, STATE_VARIABLE
from parity.backend.sim.load import CHIPS_VARIABLE
from parity.backend.spec import BackendSpec, Setting


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in (PATH_VARIABLE, FAULTS_VARIABLE, STATE_VARIABLE, CHIPS_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def simulate() -> Callable[..., SimBackend]:
    """Open a chip that has these quirks."""

    def opened(*quirks: Quirk, setting=Setting.PRODUCTION, mode="eager", name="made") -> SimBackend:
        made = Chip(name=name, title="made for a test", quirks=quirks, modes=("eager", "lazy"))
        backend = SimBackend(BackendSpec("sim", name, (), mode), setting, made)
        backend.open()
        return backend

    return opened


@pytest.fixture
def declare() -> Callable[..., Quirk]:
    """A quirk that changes fields of the arithmetic."""

    def quirk(name="made", **arithmetic) -> Quirk:
        return Quirk(name=name, text="made for a test", source="a test", arithmetic=arithmetic)

    return quirk
