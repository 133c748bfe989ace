import runpy
from pathlib import Path

import numpy as np
import pytest

from parity.backend import installed
from parity.backend.device import Memory
from parity.backend.installed import TorchBuild
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.backend.xla import XlaBackend
from parity.case.case import Step
from parity.case.dtype import DTYPES
from parity.case.op import OPS
from parity.case.tensor import HostTensor
from parity.errors import BackendError
from parity.judge.verdict import Verdict
from parity.judge.witness import examine

Fake = runpy.run_path(str(Path(__file__).parent / "fakes" / "xla.py"))["Fake"]
SQUARE = HostTensor.of(np.arange(4, dtype=np.float32).reshape(2, 2), DTYPES["f32"])
MATMUL = Step(name="s", op="matmul", inputs=("a", "b"), outputs=("y",))
SILU = Step(name="s", op="silu", inputs=("a",), outputs=("y",))


class OnHost(XlaBackend):
    """The adapter as it is, its tensors on the host; `falls` is what a step's counters grow by."""

    falls = ()

    def __init__(self, spec, setting):
        super().__init__(spec, setting)
        self.device_type = "cpu"

    def _run(self, step, inputs):
        for counters, name in self.falls:
            counters[name] = counters.get(name, 0) + 1
        return super()._run(step, inputs)


def opened(text="xla", setting=Setting.PRODUCTION):
    backend = OnHost(BackendSpec.parse(text), setting)
    backend.open()
    return backend


def ran(xla, step):
    xla.run(step, [xla.put(SQUARE) for _ in step.inputs])
    return xla.witness()


def verdict(xla, step):
    return examine(ran(xla, step), OPS[step.op], [DTYPES["f32"]])[0]


@pytest.mark.parametrize(
    "torch_version, ok, reason",
    [
        ("2.9.0+cpu", True, "torch_xla 2.9.0 is installed; no device was asked"),
        ("2.13.0+cpu", False, "torch_xla 2.9.0 is not for torch 2.13.0+cpu"),
    ],
)
def test_torch_xla_must_be_of_torch_s_version(monkeypatch, torch_version, ok, reason):
    monkeypatch.setattr(installed, "torch_build", lambda: TorchBuild(version=torch_version))
    monkeypatch.setattr(installed, "module", Path)
    monkeypatch.setattr(installed, "distribution", lambda name: "2.9.0")
    state = create(BackendSpec("xla"), Setting.STRICT).available()
    assert (state.ok, state.reason) == (ok, reason)


@pytest.mark.parametrize("mode, calls", [("eager", ["eager True"]), ("lazy", [])])
def test_lazy_mode_is_the_default_of_torch_xla_and_eager_mode_is_asked_for(monkeypatch, mode, calls):
    fake = Fake().install(monkeypatch)
    opened(f"xla+{mode}")
    assert fake.calls == calls


def test_a_version_without_eager_mode_names_the_other(monkeypatch):
    Fake().install(monkeypatch, without=("eager_mode",))
    with pytest.raises(BackendError) as error:
        opened("xla")
    assert str(error.value) == ("'xla' cannot be opened: this torch_xla has no eager mode. Write 'xla+lazy'")
    opened("xla+lazy")


def test_what_it_is_and_how_it_multiplies_is_in_the_provenance(monkeypatch):
    Fake().install(monkeypatch)
    found = opened().provenance()
    expected = {
        "flavour": "tpu",
        "device": "TPU",
        "attributes": "{'core_on_chip': 0}",
        "xla.mat_mul_precision": "default",
        "memory": "400",
    }
    assert expected.items() <= found.items()


@pytest.mark.parametrize(
    "setting, precision, reads",
    [
        (Setting.PRODUCTION, "default", "bf16"),
        (Setting.PRODUCTION, "high", "bf16x2"),
        (Setting.STRICT, "default", "bf16x3"),
    ],
)
def test_a_tpu_multiplies_float32_by_passes_and_says_how_many(monkeypatch, setting, precision, reads):
    fake = Fake()
    fake.precision = precision
    fake.install(monkeypatch)
    xla = opened(setting=setting)
    assert xla.reduced() == reads
    assert verdict(xla, MATMUL) is Verdict.SUBSTITUTED
    assert verdict(xla, SILU) is Verdict.WITHIN


@pytest.mark.parametrize("setting, reads", [(Setting.PRODUCTION, "bf16"), (Setting.STRICT, "?")])
def test_a_precision_that_cannot_be_read_is_the_default_only_where_nobody_set_it(monkeypatch, setting, reads):
    Fake().install(monkeypatch, without=("get_mat_mul_precision",))
    assert opened(setting=setting).reduced() == reads


@pytest.mark.parametrize(
    "hardware, setting, reads",
    [
        ("NEURON", Setting.STRICT, None),
        ("NEURON", Setting.PRODUCTION, "?"),
        ("CPU", Setting.STRICT, "?"),
    ],
)
def test_other_hardware_is_known_as_far_as_it_is_documented(monkeypatch, hardware, setting, reads):
    Fake(hardware=hardware).install(monkeypatch)
    assert opened(setting=setting).reduced() == reads


def test_a_counter_that_grew_names_what_ran_on_the_host(monkeypatch):
    fake = Fake().install(monkeypatch)
    xla = opened()
    xla.falls = [(fake.counters, "aten::nonzero"), (fake.counters, "aten::_local_scalar_dense")]
    assert [node.kind for node in ran(xla, SILU).host] == ["aten::nonzero"]
    xla.falls = ()
    assert ran(xla, SILU).host == ()


def test_a_version_that_counts_nothing_proves_nothing(monkeypatch):
    Fake().install(monkeypatch, without=("counter_names",))
    assert verdict(opened(), SILU) is Verdict.UNJUDGED


@pytest.mark.parametrize(
    "without, calls", [((), ["sync True", "wait"]), (("sync",), ["mark_step True", "wait"])]
)
def test_waiting_runs_what_was_collected(monkeypatch, without, calls):
    fake = Fake().install(monkeypatch, without=without)
    opened("xla+lazy").synchronize()
    assert fake.calls == calls


def test_a_lazy_step_is_compiled_when_it_is_waited_for(monkeypatch):
    Fake().install(monkeypatch)
    xla, seen = opened("xla+lazy"), []
    xla.on_phase = seen.append
    ran(xla, SILU)
    assert seen == ["compile", "run"]
    assert xla.recompiles() == 4


@pytest.mark.parametrize(
    "without, memory", [((), Memory(total=400, free=100)), (("get_memory_info",), Memory())]
)
def test_memory_is_what_pjrt_says(monkeypatch, without, memory):
    Fake().install(monkeypatch, without=without)
    assert opened().memory() == memory


def test_an_old_version_without_metrics_counts_no_graphs(monkeypatch):
    Fake().install(monkeypatch, without=("metric_data",))
    assert opened().recompiles() is None
