"""`examine` as a whole: what parity itself needs, the variables, and this very environment."""

import shutil
import subprocess
import sys

import pytest

from parity.backend.doctor import State, examine
from parity.backend.doctor_facts import VARIABLES
from tests.backend.vendor_site import CHECKOUT, Site


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "site")


def test_where_everything_is_fine_there_is_nothing_to_do(site):
    found = site.examine()
    assert list(found) == [
        "parity",
        "numpy",
        "pyarrow",
        "torch",
        "import torch",
        "accelerator",
        "environment",
    ]
    assert [state for rows in found.values() for state, *_ in rows] == [*["ok"] * 5, "absent", "ok"]
    assert found["numpy"] == [("ok", "2.4.6", "")]
    assert found["environment"] == [("ok", "no variable is set that changes arithmetic", "")]
    assert found["accelerator"] == [
        (
            "absent",
            "no vendor's plugin and no device nodes: checks run on the host",
            "what each backend would need: parity devices",
        )
    ]


@pytest.mark.needs_torch
def test_this_environment_is_sound(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable.name, raising=False)
    findings = examine()
    broken = [finding for finding in findings if finding.state in (State.BROKEN, State.WARNING)]
    assert broken == []
    assert {finding.subject for finding in findings} >= {
        "parity",
        "numpy",
        "pyarrow",
        "torch",
        "import torch",
    }


def test_missing_cases_or_goldens_are_named(site, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(CHECKOUT / "parity", alone / "parity", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CHECKOUT / "golden", alone / "golden", ignore=shutil.ignore_patterns("*.arrow"))
    ((state, detail, remedy),) = site.examine(alone)["parity"]
    assert state == "broken"
    assert detail.split(", ", 1)[1] == (
        f"0 case files and 1 golden sets in {alone / 'parity'}: its own files are missing"
    )
    assert remedy == "install chip-parity again, from a wheel or a whole checkout"


PIP = "python3 -m pip install '{}' (in a vendor's image with -c installed.txt, as README says)"


@pytest.mark.parametrize(
    "name, floor, old", [("numpy", "numpy>=1.22", "1.21.6"), ("pyarrow", "pyarrow>=14", "13.0.0")]
)
def test_a_package_that_is_missing_old_or_broken(site, name, floor, old):
    site.module(name, old)
    text = f"{old} is older than parity works with"
    assert site.examine()[name] == [("broken", text, PIP.format(floor))]
    site.module(name, body="raise ImportError('built for another Python')")
    text = "ImportError: built for another Python"
    assert site.examine()[name] == [("broken", text, PIP.format(floor))]
    shutil.rmtree(site.folder / name)
    assert site.examine()[name] == [("broken", f"{name} is not installed", PIP.format(floor))]


def test_a_numpy_that_torch_was_not_built_for(site):
    words = "Failed to initialize NumPy: _ARRAY_API not found"
    site.torch("2.9.0+cpu", body=f"import warnings\nwarnings.warn({words!r})")
    assert site.examine()["torch, numpy"] == [
        (
            "broken",
            f"they cannot exchange arrays: {words}",
            "install the numpy that this torch was built with",
        )
    ]


@pytest.mark.needs_torch
def test_torch_still_says_so_in_those_words():
    code = (
        "import sys, warnings; sys.modules['numpy'] = None; warnings.simplefilter('always'); import torch; "
        "torch.zeros(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Failed to initialize NumPy" in done.stderr


@pytest.mark.parametrize(
    "name, value, effect",
    [
        ("PT_HPU_LAZY_MODE", "1", "lazy mode, where int64 is computed as int32"),
        ("PT_COMPILE_ONLY_MODE", "true", "graphs are compiled and not executed: results are garbage"),
        ("XLA_USE_BF16", "1", "float32 and float64 are computed in bfloat16 and called float"),
        ("TORCH_USE_MUSA_DOUBLE_CAST", "1", "float64 is computed in float32 and called float64"),
        ("ENABLE_MLU_FAIL_FALLBACK", "1", "kernels that fail run on the host"),
        ("TORCH_NPU_DISABLED_WARNING", "1", "the warning of an op that fell back is not printed"),
        ("NVIDIA_TF32_OVERRIDE", "0", "the driver overrides what torch says of TF32"),
        ("PT_ENABLE_INT64_SUPPORT", "0", "int64 is computed as int32"),
    ],
)
def test_a_variable_that_changes_arithmetic(site, name, value, effect):
    remedy = f"unset {name}, unless the deployment that is tested sets it too"
    found = site.examine(**{name: value})["environment"]
    assert found == [("warning", f"{name}={value}: {effect}", remedy)]


@pytest.mark.parametrize(
    "name, value", [("PT_HPU_LAZY_MODE", "0"), ("XLA_USE_BF16", "False"), ("PT_ENABLE_INT64_SUPPORT", "1")]
)
def test_a_variable_at_its_default_changes_nothing(site, name, value):
    assert [state for state, *_ in site.examine(**{name: value})["environment"]] == ["ok"]
