"""The suite of torch's own ops: which cases there are, that samples repeat, what a missing database says."""

from __future__ import annotations

import builtins
import importlib
import os
import subprocess
import sys

import pytest

from parity.case import opinfo, opinfo_db
from parity.case.catalog import Catalog, builtin_cases
from parity.case.ids import CaseId, Selector
from parity.errors import UsageError

pytestmark = [
    pytest.mark.needs_torch,
    pytest.mark.filterwarnings("ignore"),  # torch's test modules warn of their own deprecations
]
pytest.importorskip("expecttest", reason="torch's test modules import it")

TAN = CaseId.parse("opinfo/tan:dtype=f32,inputs=samples")


@pytest.fixture(scope="module")
def catalog():
    return Catalog.load([builtin_cases()])


@pytest.fixture
def no_cache():
    """Nothing loaded or listed before stays known."""
    caches = (opinfo.families, opinfo._database, opinfo_db.database)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_a_case_is_an_op_its_variant_a_dtype_and_a_kind_of_input(catalog):
    found = {
        str(case.id) for case in catalog.select([Selector.parse("opinfo/linalg.norm:dtype=f32")], suite=None)
    }
    assert found == {
        "opinfo/linalg.norm:dtype=f32,inputs=noncontiguous",
        "opinfo/linalg.norm:dtype=f32,inputs=noncontiguous,variant=subgradients_at_zero",
        "opinfo/linalg.norm:dtype=f32,inputs=samples",
        "opinfo/linalg.norm:dtype=f32,inputs=samples,variant=subgradients_at_zero",
    }


def test_they_are_listed_only_where_they_are_asked_for(catalog):
    assert not any(opinfo.is_opinfo(path) for path in catalog.paths())
    assert not any(opinfo.is_opinfo(case.id.path) for case in catalog.select([], suite="smoke"))
    assert catalog.select([], suite="opinfo")
    assert catalog.get(TAN).id == TAN


def test_an_op_that_is_not_there_has_a_near_miss(catalog):
    with pytest.raises(UsageError, match=r"^'opinfo/tanq' names no case; did you mean 'opinfo/tan.?'\?"):
        catalog.select([Selector.parse("opinfo/tanq")], suite=None)


def test_samples_are_the_same_each_time_and_leave_the_generators_alone():
    import torch

    first = opinfo_db.sample_digest.__wrapped__("tan", dtype="f32", inputs="samples")
    state = torch.random.get_rng_state()
    opinfo_db.samples.cache_clear()
    again = opinfo_db.sample_digest.__wrapped__("tan", dtype="f32", inputs="samples")
    assert first == again
    assert torch.equal(state, torch.random.get_rng_state())


def test_another_value_another_layout_or_another_dtype_is_another_digest():
    digests = {
        opinfo_db.sample_digest("tan", dtype=dtype, inputs=inputs)
        for dtype in ("f32", "bf16")
        for inputs in ("samples", "noncontiguous")
    }
    assert len(digests) == 4


def test_the_order_of_a_set_of_texts_in_torch_is_nobodys_order():
    """torch draws meshgrid's samples in the order of a set, which each process hashes anew."""
    code = "from parity.case.opinfo_db import sample_digest as d;"
    code += "print(d('meshgrid.variadic_tensors', dtype='f32', inputs='samples'))"
    found = set()
    for seed in ("1", "2", "3", "4"):
        environ = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        ran = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environ, capture_output=True)
        found.add(ran.stdout)
    assert len(found) == 1
    assert found != {b""}


def test_one_element_of_a_larger_stride_has_a_digest():
    assert opinfo_db.sample_digest("addmm.decomposed", dtype="f32", inputs="noncontiguous")


def test_a_case_is_another_one_under_another_torch(catalog, monkeypatch):
    case = catalog.get(TAN)
    there = opinfo.Drawn({**dict(case.subject.options), "torch": "2.99.0"})
    assert dict(there) == {**dict(case.subject.options), "torch": "2.99.0"}
    other = type(case)(
        id=case.id, inputs=(), subject=type(case.subject)(kind=case.subject.kind, options=there)
    )
    assert other.revision != case.revision


def test_a_case_is_another_one_with_other_samples(catalog, monkeypatch):
    before = catalog.get(TAN).revision
    known = {key: value for key, value in catalog.get(TAN).subject.options.items() if key != "samples"}
    drawn = opinfo_db.samples("tan", dtype="f32", inputs="samples")
    monkeypatch.setattr(opinfo_db, "samples", lambda *_, **__: drawn[1:])
    opinfo_db.sample_digest.cache_clear()
    case = catalog.get(TAN)
    other = type(case)(
        id=TAN, inputs=(), subject=type(case.subject)(kind=case.subject.kind, options=opinfo.Drawn(known))
    )
    assert other.revision != before
    opinfo_db.sample_digest.cache_clear()


@pytest.mark.parametrize(
    "error, text",
    [
        (
            ModuleNotFoundError("No module named 'expecttest'", name="expecttest"),
            (
                "opinfo: torch's op database needs the package 'expecttest', which is not installed: "
                r"pip install 'chip-parity\[opinfo\]'"
            ),
        ),
        (
            ModuleNotFoundError("No module named 'torch.testing._internal'", name="torch.testing._internal"),
            (
                r"opinfo: torch .* has no op database where torch 2.5 to 2.13 have it \(No module named "
                r"'torch.testing._internal'\)\. It is internal to torch and may move: every other suite is "
                "unaffected"
            ),
        ),
        (ImportError("cannot import name 'op_db'"), r"opinfo: torch .* has no op database .*'op_db'\)"),
    ],
)
def test_where_the_database_is_missing_or_has_moved_it_says_so(no_cache, monkeypatch, error, text):
    real = importlib.import_module

    def lost(name, *rest):
        if name.startswith("torch.testing._internal"):
            raise error
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", lost)
    with pytest.raises(UsageError, match=f"^{text}"):
        Catalog.load([builtin_cases()]).select([Selector.parse("opinfo/tan")], suite=None)


def test_a_database_without_its_list_has_moved(no_cache, monkeypatch):
    monkeypatch.setitem(sys.modules, opinfo_db._MODULE, builtins)
    with pytest.raises(UsageError, match=r"has no op database where torch 2\.5 to 2\.13 have it"):
        opinfo_db.database()


def test_loading_it_leaves_the_switches_of_torch_to_whoever_opens_a_device():
    import torch

    opinfo_db.database()
    was = torch.backends.mkldnn.deterministic
    torch.backends.mkldnn.deterministic = was  # raises where they are locked
