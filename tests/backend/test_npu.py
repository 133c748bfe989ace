"""Ascend, against fakes of the vendor's modules.

Longer than a file should be: its switches and what each release lacks are tables that are tested row by row.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.backend import installed, npu_host, npu_switches
from parity.backend.base import Availability, Node, Unsupported, Witness
from parity.backend.installed import TorchBuild
from parity.backend.npu import NpuBackend
from parity.backend.npu_host import flavour
from parity.backend.npu_profile import npu_arithmetic, npu_profile
from parity.backend.npu_slow_path import SlowPath, ai_cpu_kernels
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

FAKES = runpy.run_path(str(Path(__file__).parent / "fakes" / "ascend.py"))
Fake, CubeMathType = FAKES["Fake"], FAKES["CubeMathType"]
CAUTION, AI_CPU, DISABLED, KERNELS = (FAKES[n] for n in ("CAUTION", "AI_CPU", "DISABLED", "KERNELS"))
CPU_TORCH = "use an environment with the CPU build of torch in torch_npu's version"
STRICT = {
    "TORCH_NPU_FALLBACK_CPU_DISABLE": "1",
    "HCCL_DETERMINISTIC": "strict",
    "LCCL_DETERMINISTIC": "1",
    "CLOSE_MATMUL_K_SHIFT": "1",
    "ATB_MATMUL_SHUFFLE_K_ENABLE": "0",
    "ATB_LLM_LCOC_ENABLE": "0",
    "INF_NAN_MODE_ENABLE": "1",
}
OURS = ("TORCH_NPU_", "HCCL_", "LCCL_", "CLOSE_", "ATB_", "INF_NAN_", "ASCEND_")
F32 = HostTensor.of(np.array([0.5, -1.0, 2.0], dtype=np.float32), dtype("f32"))
I64 = HostTensor.of(np.array([3, 1, 2]), dtype("i64"))
TANH = Step(name="s", op="tanh", inputs=("x",), outputs=("y",))
TANH_OF_F32 = torch.tanh(torch.tensor([0.5, -1.0, 2.0])).tolist()
ARGMAX = Step(
    name="s", op="argmax", inputs=("x",), outputs=("y",), attrs={"dim": 0, "keepdim": False}
)  # an op whose tensors are integers alone
MATMUL = Step(name="s", op="matmul", inputs=("a", "b"), outputs=("y",))
SQUARE = HostTensor.of(np.eye(2, dtype=np.float32), dtype("f32"))


def backend(text="npu", setting=Setting.STRICT):
    return create(BackendSpec.parse(text), setting)


def verdict_of(witness, op="tanh", dtypes=("f32",)):
    return examine(witness, OPS[op], [dtype(name) for name in dtypes])[0]


@pytest.fixture
def started(monkeypatch):
    """Open a backend over a fake plugin, on torch's CPU device, in the environment that it asks for."""
    monkeypatch.setattr(NpuBackend, "device_type", "cpu")
    monkeypatch.setattr(installed, "distribution", lambda name: None)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)
    always = torch.is_warn_always_enabled()

    def start(text="npu", setting=Setting.STRICT, fake=None):
        fake = (fake or Fake()).install(monkeypatch)
        it = backend(text, setting)
        for name, value in it.env().items():
            monkeypatch.setenv(name, value)
        it.open()
        fake.calls.clear()
        return it, fake

    yield start
    torch.set_warn_always(always)


@pytest.fixture
def op(monkeypatch):
    """Let an op print what the device would, before it runs."""

    def say(name, text, function=None):
        real = function or getattr(torch, name)

        def run(*arguments, **options):
            os.write(2, text().encode())
            return real(*arguments, **options)

        monkeypatch.setattr("parity.backend.torch_eager.TORCH_OPS", {name: run})

    return say


def once(text):
    """What is printed the first time only."""
    said = [text]
    return lambda: said.pop() if said else ""


# What the launcher asks.


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A host where everything is there; each test takes something away."""
    (tmp_path / "davinci0").touch()
    (tmp_path / "davinci_manager").touch()
    monkeypatch.setattr(npu_host, "DEV", tmp_path)
    monkeypatch.setattr(installed, "module", lambda name: tmp_path if name == "torch_npu" else None)
    monkeypatch.setattr(installed, "distribution", lambda name: "2.13.0.post1")
    monkeypatch.setattr(installed, "torch_build", lambda: TorchBuild(version="2.13.0+cpu"))
    return monkeypatch


def test_a_host_with_plugin_torch_and_device_is_available(host):
    assert backend().available() == Availability(ok=True, reason="torch_npu is installed, 1 device nodes")


def test_a_host_without_the_plugin_names_the_vendors_image(host):
    host.setattr(installed, "module", lambda name: None)
    assert backend().available() == Availability(
        ok=False,
        reason="torch_npu is not installed",
        hint="use the vendor's Ascend image, or install torch_npu in the exact version of torch",
    )


@pytest.mark.parametrize(
    "build, reason",
    [
        (None, "torch is not installed"),
        (
            TorchBuild(version="2.13.0+cu130", cuda="13.0"),
            "torch 2.13.0+cu130 is built for cuda, and one process has one accelerator",
        ),
        (
            TorchBuild(version="2.13.0+rocm7", hip="7.0"),
            "torch 2.13.0+rocm7 is built for hip, and one process has one accelerator",
        ),
        (
            TorchBuild(version="2.12.0+cpu"),
            "torch_npu 2.13.0.post1 needs torch 2.13.0, and this is torch 2.12.0+cpu",
        ),
    ],
)
def test_a_torch_that_the_plugin_refuses_is_said_without_importing_it(host, build, reason):
    host.setattr(installed, "torch_build", lambda: build)
    assert backend().available() == Availability(ok=False, reason=reason, hint=CPU_TORCH)


def test_a_host_without_device_nodes_is_said_to_lack_the_driver(host, tmp_path):
    (tmp_path / "davinci0").unlink()
    assert backend().available() == Availability(
        ok=False,
        reason="torch_npu is installed, but there is no /dev/davinci*",
        hint="load the Ascend driver, or start the container with --device /dev/davinci0",
    )


def test_looking_for_an_ascend_imports_neither_torch_nor_the_plugin():
    script = (
        "import sys\n"
        "from parity.backend.registry import create\n"
        "from parity.backend.spec import BackendSpec, Setting\n"
        "b = create(BackendSpec('npu'), Setting.STRICT)\n"
        "b.available(), b.env()\n"
        "print([n for n in ('torch', 'torch_npu') if n in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize(
    "text, setting, expected",
    [
        ("npu", "strict", STRICT),
        ("npu+compile", "strict", STRICT),
        ("npu+graph", "production", {}),
        # The index is torch's: what the user shows of the machine stays as it is.
        ("npu:3", "production", {}),
    ],
)
def test_a_childs_python_starts_with_the_variables_of_its_setting(monkeypatch, text, setting, expected):
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)
    script = "import os\nfor n in sorted(os.environ): print(n, os.environ[n])"
    ran = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env=child_environ(backend(text, Setting(setting)).env()),
        capture_output=True,
        text=True,
        check=True,
    )
    seen = dict(line.split(" ", 1) for line in ran.stdout.splitlines() if " " in line)
    assert {name: value for name, value in seen.items() if name.startswith(OURS)} == expected


def test_an_unknown_mode_names_the_near_one():
    with pytest.raises(UsageError) as error:
        backend("npu+graphs")
    assert str(error.value) == (
        "'npu+graphs': npu has no mode 'graphs'; did you mean 'graph'?; modes: eager, compile, graph"
    )


# Opening.


@pytest.mark.parametrize(
    "raised, plugin, words",
    [
        (
            RuntimeError(
                "Two accelerators cannot be used at the same time in PyTorch: npu and cuda. You can install\n"
                "[ERROR] more"
            ),
            "2.13.0",
            (
                "torch_npu cannot be loaded: Two accelerators cannot be used at the same time in PyTorch: "
                "npu and cuda. You can install; " + CPU_TORCH
            ),
        ),
        (
            ImportError("libhccl.so: cannot open shared object file"),
            "2.13.0",
            (
                "torch_npu cannot be loaded: ImportError: libhccl.so: cannot open shared object file. If a "
                "library of CANN is missing: source /usr/local/Ascend/ascend-toolkit/set_env.sh"
            ),
        ),
        (
            ImportError("undefined symbol: _ZN3c10"),
            "2.12.0.post3",
            (
                "torch_npu cannot be loaded: torch_npu 2.12.0.post3 needs torch 2.12.0, and this is torch "
                "2.13.0+cpu (ImportError: undefined symbol: _ZN3c10); " + CPU_TORCH
            ),
        ),
        (ValueError(), "2.13.0", "torch_npu cannot be loaded: ValueError"),
    ],
)
def test_each_way_in_which_the_plugin_fails_to_load_is_worded(started, monkeypatch, raised, plugin, words):
    class Failing:
        def find_spec(self, name, path=None, target=None):
            if name == "torch_npu":
                raise raised

    monkeypatch.setattr(sys, "meta_path", [Failing(), *sys.meta_path])
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    monkeypatch.setattr(installed, "distribution", lambda name: plugin)
    with pytest.raises(BackendError) as error:
        backend().open()
    assert str(error.value) == words


def test_a_process_of_another_accelerator_is_refused_before_the_plugin_is_imported(monkeypatch):
    monkeypatch.setattr(torch._C, "_get_accelerator", lambda *check: torch.device("cuda"))
    monkeypatch.setitem(sys.modules, "torch_npu", None)  # importing it would raise
    with pytest.raises(BackendError, match=r"^'npu' cannot be opened: torch .* here drives cuda, and one"):
        backend().open()


def test_a_plugin_that_registers_no_module_cannot_be_used(started, monkeypatch):
    Fake().install(monkeypatch)
    monkeypatch.delattr(torch, "npu")
    with pytest.raises(BackendError) as error:
        backend().open()
    assert str(error.value) == ("torch_npu was imported and torch has no module 'npu': reinstall torch_npu")


def test_warnings_that_are_switched_off_hide_fallbacks_and_are_refused(started, monkeypatch):
    monkeypatch.setenv("TORCH_NPU_DISABLED_WARNING", "1")
    with pytest.raises(BackendError) as error:
        started()
    assert str(error.value) == (
        "TORCH_NPU_DISABLED_WARNING is set: nothing would tell that an operator ran on the host. Unset it"
    )


def test_a_profiler_that_is_asked_for_and_not_there_is_an_error(started, monkeypatch):
    monkeypatch.setenv("PARITY_NPU_PROFILE", "1")
    with pytest.raises(BackendError) as error:
        started()
    assert str(error.value) == "PARITY_NPU_PROFILE is set, and this torch_npu has no profiler. Unset it"


@pytest.mark.parametrize(
    "name, short",
    [
        ("Ascend910B3", "ascend910b"),
        ("Ascend910_9382", "ascend910c"),
        ("Ascend310P3", "ascend310p"),
        ("Ascend950DT", "ascend950"),
        ("Ascend910A", "ascend910a"),
        ("unknown", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_flavour_is_the_generation_in_the_devices_name(name, short):
    assert flavour(name) == short


def test_an_index_is_torchs_and_is_made_the_current_device(monkeypatch):
    it = backend("npu:1")
    it._npu = Fake().npu
    calls = []
    it._npu.set_device = calls.append
    it.select()
    assert (it.ordinal(), calls) == (1, [1])


# Switches.


def test_strict_pins_every_switch_and_reads_it_back(started):
    it, _ = started()
    found = it.switches()
    assert found == {
        "npu.matmul.allow_hf32": "False",
        "npu.conv.allow_hf32": "False",
        "npu.are_compatible_impl_enabled": "True",
        "npu.get_mm_bmm_format_nd": "True",
        "npu.is_jit_compile_false": "True",
        "npu.utils.is_support_inf_nan": "True",
        "npu.matmul.cube_math_type": "KEEP_DTYPE",
        "npu.deterministic_level": "1",
        "npu.option.ALLOW_INTERNAL_FORMAT": "disable",
        "npu.option.ACL_PRECISION_MODE": "must_keep_origin_dtype",
        "npu.option.ACL_OP_SELECT_IMPL_MODE": "unknown",
        "fill_uninitialized_memory": "False",
    }
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert (it.reduced(), it.reduced_convolution()) == (None, None)


def test_production_leaves_the_vendors_defaults(started):
    it, _ = started(setting=Setting.PRODUCTION)
    found = it.switches()
    assert (found["npu.conv.allow_hf32"], found["npu.deterministic_level"]) == ("True", "0")
    assert found["npu.option.ALLOW_INTERNAL_FORMAT"] == "unknown"
    assert (it.reduced(), it.reduced_convolution()) == (None, "hf32")


def test_what_an_old_plugin_does_not_have_is_unknown(started):
    it, _ = started(fake=Fake().old())
    found = it.provenance()
    absent = (
        "npu.are_compatible_impl_enabled",
        "npu.matmul.cube_math_type",
        "npu.deterministic_level",
        "npu.option.ALLOW_INTERNAL_FORMAT",
        "npu.utils.is_support_inf_nan",
        "bf16",
        "plugin_git",
        "sdk",
        "driver",
        "memory",
    )
    assert {name: found[name] for name in absent} == dict.fromkeys(absent, "unknown")
    assert found["npu.conv.allow_hf32"] == "False"


def test_a_switch_that_refuses_its_value_is_reported_as_not_pinned(started):
    class Stubborn:
        allow_hf32 = False
        cube_math_type = property(lambda self: None)

    fake = Fake()
    fake.npu.matmul = Stubborn()
    it, _ = started(fake=fake)
    assert it.switches()["npu.matmul.cube_math_type"].startswith("unknown (not pinned: ")


@pytest.mark.parametrize(
    "kind, allowed, expected",
    [
        (None, True, "hf32"),
        (None, False, None),
        (None, None, "?"),
        (CubeMathType.KEEP_DTYPE, True, None),
        (CubeMathType.USE_FP32_ADD, True, None),
        (CubeMathType.USE_HF32, False, "hf32"),
        (CubeMathType.USE_FP16, False, "f16"),
        (CubeMathType.ALLOW_FP32_DOWN_PRECISION, False, "?"),
    ],
)
def test_the_cube_type_overrides_the_hf32_switch_of_products(started, kind, allowed, expected):
    it, fake = started()
    fake.npu.matmul.__dict__.update(cube_math_type=kind, allow_hf32=allowed)
    assert it.reduced() == expected


def test_only_the_ops_that_a_switch_governs_count_as_reduced(started):
    it, fake = started(setting=Setting.PRODUCTION)
    it.run(MATMUL, [it.put(SQUARE), it.put(SQUARE)])
    assert {node.precision for node in it.witness().executed} == {"f32"}
    fake.npu.matmul.allow_hf32 = True
    it.run(MATMUL, [it.put(SQUARE), it.put(SQUARE)])
    assert {node.precision for node in it.witness().executed} == {"hf32"}
    assert verdict_of(it.witness(), "matmul") is Verdict.SUBSTITUTED


# Provenance.


def test_provenance_names_device_plugin_and_every_part_of_cann(started):
    it, _ = started()
    found = it.provenance()
    names = ("flavour", "device", "devices", "capability", "bf16", "plugin", "plugin_git", "sdk", "driver")
    assert {name: found[name] for name in names} == {
        "flavour": "ascend910b",
        "device": "Ascend910B3",
        "devices": "8",
        "capability": "unknown",
        "bf16": "True",
        "plugin": "2.13.0",
        "plugin_git": "9e73e70",
        "sdk": "9.0.0",
        "driver": "25.2.0",
    }
    assert (found["cann.CANN"], found["cann.OPP_KERNEL"]) == ("9.0.0", "unknown")
    assert (found["collective"], found["memory"], found["to.f64"]) == ("hccl", "1000", "native")
    assert (found["slow_path"], found["env.HCCL_DETERMINISTIC"]) == ("warnings only", "strict")


def test_what_a_plugin_refuses_to_say_is_unknown(started):
    def refuse(*arguments):
        raise RuntimeError("ERR00100 PTA call acl api failed")

    fake = Fake()
    fake.npu.get_device_name = fake.npu.mem_get_info = fake.npu.utils.get_cann_version = refuse
    it, _ = started(fake=fake)
    found = it.provenance()
    assert [found[n] for n in ("flavour", "device", "sdk", "driver", "memory")] == ["unknown"] * 5


def test_a_conversion_to_float64_that_gives_float32_is_found(started, monkeypatch):
    it, _ = started()
    to = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor,
        "to",
        lambda self, what: to(self, torch.float32 if what is torch.float64 else what),
    )
    assert it.identity()["to.f64"] == "changed: comes back as float32"


def test_memory_is_what_the_driver_and_the_allocator_say(started):
    it, _ = started()
    memory = it.memory()
    assert (memory.total, memory.free, memory.peak) == (1000, 600, 250)


# What ran where.


def test_a_step_runs_and_is_waited_for(started):
    it, fake = started()
    outputs = it.run(TANH, [it.put(F32)])
    assert fake.calls == ["synchronize"]
    assert it.get(outputs[0]).array().tolist() == TANH_OF_F32
    assert it.witness() == Witness(executed=(Node(kind="aten::tanh", device="cpu", precision="f32"),))


def test_an_operator_that_fell_back_is_the_hosts_also_when_it_does_not_say_so_again(started, op):
    it, _ = started(setting=Setting.PRODUCTION)
    op("tanh", once(CAUTION.format(op="aten::tanh")))
    for _ in range(2):
        it.run(TANH, [it.put(F32)])
        assert it.witness().host == (Node(kind="aten::tanh", device="cpu", precision="f32"),)
        assert verdict_of(it.witness()) is Verdict.FELL_BACK


def test_an_operator_that_may_not_fall_back_is_unsupported_in_the_devices_words(started, monkeypatch):
    def refuse(*arguments):
        raise RuntimeError(DISABLED)

    it, _ = started()
    monkeypatch.setattr("parity.backend.torch_eager.TORCH_OPS", {"tanh": refuse})
    with pytest.raises(Unsupported) as error:
        it.run(TANH, [it.put(F32)])
    assert str(error.value) == DISABLED.splitlines()[0]


def test_a_kernel_on_the_ai_cpu_counts_as_run_on_the_chip_and_is_shown(started, op):
    it, _ = started()
    op("argmax", once(AI_CPU))
    slow = Node(kind="AI_CPU:ArgSort", device="cpu:0", precision="i64")
    for _ in range(2):
        it.run(ARGMAX, [it.put(I64)])
        assert it.witness().executed[-1] == slow
        assert it.witness().host == ()
        assert verdict_of(it.witness(), "argmax", ("i64",)) is Verdict.WITHIN
    it.run(ARGMAX, [it.put(F32)])
    assert slow.kind not in {node.kind for node in it.witness().executed}


def test_the_profilers_table_names_the_kernels_of_the_ai_cpu():
    assert ai_cpu_kernels(KERNELS, device="npu:0") == [
        Node(kind="AI_CPU:Sort", device="npu:0", precision="i64"),
        Node(kind="AI_CPU:aclnnIndexPut_Index", device="npu:0", precision="?"),
    ]
    assert ai_cpu_kernels(KERNELS.replace("AI_CPU", "AI_CORE"), device="npu:0") == []


def test_a_table_without_the_column_says_nothing():
    assert ai_cpu_kernels(KERNELS.replace("Accelerator Core", "Core"), device="npu:0") is None
    assert ai_cpu_kernels("", device="npu:0") is None


@pytest.mark.parametrize(
    "table, kinds",
    [
        (KERNELS, ["aten::tanh", "AI_CPU:Sort", "AI_CPU:aclnnIndexPut_Index"]),
        (KERNELS.replace("AI_CPU", "AI_CORE"), ["aten::tanh"]),
        ("Name\nx\n", ["aten::tanh", "AI_CPU:unknown"]),
        (None, ["aten::tanh", "AI_CPU:unknown"]),
    ],
)
def test_a_step_under_the_profiler_shows_what_its_table_says(started, monkeypatch, table, kinds):
    monkeypatch.setenv("PARITY_NPU_PROFILE", "1")
    it, _ = started(fake=Fake().with_profiler(table))
    it.run(TANH, [it.put(F32)])
    assert [node.kind for node in it.witness().executed] == kinds
    assert it.identity()["slow_path"] == "profiler and warnings"


def test_a_slow_kernel_of_unknown_type_in_a_step_of_two_types_is_not_judged():
    nodes = tuple(Node(kind=f"aten::{p}", device="npu:0", precision=p) for p in ("f32", "bf16"))
    unknown = Node(kind="AI_CPU:x", device="npu:0", precision="?")
    seen = SlowPath().revise(Witness(executed=nodes), [], [unknown], device="npu:0")
    assert seen.executed == (*nodes, unknown)
    assert verdict_of(seen, dtypes=("f32", "bf16")) is Verdict.UNJUDGED


@pytest.mark.parametrize("device, host", [("Ascend910B3", 1), ("Ascend950DT", 0)])
def test_a_conversion_to_fp8_is_the_hosts_except_where_the_chip_has_it(started, device, host):
    it, _ = started(fake=Fake(device=device))
    cast = Step(name="s", op="cast", inputs=("x",), outputs=("y",), attrs={"to": "e4m3fn"})
    it.run(cast, [it.put(F32)])
    assert len(it.witness().host) == host
    verdict = Verdict.FELL_BACK if host else Verdict.WITHIN
    assert verdict_of(it.witness(), "cast", ("f32", "e4m3fn")) is verdict


def test_a_conversion_between_types_that_the_chip_has_stays_its_own(started):
    it, _ = started()
    cast = Step(name="s", op="cast", inputs=("x",), outputs=("y",), attrs={"to": "bf16"})
    it.run(cast, [it.put(F32)])
    assert it.witness().host == ()


# Modes.


def test_a_graph_is_captured_and_replayed(started):
    it, fake = started("npu+graph", fake=Fake().with_graphs())
    outputs = it.run(TANH, [it.put(F32)])
    assert fake.calls == ["capture begins", "capture ends", "replay", "synchronize"]
    assert it.get(outputs[0]).array().tolist() == TANH_OF_F32


def test_a_version_without_graphs_says_so(started):
    it, _ = started("npu+graph")
    with pytest.raises(Unsupported) as error:
        it.run(TANH, [it.put(F32)])
    assert str(error.value) == "this version has no NPUGraph"


def test_only_a_compiling_mode_counts_compilations(started):
    it, _ = started()
    assert it.recompiles() is None
    it, _ = started("npu+compile")
    assert it.compiler() == "inductor"
    assert it.recompiles() == 0


# What is declared.


def test_hf32_is_declared_for_what_a_switch_permits_it_to():
    assert npu_profile(products=None, convolutions=None).declared == ()
    assert npu_profile(products="?", convolutions="f16").declared == ()
    profile = npu_profile(products=None, convolutions="hf32")
    fact = profile.fact("inputs_rounded", op="conv2d", dtype=dtype("f32"))
    assert (fact.value, profile.accumulator.dtype.name) == ("12", "f32")
    assert profile.fact("inputs_rounded", op="matmul", dtype=dtype("f32")) is None
    assert npu_profile(products="hf32", convolutions=None).fact(
        "inputs_rounded", op="matmul", dtype=dtype("f32")
    )
    for item in npu_profile(products="hf32", convolutions="hf32").declared:
        assert set(item.ops) <= OPS.keys()


@pytest.mark.parametrize(
    "chip, products, inf_nan, expected",
    [
        ("ascend910b", None, True, {"products.f32.reads": "ieee", "overflow.f16": "inf", "int64": "i64"}),
        ("ascend310p", "hf32", False, {"products.f32.reads": "hf32", "overflow.f16": "max", "int64": "i64"}),
        ("ascend950", "?", None, {"int64": "i64", "fp8": "e4m3fn"}),
    ],
)
def test_arithmetic_is_declared_as_far_as_it_is_known(chip, products, inf_nan, expected):
    assert dict(npu_arithmetic(chip, products=products, inf_nan=inf_nan).facts()) == expected


def test_every_switch_of_the_table_has_its_source():
    assert all(row.source for row in npu_switches.TABLE)
