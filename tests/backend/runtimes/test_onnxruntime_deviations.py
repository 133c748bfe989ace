from parity.case.catalog import Catalog, builtin_cases
from parity.judge.deviations import load


def test_each_departure_is_declared_once_and_for_one_release():
    folders = [builtin_cases()]
    entries = load(folders, "onnxruntime", Catalog.load(folders).ids())
    assert {e.versions for e in entries} == {"onnxruntime>=1.31,<1.32"}
    declared = [(str(e.case), e.expect) for e in entries]
    assert len(set(declared)) == len(declared)
