import contextlib
import os
import sys

import numpy as np
import pytest
import torch

from parity.backend.base import Availability, Node, Unsupported
from parity.backend.device import Memory, TorchDevice
from parity.backend.host_fallback import FallbackWarning, Repeat
from parity.backend.profile import Accumulator, Profile
from parity.backend.spec import BackendSpec, Setting
from parity.backend.switch import Switch
from parity.case.case import Step
from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor
from parity.errors import BackendError, UsageError

SQUARE = HostTensor.of(np.arange(4, dtype=np.float32).reshape(2, 2), DTYPES["f32"])
MATMUL = Step(name="s", op="matmul", inputs=("a", "b"), outputs=("y",))
SILU = Step(name="s", op="silu", inputs=("a",), outputs=("y",))


class HostDevice(TorchDevice):
    """A torch device that is the host, so that the shared body runs for real."""

    family = "host"
    device_type = "cpu"
    modes = ("eager", "compile", "graph")

    def available(self):
        return Availability(ok=True, reason="the host is always here")

    def name(self):
        return "toy"

    def profile(self):
        return Profile(accumulator=Accumulator(dtype=DTYPES["f32"]))

    def synchronize(self):
        pass

    def compiler(self):
        return "aot_eager"


@pytest.fixture(autouse=True)
def _warnings_as_before():
    yield
    torch.set_warn_always(False)


def device(text="host", setting=Setting.PRODUCTION, cls=HostDevice):
    return cls(BackendSpec.parse(text), setting)


def opened(*args, **kwargs):
    backend = device(*args, **kwargs)
    backend.open()
    return backend


def product(backend):
    handles = [backend.put(SQUARE), backend.put(SQUARE)]
    (result,) = backend.run(MATMUL, handles)
    return backend.get(result).array().tolist()


def shown(nodes):
    return [(node.kind, node.device, node.precision) for node in nodes]


# Modes.


def test_eager_names_the_operators_that_ran():
    backend = opened()
    assert product(backend) == [[2.0, 3.0], [6.0, 11.0]]
    assert shown(backend.witness().executed) == [("aten::mm", "cpu", "f32")]
    assert backend.recompiles() is None


def test_compile_names_what_the_compiler_was_handed_and_counts_graphs():
    backend = opened("host+compile")
    assert backend.recompiles() == 0
    assert product(backend) == [[2.0, 3.0], [6.0, 11.0]]
    assert shown(backend.witness().executed) == [("aot_eager:matmul", "cpu", "f32")]
    assert backend.recompiles() == 1


def test_graph_replays_what_was_captured():
    calls = []

    class Captures(HostDevice):
        def capture(self, function, inputs):
            outputs = function(*inputs)
            return lambda: calls.append("replay") or outputs

    backend = opened("host+graph", cls=Captures)
    assert product(backend) == [[2.0, 3.0], [6.0, 11.0]]
    assert shown(backend.witness().executed) == [("aten::mm", "cpu", "f32")]
    assert calls == ["replay"]


def test_a_device_without_graphs_says_so():
    with pytest.raises(Unsupported) as error:
        product(opened("host+graph"))
    assert str(error.value) == "host has no device graph in this version"


@pytest.mark.parametrize("mode, phases", [("eager", []), ("compile", ["compile", "run"])])
def test_compiling_is_a_phase_of_its_own(mode, phases):
    backend, seen = opened(f"host+{mode}"), []
    backend.on_phase = seen.append
    product(backend)
    assert seen == phases


def test_an_unknown_mode_names_the_near_one():
    with pytest.raises(UsageError, match="host has no mode 'grpah'; did you mean 'graph'"):
        device("host+grpah")


# Opening.


def test_the_device_is_the_one_that_was_named():
    seen = []

    class Selects(HostDevice):
        def select(self):
            seen.append(self.device)

    opened("host:3", cls=Selects)
    opened("host", cls=Selects)
    assert seen == [torch.device("cpu", 3), torch.device("cpu", 0)]


def test_a_device_that_does_not_answer_cannot_be_used():
    class Absent(HostDevice):
        device_type = "cuda"

        def select(self):
            raise RuntimeError("CUDA error: invalid device ordinal")

    with pytest.raises(BackendError) as error:
        opened("host:9", cls=Absent)
    assert str(error.value) == "'host:9' cannot be used: CUDA error: invalid device ordinal"


def test_the_flavour_of_another_chip_is_refused():
    assert opened("host/toy").flavour == "toy"
    with pytest.raises(BackendError, match="'host/h200' was asked for, but this machine is host/toy"):
        opened("host/h200")


class Musa(HostDevice):
    device_type = "musa"

    def load(self):
        raise BackendError("the vendor came first")


class Npu(Musa):
    device_type = "npu"
    refuses_other_builds = True


def torch_drives(monkeypatch, kind, *, here):
    monkeypatch.setattr(torch._C, "_get_accelerator", lambda: torch.device(kind), raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here)


def test_a_second_accelerator_in_one_process_is_refused_before_its_vendor_does(monkeypatch):
    torch_drives(monkeypatch, "cuda", here=True)
    with pytest.raises(BackendError) as error:
        opened("host", cls=Musa)
    assert str(error.value) == (
        f"'host' cannot be opened: torch {torch.__version__} here drives cuda, and one process has one "
        "accelerator. Use an environment whose torch is for musa, or write 'cuda'"
    )


@pytest.mark.parametrize("cls, kind", [(Musa, "cuda"), (Musa, "musa"), (Npu, "npu"), (Npu, "cpu")])
def test_an_accelerator_that_is_built_in_but_not_here_is_no_second_one(monkeypatch, cls, kind):
    torch_drives(monkeypatch, "cpu", here=False)
    monkeypatch.setattr(torch._C, "_get_accelerator", lambda: _Kind(kind))
    with pytest.raises(BackendError, match="the vendor came first"):
        opened("host", cls=cls)


class _Kind:
    def __init__(self, kind):
        self.type = kind


def test_a_vendor_that_loads_into_no_other_build_is_refused_there(monkeypatch):
    torch_drives(monkeypatch, "cuda", here=False)
    with pytest.raises(BackendError, match="here drives cuda, and one process has one accelerator"):
        opened("host", cls=Npu)


def test_a_plugin_that_breaks_torch_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError) as error:
        opened()
    assert str(error.value) == (
        "'host' cannot be opened: torch cannot be imported: import of torch halted; None in sys.modules. "
        "Repair or uninstall the package that it names, or set TORCH_DEVICE_BACKEND_AUTOLOAD=0"
    )


# Switches.


class Switched(HostDevice):
    switch_table = (
        Switch(path="backends.cudnn.benchmark", exact=(False,), source="a test"),
        Switch(path="backends.cudnn.rnn.fp32_precision", exact=("octuple",), source="a test"),
        Switch(path="backends.warp.drive", exact=(False,), source="a test"),
    )


@pytest.fixture
def benchmark_on():
    torch.backends.cudnn.benchmark = True
    yield
    torch.backends.cudnn.benchmark = False


@pytest.mark.usefixtures("benchmark_on")
def test_strict_pins_the_table_and_says_what_refused():
    found = opened(setting=Setting.STRICT, cls=Switched).provenance()
    assert found["cudnn.benchmark"] == "False"
    assert found["warp.drive"] == "unknown"
    assert found["deterministic"] == "True"
    if hasattr(torch.backends, "fp32_precision"):  # since torch 2.9
        assert found["cudnn.rnn.fp32_precision"].endswith(" (not pinned: Unknown precision: octuple)")


@pytest.mark.usefixtures("benchmark_on")
def test_production_pins_nothing():
    found = opened(cls=Switched).provenance()
    assert found["cudnn.benchmark"] == "True"
    assert found["deterministic"] == "False"


def test_an_operator_without_a_deterministic_kernel_still_runs_under_strict():
    opened(setting=Setting.STRICT)
    assert torch.is_deterministic_algorithms_warn_only_enabled()


# Provenance.


def test_provenance_says_what_is_known_and_that_the_rest_is_not(monkeypatch):
    class Told(HostDevice):
        numeric_env = ("TOY_MATH", "TOY_UNSET")
        collective = "tccl"

        def identity(self):
            return {"driver": "1.2"}

        def memory(self):
            return Memory(total=4096)

    monkeypatch.setenv("TOY_MATH", "fast")
    found = opened(cls=Told).provenance()
    assert found["flavour"] == "toy"
    assert found["driver"] == "1.2"
    assert (found["memory"], found["collective"]) == ("4096", "tccl")
    assert (found["dtype.f64"], found["dtype.bf16"]) == ("native", "native")
    assert found["env.TOY_MATH"] == "fast"
    assert "env.TOY_UNSET" not in found
    assert opened().provenance()["memory"] == "unknown"


def test_a_type_that_put_cannot_hold_is_unsupported():
    class Narrow(HostDevice):
        def open(self):
            super().open()
            self._eager = _Refuses()

    class _Refuses:
        def put(self, tensor):
            raise RuntimeError("Required aspect fp64 is not supported on the device")

    with pytest.raises(Unsupported, match="fp64 is not supported on the device"):
        opened(cls=Narrow).put(SQUARE)


# Evidence.


class Rounds(HostDevice):
    def reduced(self):
        return "tf32"

    def reduced_convolution(self):
        return None


@pytest.mark.parametrize("mode", ["eager", "compile"])
def test_a_permitted_rounding_of_products_is_in_the_evidence(mode):
    backend = opened(f"host+{mode}", cls=Rounds)
    product(backend)
    assert [node.precision for node in backend.witness().executed] == ["tf32"]
    backend.run(SILU, [backend.put(SQUARE)])
    assert [node.precision for node in backend.witness().executed] == ["f32"]


class Warns(HostDevice):
    fallback_warning = FallbackWarning(
        pattern=r"CAUTION: '(?P<op>[\w:.]+)'", repeat=Repeat.ONCE_PER_OP, source="a test"
    )
    says = ()

    def _run(self, step, inputs):
        for op in self.says:
            os.write(2, f"CAUTION: '{op}'\n".encode())
        return super()._run(step, inputs)


def test_a_warned_fallback_is_evidence_of_this_step_and_of_later_ones():
    backend = opened(cls=Warns)
    backend.says = ("aten::silu.out",)
    backend.run(SILU, [backend.put(SQUARE)])
    assert shown(backend.witness().host) == [("aten::silu", "cpu", "f32")]
    backend.says = ()
    product(backend)
    assert backend.witness().host == ()
    backend.run(SILU, [backend.put(SQUARE)])
    assert shown(backend.witness().host) == [("aten::silu", "cpu", "f32")]


def test_what_falls_back_while_types_are_asked_is_remembered(monkeypatch):
    backend = opened(cls=Warns)

    def asked(_device, **_how):
        os.write(2, b"CAUTION: 'aten::silu'\n")
        return {}

    monkeypatch.setattr("parity.backend.torch_dtypes.dtypes", asked)
    backend.provenance()
    backend.run(SILU, [backend.put(SQUARE)])
    assert shown(backend.witness().host) == [("aten::silu", "cpu", "f32")]


def test_torch_is_told_to_repeat_what_it_would_warn_of_once():
    def warned():
        # Torch says this through TORCH_WARN_ONCE.
        with pytest.warns(UserWarning, match="non-contiguous"):
            torch.searchsorted(torch.arange(6.0).reshape(2, 3), torch.ones(3, 2).t())

    opened(cls=Warns)
    warned()
    warned()


def test_what_a_watcher_counts_ran_on_the_host():
    class Counts(HostDevice):
        @contextlib.contextmanager
        def watch(self):
            found = []
            yield found
            found += [Node(kind="aten::digamma", device="cpu", precision="?")]

    backend = opened(cls=Counts)
    product(backend)
    assert [node.kind for node in backend.witness().executed] == ["aten::mm"]
    assert [node.kind for node in backend.witness().host] == ["aten::digamma"]
