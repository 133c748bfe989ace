import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.backend import installed
from parity.backend.base import Availability, Unsupported
from parity.backend.device import Memory
from parity.backend.installed import TorchBuild
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.backend.xpu import XpuBackend, available
from parity.case.case import Step
from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor

FAKES = runpy.run_path(str(Path(__file__).parent / "fakes" / "intel.py"))
Fake = FAKES["Fake"]
SQUARE = HostTensor.of(np.arange(4, dtype=np.float32).reshape(2, 2), DTYPES["f32"])
SILU = Step(name="s", op="silu", inputs=("a",), outputs=("y",))
OWN = (
    "install the XPU (+xpu) wheel of torch in an environment of its own; "
    "a vendor's image keeps the torch that it has"
)


class OnHost(XpuBackend):
    """The adapter as it is, its tensors on the host; an operator in `says` warns of its fallback."""

    device_type = "cpu"
    says = ()

    def _run(self, step, inputs):
        for text in self.says:
            warnings.warn(text, stacklevel=1)
        return super()._run(step, inputs)


@pytest.fixture(autouse=True)
def _as_torch_starts():
    yield
    torch.set_warn_always(False)
    torch.backends.mkldnn.deterministic = False


def opened(text="xpu", setting=Setting.PRODUCTION):
    backend = OnHost(BackendSpec.parse(text), setting)
    backend.open()
    return backend


def silu(xpu, *says):
    xpu.says = says
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("default")
        xpu.run(SILU, [xpu.put(SQUARE)])
    return [(node.kind, node.device) for node in xpu.witness().host]


@pytest.mark.parametrize(
    "build, nodes, ok, reason",
    [
        (None, [], False, "torch is not installed"),
        (TorchBuild(version="2.13.0+cpu"), ["dri/renderD128"], False, "torch 2.13.0+cpu has no XPU support"),
        (
            TorchBuild(version="2.13.0+xpu", xpu="20250302"),
            [],
            False,
            "torch 2.13.0+xpu for XPU 20250302, but there is no /dev/dri/renderD*",
        ),
        (
            TorchBuild(version="2.13.0+xpu", xpu="20250302"),
            ["dri/renderD128"],
            True,
            "torch 2.13.0+xpu for XPU 20250302, and a render node is here",
        ),
    ],
)
def test_availability_is_the_build_and_a_render_node(tmp_path, build, nodes, ok, reason):
    (tmp_path / "dri").mkdir()
    for node in nodes:
        (tmp_path / node).touch()
    state = available(build, dev=tmp_path)
    assert (state.ok, state.reason) == (ok, reason)


def test_a_torch_without_xpu_names_the_wheel(monkeypatch):
    monkeypatch.setattr(installed, "torch_build", lambda: TorchBuild(version="2.13.0+cpu"))
    state = create(BackendSpec("xpu"), Setting.STRICT).available()
    assert state == Availability(ok=False, reason="torch 2.13.0+cpu has no XPU support", hint=OWN)


@pytest.mark.parametrize(
    "setting, exported",
    [
        (Setting.STRICT, {"PYTORCH_DEBUG_XPU_FALLBACK": "1", "PYTORCH_ENABLE_XPU_FALLBACK": "0"}),
        (Setting.PRODUCTION, {"PYTORCH_DEBUG_XPU_FALLBACK": "1"}),
    ],
)
def test_every_fallback_is_named_in_both_settings(setting, exported):
    assert create(BackendSpec("xpu"), setting).env() == exported


def test_the_driver_is_part_of_the_provenance(monkeypatch):
    fake = Fake().install(monkeypatch)
    xpu = opened("xpu:1")
    found = xpu.provenance()
    expected = {
        "flavour": "b580",
        "device": "Intel(R) Arc(TM) B580 Graphics",
        "driver": "1.6.33578",
        "device_architecture": "unknown",
        "has_fp64": "True",
        "xpu": "20250302",
        "memory": "400",
        "collective": "xccl",
    }
    assert expected.items() <= found.items()
    xpu.synchronize()
    assert fake.calls == ["device cpu:1", "synchronize cpu:1"]
    assert xpu.memory() == Memory(total=400, free=100, peak=250)


def test_what_a_version_does_not_answer_is_unknown(monkeypatch):
    Fake().install(monkeypatch, without=("get_device_name", "get_device_properties", "mem_get_info"))
    xpu = opened()
    assert xpu.flavour == "unknown"
    assert {xpu.identity()[name] for name in ("device", "driver", "has_fp64")} == {"unknown"}
    assert xpu.memory() == Memory(peak=250)
    assert xpu.arithmetic().float64 is None


@pytest.mark.parametrize("has_fp64, found", [(True, "f64"), (False, "unsupported"), (None, None)])
def test_float64_is_each_chip_s_own(monkeypatch, has_fp64, found):
    Fake(has_fp64=has_fp64).install(monkeypatch)
    assert opened().arithmetic().float64 == found


def test_a_named_fallback_is_evidence_each_time(monkeypatch):
    Fake().install(monkeypatch)
    xpu, named = opened(), FAKES["named"]
    assert silu(xpu, named("aten::silu.out")) == [("aten::silu", "cpu")]
    assert silu(xpu, named("aten::silu.out")) == [("aten::silu", "cpu")]
    assert silu(xpu) == []


def test_a_fallback_without_a_name_is_evidence_too(monkeypatch):
    Fake().install(monkeypatch)
    found = silu(opened(), FAKES["UNNAMED"])
    assert found == [("an operator that the warning does not name", "cpu")]


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="the interface of torch 2.9")
@pytest.mark.parametrize("precision, found", [("tf32", "tf32"), ("bf16", "bf16"), ("ieee", None)])
def test_what_onednn_permits_is_in_the_evidence_and_declared(monkeypatch, precision, found):
    Fake().install(monkeypatch)
    xpu = opened()
    torch.backends.mkldnn.matmul.fp32_precision = precision
    assert xpu.reduced() == found
    declared = xpu.profile().fact("inputs_rounded", op="matmul", dtype=DTYPES["f32"])
    assert (declared and declared.value) == {"tf32": "11", "bf16": "8", "ieee": None}[precision]
    assert xpu.profile().fact("inputs_rounded", op="conv2d", dtype=DTYPES["f32"]) is None


@pytest.mark.parametrize("allow, found", [(True, "tf32"), (False, None), (None, "?")])
def test_before_torch_2_9_the_older_switch_decides_and_its_default_is_unknown(monkeypatch, allow, found):
    old = FAKES["torch_2_7"](allow_tf32=allow)
    monkeypatch.setattr(XpuBackend, "_torch", old)
    xpu = create(BackendSpec("xpu"), Setting.PRODUCTION)
    assert (xpu.reduced(), xpu.reduced_convolution()) == (found, found)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="the interface of torch 2.9")
def test_strict_pins_onednn_group_by_group_and_leaves_other_backends_alone(monkeypatch):
    Fake().install(monkeypatch)
    before = torch.backends.cudnn.conv.fp32_precision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without an Intel GPU, torch warns of allow_tf32
        found = opened(setting=Setting.STRICT).switches()
    assert found["mkldnn.deterministic"] == "True"
    assert {found[f"mkldnn.{group}.fp32_precision"] for group in ("matmul", "conv", "rnn")} == {"ieee"}
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_a_torch_before_2_11_has_no_graph(monkeypatch):
    Fake().install(monkeypatch)
    monkeypatch.delattr(torch.xpu, "XPUGraph", raising=False)
    with pytest.raises(Unsupported) as error:
        opened("xpu+graph").run(SILU, [torch.ones(2)])
    assert str(error.value) == "this version has no XPUGraph"
