from parity.case.catalog import Catalog, builtin_cases
from parity.judge.deviations import load


def test_each_departure_is_declared_once_and_for_one_mode_setting_and_release():
    folders = [builtin_cases()]
    entries = load(folders, "openvino", Catalog.load(folders).ids())
    assert {(e.mode, e.setting) for e in entries} == {("eager", "strict")}
    assert {",".join(e.versions.split(",")[:2]) for e in entries} == {"openvino>=2026.4,<2026.5"}
    declared = [(str(e.case), e.expect) for e in entries]
    assert len(set(declared)) == len(declared)
