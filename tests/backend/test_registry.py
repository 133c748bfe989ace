import sys
import types
from importlib.metadata import EntryPoint

import pytest

from parity.backend import registry
from parity.backend.base import Availability
from parity.backend.cpu import CpuBackend
from parity.backend.spec import BackendSpec, Setting
from parity.errors import BackendError, UsageError


class ToyBackend(CpuBackend):
    def available(self):
        return Availability(ok=True, reason="toys are always at hand")


@pytest.fixture
def third_party(monkeypatch):
    """Pretend that a package brings these families."""
    module = types.ModuleType("toy_parity")
    module.toy = ToyBackend
    module.broken = lambda *_: 1 / 0
    monkeypatch.setitem(sys.modules, "toy_parity", module)

    def install(**points):
        found = [EntryPoint(name, value, registry.GROUP) for name, value in points.items()]
        monkeypatch.setattr(registry, "entry_points", lambda **_: found)

    return install


def create(text):
    return registry.create(BackendSpec.parse(text), Setting.STRICT)


def test_the_built_in_families_are_there():
    assert {"cpu", "openvino"} <= registry.families().keys()


def test_an_unknown_family_names_the_near_one(third_party):
    third_party()
    with pytest.raises(UsageError) as error:
        create("openvno")
    assert str(error.value).startswith(
        "unknown backend 'openvno'; did you mean 'openvino'?; known: accelerator, cpu, cuda, "
    )


def test_another_package_adds_a_family(third_party):
    third_party(toy="toy_parity:toy")
    assert isinstance(create("toy"), ToyBackend)
    assert ("toy", Availability(ok=True, reason="toys are always at hand")) in registry.available()


def test_another_package_cannot_replace_a_built_in_family(third_party):
    third_party(cpu="toy_parity:toy")
    assert type(create("cpu")) is CpuBackend


@pytest.mark.parametrize(
    "value, why",
    [
        ("no_such_package:toy", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("toy_parity:missing", "AttributeError: module 'toy_parity' has no attribute 'missing'"),
        ("toy_parity:broken", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_package_is_named_and_breaks_no_other_family(third_party, value, why):
    third_party(toy=value)
    text = (
        f"backend 'toy' ({value}, from an entry point in 'parity.backends') cannot be used: {why}; "
        "repair or uninstall the package that brings it"
    )
    with pytest.raises(BackendError) as error:
        create("toy")
    assert str(error.value) == text
    states = dict(registry.available())
    assert states["toy"] == Availability(ok=False, reason=text)
    assert states["cpu"].ok
    assert isinstance(create("cpu"), CpuBackend)


def test_a_usage_error_of_another_package_passes_through(third_party):
    third_party(toy="toy_parity:toy")
    with pytest.raises(UsageError) as error:
        create("toy+lazy")
    assert str(error.value) == "'toy+lazy': toy has no mode 'lazy'; modes: eager, compile, triton"
