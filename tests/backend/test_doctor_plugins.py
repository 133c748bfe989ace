"""Every vendor's plugin is held against its torch, its SDK and the machine; unknown is never fine."""

import pytest

from tests.backend.test_doctor_torch import IMAGE
from tests.backend.vendor_site import Site

GAUDI_TORCH = "2.11.0a0+gitabc"
NO_TABLE = "no table that we know has it"
NO_SDK = "the vendor's SDK is missing or not set up"


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "site")


@pytest.fixture
def gaudi(site):
    site.torch(GAUDI_TORCH)
    site.module("habana_frameworks")
    site.module("habana_frameworks.torch", "1.24.1")
    site.record("habana-torch-plugin", "1.24.1.17")
    return site


def ascend(site, version, *, cann="8.5.0"):
    site.torch(f"{version.partition('.post')[0]}+cpu")
    site.module("torch_npu", version)
    site.module("torch_npu.npu")
    site.module("torch_npu.npu.utils", body=f"get_cann_version = {{'CANN': {cann!r}}}.__getitem__")
    site.record("torch_npu", version)
    return site


def test_a_gaudi_stack_that_fits_together(gaudi):
    found = gaudi.examine(PT_HPU_LAZY_MODE="0")
    assert found["hpu torch"] == [("ok", "habana-torch-plugin 1.24.1.17 is built for torch 2.11", "")]
    assert found["hpu plugin"] == [("ok", "habana-torch-plugin 1.24.1.17 can be imported", "")]
    assert found["torch"][0][0] == "ok"
    assert "hpu build" not in found
    assert "accelerator" not in found


@pytest.mark.parametrize(
    "release, torch", [("1.24.0.462", "2.10.0"), ("1.23.0.1", "2.9.0"), ("1.16.2.2", "2.2.2")]
)
def test_each_gaudi_release_has_its_torch(gaudi, release, torch):
    (gaudi.folder / "habana_torch_plugin-1.24.1.17.dist-info/METADATA").unlink()
    (gaudi.folder / "habana_torch_plugin-1.24.1.17.dist-info").rmdir()
    gaudi.record("habana-torch-plugin", release)
    wanted = torch.rpartition(".")[0]
    assert gaudi.examine()["hpu torch"] == [
        (
            "broken",
            f"habana-torch-plugin {release} is built for torch {wanted}, here is {GAUDI_TORCH}",
            IMAGE,
        )
    ]
    gaudi.torch(f"{torch}a0+gitdef")
    assert [state for state, *_ in gaudi.examine()["hpu torch"]] == ["ok"]


def test_a_gaudi_release_that_no_table_has_is_unknown_and_not_wrong(gaudi):
    gaudi.record("habana-torch-plugin", "1.25.0.1")
    (gaudi.folder / "habana_torch_plugin-1.24.1.17.dist-info/METADATA").unlink()
    (gaudi.folder / "habana_torch_plugin-1.24.1.17.dist-info").rmdir()
    assert gaudi.examine()["hpu torch"] == [
        (
            "warning",
            f"unknown whether habana-torch-plugin 1.25.0.1 fits torch {GAUDI_TORCH}: {NO_TABLE}",
            "compare both with the vendor's support matrix",
        )
    ]


def test_gaudis_plugin_beside_a_public_torch(gaudi):
    gaudi.torch("2.11.0+cpu")
    text = "torch 2.11.0+cpu is a public wheel, not Gaudi's own build, which lazy mode needs"
    assert gaudi.examine()["hpu build"] == [("broken", text, IMAGE)]
    assert gaudi.examine(PT_HPU_LAZY_MODE="1")["hpu build"] == [("broken", text, IMAGE)]
    assert gaudi.examine(PT_HPU_LAZY_MODE="0")["hpu build"] == [("warning", text, IMAGE)]


def test_gaudis_plugin_beside_a_torch_without_a_local_version(gaudi):
    gaudi.torch("2.11.0")
    text = "torch 2.11.0 is a public wheel: without a local version the plugin's import fails"
    assert gaudi.examine(PT_HPU_LAZY_MODE="0")["hpu build"] == [("broken", text, IMAGE)]


def test_a_library_of_the_sdk_that_is_not_found(gaudi):
    text = "libSynapse.so: cannot open shared object file: No such file or directory"
    gaudi.module("habana_frameworks.torch", body=f"raise ImportError({text!r})")
    found = gaudi.examine()
    assert found["hpu SDK"] == [
        (
            "broken",
            f"habana-torch-plugin 1.24.1.17 does not find libSynapse.so: {NO_SDK}",
            "run inside the vendor's image, or install SynapseAI's libraries of this release",
        )
    ]
    assert "hpu plugin" not in found


@pytest.mark.parametrize(
    "body, words",
    [
        ("raise AttributeError('startswith')", "AttributeError: startswith"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", "ended the process with SIGABRT"),
        ("import signal; signal.pause()", "did not end within 5 s"),
    ],
)
def test_a_plugin_that_cannot_be_imported_says_how_it_ended(gaudi, body, words):
    gaudi.module("habana_frameworks.torch", body=body)
    assert gaudi.examine(timeout_s=5 if "within" in words else 60)["hpu plugin"] == [
        (
            "broken",
            f"importing habana_frameworks.torch, of habana-torch-plugin 1.24.1.17: {words}",
            f"reinstall the plugin that belongs to this torch, or {IMAGE}",
        )
    ]


def test_an_ascend_stack_that_fits_together(site, tmp_path):
    found = ascend(site, "2.7.1.post2").examine(ASCEND_HOME_PATH=str(tmp_path))
    assert found["npu torch"] == [("ok", "torch_npu 2.7.1.post2 belongs to it", "")]
    assert found["npu plugin"] == [("ok", "torch_npu 2.7.1.post2 can be imported", "")]
    assert found["npu SDK"] == [("ok", f"ASCEND_HOME_PATH={tmp_path}", "")]
    assert found["npu CANN"] == [("ok", "CANN 8.5.0, as torch_npu 2.7.1.post2 needs", "")]


def test_a_torch_npu_of_another_torch(site):
    ascend(site, "2.9.0").torch("2.9.1+cpu")
    assert site.examine()["npu torch"] == [
        (
            "broken",
            "torch_npu 2.9.0 needs torch 2.9.0, here is 2.9.1+cpu",
            f"install the torch_npu that belongs to this torch, or {IMAGE}",
        )
    ]


def test_another_cann_than_the_table_has(site):
    assert ascend(site, "2.9.0", cann="8.2.RC1").examine()["npu CANN"] == [
        (
            "warning",
            "torch_npu 2.9.0 belongs to CANN 8.5.0, here is 8.2.RC1",
            "install the CANN release of this torch_npu, or source the set_env.sh of another one",
        )
    ]


UNKNOWN = "compare both with the vendor's compatibility table"


def test_a_torch_npu_that_no_table_has_is_unknown_and_not_wrong(site):
    text = "unknown whether torch_npu 2.9.0.post9 and CANN 9.1.0 belong together"
    found = ascend(site, "2.9.0.post9", cann="9.1.0").examine()
    assert found["npu CANN"] == [("warning", text, UNKNOWN)]


@pytest.mark.parametrize("body", ["", "def get_cann_version(module):\n    return None"])
def test_a_torch_npu_that_does_not_say_which_cann_is_here(site, body):
    ascend(site, "2.9.0").module("torch_npu.npu.utils", body=body)
    text = "unknown whether torch_npu 2.9.0 and CANN of an unknown version belong together"
    assert site.examine()["npu CANN"] == [("warning", text, UNKNOWN)]


SET_ENV = "source /usr/local/Ascend/ascend-toolkit/set_env.sh in this shell, then try again"


def test_a_cann_that_is_not_set_up(site, tmp_path):
    ascend(site, "2.9.0")
    text = "ASCEND_HOME_PATH is not set: the SDK is missing or not set up"
    assert site.examine()["npu SDK"] == [("warning", text, SET_ENV)]
    site.module("torch_npu", body="raise ImportError('no driver')")
    assert site.examine()["npu SDK"] == [("broken", text, SET_ENV)]
    gone = str(tmp_path / "gone")
    text = f"ASCEND_HOME_PATH={gone} is no folder: the SDK is missing or not set up"
    assert site.examine(ASCEND_HOME_PATH=gone)["npu SDK"] == [("broken", text, SET_ENV)]


@pytest.mark.parametrize(
    "module, torch, state",
    [
        ("torch_xla", "2.9.0+cpu", "ok"),
        ("torch_xla", "2.8.0+cpu", "broken"),
        ("torch_xla", "2.10.0+cpu", "broken"),
        ("torch_musa", "2.9.0+cpu", "ok"),
        ("torch_musa", "2.8.0+cpu", "broken"),
        ("torch_musa", "2.10.0+cpu", "warning"),
    ],
)
def test_a_plugin_that_names_its_torch_by_its_own_version(site, module, torch, state):
    site.torch(torch)
    site.module(module, "2.9.0")
    site.record(module, "2.9.0")
    family = module.removeprefix("torch_")
    ((found, detail, _),) = site.examine()[f"{family} torch"]
    assert found == state
    good = f"{module} 2.9.0 belongs to it"
    assert detail == (good if state == "ok" else f"{module} 2.9.0 needs torch 2.9.0, here is {torch}")


def test_a_plugin_without_a_record_is_unknown(site):
    site.module("torch_xla", "2.9.0")
    assert site.examine()["xla torch"] == [
        (
            "warning",
            f"unknown whether torch_xla fits torch 2.9.0+cpu: {NO_TABLE}",
            "compare both with the vendor's support matrix",
        )
    ]


def test_a_plugin_that_no_table_is_public_for_is_only_imported(site):
    site.module("torch_mlu", "1.22")
    site.record("torch_mlu", "1.22")
    found = site.examine(NEUWARE_HOME=str(site.folder))
    assert found["mlu plugin"] == [("ok", "torch_mlu 1.22 can be imported", "")]
    assert "mlu torch" not in found


ONE = "keep one accelerator in one environment, such as the vendor's image"


def test_two_accelerators_in_one_environment(site):
    site.module("torch_musa")
    site.module("torch_xla")
    text = "torch_xla and torch_musa are in one environment: a process can use one accelerator"
    assert site.examine()["accelerators"] == [("warning", text, ONE)]


def test_a_torch_npu_beside_a_torch_with_cuda_is_broken(site):
    ascend(site, "2.9.0").torch("2.9.0", cuda="12.8")
    text = "torch_npu and torch built with cuda are in one environment: a process can use one accelerator"
    assert site.examine()["accelerators"] == [("broken", text, ONE)]


def test_one_accelerator_is_no_conflict(gaudi):
    assert "accelerators" not in gaudi.examine()


@pytest.mark.parametrize(
    "node, family, needs",
    [
        ("dev/nvidia0", "cuda", "a build of torch that has CUDA"),
        ("dev/kfd", "cuda", "a build of torch that has ROCm"),
        ("dev/accel/accel0", "hpu", "Gaudi's own torch and habana-torch-plugin, if it is a Gaudi"),
        ("dev/hl0", "hpu", "Gaudi's own torch and habana-torch-plugin, if it is a Gaudi"),
        ("dev/davinci0", "npu", "torch_npu of exactly torch's version"),
        ("dev/mtgpu.0", "musa", "torch_musa and its torch"),
        ("dev/cambricon_dev0", "mlu", "torch_mlu"),
    ],
)
def test_a_device_that_nothing_installed_can_drive(site, tmp_path, node, family, needs):
    place = tmp_path / "root" / node
    place.parent.mkdir(parents=True)
    place.touch()
    found = site.examine(root=tmp_path / "root")
    remedy = (
        "to use it, start from the vendor's image, or install what its installation page says in an "
        "environment of its own"
    )
    assert found[f"{family} device"] == [("absent", f"/{node} is there, but not {needs}", remedy)]
    assert "accelerator" not in found


def test_a_device_that_is_driven_is_not_reported(gaudi, tmp_path):
    (tmp_path / "root/dev/accel").mkdir(parents=True)
    (tmp_path / "root/dev/accel/accel0").touch()
    (tmp_path / "root/dev/nvidia0").touch()
    gaudi.torch(GAUDI_TORCH, cuda="12.8")
    found = gaudi.examine(root=tmp_path / "root")
    assert "hpu device" not in found
    assert "cuda device" not in found
