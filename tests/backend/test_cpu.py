import subprocess
import sys

import numpy as np
import pytest
import torch

from parity.backend.base import Node, Unsupported
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.backend.torch_eager import inability
from parity.backend.torch_witness import Trace
from parity.errors import BackendError, UsageError

CPU = torch.device("cpu")
SQUARE = np.arange(16).reshape(4, 4)


def kinds(nodes):
    return [node.kind for node in nodes]


def test_an_unknown_mode_names_the_near_one():
    with pytest.raises(UsageError) as error:
        create(BackendSpec.parse("cpu+eagre"), Setting.STRICT)
    assert (
        str(error.value)
        == "'cpu+eagre': cpu has no mode 'eagre'; did you mean 'eager'?; modes: eager, compile, triton"
    )


def test_a_second_cpu_does_not_exist():
    with pytest.raises(UsageError) as error:
        create(BackendSpec.parse("cpu:0-1"), Setting.STRICT)
    assert str(error.value) == "'cpu:0-1': cpu is one device; write 'cpu' without an index"


def test_the_flavour_of_another_machine_is_refused(opened):
    here = torch.backends.cpu.get_cpu_capability().lower()
    assert opened(f"cpu/{here}").flavour == here
    with pytest.raises(BackendError) as error:
        opened("cpu/z15")
    assert str(error.value) == (
        f"'cpu/z15' was asked for, but this machine is cpu/{here}; write 'cpu', or run on the other machine"
    )


def test_strict_pins_every_switch_and_says_so(opened):
    torch.set_float32_matmul_precision("medium")
    strict = opened("cpu").provenance()
    assert {
        "torch": torch.__version__,
        "threads": "1",
        "deterministic": "True",
        "flush_subnormals": "False",
        "float32_matmul_precision": "highest",
    }.items() <= strict.items()
    newer = ("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn", "fp16_reduced_precision_reduction")
    assert {strict[name] for name in newer if name in strict} <= {"ieee", "False"}


def test_production_leaves_every_switch_alone(opened, monkeypatch):
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    torch.set_float32_matmul_precision("medium")
    backend = opened("cpu", Setting.PRODUCTION)
    assert backend.env() == {}
    production = backend.provenance()
    assert production["deterministic"] == "False"
    assert production["float32_matmul_precision"] == "medium"
    assert production["env.ONEDNN_DEFAULT_FPMATH_MODE"] == "BF16"


def test_strict_asks_the_launcher_for_one_thread_and_exact_onednn():
    assert create(BackendSpec("cpu"), Setting.STRICT).env() == {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT",
        "DNNL_DEFAULT_FPMATH_MODE": "STRICT",
    }


def test_flushed_subnormals_are_read_back(opened):
    backend = opened("cpu", Setting.PRODUCTION)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        assert backend.provenance()["flush_subnormals"] == "True"
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("name", ["f64", "f32", "f16", "bf16"])
def test_the_witness_shows_the_product_at_the_precision_asked(cpu, run, tensor, name):
    ran = run(cpu, "linear", [tensor(SQUARE, name), tensor(SQUARE, name)])
    assert ran.witness.executed == (Node(kind="aten::mm", device="cpu", precision=name),)
    assert kinds(ran.witness.moved) == ["aten::t"]
    assert ran.witness.host == ()


@pytest.mark.parametrize(
    "variable, mode, precision",
    [
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16", "bf16"),
        ("DNNL_DEFAULT_FPMATH_MODE", "ANY", "bf16"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "F16", "f16"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "TF32", "tf32"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "STRICT", "f32"),
    ],
)
def test_a_math_mode_of_onednn_shows_in_float32_products(
    opened, run, tensor, monkeypatch, variable, mode, precision
):
    monkeypatch.setenv(variable, mode)
    ran = run(opened("cpu", Setting.PRODUCTION), "linear", [tensor(SQUARE, "f32")] * 2)
    assert [node.precision for node in ran.witness.executed] == [precision]


@pytest.mark.parametrize("switch, precision", [("medium", "bf16"), ("high", "tf32"), ("highest", "f32")])
def test_the_matmul_switch_shows_in_float32_products_only(opened, run, tensor, switch, precision):
    backend = opened("cpu", Setting.PRODUCTION)
    torch.set_float32_matmul_precision(switch)
    product = run(backend, "matmul", [tensor(SQUARE, "f32")] * 2)
    softmax = run(backend, "softmax", [tensor(SQUARE, "f32")], dim=-1)
    half = run(backend, "matmul", [tensor(SQUARE, "f16")] * 2)
    shown = [ran.witness.executed[0].precision for ran in (product, softmax, half)]
    assert shown == [precision, "f32", "f16"]


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "fp32_precision"), reason="torch before 2.9")
def test_the_switch_of_onednn_shows_where_torch_refuses_to_say(opened, run, tensor):
    backend = opened("cpu", Setting.PRODUCTION)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    ran = run(backend, "matmul", [tensor(SQUARE, "f32")] * 2)
    assert ran.witness.executed == (Node(kind="aten::mm", device="cpu", precision="bf16"),)
    assert backend.provenance()["float32_matmul_precision"] == "mixed"


@pytest.mark.parametrize(
    "op, attrs, kind, precision",
    [
        ("slice", {"index": "x[..., ::2]"}, "aten::slice", "f32"),
        ("cast", {"to": "bf16"}, "aten::_to_copy", "bf16"),
        ("cast", {"to": "f32"}, "identity", "f32"),
        ("cat", {"dim": 0}, "aten::cat", "f32"),
        ("argmax", {"dim": 0, "keepdim": False}, "aten::argmax", "f32"),
    ],
)
def test_data_movement_counts_as_executed_when_it_is_all_there_is(
    cpu, run, tensor, op, attrs, kind, precision
):
    ran = run(cpu, op, [tensor(SQUARE, "f32")], **attrs)
    assert ran.witness.executed[-1] == Node(kind=kind, device="cpu", precision=precision)


def test_the_precision_of_integer_work_is_its_type(cpu, run, tensor):
    ran = run(cpu, "sum", [tensor(SQUARE, "i64")], dim=0, keepdim=False)
    assert ran.witness.executed == (Node(kind="aten::sum", device="cpu", precision="i64"),)


def test_work_on_another_device_is_host_work():
    x = torch.ones(2, device="meta")
    with Trace(torch.device("meta"), reduced=None) as trace:
        y = x + 1
        z = torch.ones(2) * 2  # the injected fallback
    witness = trace.witness((y, z))
    assert kinds(witness.executed) == ["aten::add"]
    assert witness.host == (
        Node(kind="aten::ones", device="cpu", precision="f32"),
        Node(kind="aten::mul", device="cpu", precision="f32"),
    )


def test_a_step_that_only_fell_back_executed_nothing():
    with Trace(torch.device("meta"), reduced=None) as trace:
        y = torch.ones(2) * 2
    assert trace.witness((y,)).executed == ()


def test_the_witness_is_of_the_latest_step(cpu, run, tensor):
    run(cpu, "exp", [tensor(SQUARE, "f32")])
    with pytest.raises(Unsupported):
        run(cpu, "exp", [tensor(SQUARE, "e4m3fn")])
    assert cpu.witness().executed == ()


@pytest.mark.parametrize(
    "op, name, attrs, words",
    [
        ("exp", "e4m3fn", {}, "\"exp_vml_cpu\" not implemented for 'Float8_e4m3fn'"),
        ("slice", "f32", {"index": "x[::-1]"}, "step must be greater than zero"),
        (
            "cast",
            "f32",
            {"to": "e4m3_gaudi2"},
            f"torch {torch.__version__} has no dtype for float8_e4m3_gaudi2",
        ),
    ],
)
def test_what_torch_cannot_express_is_unsupported_in_its_own_words(cpu, run, tensor, op, name, attrs, words):
    with pytest.raises(Unsupported) as error:
        run(cpu, op, [tensor(SQUARE, name)], **attrs)
    assert str(error.value) == words


def test_a_wrong_shape_is_a_failure_and_not_unsupported(cpu, run, tensor):
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run(cpu, "matmul", [tensor(SQUARE, "f32"), tensor(SQUARE[:3], "f32")])


def test_only_wordings_of_inability_count_as_such():
    assert inability(NotImplementedError()) == "NotImplementedError"
    assert inability(RuntimeError("exp not implemented for 'Half'\nmore")) == "exp not implemented for 'Half'"
    assert inability(RuntimeError("out of memory")) is None
    assert inability(KeyError("not supported")) is None


def test_importing_and_asking_does_not_import_torch():
    code = (
        "import sys\n"
        "from parity.backend.registry import available\n"
        "from parity.backend import cpu\n"
        "print(dict(available())['cpu'].ok, 'torch' in sys.modules, 'openvino' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "True False False\n"
