from parity.case.catalog import Catalog, builtin_cases
from parity.judge.deviations import load


def test_each_departure_is_declared_once_and_for_its_settings_one_mode_and_one_release():
    folders = [builtin_cases()]
    entries = load(folders, "openvino", Catalog.load(folders).ids())
    assert {e.mode for e in entries} == {"eager"}
    # Without a setting it is seen in both.
    assert {e.setting for e in entries} == {"strict", "production", ""}
    assert {",".join(e.versions.split(",")[:2]) for e in entries} == {"openvino>=2026.4,<2026.5"}
    declared = [(str(e.case), e.expect, setting) for e in entries for setting in _settings(e.setting)]
    assert len(set(declared)) == len(declared)


def _settings(setting):
    return (setting,) if setting else ("strict", "production")
