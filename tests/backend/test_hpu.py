"""Gaudi, against fakes of the vendor's modules.

Longer than a file should be: its flags and what each release lacks are tables that are tested row by row.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.backends import registry as compilers

from parity.backend import hpu_host, installed
from parity.backend.base import Availability, Node, Unsupported, Witness
from parity.backend.hpu import HpuBackend
from parity.backend.hpu_flags import release_of, standing
from parity.backend.hpu_plugin import fallbacks, patched, refusal
from parity.backend.hpu_profile import hpu_arithmetic, hpu_profile
from parity.backend.installed import TorchBuild
from parity.backend.profile import Rounding
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Step
from parity.case.dtype import dtype
from parity.case.op import OPS
from parity.case.tensor import HostTensor
from parity.errors import BackendError, UsageError
from parity.judge.verdict import Verdict
from parity.judge.witness import examine
from parity.run.environment import child_environ

FAKES = runpy.run_path(str(Path(__file__).parent / "fakes" / "habana.py"))
Fake, Narrow, HL_SMI = FAKES["Fake"], FAKES["Narrow"], FAKES["HL_SMI"]
IMAGE = "use the vendor's Gaudi image or install script, and never let pip replace its torch"
STRICT = {
    "PT_HPU_PLACE_ON_CPU": "none",
    "PT_HPU_FORCE_TANH_FOR_GELU": "0",
    "PT_HPU_ENABLE_DIV_PRECISE": "1",
    "PT_HPU_METRICS_GC_DETAILS": "1",
    "PT_COMPILE_ONLY_MODE": "0",
    "HABANA_PROFILE": "0",
}
IEEE = {"GAUDI2_FORCE_MME_FP32_IEEE": "1", "ENABLE_EXPERIMENTAL_FLAGS": "true"}
F32 = HostTensor.of(np.array([0.5, -1.0, 2.0], dtype=np.float32), dtype("f32"))
TANH_OF_F32 = torch.tanh(torch.tensor([0.5, -1.0, 2.0])).tolist()
TANH = Step(name="s", op="tanh", inputs=("x",), outputs=("y",))


def backend(text="hpu", setting=Setting.STRICT):
    return create(BackendSpec.parse(text), setting)


def codes(values, name="e4m3_gaudi2"):
    return HostTensor.of(np.array(values, dtype=np.uint8), dtype(name))


def verdict_of(witness, op="tanh", dtypes=("f32",)):
    return examine(witness, OPS[op], [dtype(name) for name in dtypes])[0]


@pytest.fixture
def started(monkeypatch):
    """Open a backend over a fake plugin, on torch's CPU device, in the environment that it asks for."""
    monkeypatch.setattr(HpuBackend, "device_type", "cpu")
    monkeypatch.setattr(hpu_host, "hl_smi", lambda: hpu_host.parse_hl_smi(HL_SMI))
    monkeypatch.setattr(installed, "distribution", lambda name: "1.19.0.561")
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    for name in [name for name in os.environ if name.startswith(("PT_", "HABANA_", "HLS_", "GAUDI2_"))]:
        monkeypatch.delenv(name)

    def start(text="hpu", setting=Setting.STRICT, fake=None):
        fake = (fake or Fake()).install(monkeypatch)
        it = backend(text, setting)
        for name, value in it.env().items():
            monkeypatch.setenv(name, value)
        it.open()
        fake.calls.clear()
        return it, fake

    return start


# What the launcher asks.


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A host where everything is there; each test takes something away."""
    (tmp_path / "accel").mkdir()
    (tmp_path / "accel" / "accel0").touch()
    monkeypatch.setattr(hpu_host, "DEV", tmp_path)
    monkeypatch.setattr(installed, "module", lambda name: tmp_path if name == "habana_frameworks" else None)
    monkeypatch.setattr(installed, "distribution", lambda name: "1.24.1.12")
    monkeypatch.setattr(installed, "torch_build", lambda: TorchBuild(version="2.11.0a0+gitabc"))
    return monkeypatch


def test_a_host_with_plugin_torch_and_device_is_available(host):
    assert backend().available() == Availability(
        ok=True, reason="habana_frameworks is installed, 1 device nodes"
    )


def test_a_host_without_the_plugin_names_the_vendors_image(host):
    host.setattr(installed, "module", lambda name: None)
    assert backend().available() == Availability(
        ok=False, reason="habana_frameworks is not installed", hint=IMAGE
    )


def test_a_folder_that_pip_did_not_install_is_not_the_plugin(host):
    host.setattr(installed, "distribution", lambda name: None)
    assert backend().available().reason == (
        "habana_frameworks is there, but the distribution habana-torch-plugin is not"
    )


@pytest.mark.parametrize(
    "build, text, reason",
    [
        (None, "hpu", "torch is not installed"),
        (
            TorchBuild(version="2.13.0"),
            "hpu",
            "torch 2.13.0 has no local version, which the plugin reads: it was replaced",
        ),
        (
            TorchBuild(version="2.13.0+cpu"),
            "hpu+lazy",
            "lazy mode needs the vendor's torch (local version git…), and this is torch 2.13.0+cpu",
        ),
        (
            TorchBuild(version="2.13.0+cpu"),
            "hpu+graph",
            "lazy mode needs the vendor's torch (local version git…), and this is torch 2.13.0+cpu",
        ),
    ],
)
def test_a_torch_that_the_plugin_refuses_is_said_without_importing_it(host, build, text, reason):
    host.setattr(installed, "torch_build", lambda: build)
    assert backend(text).available() == Availability(ok=False, reason=reason, hint=IMAGE)


def test_a_public_torch_with_a_local_version_is_no_obstacle_to_eager_mode(host):
    host.setattr(installed, "torch_build", lambda: TorchBuild(version="2.13.0+cpu"))
    assert backend().available().ok


def test_a_host_without_device_nodes_is_said_to_lack_the_driver(host, tmp_path):
    (tmp_path / "accel" / "accel0").unlink()
    assert backend().available() == Availability(
        ok=False,
        reason="habana_frameworks is installed, but there is no /dev/accel/accel* and no /dev/hl*",
        hint="load the habanalabs driver, or start the container with the habana runtime",
    )
    (tmp_path / "hl0").touch()
    assert backend().available().ok


def test_looking_for_a_gaudi_imports_neither_torch_nor_the_plugin():
    script = (
        "import sys\n"
        "from parity.backend.registry import create\n"
        "from parity.backend.spec import BackendSpec, Setting\n"
        "b = create(BackendSpec('hpu'), Setting.STRICT)\n"
        "b.available(), b.env()\n"
        "print([n for n in ('torch', 'habana_frameworks') if n in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize(
    "text, setting, expected",
    [
        ("hpu", "strict", {"PT_HPU_LAZY_MODE": "0", "PT_ENABLE_INT64_SUPPORT": "1", **STRICT, **IEEE}),
        ("hpu/gaudi3", "strict", {"PT_HPU_LAZY_MODE": "0", "PT_ENABLE_INT64_SUPPORT": "1", **STRICT}),
        ("hpu/gaudi2+lazy", "strict", {"PT_HPU_LAZY_MODE": "1", **STRICT, **IEEE}),
        ("hpu/gaudi3+graph", "strict", {"PT_HPU_LAZY_MODE": "1", **STRICT}),
        (
            "hpu/gaudi3+compile",
            "strict",
            {
                "PT_HPU_LAZY_MODE": "0",
                "PT_HPU_USE_EAGER_FALLBACK": "0",
                "PT_ENABLE_INT64_SUPPORT": "1",
                **STRICT,
            },
        ),
        ("hpu", "production", {"PT_HPU_LAZY_MODE": "0"}),
        ("hpu+lazy", "production", {"PT_HPU_LAZY_MODE": "1"}),
        ("hpu+graph", "production", {"PT_HPU_LAZY_MODE": "1"}),
        ("hpu+compile", "production", {"PT_HPU_LAZY_MODE": "0", "PT_HPU_USE_EAGER_FALLBACK": "0"}),
        (
            "hpu:3",
            "production",
            {"PT_HPU_LAZY_MODE": "0", "HABANA_VISIBLE_MODULES": "3", "HLS_MODULE_ID": "3"},
        ),
    ],
)
def test_a_childs_python_starts_with_the_variables_of_its_mode_and_setting(
    monkeypatch, text, setting, expected
):
    for name in [n for n in os.environ if n.startswith(("PT_", "HABANA_", "HLS_", "GAUDI2_", "ENABLE_"))]:
        monkeypatch.delenv(name)
    variables = backend(text, Setting(setting)).env()
    script = "import os\nfor n in sorted(os.environ): print(n, os.environ[n])"
    ran = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env=child_environ(variables),
        capture_output=True,
        text=True,
        check=True,
    )
    seen = dict(line.split(" ", 1) for line in ran.stdout.splitlines() if " " in line)
    ours = ("PT_", "HABANA_", "HLS_", "GAUDI2_", "ENABLE_")
    assert {name: value for name, value in seen.items() if name.startswith(ours)} == expected


def test_an_index_counts_the_modules_that_the_environment_shows(monkeypatch):
    monkeypatch.setenv("HABANA_VISIBLE_MODULES", "4,6")
    assert backend("hpu:1").env()["HABANA_VISIBLE_MODULES"] == "6"
    with pytest.raises(BackendError) as error:
        backend("hpu:2").env()
    assert str(error.value) == (
        "'hpu:2' is not visible: HABANA_VISIBLE_MODULES=4,6 shows 2 of the modules. Ask for an index "
        "below 2, or unset the variable"
    )


def test_an_unknown_mode_names_the_near_one():
    with pytest.raises(UsageError) as error:
        backend("hpu+lasy")
    assert str(error.value) == (
        "'hpu+lasy': hpu has no mode 'lasy'; did you mean 'lazy'?; modes: eager, lazy, compile, graph"
    )


# Opening.


@pytest.mark.parametrize(
    "raised, version, text, words",
    [
        (
            AttributeError("'NoneType' object has no attribute 'startswith'"),
            "2.13.0",
            "hpu",
            "the Gaudi plugin refuses this torch: torch 2.13.0 has no local version, which the plugin reads: "
            "it was replaced (AttributeError: 'NoneType' object has no attribute 'startswith'). " + IMAGE,
        ),
        (
            AssertionError(),
            "2.13.0+cpu",
            "hpu+lazy",
            "the Gaudi plugin refuses this torch: lazy mode needs the vendor's torch (local version git…), "
            "and this is torch 2.13.0+cpu (AssertionError). " + IMAGE,
        ),
        (
            AssertionError("built for 2.11"),
            "2.13.0+cpu",
            "hpu",
            "the Gaudi plugin refuses this torch: the plugin was built for another torch than 2.13.0+cpu "
            "(AssertionError: built for 2.11). " + IMAGE,
        ),
        (
            ImportError("libSynapse.so: not found\nmore"),
            "2.11.0a0+gitabc",
            "hpu",
            "the Gaudi plugin cannot be loaded with torch 2.11.0a0+gitabc: ImportError: libSynapse.so: "
            "not found. " + IMAGE,
        ),
    ],
)
def test_each_way_in_which_the_plugin_fails_to_load_is_worded(
    started, monkeypatch, raised, version, text, words
):
    class Failing:
        def find_spec(self, name, path=None, target=None):
            if name == "habana_frameworks":
                raise raised

    monkeypatch.setattr(sys, "meta_path", [Failing(), *sys.meta_path])
    monkeypatch.setattr(torch, "__version__", version)
    it = backend(text)
    monkeypatch.setenv("PT_HPU_LAZY_MODE", it.env()["PT_HPU_LAZY_MODE"])
    with pytest.raises(BackendError) as error:
        it.load()
    assert str(error.value) == words


def test_a_plugin_that_registers_no_device_cannot_be_used(started, monkeypatch):
    fake = Fake()
    fake.install(monkeypatch)
    monkeypatch.delattr(torch, "hpu")
    monkeypatch.setenv("PT_HPU_LAZY_MODE", "0")
    with pytest.raises(BackendError, match=r"^habana_frameworks.torch was imported and torch has no module"):
        backend().open()


def test_a_device_that_another_process_holds_is_said_to_be_missing(started):
    fake = Fake()
    fake.hpu.is_available = lambda: False
    with pytest.raises(BackendError) as error:
        started(fake=fake)
    assert str(error.value) == (
        "'hpu': the plugin sees no device. hl-smi lists them; one that another process holds is not available"
    )


@pytest.mark.parametrize(
    "name, value, words",
    [
        (
            "PT_HPU_LAZY_MODE",
            "0",
            (
                "'hpu+lazy' needs PT_HPU_LAZY_MODE=1 before Python starts, and it is 0. Start it through "
                "`parity`, or export the variable"
            ),
        ),
        (
            "PT_COMPILE_ONLY_MODE",
            "true",
            (
                "PT_COMPILE_ONLY_MODE is set: graphs are compiled and not run, so every result would be "
                "garbage. Unset it"
            ),
        ),
    ],
)
def test_an_environment_that_would_give_other_or_no_results_is_refused(
    started, monkeypatch, name, value, words
):
    monkeypatch.setenv("PT_HPU_LAZY_MODE", "1")
    monkeypatch.setenv(name, value)
    with pytest.raises(BackendError) as error:
        backend("hpu+lazy").open()
    assert str(error.value) == words


@pytest.mark.parametrize(
    "device, flavour", [("GAUDI", "gaudi"), ("GAUDI2", "gaudi2"), ("GAUDI3", "gaudi3"), ("HL 9!", "hl-9-")]
)
def test_the_flavour_is_the_devices_name(started, device, flavour):
    it, _ = started(fake=Fake(device=device))
    assert it.flavour == flavour


def test_another_generation_than_asked_is_refused(started):
    with pytest.raises(BackendError, match=r"^'hpu/gaudi2' was asked for, but this machine is hpu/gaudi3"):
        started("hpu/gaudi2")


def test_whatever_the_index_the_process_sees_one_device(started):
    it, _ = started("hpu:5")
    assert (it.device.index, os.environ["HLS_MODULE_ID"]) == (0, "5")


# Provenance.


def test_the_tools_table_is_read(monkeypatch):
    expected = {"hl_smi": "hl-1.17.0-fw-51.1.0", "driver": "1.17.0-8a5dfb8", "firmware": "51.1.0"}
    assert hpu_host.parse_hl_smi(HL_SMI) == expected
    nothing = {"hl_smi": "unknown", "driver": "unknown", "firmware": "unknown"}
    assert hpu_host.parse_hl_smi("hl-smi: no device") == nothing


def test_the_tool_is_told_to_print_to_the_console(monkeypatch, tmp_path):
    tool = tmp_path / "hl-smi"
    tool.write_text('#!/bin/sh\necho "| Driver Version: console-$ENABLE_CONSOLE |"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hpu_host.hl_smi()["driver"] == "console-true"
    tool.unlink()
    assert hpu_host.hl_smi()["driver"] == "unknown"


def test_provenance_names_device_plugin_driver_and_the_dtypes_by_value(started):
    it, _ = started()
    found = it.provenance()
    assert {name: found[name] for name in ("flavour", "device", "capability", "devices", "fp16")} == {
        "flavour": "gaudi3",
        "device": "GAUDI3",
        "capability": "1.24.1",
        "devices": "8",
        "fp16": "True",
    }
    assert (found["plugin"], found["driver"], found["firmware"]) == ("1.19.0.561", "1.17.0-8a5dfb8", "51.1.0")
    assert (found["patched"], found["collective"], found["memory"]) == ("none", "hccl", "1000")
    assert (found["dtype.i64"], found["dtype.f64"], found["fp8.e4m3"]) == ("native", "native", "e4m3fn")
    assert found["fill_uninitialized_memory"] == "False"
    assert found["env.PT_HPU_PLACE_ON_CPU"] == "none"


def test_what_an_old_plugin_does_not_have_is_unknown(started):
    fake = Fake()
    for name in ("get_device_name", "get_device_capability", "device_count", "is_available", "memory_stats"):
        delattr(fake.hpu, name)
    del fake.experimental._is_fp16_supported
    it, _ = started(fake=fake)
    found = it.provenance()
    absent = ("flavour", "device", "capability", "devices", "fp16", "memory")
    assert {name: found[name] for name in absent} == dict.fromkeys(absent, "unknown")
    del fake.metrics.metric_global
    assert it.recompiles() is None
    memory = it.memory()
    assert (memory.total, memory.free, memory.peak) == (None, None, None)


def test_what_a_plugin_refuses_to_say_is_unknown(started):
    def refuse(*arguments):
        raise RuntimeError("synStatus 26")

    fake = Fake()
    for name in ("get_device_name", "get_device_capability", "memory_stats", "device_count"):
        setattr(fake.hpu, name, refuse)
    it, _ = started(fake=fake)
    found = it.provenance()
    assert [found[n] for n in ("flavour", "device", "capability", "devices", "memory")] == ["unknown"] * 5


def test_narrowed_integers_floats_and_codes_are_found_by_value(started):
    it, _ = started("hpu+lazy", fake=Fake(device="GAUDI2"))
    with Narrow():
        found = it.provenance()
    assert found["dtype.i64"] == "changed: 9223372036854775806, 9223372036854775807 became -2, -1"
    assert found["dtype.f64"].startswith("changed: 1.0000000000000002, 1.79769")
    assert found["dtype.i32"] == "native"
    assert found["fp8.e4m3"] == "e4m3_gaudi2"
    assert (found["dtype.e4m3_gaudi2"], found["dtype.e4m3fn"]) == ("native", "changed: 256.0 became inf")


def test_codes_that_the_host_read_say_nothing_of_the_chip(started):
    it, fake = started()
    fake.fallen = {"aten::_to_copy": 1}
    assert it.provenance()["fp8.e4m3"] == "unknown: read on the host"


def test_functions_that_another_library_replaced_are_named(monkeypatch):
    def gather(*arguments):
        raise AssertionError

    gather.__module__ = "transformers.utils.import_utils"
    monkeypatch.setattr(torch, "gather", gather)
    assert patched(torch) == "torch.gather by transformers.utils.import_utils"


@pytest.mark.parametrize(
    "plugin, mode, flavour, gelu, int64, lazy",
    [
        ("1.19.0.561", "eager", "gaudi2", "unset [true]", "unset [true]", "unset [1]"),
        ("1.19.0.561", "eager", "gaudi", "unset [true]", "unset [false]", "unset [1]"),
        ("1.18.0.1", "lazy", "gaudi2", "unset [true]", "unset [false]", "unset [1]"),
        (
            "1.24.1.12",
            "eager",
            "gaudi3",
            "unset [unknown; true in 1.19]",
            "unset [unknown; true in 1.19]",
            "unset [unknown; 1 in 1.19]",
        ),
        (None, "eager", "gaudi3", "unset [unknown]", "unset [unknown]", "unset [unknown]"),
    ],
)
def test_an_unset_flag_shows_the_default_that_is_known_of_the_release(
    plugin, mode, flavour, gelu, int64, lazy
):
    flags = standing({}, mode=mode, flavour=flavour, release=release_of(plugin))
    assert flags["PT_HPU_FORCE_TANH_FOR_GELU"] == gelu
    assert flags["PT_ENABLE_INT64_SUPPORT"] == int64
    assert flags["PT_HPU_LAZY_MODE"] == lazy
    assert flags["PT_HPU_SDPA_BC_FACTOR"] == "unset [unknown]"
    assert flags["PT_HPU_WEIGHT_SHARING"] == ("unset [1]" if mode == "lazy" else "unset [unknown]")


def test_a_flag_that_is_set_shows_its_value():
    flags = standing({"PT_HPU_FORCE_TANH_FOR_GELU": "0"}, mode="eager", flavour="gaudi3", release=(1, 19))
    assert flags["PT_HPU_FORCE_TANH_FOR_GELU"] == "0"


# What ran where.


def test_a_step_runs_and_is_waited_for_before_the_metric_stops(started):
    it, fake = started()
    outputs = it.run(TANH, [it.put(F32)])
    assert fake.calls == ["metric starts", "synchronize", "metric stops"]
    assert it.get(outputs[0]).array().tolist() == TANH_OF_F32
    assert it.witness() == Witness(executed=(Node(kind="aten::tanh", device="cpu", precision="f32"),))


def test_a_step_that_fell_back_is_not_counted_as_run_on_the_chip(started):
    it, fake = started(setting=Setting.PRODUCTION)
    fake.fallen = {"aten::tanh": 1, "aten::digamma": 2}
    it.run(TANH, [it.put(F32)])
    assert it.witness().host == (
        Node(kind="aten::tanh", device="cpu", precision="?"),
        Node(kind="aten::digamma", device="cpu", precision="?"),
    )
    assert verdict_of(it.witness()) is Verdict.FELL_BACK


def test_a_count_without_names_is_a_fallback_all_the_same():
    assert fallbacks({"TotalNumber": 2, "FallbackOps": {}}) == [
        Node(kind="an operator that the metric does not name", device="cpu", precision="?")
    ]
    assert fallbacks({"TotalNumber": 0, "FallbackOps": {}}) == []


@pytest.mark.parametrize(
    "setting, verdict", [(Setting.PRODUCTION, Verdict.UNJUDGED), (Setting.STRICT, Verdict.WITHIN)]
)
@pytest.mark.parametrize("missing", ["module", "function"])
def test_without_the_metric_only_a_setting_that_forbids_fallbacks_can_be_judged(
    started, missing, setting, verdict
):
    fake = Fake()
    if missing == "function":
        del fake.metrics.metric_localcontext
    else:
        fake.metrics = None  # as in sys.modules: importing it fails
    it, _ = started(setting=setting, fake=fake)
    it.run(TANH, [it.put(F32)])
    assert fake.calls == ["synchronize"]
    assert verdict_of(it.witness()) is verdict


@pytest.mark.parametrize(
    "raised, words",
    [
        (
            RuntimeError("aten::digamma is not yet supported on HPU."),
            "aten::digamma is not yet supported on HPU.",
        ),
        (
            RuntimeError("raised:\nAssertionError: Eager fallbacks found: {EagerFallback(node=sort)}\n"),
            "AssertionError: Eager fallbacks found: {EagerFallback(node=sort)}",
        ),
    ],
)
def test_what_the_plugin_refuses_is_unsupported_in_its_own_words(started, monkeypatch, raised, words):
    it, _ = started()

    def refuse(*arguments, **options):
        raise raised

    monkeypatch.setattr("parity.backend.torch_eager.TORCH_OPS", {"tanh": refuse})
    with pytest.raises(Unsupported) as error:
        it.run(TANH, [it.put(F32)])
    assert str(error.value) == words


def test_the_plugins_words_are_found_beneath_torchs():
    outer = Unsupported("backend='hpu_backend' raised:")
    outer.__cause__ = RuntimeError("unsupported\nEager fallbacks found: {EagerFallback(node=sort)}")
    assert refusal(outer) == "Eager fallbacks found: {EagerFallback(node=sort)}"


def test_any_other_failure_stays_a_failure(started, monkeypatch):
    it, _ = started()

    def fail(*arguments, **options):
        raise RuntimeError("Graph compile failed. synStatus=26")

    monkeypatch.setattr("parity.backend.torch_eager.TORCH_OPS", {"tanh": fail})
    with pytest.raises(RuntimeError, match=r"^Graph compile failed\. synStatus=26$"):
        it.run(TANH, [it.put(F32)])


# Modes.


def test_a_lazy_graph_is_compiled_under_the_limit_that_compiling_has(started):
    it, _ = started("hpu+lazy")
    phases = []
    it.on_phase = phases.append
    it.run(TANH, [it.put(F32)])
    assert phases == ["compile"]


def test_a_graph_is_captured_once_and_replayed(started):
    it, fake = started("hpu+graph", fake=Fake().with_graphs())
    outputs = it.run(TANH, [it.put(F32)])
    assert fake.calls == [
        "metric starts",
        "synchronize",
        "capture begins",
        "capture ends",
        "replay",
        "synchronize",
        "synchronize",
        "metric stops",
    ]
    assert it.get(outputs[0]).array().tolist() == TANH_OF_F32
    assert [node.kind for node in it.witness().executed] == ["aten::tanh"]


def test_a_plugin_without_graphs_says_that_they_need_lazy_mode(started):
    it, _ = started("hpu+graph")
    with pytest.raises(Unsupported) as error:
        it.run(TANH, [it.put(F32)])
    assert str(error.value) == "torch.hpu has no HPUGraph here: it exists only where PT_HPU_LAZY_MODE=1"


def test_graphs_are_refused_outside_lazy_mode_even_where_the_name_exists(started):
    it, fake = started("hpu", fake=Fake().with_graphs())
    with pytest.raises(Unsupported):
        it.capture(torch.tanh, [it.put(F32)])
    assert fake.calls == []


def test_compiling_goes_through_the_vendors_compiler(started, monkeypatch):
    it, _ = started("hpu+compile")
    with pytest.raises(Unsupported) as error:
        it.run(TANH, [it.put(F32)])
    assert str(error.value) == ("torch.compile has no backend 'hpu_backend' in this version of the plugin")
    handed = []

    def hpu_backend(graph, inputs):
        handed.append(len(inputs))
        return graph.forward

    hpu_backend._tags = ()  # as torch marks what is registered
    monkeypatch.setitem(compilers._BACKENDS, "hpu_backend", None)
    monkeypatch.setitem(compilers._COMPILER_FNS, "hpu_backend", hpu_backend)
    outputs = it.run(TANH, [it.put(F32)])
    assert handed == [1]
    assert it.get(outputs[0]).array().tolist() == TANH_OF_F32


def test_memory_and_compilations_are_what_the_plugin_counts(started):
    it, _ = started()
    memory = it.memory()
    assert (memory.total, memory.free, memory.peak, it.recompiles()) == (1000, 700, 700, 5)


# fp8.


@pytest.mark.parametrize("device", ["GAUDI2", "GAUDI3"])
@pytest.mark.parametrize("name", ["f64", "f32", "bf16", "f16", "e4m3fn", "e5m2", "i64", "i32", "u8", "bool"])
@pytest.mark.parametrize(
    "shape, stride, offset",
    [((8, 8), (1, 8), 0), ((3, 2), (16, 2), 5), ((1, 1), (4, 2), 3), ((0, 4), (4, 1), 0), ((), (), 9)],
)
def test_every_bit_survives_the_way_there_and_back(started, device, name, shape, stride, offset):
    it, _ = started(fake=Fake(device=device))
    to = dtype(name)
    high = 2 if name == "bool" else 256
    raw = np.random.default_rng(7).integers(0, high, 64 * to.itemsize, dtype=np.uint8).view(to.storage)
    host = HostTensor(dtype=to, storage=raw, shape=shape, stride=stride, offset=offset)
    back = it.get(it.put(host))
    assert (back.dtype, back.shape) == (to, shape)
    assert back.storage.tobytes() == np.ascontiguousarray(host.array()).tobytes()


def test_on_gaudi2_the_vendors_format_keeps_its_name_through_a_movement(started):
    it, _ = started(fake=Fake(device="GAUDI2"))
    table = codes([[0x38, 0x77], [0x78, 0x7F]])
    ids = HostTensor.of(np.array([1, 0]), dtype("i64"))
    step = Step(name="s", op="embedding", inputs=("t", "i"), outputs=("y",))
    (moved,) = it.run(step, [it.put(table), it.put(ids)])
    back = it.get(moved)
    assert (back.dtype.name, back.array().tolist()) == ("e4m3_gaudi2", [[0x78, 0x7F], [0x38, 0x77]])


def test_a_cast_from_the_vendors_format_is_another_type_again(started):
    it, _ = started(fake=Fake(device="GAUDI2"))
    step = Step(name="s", op="cast", inputs=("x",), outputs=("y",), attrs={"to": "f32"})
    with Narrow():
        (wide,) = it.run(step, [it.put(codes([0x38, 0x77, 0x78]))])
    assert it.get(wide).array().tolist() == [1.0, 240.0, float("inf")]


@pytest.mark.parametrize(
    "to, comes_back, verdict",
    [("e4m3fn", "e4m3fn", Verdict.SUBSTITUTED), ("e4m3_gaudi2", "e4m3_gaudi2", Verdict.WITHIN)],
)
def test_on_gaudi2_a_cast_to_e4m3fn_is_substituted_by_the_vendors_format(started, to, comes_back, verdict):
    it, _ = started(fake=Fake(device="GAUDI2"))
    step = Step(name="s", op="cast", inputs=("x",), outputs=("y",), attrs={"to": to})
    (narrow,) = it.run(step, [it.put(F32)])
    back = it.get(narrow)
    assert (back.dtype.name, back.array().tolist()) == (comes_back, [0x30, 0xB8, 0x40])
    assert {node.precision for node in it.witness().executed} == {"e4m3_gaudi2"}
    assert verdict_of(it.witness(), "cast", ("f32", to)) is verdict


def test_on_gaudi3_e4m3fn_is_what_it_says_and_the_other_format_is_not_there(started):
    it, _ = started()
    step = Step(name="s", op="cast", inputs=("x",), outputs=("y",), attrs={"to": "e4m3fn"})
    it.run(step, [it.put(F32)])
    assert verdict_of(it.witness(), "cast", ("f32", "e4m3fn")) is Verdict.WITHIN
    with pytest.raises(Unsupported, match=r"has no dtype for float8_e4m3_gaudi2$"):
        it.put(codes([0x38]))


# What is declared.


@pytest.mark.parametrize(
    "flavour, rounding",
    [("gaudi2", Rounding.NEAREST), ("gaudi3", Rounding.TO_ZERO), ("unknown", Rounding.NEAREST)],
)
def test_only_gaudi3_is_declared_to_truncate_its_sums(flavour, rounding):
    profile = hpu_profile(flavour)
    assert (profile.accumulator.dtype.name, profile.accumulator.rounding) == ("f32", rounding)
    assert profile.declared == ()


@pytest.mark.parametrize(
    "text, setting, device, plugin, expected",
    [
        ("hpu", "production", "GAUDI2", "1.19.0.561", {"gelu": "tanh", "int64": "i64", "fp8": "e4m3_gaudi2"}),
        ("hpu", "strict", "GAUDI3", "1.24.1.12", {"gelu": "erf", "int64": "i64", "fp8": "e4m3fn"}),
        ("hpu", "production", "GAUDI3", "1.24.1.12", {"fp8": "e4m3fn"}),
        ("hpu+lazy", "production", "GAUDI3", "1.24.1.12", {"int64": "i32", "fp8": "e4m3fn"}),
        ("hpu", "production", "GAUDI", "1.19.0.561", {"gelu": "tanh", "int64": "i32"}),
    ],
)
def test_arithmetic_is_declared_as_far_as_the_release_is_known(
    started, monkeypatch, text, setting, device, plugin, expected
):
    it, _ = started(text, Setting(setting), fake=Fake(device=device))
    monkeypatch.setattr(installed, "distribution", lambda name: plugin)
    assert dict(it.arithmetic().facts()) == {"float64": "f32", **expected}


def test_an_explicit_flag_decides_what_is_declared():
    facts = {"PT_HPU_FORCE_TANH_FOR_GELU": "1", "PT_ENABLE_INT64_SUPPORT": "0"}
    found = hpu_arithmetic("gaudi3", "eager", facts.get)
    assert (found.gelu, found.int64) == ("tanh", "i32")
