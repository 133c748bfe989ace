"""A torch that is missing, replaced, doubled or broken is told from one whose plugin is."""

import os
import shutil

import pytest

from tests.backend.vendor_site import Site

FRESH = (
    "reinstall torch in a fresh virtual environment; in a vendor's image take the vendor's wheel: "
    "never pip install torch there"
)
IMAGE = (
    "start again from the vendor's image, or reinstall the vendor's own torch wheel; "
    "never pip install torch there"
)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "site")


def test_a_torch_that_nothing_is_wrong_with(site):
    found = site.examine()
    assert found["torch"] == [("ok", "2.9.0+cpu, as pip recorded it", "")]
    assert found["import torch"] == [("ok", "works", "")]


@pytest.mark.parametrize("version", ["2.10.0a0+gitabc", "2.8.0a0+5228986c39.nv25.5"])
def test_a_vendors_build_is_called_one_and_not_broken(site, version):
    site.torch(version)
    text = f"{version}, as pip recorded it, a vendor's own build: nothing may replace it"
    assert site.examine()["torch"] == [("ok", text, "")]


@pytest.mark.parametrize("version", ["2.9.0", "2.9.0+cu126", "2.9.0+rocm6.4", "2.9.0+xpu"])
def test_a_build_of_torchs_own_index_is_no_vendors_build(site, version):
    site.torch(version)
    assert site.examine()["torch"] == [("ok", f"{version}, as pip recorded it", "")]


def test_a_version_that_packaging_tools_rewrite_is_the_same_version(site):
    site.torch("2.8.0a0+5228986c39.nv25.05", recorded="2.8.0a0+5228986c39.nv25.5")
    assert [state for state, *_ in site.examine()["torch"]] == ["ok"]


def test_a_replaced_torch_is_named_by_both_versions(site):
    site.torch("2.13.0+cpu", recorded="2.10.0a0+gitabc")
    text = "torch was replaced: its files say 2.13.0+cpu, pip recorded 2.10.0a0+gitabc"
    assert site.examine()["torch"] == [("broken", text, IMAGE)]


def test_outside_a_vendors_image_the_remedy_is_a_fresh_environment(site):
    site.torch("2.13.0+cpu", recorded="2.9.0+cpu")
    text = "torch was replaced: its files say 2.13.0+cpu, pip recorded 2.9.0+cpu"
    assert site.examine()["torch"] == [("broken", text, FRESH)]


def test_a_missing_torch(site):
    shutil.rmtree(site.folder / "torch")
    shutil.rmtree(site.folder / "torch-2.9.0+cpu.dist-info")
    found = site.examine()
    remedy = "install torch as its own installation page says"
    assert found["torch"] == [("broken", "torch is not installed, and every backend needs it", remedy)]
    assert "import torch" not in found


def test_a_missing_torch_beside_a_vendors_plugin_comes_from_the_vendor(site):
    shutil.rmtree(site.folder / "torch")
    shutil.rmtree(site.folder / "torch-2.9.0+cpu.dist-info")
    site.module("torch_mlu")
    assert site.examine()["torch"] == [
        ("broken", "torch is not installed, and every backend needs it", IMAGE)
    ]


def test_a_record_without_files(site):
    shutil.rmtree(site.folder / "torch")
    text = "pip recorded torch 2.9.0+cpu, but its files are gone"
    assert site.examine()["torch"] == [("broken", text, FRESH)]


def test_files_without_a_version(site):
    (site.folder / "torch/version.py").write_text("def (")
    text = f"{site.folder / 'torch'} has no version.py that can be read: its files are damaged"
    assert site.examine()["torch"] == [("broken", text, FRESH)]


@pytest.mark.parametrize("fault", ["no record", "a record without METADATA"])
def test_files_that_pip_would_overwrite_because_it_has_no_record(site, fault):
    site.torch("2.9.0+cpu", recorded="")
    if fault != "no record":
        (site.record("torch", "2.9.0+cpu") / "METADATA").unlink()
    text = "2.9.0+cpu lies here without a record: pip would install another over it"
    remedy = "install nothing that depends on torch; reinstall the vendor's own torch wheel first"
    assert site.examine()["torch"] == [("warning", text, remedy)]


def test_two_records_in_one_folder(site):
    site.record("torch", "2.13.0")
    found = site.examine()
    assert found["torch records"] == [
        ("broken", f"two records of torch, 2.13.0 and 2.9.0+cpu, in {site.folder}", FRESH)
    ]
    assert [state for state, *_ in found["torch"]] == ["ok"]


def test_a_torch_that_hides_another_one(site, tmp_path):
    image = Site(tmp_path / "image")
    image.torch("2.10.0a0+gitabc")
    assert site.examine(image.folder)["torch records"] == [
        (
            "warning",
            f"torch 2.9.0+cpu in {site.folder} hides 2.10.0a0+gitabc in {image.folder}",
            (
                "if 2.10.0a0+gitabc is the one you mean, remove the first: it came with pip install --user, "
                "or with a virtual environment over the image's Python"
            ),
        )
    ]


def test_a_folder_that_is_on_the_path_twice_is_one_torch(site):
    assert "torch records" not in site.examine(site.folder)


def test_a_torch_that_is_too_old(site):
    site.torch("2.4.1")
    text = "2.4.1 is older than parity works with (2.5)"
    assert site.examine()["torch version"] == [("broken", text, FRESH)]


@pytest.mark.parametrize(
    "body, words",
    [
        ("raise ImportError('libc10.so: no\\nsuch file')", "ImportError: libc10.so: no such file"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended the process with SIGSEGV"),
        ("import os; os._exit(7)", "ended the process with exit status 7"),
        ("import os; os._exit(0)", "ended the process with exit status 0"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_a_torch_that_cannot_be_imported_says_how_it_ended(site, body, words):
    site.torch("2.9.0+cpu", body=body)
    site.module("torch_mlu")
    found = site.examine()
    assert found["import torch"] == [("broken", words, IMAGE)]
    assert found["mlu plugin"] == [
        ("warning", "torch_mlu was not imported: torch cannot be", "repair torch first")
    ]
    assert not site.was_imported("torch_mlu")


def test_a_torch_that_hangs_is_given_up_and_killed(site, tmp_path):
    note = tmp_path / "pid"
    site.torch(
        "2.9.0+cpu", body=f"import signal\nPath({str(note)!r}).write_text(str(os.getpid()))\nsignal.pause()"
    )
    found = site.examine(timeout_s=5)
    assert found["import torch"] == [("broken", "did not end within 5 s", FRESH)]
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def named(found, name):
    return found["import torch"] + found[f"plugin {name}_device"]


def test_a_plugin_that_breaks_torch_is_told_from_a_broken_torch_and_named(site):
    site.autoloaded("sick", "1.2", "raise OSError('libvendor.so.3: no')")
    site.autoloaded("well", "3.4", "pass")
    found = site.examine()
    assert named(found, "sick") == [
        (
            "warning",
            (
                "works only with TORCH_DEVICE_BACKEND_AUTOLOAD=0, else: RuntimeError: Failed to load the "
                "backend extension: sick_device; torch itself is sound"
            ),
            "repair the plugin that is named below; until then, export TORCH_DEVICE_BACKEND_AUTOLOAD=0",
        ),
        (
            "broken",
            "sick 1.2 (sick:_autoload) breaks import torch: OSError: libvendor.so.3: no",
            "repair it, or uninstall it if this machine does not have its device",
        ),
    ]
    assert "plugin well_device" not in found


@pytest.mark.parametrize(
    "body, words",
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended the process with SIGSEGV"),
        ("import signal; signal.pause()", "did not end within 5 s"),
    ],
)
def test_a_plugin_that_crashes_or_hangs_is_named_with_how(site, body, words):
    site.autoloaded("sick", "1.2", body)
    site.autoloaded("well", "3.4", "pass")
    found = site.examine(timeout_s=5 if "within" in words else 60)
    assert named(found, "sick")[1][:2] == (
        "broken",
        f"sick 1.2 (sick:_autoload) breaks import torch: {words}",
    )
    assert "plugin well_device" not in found


def test_plugins_that_load_alone_and_not_together(site):
    for name in ("one", "two"):
        other = "two" if name == "one" else "one"
        site.autoloaded(name, "1", f"import sys\nassert '{other}' not in sys.modules, 'one at a time'")
    assert site.examine()["plugins"] == [
        (
            "broken",
            "each loads alone, together they break import torch: one_device, two_device",
            "keep one accelerator's plugin in one environment",
        )
    ]


def test_with_loading_switched_off_torch_is_not_said_to_load_its_plugins(site):
    site.autoloaded("sick", "1.2", "raise OSError")
    found = site.examine(TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert found["import torch"] == [("ok", "works, without loading plugins", "")]
    assert "plugin sick_device" not in found
