import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch

from parity.backend.base import Availability, Node, Unsupported
from parity.backend.registry import create
from parity.backend.runtimes.openvino_sdk import last_words
from parity.backend.spec import BackendSpec, Setting
from parity.backend.torch_ops import PLAIN_OPS
from parity.case.dtype import dtype
from parity.case.tensor import HostTensor
from parity.errors import UsageError

SQUARE = np.arange(64).reshape(8, 8) / 8
IN_OPENVINO = ["f64", "f32", "f16", "bf16", "e4m3fn", "e5m2", "i8", "i16", "i32", "i64", "u8", "bool"]
# What OpenVINO 2026.4 cannot express, in its own words: it drops enable_gqa from what torch.export
# gives (https://github.com/openvinotoolkit/openvino/pull/30835 reads it as a positional argument),
# and has no rule for these.
GROUPED = "OpenVINO: Key input shape not compatible with other inputs."
NO_RULE = {
    "triu_indices": "OpenVINO: No conversion rule found for operations: aten.triu_indices.default",
    "int4_weight_linear": "OpenVINO: No conversion rule found for operations: aten.__rshift__.Scalar",
    "cumprod": "OpenVINO: No conversion rule found for operations: aten.cumprod.default",
    "tril_indices": "OpenVINO: No conversion rule found for operations: aten.tril_indices.default",
}
# What is said of these names a rule that is missing, or one that gives up.
REFUSED = {
    "bincount": r"(aten\.bincount\.default|torch::None)",
    "far_rows": r"aten\.as_strided_scatter\.default",
    "masked_select": r"aten\.masked_select\.default",
    "scatter_reduce": r"aten\.scatter_reduce\.two",
    "searchsorted": r"aten\.searchsorted\.Tensor",
    "unique": "<built-in function getitem>",
}
# Made of numbers alone: folded to constants, which no device executes.
FOLDED = ("arange", "linspace")


def test_a_missing_package_is_reported_with_the_way_to_get_it(monkeypatch):
    backend = create(BackendSpec("openvino"), Setting.STRICT)
    assert backend.available() == Availability(ok=True, reason="openvino is installed")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "packaging" else find(name))
    assert backend.available() == Availability(
        ok=False, reason="packaging is not installed", hint="pip install 'chip-parity[openvino]'"
    )


def test_an_unknown_mode_names_the_near_one():
    with pytest.raises(UsageError) as error:
        create(BackendSpec.parse("openvino+dynamc"), Setting.STRICT)
    assert str(error.value) == (
        "'openvino+dynamc': openvino has no mode 'dynamc'; did you mean 'dynamic'?; modes: eager, dynamic"
    )


@pytest.mark.parametrize("name", IN_OPENVINO)
@pytest.mark.parametrize("shape, stride, offset", [((8, 8), (1, 8), 0), ((3, 2), (16, 2), 5), ((), (), 9)])
def test_every_bit_survives_the_way_there_and_back(openvino, name, shape, stride, offset):
    to = dtype(name)
    high = 2 if name == "bool" else 256
    raw = np.random.default_rng(7).integers(0, high, 64 * to.itemsize, dtype=np.uint8).view(to.storage)
    host = HostTensor(dtype=to, storage=raw, shape=shape, stride=stride, offset=offset)
    back = openvino.get(openvino.put(host))
    assert (back.dtype, back.shape) == (to, shape)
    assert back.storage.tobytes() == np.ascontiguousarray(host.array()).tobytes()


@pytest.mark.parametrize("name", ["e4m3fnuz", "e4m3_gaudi2"])
def test_a_format_that_openvino_lacks_is_unsupported(openvino, tensor, name):
    with pytest.raises(Unsupported, match=rf"has no element type for float8_{name}$"):
        openvino.put(tensor([1.0], name))


def test_openvino_computes_in_float32_what_the_op_table_says(openvino, run, op_case):
    inputs = op_case.inputs("f32")
    # Parts of heads take their own keys, those of keys are composed: only queries keep the groups.
    fused = op_case.op == "attention" or op_case.attrs.get("along") == "queries"
    grouped = fused and inputs[0].shape[1] != inputs[1].shape[1]
    if grouped or op_case.op in NO_RULE:
        with pytest.raises(Unsupported) as error:
            run(openvino, op_case.op, inputs, **op_case.attrs)
        assert str(error.value) == (GROUPED if grouped else NO_RULE[op_case.op])
        return
    if op_case.op in REFUSED:
        with pytest.raises(Unsupported, match=f"^OpenVINO: .*{REFUSED[op_case.op]}$"):
            run(openvino, op_case.op, inputs, **op_case.attrs)
        return
    ran = run(openvino, op_case.op, inputs, **op_case.attrs)
    wanted = op_case.outputs
    if op_case.op == "floor_divide" and inputs[0].dtype.name == "i64":
        # OpenVINO 2026.4 divides integers towards zero, whatever was asked.
        wanted = [np.trunc(inputs[0].array() / inputs[1].array())]
    for output, want in zip(ran.outputs, wanted, strict=True):
        assert output.shape == want.shape
        # Tens of roundings of float32 on values near one: enough to see another operation.
        np.testing.assert_allclose(output.array().astype(np.float64), want, rtol=1e-5, atol=1e-5)
    if op_case.op in FOLDED:
        assert ran.witness.executed == ()
        assert {node.kind for node in ran.witness.host} == {"Const"}
        return
    assert ran.witness.executed
    assert ran.witness.host == ()


@pytest.mark.parametrize("name", ["f32", "bf16"])
def test_strict_runs_a_product_at_the_precision_asked(openvino, run, tensor, name):
    ran = run(openvino, "matmul", [tensor(SQUARE, name)] * 2)
    assert ran.witness.executed == (Node(kind="MatMul", device="CPU", precision=name),)
    assert ran.outputs[0].dtype.name == name


def test_strict_widens_float16_where_the_machine_has_none(openvino, run, tensor):
    if "FP16" in openvino.provenance()["openvino.OPTIMIZATION_CAPABILITIES"]:
        pytest.skip("this machine computes in float16")
    ran = run(openvino, "matmul", [tensor(SQUARE, "f16")] * 2)
    assert ran.witness.executed == (Node(kind="MatMul", device="CPU", precision="f32"),)
    assert {node.kind for node in ran.witness.moved} == {"Subgraph"}


def test_production_shows_that_a_float32_product_ran_in_bfloat16(opened, run, tensor):
    backend = opened("openvino", Setting.PRODUCTION)
    if "BF16" not in backend.provenance()["openvino.OPTIMIZATION_CAPABILITIES"]:
        pytest.skip("this machine does not compute in bfloat16")
    assert backend.env() == {}
    ran = run(backend, "matmul", [tensor(SQUARE, "f32")] * 2)
    assert ran.witness.executed == (Node(kind="MatMul", device="CPU", precision="bf16"),)
    assert {(node.kind, node.precision) for node in ran.witness.moved} == {("Reorder", "f32")}


def test_strict_reads_back_what_it_pinned(openvino):
    assert {
        "openvino.CPU_DENORMALS_OPTIMIZATION": "False",
        "openvino.DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "openvino.EXECUTION_MODE_HINT": "ExecutionMode.ACCURACY",
        "openvino.INFERENCE_NUM_THREADS": "1",
        "openvino.INFERENCE_PRECISION_HINT": "the step's own",
        "openvino.KV_CACHE_PRECISION": "f32",
        "torch": torch.__version__,
    }.items() <= openvino.provenance().items()


def test_provenance_says_in_numbers_which_16_bit_types_are_computed_in(openvino):
    capabilities = openvino.provenance()["openvino.OPTIMIZATION_CAPABILITIES"]
    assert openvino.provenance()["openvino_bf16"] == ("1" if "'BF16'" in capabilities else "0")
    assert openvino.provenance()["openvino_f16"] == ("1" if "'FP16'" in capabilities else "0")


def test_a_result_folded_while_compiling_is_host_work(openvino, run, tensor, monkeypatch):
    monkeypatch.setitem(PLAIN_OPS, "exp", lambda _: torch.ones(2, 3))
    ran = run(openvino, "exp", [tensor([[1.0], [2.0]], "f32")])
    assert ran.y.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert ran.witness.executed == ()
    assert ran.witness.host == (Node(kind="Const", device="host", precision="f32"),)


def test_a_constant_that_is_only_converted_as_it_runs_is_host_work(openvino, run):
    # The plugin counts in 32 bits: the constant is i32, a Convert gives i64.
    ran = run(openvino, "arange", [], start=0, end=5, step=1, out="i64")
    assert ran.y.tolist() == [0, 1, 2, 3, 4]
    assert ran.witness.executed == ()
    assert [node.kind for node in ran.witness.host] == ["Const"]


def test_an_input_that_is_only_converted_is_not_host_work(openvino, run, tensor):
    ran = run(openvino, "cast", [tensor([1.0, 2.0], "f32")], to="i64")
    assert ran.y.tolist() == [1, 2]
    assert ran.witness.executed
    assert ran.witness.host == ()


def test_a_tensor_that_is_given_twice_is_two_arguments(openvino, run, tensor):
    x = tensor(SQUARE, "f32")
    handle = openvino.put(x)
    ran = run(openvino, "cat", [x, x], dim=0)
    assert ran.outputs[0].shape == (16, 8)
    assert openvino.get(handle).storage.tobytes() == x.storage.tobytes()


def test_an_empty_result_is_not_host_work(openvino, run, tensor):
    ran = run(openvino, "slice", [tensor(SQUARE, "f32")], index="x[0:0]")
    assert ran.outputs[0].shape == (0, 8)
    assert ran.witness.host == ()
    assert ran.witness.executed


def test_an_input_that_openvino_renames_is_found(openvino, run, tensor):
    x = tensor(SQUARE, "f32")
    ran = run(openvino, "slice_assign", [x, tensor(np.arange(4), "f32")], index="x[..., ::2]")
    assert ran.y[:, ::2].tolist() == [[0, 1, 2, 3]] * 8
    assert ran.y[:, 1::2].tolist() == SQUARE[:, 1::2].tolist()


def test_an_absent_argument_keeps_its_place(openvino, run, tensor):
    row = tensor(np.arange(8), "f32")
    ran = run(openvino, "layer_norm", [tensor(np.ones((2, 8)), "f32"), None, row], eps=1.0)
    assert ran.y.tolist() == [list(range(8))] * 2


def test_results_outlive_the_next_run(openvino, run, tensor):
    first = run(openvino, "silu", [tensor([0.0, 0.0], "f32")])
    run(openvino, "silu", [tensor([9.0, 9.0], "f32")])
    assert first.y.tolist() == [0, 0]


def test_open_shapes_run_other_nodes(opened, run, tensor):
    backend = opened("openvino+dynamic")
    ran = run(backend, "rms_norm", [tensor(SQUARE, "f32"), tensor(SQUARE[0], "f32")], eps=1e-5)
    assert "RMS" not in {node.kind for node in ran.witness.executed}
    assert {node.precision for node in ran.witness.executed} == {"f32"}


def test_a_wrong_shape_is_a_failure_and_not_unsupported(openvino, run, tensor):
    with pytest.raises(RuntimeError):
        run(openvino, "matmul", [tensor(SQUARE, "f32"), tensor(SQUARE[:3], "f32")])


@pytest.mark.parametrize(
    "text, words",
    [
        (
            """Check 'false' failed at src/report.cpp:151:
FrontEnd API failed with OpConversionFailure:
Model wasn't fully converted.
Summary:
-- No conversion rule found for operations: aten.x
""",
            "No conversion rule found for operations: aten.x",
        ),
        (
            """Exception from src/inference/src/cpp/core.cpp:109:
Check 'ok' failed at src/x.hpp:50:
While validating node 'opset13::X x (a) -> (b)':
Key input shape not compatible.

""",
            "Key input shape not compatible.",
        ),
        ("Check 'ok' failed at src/x.hpp:50:", "Check 'ok' failed at src/x.hpp:50:"),
        ("", "no reason given"),
    ],
)
def test_the_words_of_an_error_are_those_that_say_what_is_wrong(text, words):
    assert last_words(text) == words


def test_opening_and_running_prints_nothing_and_sends_nothing():
    code = (
        "import sys, numpy as np\n"
        "from parity.backend.registry import create\n"
        "from parity.backend.spec import BackendSpec, Setting\n"
        "from parity.case.case import Step\n"
        "from parity.case.dtype import dtype\n"
        "from parity.case.tensor import HostTensor\n"
        "backend = create(BackendSpec('openvino'), Setting.STRICT)\n"
        "assert 'openvino' not in sys.modules and 'torch' not in sys.modules\n"
        "backend.open()\n"
        "x = backend.put(HostTensor.of(np.ones(3, np.float32), dtype('f32')))\n"
        "backend.run(Step(name='s', op='exp', inputs=('x',), outputs=('y',)), [x])\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
