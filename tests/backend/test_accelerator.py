import platform
import runpy
import sys
import types
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.backend import accelerator, installed, registry
from parity.backend.accelerator import AcceleratorBackend
from parity.backend.accelerator_facts import ANY, FACTS
from parity.backend.base import Unsupported
from parity.backend.device import Memory
from parity.backend.installed import TorchBuild
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Step
from parity.case.dtype import DTYPES
from parity.case.op import OPS
from parity.case.tensor import HostTensor
from parity.errors import BackendError, UsageError
from parity.judge.verdict import Verdict
from parity.judge.witness import examine

FAKES = runpy.run_path(str(Path(__file__).parent / "fakes" / "accelerators.py"))
Accelerator = FAKES["Accelerator"]
SQUARE = HostTensor.of(np.arange(4, dtype=np.float32).reshape(2, 2), DTYPES["f32"])
MATMUL = Step(name="s", op="matmul", inputs=("a", "b"), outputs=("y",))
SILU = Step(name="s", op="silu", inputs=("a",), outputs=("y",))
LOGSUMEXP = Step(name="s", op="logsumexp", inputs=("a",), outputs=("y",), attrs={"dim": -1, "keepdim": False})


class OnHost(AcceleratorBackend):
    """The adapter as it is, its tensors on the host; what stands in `says` is warned of in each step."""

    says = ()

    def __init__(self, spec, setting):
        super().__init__(spec, setting)
        self.device_type = "cpu"

    def _run(self, step, inputs):
        for text in self.says:
            warnings.warn(text, stacklevel=1)
        return super()._run(step, inputs)


@pytest.fixture(autouse=True)
def _as_torch_starts():
    yield
    torch.set_warn_always(False)


def opened(text, setting=Setting.PRODUCTION):
    backend = OnHost(BackendSpec.parse(text), setting)
    backend.open()
    return backend


def ran(backend, step, *says):
    backend.says = says
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("default")
        backend.run(step, [backend.put(SQUARE) for _ in step.inputs])
    return backend.witness()


def verdict(backend, step):
    return examine(ran(backend, step), OPS[step.op], [DTYPES["f32"]])[0]


# The table.


def test_every_row_is_a_family_with_a_source_and_a_hint():
    for family, row in FACTS.items():
        assert family in registry.families()
        assert row.source.startswith("DEVICES.md 3.")
        assert row.hint


@pytest.mark.parametrize(
    "family, modes",
    [
        ("mps", ("eager", "compile")),
        ("musa", ("eager", "compile", "graph")),
        ("mlu", ("eager", "compile", "graph")),
        ("xla", ("eager", "lazy", "compile")),
        ("neuron", ("eager", "compile")),
        ("tpu", ("eager",)),
        ("accelerator", ("eager",)),
    ],
)
def test_a_family_has_the_modes_that_are_documented(family, modes):
    assert create(BackendSpec(family), Setting.STRICT).modes == modes


def test_a_mode_that_is_not_documented_is_refused():
    with pytest.raises(UsageError, match="tpu has no mode 'graph'; modes: eager"):
        create(BackendSpec.parse("tpu+graph"), Setting.STRICT)


@pytest.mark.parametrize(
    "family, strict",
    [
        ("mps", {"PYTORCH_MPS_FAST_MATH": "0", "PYTORCH_ENABLE_MPS_FALLBACK": "0"}),
        ("musa", {}),
        ("mlu", {"ENABLE_FALLBACK_TO_CPU": "0"}),
        ("neuron", {"NEURON_CC_FLAGS": "--auto-cast none", "NEURON_RT_STOCHASTIC_ROUNDING_EN": "0"}),
        ("accelerator", {}),
    ],
)
def test_strict_exports_what_the_table_says_and_production_nothing(family, strict):
    assert create(BackendSpec(family), Setting.STRICT).env() == strict
    assert create(BackendSpec(family), Setting.PRODUCTION).env() == {}


# Availability.


@pytest.fixture
def has(monkeypatch):
    """Pretend that these modules are installed, at a version or at none that pip recorded."""

    def install(**versions):
        monkeypatch.setattr(installed, "torch_build", lambda: TorchBuild(version="2.7.1"))
        monkeypatch.setattr(installed, "module", lambda name: Path(name) if name in versions else None)
        monkeypatch.setattr(installed, "distribution", versions.get)

    return install


def state(family, setting=Setting.STRICT):
    found = create(BackendSpec(family), setting).available()
    return found.ok, found.reason


def test_a_package_that_is_missing_is_named_with_what_to_do(has):
    has()
    found = create(BackendSpec("musa"), Setting.STRICT).available()
    assert (found.ok, found.reason) == (False, "torch_musa is not installed")
    assert found.hint == (
        "torch_musa comes with Moore Threads' own torch, from the vendor only: work in the vendor's "
        "image, and leave the torch in it alone"
    )


def test_a_package_that_is_here_says_that_no_device_was_asked(has):
    has(torch_musa="2.7.1", torch_mlu=None)
    assert state("musa") == (True, "torch_musa 2.7.1 is installed; no device was asked")
    assert state("mlu") == (True, "torch_mlu of unknown version is installed; no device was asked")


def test_no_torch_is_said_first(monkeypatch):
    monkeypatch.setattr(installed, "torch_build", lambda: None)
    assert {state(family) for family in (*FACTS, "accelerator")} == {(False, "torch is not installed")}


@pytest.mark.parametrize(
    "family, name",
    [
        ("musa", "TORCH_USE_MUSA_DOUBLE_CAST"),
        ("mlu", "ENABLE_MLU_FAIL_FALLBACK"),
        ("xla", "XLA_USE_BF16"),
        ("xla", "XLA_DOWNCAST_BF16"),
    ],
)
def test_a_variable_that_hides_what_is_computed_is_refused_under_strict(has, monkeypatch, family, name):
    has(torch_musa="2.7.1", torch_mlu="1.2", torch_xla="2.7.1")
    assert state(family)[0]
    monkeypatch.setenv(name, "0")
    found = create(BackendSpec(family), Setting.STRICT).available()
    assert (found.ok, found.reason) == (False, f"{name} is set and changes arithmetic silently")
    assert found.hint == f"unset {name}, or use --production"
    assert state(family, Setting.PRODUCTION)[0]


@pytest.mark.parametrize(
    "system, machine, found",
    [
        ("Darwin", "arm64", (True, "macOS 15.1 on arm64; no device was asked")),
        ("Darwin", "x86_64", (False, "this is Darwin on x86_64, not macOS on arm64")),
        ("Linux", "aarch64", (False, "this is Linux on aarch64, not macOS on arm64")),
    ],
)
def test_apple_s_gpus_are_on_apple_s_machines(has, monkeypatch, system, machine, found):
    has()
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    assert state("mps") == found


NOTHING_ELSE = (False, "no other package adds a device to torch")


@pytest.mark.parametrize(
    "points, found",
    [
        ([], NOTHING_ELSE),
        (["torch_npu:_autoload", "habana_frameworks.autoload:__autoload"], NOTHING_ELSE),
        (["torch_toy.load:me", "torch_musa:x"], (True, "torch_toy adds a device to torch; it was not asked")),
    ],
)
def test_a_device_of_another_package_is_found_by_its_entry_point(has, monkeypatch, points, found):
    has()
    known = {"torch.backends": [EntryPoint("device_backend", value, "torch.backends") for value in points]}
    monkeypatch.setattr(accelerator, "entry_points", lambda *, group: known[group])
    assert state("accelerator") == found


# Loading.


def test_a_package_that_cannot_be_imported_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_musa", None)
    with pytest.raises(BackendError) as error:
        opened("musa")
    assert str(error.value) == (
        "'musa' cannot be opened: torch_musa cannot be imported: import of torch_musa halted; None in "
        "sys.modules. torch_musa comes with Moore Threads' own torch, from the vendor only: work in the "
        "vendor's image, and leave the torch in it alone"
    )


def test_a_device_that_only_torch_knows_is_driven_by_what_torch_says(monkeypatch):
    fake = Accelerator("toy")
    monkeypatch.setattr(torch, "accelerator", fake, raising=False)
    backend = create(BackendSpec.parse("accelerator:2"), Setting.STRICT)
    backend.load()
    assert backend.device_type == "toy"
    backend.device = torch.device("cpu", 2)
    backend.select()
    backend.synchronize()
    assert fake.calls == ["device 2", "synchronize"]


def test_a_torch_before_2_6_is_asked_directly(monkeypatch):
    monkeypatch.delattr(torch, "accelerator", raising=False)
    monkeypatch.setattr(torch._C, "_get_accelerator", lambda: types.SimpleNamespace(type="toy"))
    backend = create(BackendSpec("accelerator"), Setting.STRICT)
    backend.load()
    assert backend.device_type == "toy"


def test_what_torch_was_built_for_is_no_device(monkeypatch):
    monkeypatch.setattr(torch, "accelerator", Accelerator(None), raising=False)
    with pytest.raises(BackendError) as error:
        create(BackendSpec("accelerator"), Setting.STRICT).load()
    assert str(error.value) == f"'accelerator' cannot be opened: torch knows no accelerator. {ANY.hint}"


@pytest.mark.parametrize("drives", ["another", None])
def test_a_device_that_nothing_can_wait_for_is_refused(monkeypatch, drives):
    FAKES["neuron"](monkeypatch)
    monkeypatch.setattr(torch, "accelerator", Accelerator(drives), raising=False)
    with pytest.raises(BackendError, match=r"neither torch.* nor torch.accelerator can wait for it"):
        opened("neuron").synchronize()


# Moore Threads: a switch for everything, no fallback.


def test_musa_says_what_it_is_and_what_it_has(monkeypatch):
    calls = []
    FAKES["musa"](monkeypatch, calls=calls)
    musa = opened("musa:1")
    found = musa.provenance()
    expected = {
        "flavour": "s4000",
        "device": "MTT S4000",
        "device_architecture": "(2, 2)",
        "version.musa": "3.1.0",
        "mudnn.version": "2800",
        "mudnn.allow_tf32": "True",
        "collective": "mccl",
        "memory": "400",
    }
    assert expected.items() <= found.items()
    assert musa.memory() == Memory(total=400, free=100, peak=250)
    musa.synchronize()
    assert calls == ["device 1", "synchronize"]


def test_musa_rounds_by_default_and_not_under_strict(monkeypatch):
    FAKES["musa"](monkeypatch, calls=[])
    assert verdict(opened("musa"), MATMUL) is Verdict.SUBSTITUTED
    assert opened("musa").profile().fact("inputs_rounded", op="conv2d", dtype=DTYPES["f32"]).value == "11"
    strict = opened("musa", Setting.STRICT)
    assert strict.switches() == {"mudnn.allow_tf32": "False"}
    assert verdict(strict, MATMUL) is Verdict.WITHIN
    assert strict.profile().declared == ()


def test_a_musa_without_the_switch_proves_no_float32_product(monkeypatch):
    FAKES["musa"](monkeypatch, calls=[], has_tf32_switch=False)
    strict = opened("musa", Setting.STRICT)
    assert strict.switches() == {"mudnn.allow_tf32": "unknown"}
    assert verdict(strict, MATMUL) is Verdict.UNJUDGED
    assert verdict(strict, SILU) is Verdict.WITHIN


def test_a_version_without_graphs_says_so(monkeypatch):
    FAKES["musa"](monkeypatch, calls=[])
    with pytest.raises(Unsupported, match="this version has no MUSAGraph"):
        ran(opened("musa+graph"), SILU)


# Cambricon: fallbacks warned of once for each operator.


def test_mlu_knows_what_fell_back_after_the_only_warning(monkeypatch):
    FAKES["mlu"](monkeypatch)
    mlu = opened("mlu")
    first = ran(mlu, SILU, FAKES["warned"]("aten::silu.out", "MLU"))
    later = ran(mlu, SILU)
    assert [node.kind for node in (*first.host, *later.host)] == ["aten::silu", "aten::silu"]
    assert ran(mlu, MATMUL).host == ()


def test_mlu_s_convolutions_round_by_default_and_its_products_are_unknown(monkeypatch):
    FAKES["mlu"](monkeypatch)
    mlu = opened("mlu")
    assert (mlu.reduced(), mlu.reduced_convolution()) == ("?", "tf32")
    assert mlu.identity()["declared.float64"] == "f32"
    assert mlu.arithmetic().float64 == "f32"


# Apple: one warning for each call, no float64.


def test_mps_says_what_fell_back(monkeypatch):
    FAKES["mps"](monkeypatch)
    mps = opened("mps")
    assert mps.flavour == "m2max"
    assert mps.identity()["mps.get_core_count"] == "38"
    assert mps.memory() == Memory(total=400)
    for _ in range(2):
        witness = ran(mps, SILU, FAKES["warned"]("aten::silu.out", "MPS"))
        assert [node.kind for node in witness.host] == ["aten::silu"]
    assert verdict(mps, MATMUL) is Verdict.WITHIN


def test_a_type_that_mps_refuses_is_unsupported(monkeypatch):
    FAKES["mps"](monkeypatch)
    mps = opened("mps")

    def refuse(*_):
        raise TypeError(FAKES["NO_FLOAT64"])

    monkeypatch.setattr(mps._eager, "put", refuse)
    with pytest.raises(Unsupported, match="Cannot convert a MPS Tensor to float64 dtype"):
        mps.put(SQUARE)
    monkeypatch.setattr(mps._eager, "run", lambda *_, **__: refuse())
    with pytest.raises(Unsupported, match="Cannot convert a MPS Tensor to float64 dtype"):
        mps.run(SILU, [None])


def test_another_type_error_is_a_failure(monkeypatch):
    FAKES["mps"](monkeypatch)
    mps = opened("mps")
    with pytest.raises(TypeError):
        mps.run(SILU, [])


# Devices that do not say what ran on the host.


def test_without_a_way_to_see_fallbacks_only_a_kernel_of_the_device_is_proof(monkeypatch):
    FAKES["neuron"](monkeypatch)
    neuron = opened("neuron", Setting.STRICT)
    assert neuron.flavour == "cpu"
    assert verdict(neuron, SILU) is Verdict.WITHIN
    # Torch composes it of others, and nobody saw where those ran.
    assert verdict(neuron, LOGSUMEXP) is Verdict.UNJUDGED


def test_that_musa_s_source_has_no_fallback_is_no_proof_of_a_release(monkeypatch):
    FAKES["musa"](monkeypatch, calls=[])
    musa = opened("musa", Setting.STRICT)
    assert verdict(musa, SILU) is Verdict.WITHIN
    assert verdict(musa, LOGSUMEXP) is Verdict.UNJUDGED


def test_neuron_s_products_are_unknown_unless_its_compiler_was_told(monkeypatch):
    FAKES["neuron"](monkeypatch)
    assert verdict(opened("neuron"), MATMUL) is Verdict.UNJUDGED
    assert verdict(opened("neuron", Setting.STRICT), MATMUL) is Verdict.WITHIN
