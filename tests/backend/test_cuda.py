"""CUDA and ROCm, against fakes of the vendor's modules.

Longer than a file should be: each switch of each interface is tested present, absent and refusing.
"""

import json
import os
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.backend import cuda_chip, cuda_switches, installed
from parity.backend.arithmetic import Reads
from parity.backend.base import Unsupported
from parity.backend.cuda import CudaBackend
from parity.backend.cuda_chip import available, driver
from parity.backend.device import Memory
from parity.backend.installed import TorchBuild
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.backend.switch import pin, read_back
from parity.case.case import Step
from parity.case.dtype import DTYPES
from parity.case.op import OPS
from parity.case.tensor import HostTensor
from parity.run.environment import child_environ

FAKES = runpy.run_path(str(Path(__file__).parent / "fakes" / "nvidia.py"))
Fake = FAKES["Fake"]
SQUARE = HostTensor.of(np.arange(4, dtype=np.float32).reshape(2, 2), DTYPES["f32"])
MATMUL = Step(name="s", op="matmul", inputs=("a", "b"), outputs=("y",))


class OnHost(CudaBackend):
    """The adapter as it is, its tensors on the host."""

    device_type = "cpu"


def backend(text="cuda", setting=Setting.PRODUCTION):
    return OnHost(BackendSpec.parse(text), setting)


def opened(text="cuda", setting=Setting.PRODUCTION):
    opened = backend(text, setting)
    opened.open()
    return opened


@pytest.fixture
def as_torch_starts():
    """TF32 as torch's defaults have it, whatever another test set (DEVICES.md 3.1, switches)."""
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False


def permit_tf32(monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")


# Availability.

CUDA = TorchBuild(version="2.13.0+cu130", cuda="13.0")
ROCM = TorchBuild(version="2.13.0+rocm7.0", hip="7.0.1")
OWN = "in an environment of its own; a vendor's image keeps the torch that it has"


@pytest.fixture
def dev(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).touch()
        return tmp_path

    return make


@pytest.mark.parametrize(
    "build, nodes, reason",
    [
        (CUDA, ["nvidia0", "nvidiactl"], "torch 2.13.0+cu130 for CUDA 13.0, and its device nodes are here"),
        (ROCM, ["kfd"], "torch 2.13.0+rocm7.0 for ROCm 7.0.1, and its device nodes are here"),
        (CUDA, ["dxg"], "torch 2.13.0+cu130 for CUDA 13.0, and its device nodes are here"),
    ],
)
def test_a_build_and_its_device_nodes_are_available(dev, build, nodes, reason):
    state = available(build, environ={}, dev=dev(*nodes))
    assert (state.ok, state.reason) == (True, reason)


@pytest.mark.parametrize(
    "build, nodes, reason, hint",
    [
        (None, [], "torch is not installed", f"install a CUDA or ROCm wheel of torch {OWN}"),
        (
            TorchBuild(version="2.13.0+cpu"),
            [],
            "torch 2.13.0+cpu has no CUDA support; no device node of NVIDIA or AMD is here either",
            f"install the CUDA (+cu…) wheel of torch {OWN}",
        ),
        (
            TorchBuild(version="2.13.0+cpu"),
            ["kfd"],
            "torch 2.13.0+cpu has no CUDA support",
            f"install the ROCm (+rocm…) wheel of torch {OWN}",
        ),
        (
            CUDA,
            ["nvidiactl"],
            "torch 2.13.0+cu130 for CUDA 13.0, but there is no /dev/nvidia0",
            "load NVIDIA's driver, or start the container with its devices",
        ),
        (
            ROCM,
            ["nvidia0"],
            "torch 2.13.0+rocm7.0 for ROCm 7.0.1, but there is no /dev/kfd",
            "load AMD's driver, or start the container with its devices",
        ),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(dev, build, nodes, reason, hint):
    state = available(build, environ={}, dev=dev(*nodes))
    assert (state.ok, state.reason, state.hint) == (False, reason, hint)


@pytest.mark.parametrize(
    "build, node, name", [(CUDA, "nvidia0", "CUDA_VISIBLE_DEVICES"), (ROCM, "kfd", "ROCR_VISIBLE_DEVICES")]
)
def test_hidden_devices_are_said_to_be_hidden(dev, build, node, name):
    assert available(build, environ={name: "1"}, dev=dev(node)).ok
    state = available(build, environ={name: "-1"}, dev=dev(node))
    assert (state.reason, state.hint) == (f"{name}='-1' hides every device", f"unset {name}")


def test_asking_imports_no_torch():
    source = """
        import sys
        from parity.backend.registry import available
        available()
        print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "pyarrow"}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# The child's environment.


@pytest.mark.parametrize(
    "build, setting, exported",
    [
        (CUDA, Setting.STRICT, {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NVIDIA_TF32_OVERRIDE": "0"}),
        (
            ROCM,
            Setting.STRICT,
            {
                "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
                "NVIDIA_TF32_OVERRIDE": "0",
                "HIPBLAS_WORKSPACE_CONFIG": ":4096:2:16:8",
                "HIPBLASLT_ALLOW_TF32": "0",
            },
        ),
        (CUDA, Setting.PRODUCTION, {}),
        (ROCM, Setting.PRODUCTION, {}),
    ],
)
def test_workspaces_are_fixed_before_the_child_s_python_starts(monkeypatch, build, setting, exported):
    monkeypatch.setattr(installed, "torch_build", lambda: build)
    for name in cuda_switches.NUMERIC_ENV:
        monkeypatch.delenv(name, raising=False)
    environ = child_environ(create(BackendSpec("cuda"), setting).env())
    source = "import json, os; print(json.dumps(dict(os.environ)))"
    done = subprocess.run([sys.executable, "-c", source], env=environ, capture_output=True, check=True)
    seen = json.loads(done.stdout)
    assert {name: seen[name] for name in cuda_switches.NUMERIC_ENV if name in seen} == exported


# Identity.


def test_an_nvidia_chip_says_what_it_is(monkeypatch):
    monkeypatch.setattr(cuda_chip, "driver", lambda *, is_hip: f"hip: {is_hip}")
    Fake().install(monkeypatch)
    found = opened().provenance()
    assert found["flavour"] == "h200"
    expected = {
        "device": "NVIDIA H200",
        "device_architecture": "9.0",
        "processors": "132",
        "driver": "hip: False",
        "cuda": "13.0",
        "cudnn": "91400",
        "nccl": "2.28.9",
        "architectures_built": "sm_80 sm_90",
        "fp8": "e4m3fn",
        "memory": "400",
        "collective": "nccl",
    }
    assert expected.items() <= found.items()
    assert "hip" not in found


def test_an_amd_chip_says_what_it_is(monkeypatch):
    monkeypatch.setattr(cuda_chip, "driver", lambda *, is_hip: f"hip: {is_hip}")
    Fake(name="AMD Instinct MI300X", architecture="gfx942:sramecc+:xnack-").install(monkeypatch)
    found = opened().provenance()
    expected = {
        "flavour": "mi300x",
        "device_architecture": "gfx942:sramecc+:xnack-",
        "driver": "hip: True",
        "hip": "7.0.1",
        "fp8": "e4m3fnuz",
    }
    assert expected.items() <= found.items()
    assert "cuda" not in found


def test_a_driver_that_gives_no_name_leaves_the_architecture(monkeypatch):
    Fake(name="AMD Radeon Graphics", architecture="gfx1201").install(monkeypatch)
    assert opened().flavour == "gfx1201"


@pytest.mark.parametrize(
    "chip, fp8",
    [
        ({"capability": (8, 9)}, "e4m3fn"),
        ({"capability": (8, 0)}, "unsupported"),
        ({"architecture": "gfx950"}, "e4m3fn"),
        ({"architecture": "gfx1201"}, "e4m3fn"),
        ({"architecture": "gfx90a"}, "unknown"),
    ],
)
def test_the_fp8_flavour_is_the_architecture_s(monkeypatch, chip, fp8):
    Fake(**chip).install(monkeypatch)
    assert opened().identity()["fp8"] == fp8


def test_what_a_version_does_not_answer_is_unknown(monkeypatch):
    without = ("get_device_name", "get_device_capability", "mem_get_info", "max_memory_allocated")
    Fake().install(monkeypatch, without=without)
    bare = opened()
    assert bare.flavour == "unknown"
    found = bare.identity()
    assert {found[name] for name in ("device", "device_architecture", "fp8")} == {"unknown"}
    assert bare.memory() == Memory()


@pytest.mark.parametrize(
    "text, version", [(FAKES["OPEN_DRIVER"], "570.133.20"), (FAKES["OLD_DRIVER"], "535.104.05")]
)
def test_nvidia_s_driver_is_read_from_its_file(tmp_path, text, version):
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(text)
    assert driver(is_hip=False, root=tmp_path) == version


@pytest.mark.parametrize(
    "script, version",
    [("echo 570.133.20; echo 570.133.20", "570.133.20"), ("echo no devices; exit 9", "unknown")],
)
def test_nvidia_s_driver_is_asked_of_its_tool_where_there_is_no_file(tmp_path, monkeypatch, script, version):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert driver(is_hip=False, root=tmp_path) == version


def test_no_driver_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert driver(is_hip=False, root=tmp_path) == "unknown"
    assert driver(is_hip=True, root=tmp_path) == "unknown"


def test_amd_s_driver_is_read_from_its_file(tmp_path):
    (tmp_path / "sys/module/amdgpu").mkdir(parents=True)
    (tmp_path / "sys/module/amdgpu/version").write_text("6.14.14\n")
    assert driver(is_hip=True, root=tmp_path) == "6.14.14"


# Switches.


def in_child(setting):
    """What a real torch says after `pin`; switches of this process would outlive the test."""
    source = f"""
        import json, torch
        from parity.backend.cuda import CudaBackend
        from parity.backend.spec import BackendSpec, Setting
        cuda = CudaBackend(BackendSpec("cuda"), Setting("{setting}"))
        if cuda.setting is Setting.STRICT:
            cuda.pin()
        print(json.dumps([dict(cuda.switches()), cuda.reduced(), cuda.reduced_convolution()]))
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SINCE_2_9 = pytest.mark.skipif(
    not hasattr(torch.backends, "fp32_precision"), reason="the values are those of torch 2.9 and later"
)


@SINCE_2_9
def test_strict_pins_the_whole_table_of_a_real_torch_and_no_reader_raises():
    found, products, convolutions = in_child("strict")
    expected = {
        "cuda.matmul.allow_tf32": "False",
        "cudnn.allow_tf32": "False",
        "cuda.matmul.fp32_precision": "ieee",
        "cudnn.conv.fp32_precision": "ieee",
        "cudnn.rnn.fp32_precision": "ieee",
        "get_float32_matmul_precision": "highest",
        "cuda.matmul.allow_fp16_reduced_precision_reduction": "False",
        "cuda.matmul.allow_bf16_reduced_precision_reduction": "False",
        "cuda.matmul.allow_fp16_accumulation": "False",
        "cuda.fp16_bf16_reduction_math_sdp_allowed": "False",
        "cuda.flash_sdp_enabled": "False",
        "cuda.mem_efficient_sdp_enabled": "False",
        "cuda.cudnn_sdp_enabled": "False",
        "cuda.math_sdp_enabled": "True",
        "cudnn.deterministic": "True",
        "cudnn.benchmark": "False",
        "are_deterministic_algorithms_enabled": "True",
        "utils.deterministic.fill_uninitialized_memory": "False",
    }
    assert expected.items() <= found.items()
    if hasattr(torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction_split_k"):  # since 2.10
        assert found["cuda.matmul.allow_fp16_reduced_precision_reduction_split_k"] == "False"
    assert not [value for value in found.values() if "not pinned" in value]
    assert (products, convolutions) == (None, None)


@SINCE_2_9
def test_production_leaves_torch_s_defaults_where_convolutions_may_use_tf32():
    found, products, convolutions = in_child("production")
    assert found["cudnn.allow_tf32"] == "True"
    assert found["cuda.flash_sdp_enabled"] == "True"
    assert found["are_deterministic_algorithms_enabled"] == "False"
    assert (products, convolutions) == (None, "tf32")


def test_torch_2_5_is_pinned_by_the_older_switches_alone():
    old = FAKES["torch_2_5"]()
    assert cuda_switches.reduced(old, cuda_switches.CONVOLUTION, environ={}) == "tf32"
    assert pin(old, cuda_switches.SWITCHES) == {}
    found = read_back(old, cuda_switches.SWITCHES)
    assert {name: value for name, value in found.items() if value != "unknown"} == {
        "cuda.matmul.allow_tf32": "False",
        "cudnn.allow_tf32": "False",
        "cuda.matmul.allow_fp16_reduced_precision_reduction": "False",
        "cuda.matmul.allow_bf16_reduced_precision_reduction": "False",
        "cudnn.deterministic": "True",
        "cudnn.benchmark": "False",
    }
    assert cuda_switches.reduced(old, cuda_switches.PRODUCT, environ={}) is None
    assert cuda_switches.reduced(old, cuda_switches.CONVOLUTION, environ={}) is None


def test_a_reader_that_raises_is_unknown_and_never_a_claim():
    mixed = FAKES["torch_that_was_mixed"]()
    assert read_back(mixed, [cuda_switches.PRODUCT]) == {"cuda.matmul.fp32_precision": "unknown"}
    assert cuda_switches.reduced(mixed, cuda_switches.PRODUCT, environ={}) == "?"


def test_a_driver_that_forces_tf32_permits_it_whatever_torch_says(monkeypatch):
    permit_tf32(monkeypatch)
    assert backend().reduced() == "tf32"


# Steps.


def product(cuda):
    (result,) = cuda.run(MATMUL, [cuda.put(SQUARE), cuda.put(SQUARE)])
    return cuda.get(result).array().tolist()


@pytest.mark.usefixtures("as_torch_starts")
def test_permitted_tf32_is_in_the_evidence_of_a_product(monkeypatch):
    Fake().install(monkeypatch)
    cuda = opened()
    product(cuda)
    assert [node.precision for node in cuda.witness().executed] == ["f32"]
    permit_tf32(monkeypatch)
    product(cuda)
    assert [node.precision for node in cuda.witness().executed] == ["tf32"]


@pytest.mark.parametrize("text, index", [("cuda", 0), ("cuda:3", 3)])
def test_the_device_that_is_named_is_opened_selected_and_waited_for(monkeypatch, text, index):
    fake = Fake().install(monkeypatch)
    opened(text).synchronize()
    assert fake.calls == [f"device cpu:{index}", f"synchronize cpu:{index}"]


def test_memory_is_the_driver_s(monkeypatch):
    Fake().install(monkeypatch)
    assert opened().memory() == Memory(total=400, free=100, peak=250)


def test_a_graph_is_warmed_up_on_a_side_stream_then_captured_then_replayed(monkeypatch):
    fake = Fake().install(monkeypatch).with_graphs(monkeypatch)
    cuda = opened("cuda+graph")
    fake.calls.clear()
    assert product(cuda) == [[2.0, 3.0], [6.0, 11.0]]
    # Two streams are made: ours and, from the fake, the current one.
    assert fake.calls == ["side stream", "side stream", "wait", "wait", "capture", "replay"]
    # Three times to warm up, and once captured.
    assert [node.kind for node in cuda.witness().executed] == ["aten::mm"] * 4


def test_what_cannot_be_captured_is_unsupported(monkeypatch):
    refusal = "CUDA error: operation not permitted when stream is capturing\nmore"
    Fake().install(monkeypatch).with_graphs(monkeypatch, refusal=refusal)
    with pytest.raises(Unsupported) as error:
        product(opened("cuda+graph"))
    assert str(error.value) == "CUDA error: operation not permitted when stream is capturing"


def test_another_failure_while_capturing_is_the_device_s(monkeypatch):
    Fake().install(monkeypatch).with_graphs(monkeypatch, refusal="CUDA error: an illegal memory access")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        product(opened("cuda+graph"))


# Declarations.


def facts(cuda, op, dtype):
    return sorted(
        fact
        for fact in ("inputs_rounded", "inputs_flushed", "products_flushed")
        if cuda.profile().fact(fact, op=op, dtype=DTYPES[dtype])
    )


@pytest.mark.usefixtures("as_torch_starts")
def test_tf32_is_declared_for_what_it_governs_and_only_when_permitted(monkeypatch):
    Fake().install(monkeypatch)
    cuda = opened()
    assert facts(cuda, "matmul", "f32") == []
    assert facts(cuda, "conv2d", "f32") == ["inputs_rounded"]
    permit_tf32(monkeypatch)
    assert facts(cuda, "matmul", "f32") == ["inputs_rounded"]
    assert facts(cuda, "matmul", "bf16") == []
    assert cuda.profile().fact("inputs_rounded", op="matmul", dtype=DTYPES["f32"]).value == "11"


@pytest.mark.usefixtures("as_torch_starts")
@pytest.mark.parametrize(
    "architecture, declared",
    [("gfx90a:sramecc+:xnack-", ["inputs_flushed", "products_flushed"]), ("gfx942", [])],
)
def test_only_an_mi200_flushes_16_bit_products(monkeypatch, architecture, declared):
    Fake(architecture=architecture).install(monkeypatch)
    cuda = opened()
    assert facts(cuda, "matmul", "bf16") == declared
    assert facts(cuda, "softmax", "bf16") == []
    for fact in cuda.profile().declared:
        assert set(fact.ops) <= OPS.keys()


def test_the_declared_arithmetic_says_only_what_is_documented(monkeypatch):
    Fake().install(monkeypatch)
    found = opened().arithmetic()
    assert (found.int64, found.float64) == ("i64", "f64")
    assert found.flush == {}
    permit_tf32(monkeypatch)
    assert opened().arithmetic().products["f32"].reads is Reads.TF32
