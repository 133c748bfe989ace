"""What pyproject.toml and constraints.txt promise about dependencies."""

import importlib
import sys
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [
    Requirement(text)
    for text in [
        *PROJECT["dependencies"],
        *(x for extra in PROJECT["optional-dependencies"].values() for x in extra),
    ]
    if not text.startswith(PROJECT["name"])
]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def test_the_names_are_those_that_the_readme_uses():
    assert PROJECT["name"] == "chip-parity"
    assert PROJECT["scripts"] == {"parity": "parity.cli:main"}
    assert PROJECT["requires-python"] == ">=3.10"
    assert set(PROJECT["optional-dependencies"]) == {
        "dev",
        "engine",
        "onnxruntime",
        "opinfo",
        "openvino",
        "triton",
    }
    assert "chip-parity[engine,onnxruntime,openvino,opinfo,triton]" in PROJECT["optional-dependencies"]["dev"]


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda r: r.name)
def test_a_dependency_has_at_most_a_floor(requirement):
    assert {part.operator for part in requirement.specifier} <= {">="}


@pytest.mark.parametrize("name", ["torch", "numpy", "pyarrow", "typer"])
def test_what_a_vendor_image_may_hold_has_no_marker_or_extra(name):
    found = [requirement for requirement in DECLARED if requirement.name == name]
    assert [(r.marker, r.extras) for r in found] == [(None, set())]


@pytest.mark.parametrize("python", PYTHONS)
def test_each_dependency_is_pinned_once_at_or_over_its_floor(python):
    environment = {**default_environment(), "python_version": python}
    pins = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(environment):
            assert pin.name not in pins
            (part,) = pin.specifier
            assert part.operator == "=="
            pins[pin.name] = part.version
    for requirement in DECLARED:
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.specifier.contains(pins[requirement.name])


# They come with a vendor's image, together with its torch: asking pip for one would break it.
VENDORS = {"habana_frameworks", "torch_npu", "torch_xla"}


def test_every_package_that_is_imported_is_declared(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    source = importlib.import_module("checks.source")
    files = source.python_files(ROOT / "parity")
    found = {item.package for path in files for item in source.imports_of(path, root=ROOT)}
    declared = {requirement.name for requirement in DECLARED} | VENDORS
    assert found - {*sys.stdlib_module_names, "parity"} - declared == set()


def test_the_licence_is_the_whole_text():
    text = (ROOT / "LICENSE").read_text()
    assert text.lstrip().startswith("Apache License\n                           Version 2.0, January 2004")
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"
