from __future__ import annotations

import pytest

from parity.backend.sim.load import chips, find
from parity.backend.spec import Setting
from parity.errors import UsageError

OWN = """
from parity.backend.sim.chip import Chip, Quirk

CHIP = Chip(
    name="{name}",
    title="ours",
    quirks=(Quirk(name="gelu", text="t", source="s", arithmetic={{"gelu": "tanh"}}),),
)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    def write(file, text):
        monkeypatch.setenv("PARITY_SIM_CHIPS", str(tmp_path))
        (tmp_path / file).write_text(text)

    return write


def test_the_built_in_chips_are_found_by_name():
    assert chips() == ("ascend310p", "ascend910b", "gaudi2", "ideal")
    assert [find(name).name for name in chips()] == list(chips())


def test_every_quirk_of_a_built_in_chip_names_its_source():
    sources = [quirk.source for name in chips() for quirk in find(name).quirks]
    assert sources
    assert all(source.startswith("DEVICES.md ") for source in sources)


def test_an_unknown_chip_names_the_near_one():
    with pytest.raises(UsageError) as error:
        find("gaudi3")
    assert str(error.value) == (
        "'sim/gaudi3' is not a simulated chip; did you mean 'gaudi2'?; "
        "there are ascend310p, ascend910b, gaudi2, ideal"
    )


def test_a_chip_of_ones_own_is_loaded_by_path(own):
    own("mychip.py", OWN.format(name="mychip"))
    own("_helper.py", "raise RuntimeError")
    assert chips() == ("ascend310p", "ascend910b", "gaudi2", "ideal", "mychip")
    assert find("mychip").arithmetic(Setting.STRICT, "eager").gelu == "tanh"


def test_a_chip_of_ones_own_may_stand_for_a_built_in_one(own):
    own("gaudi2.py", OWN.format(name="gaudi2"))
    assert find("gaudi2").title == "ours"


def test_a_file_without_its_chip_is_refused(own, tmp_path):
    own("mychip.py", OWN.format(name="another"))
    with pytest.raises(UsageError) as error:
        find("mychip")
    assert str(error.value) == (
        f"{tmp_path}/mychip.py: it defines no CHIP named 'mychip'. See parity/backend/sim/chips"
    )


def test_a_declaration_that_raises_says_where(own, tmp_path):
    own("mychip.py", OWN.format(name="mychip").replace("tanh", "quick"))
    with pytest.raises(UsageError) as error:
        find("mychip")
    assert str(error.value) == (
        f"{tmp_path}/mychip.py: ValueError: quirk 'gelu': gelu cannot be 'quick'; it is one of "
        "('erf', 'tanh'). Correct the declaration"
    )


def test_a_file_that_leaves_the_program_is_an_error_like_any_other(own, tmp_path):
    own("mychip.py", "raise SystemExit(0)")
    with pytest.raises(UsageError) as error:
        find("mychip")
    assert str(error.value) == f"{tmp_path}/mychip.py: SystemExit: 0. Correct the declaration"


def test_a_folder_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("PARITY_SIM_CHIPS", "/nowhere")
    with pytest.raises(UsageError, match="PARITY_SIM_CHIPS=/nowhere: there is no such folder"):
        chips()
