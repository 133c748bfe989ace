import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import parity
from parity.backend.base import Availability, Node, Unsupported
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Step
from parity.case.dtype import DTYPES, dtype
from parity.case.op import OPS
from parity.case.tensor import HostTensor
from parity.errors import UsageError
from parity.judge.verdict import Verdict
from parity.judge.witness import examine

pytest.importorskip("onnx", reason="pip install 'chip-parity[onnxruntime]'")
pytest.importorskip("onnxruntime", reason="pip install 'chip-parity[onnxruntime]'")

from parity.backend.runtimes.onnx_ops import ONNX_OPS
from parity.backend.runtimes.onnxruntime_sdk import last_words

SQUARE = np.arange(64).reshape(8, 8) / 8
IN_ONNX = [
    *("f64", "f32", "f16", "bf16", "e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz"),
    *("i8", "i16", "i32", "i64", "u8", "bool"),
]


@pytest.fixture(scope="module")
def runtime():
    backend = create(BackendSpec("onnxruntime"), Setting.STRICT)
    backend.open()
    return backend


def executed(ran):
    return [(node.kind, node.precision) for node in ran.witness.executed]


def test_a_missing_package_is_reported_with_the_way_to_get_it(monkeypatch):
    backend = create(BackendSpec("onnxruntime"), Setting.STRICT)
    assert backend.available() == Availability(ok=True, reason="onnxruntime is installed")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name))
    assert backend.available() == Availability(
        ok=False, reason="onnx is not installed", hint="pip install 'chip-parity[onnxruntime]'"
    )


def test_it_has_no_other_mode():
    with pytest.raises(UsageError) as error:
        create(BackendSpec.parse("onnxruntime+dynamic"), Setting.STRICT)
    assert str(error.value) == ("'onnxruntime+dynamic': onnxruntime has no mode 'dynamic'; modes: eager")


@pytest.mark.parametrize("name", IN_ONNX)
@pytest.mark.parametrize("shape, stride, offset", [((8, 8), (1, 8), 0), ((3, 2), (16, 2), 5), ((), (), 9)])
def test_every_bit_survives_the_way_there_and_back(runtime, name, shape, stride, offset):
    to = dtype(name)
    high = 2 if name == "bool" else 256
    raw = np.random.default_rng(7).integers(0, high, 64 * to.itemsize, dtype=np.uint8).view(to.storage)
    host = HostTensor(dtype=to, storage=raw, shape=shape, stride=stride, offset=offset)
    back = runtime.get(runtime.put(host))
    assert (back.dtype, back.shape) == (to, shape)
    assert back.storage.tobytes() == np.ascontiguousarray(host.array()).tobytes()


def test_a_format_that_onnx_lacks_is_unsupported(runtime, run, tensor):
    with pytest.raises(Unsupported, match=r"^ONNX has no element type for float8_e4m3_gaudi2$"):
        runtime.put(tensor([1.0], "e4m3_gaudi2"))
    with pytest.raises(Unsupported, match=r"^ONNX has no element type for float8_e4m3_gaudi2$"):
        run(runtime, "cast", [tensor([1.0], "f32")], to="e4m3_gaudi2")


def unwritten(op_case):
    """What is said of an op that has no form in ONNX; empty for the others."""
    return "" if op_case.op in ONNX_OPS else f"op '{op_case.op}' is not written in ONNX"


def test_what_has_no_form_in_onnx_is_unsupported_and_little_else(runtime, run, op_cases):
    without = [each for each in op_cases if unwritten(each)]
    for each in without:
        with pytest.raises(Unsupported) as error:
            run(runtime, each.op, each.inputs("f32"), **each.attrs)
        assert str(error.value) == unwritten(each)
    assert 0 < len(without) < len(op_cases) / 8


def test_it_computes_in_float32_what_the_op_table_says(runtime, run, op_case):
    if unwritten(op_case):
        return  # it is asked for above
    ran = run(runtime, op_case.op, op_case.inputs("f32"), **op_case.attrs)
    for output, want in zip(ran.outputs, op_case.outputs, strict=True):
        assert output.shape == want.shape
        # Tens of roundings of float32 on values near one: enough to see another operation.
        np.testing.assert_allclose(output.array().astype(np.float64), want, rtol=1e-5, atol=1e-5)
    assert ran.witness.executed
    assert {node.device for node in (*ran.witness.executed, *ran.witness.moved)} == {"CPU"}
    assert ran.witness.host == ()


def test_production_computes_the_same_with_the_graph_rewritten(opened, run, op_case):
    if unwritten(op_case):
        return  # it is refused whatever the setting
    backend = opened("onnxruntime", Setting.PRODUCTION)
    ran = run(backend, op_case.op, op_case.inputs("f32"), **op_case.attrs)
    for output, want in zip(ran.outputs, op_case.outputs, strict=True):
        np.testing.assert_allclose(output.array().astype(np.float64), want, rtol=1e-5, atol=1e-5)


def test_what_is_written_is_of_the_table():
    assert ONNX_OPS.keys() <= OPS.keys()


def test_a_function_of_torch_without_an_op_is_unsupported(runtime):
    step = Step(name="s", op="exp", inputs=("x",), outputs=("y",))
    object.__setattr__(step, "op", "torch:prod")
    with pytest.raises(Unsupported, match=r"^op 'torch:prod' is not written in ONNX$"):
        runtime.run(step, [])


@pytest.mark.parametrize("name", ["f32", "f64"])
def test_strict_runs_a_product_at_the_precision_asked(runtime, run, tensor, name):
    ran = run(runtime, "matmul", [tensor(SQUARE, name)] * 2)
    assert ran.witness.executed == (Node(kind="MatMul", device="CPU", precision=name),)
    assert ran.outputs[0].dtype.name == name


def test_a_float16_product_is_seen_to_run_in_float32(runtime, run, tensor):
    ran = run(runtime, "matmul", [tensor(SQUARE, "f16")] * 2)
    assert executed(ran) == [("MatMul", "f32")]
    assert [(node.kind, node.precision) for node in ran.witness.moved] == [("Cast", "f16")] * 3
    verdict, why = examine(ran.witness, OPS["matmul"], [DTYPES["f16"]] * 3)
    assert (verdict, why) == (Verdict.SUBSTITUTED, "asked for f16; MatMul ran at f32")


def test_a_bfloat16_product_is_unsupported_in_the_runtime_s_own_words(runtime, run, tensor):
    with pytest.raises(Unsupported) as error:
        run(runtime, "matmul", [tensor(SQUARE, "bf16")] * 2)
    assert str(error.value) == (
        "ONNX Runtime: Could not find an implementation for MatMul(13) node with name ''"
    )


def test_what_a_kernel_refuses_as_it_runs_is_unsupported_too(runtime, run, tensor):
    rows = [tensor(SQUARE, "f16"), tensor([0, 1], "i64"), tensor(SQUARE[:2], "f16")]
    with pytest.raises(Unsupported, match="MLFloat16 data type is not supported with ScatterND"):
        run(runtime, "index_put", rows, accumulate=True)
    none = [tensor(np.zeros((1, 2, 0, 4)), "f32")] * 3
    with pytest.raises(Unsupported, match="sequence length must be greater than 0"):
        run(runtime, "attention", none, causal=False, window=None, scale=None)


def test_a_wrong_shape_is_a_failure_and_not_unsupported(runtime, run, tensor):
    with pytest.raises(Exception, match="Incompatible dimensions") as error:
        run(runtime, "matmul", [tensor(SQUARE, "f32"), tensor(SQUARE[:3], "f32")])
    assert not isinstance(error.value, Unsupported)


# Injected faults.


def test_another_type_in_the_graph_is_substituted(runtime, run, tensor, monkeypatch):
    def narrow(g, a, b):
        half = [g.cast(each, DTYPES["f16"]) for each in (a, b)]
        return g("Cast", g("Max", *half), to=DTYPES["f32"])

    monkeypatch.setitem(ONNX_OPS, "mul", narrow)
    ran = run(runtime, "mul", [tensor(SQUARE, "f32")] * 2)
    assert executed(ran) == [("Max", "f16")]
    verdict, why = examine(ran.witness, OPS["mul"], [DTYPES["f32"]] * 3)
    assert (verdict, why) == (Verdict.SUBSTITUTED, "asked for f32; Max ran at f16")


def test_a_result_that_was_folded_while_compiling_ran_nowhere(opened, run, tensor, monkeypatch):
    monkeypatch.setitem(ONNX_OPS, "exp", lambda g, x: g("Neg", g.constant(np.ones(x.shape), DTYPES["f32"])))
    ran = run(opened("onnxruntime", Setting.PRODUCTION), "exp", [tensor([[1.0], [2.0]], "f32")])
    assert ran.y.tolist() == [[-1], [-1]]
    verdict, why = examine(ran.witness, OPS["exp"], [DTYPES["f32"]] * 2)
    assert (verdict, why) == (Verdict.FELL_BACK, "nothing was executed on the target")


def test_a_wrong_op_in_the_graph_exceeds(tmp_path, monkeypatch):
    """The whole way, through a child: a start-up file puts another function behind tanh."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import parity.backend.runtimes.onnx_ops as ops\nops.ONNX_OPS['tanh'] = lambda g, x: g('Erf', x)\n"
    )
    report = tmp_path / "run.json"
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{Path(parity.__file__).parents[1]}")
    command = [sys.executable, "-m", "parity", "check", "--ref", "oracle", "--target", "onnxruntime"]
    case = "ops/tanh:dist=normal,dtype=f32,shape=17"
    ran = subprocess.run(
        [*command, case, "--json", str(report)], cwd=tmp_path, capture_output=True, text=True
    )
    assert report.exists(), ran.stderr
    found = json.loads(report.read_text())
    assert {c["verdict"] for c in found["cases"]} == {"exceeds"}, ran.stdout
    assert ran.returncode == 1


# Settings and the rest.


def test_strict_reads_back_what_it_pinned(runtime):
    assert {
        "onnxruntime.graph_optimization_level": "GraphOptimizationLevel.ORT_DISABLE_ALL",
        "onnxruntime.intra_op_num_threads": "1",
        "onnxruntime.use_deterministic_compute": "True",
        "onnxruntime.session.set_denormal_as_zero": "0",
        "onnxruntime.session.x64quantprecision": "1",
        "onnxruntime.mlas.enable_gemm_fastmath_arm64_bfloat16": "0",
    }.items() <= runtime.provenance().items()


def test_production_leaves_the_defaults(opened):
    backend = opened("onnxruntime", Setting.PRODUCTION)
    assert backend.env() == {}
    assert {
        "onnxruntime.graph_optimization_level": "GraphOptimizationLevel.ORT_ENABLE_ALL",
        "onnxruntime.intra_op_num_threads": "0",
        "onnxruntime.session.x64quantprecision": "default",
    }.items() <= backend.provenance().items()


def test_each_session_of_a_process_keeps_a_profile_of_its_own(runtime, run, tensor):
    kinds = [executed(run(runtime, op, [tensor(SQUARE, "f32")]))[0][0] for op in ("exp", "tanh", "erf") * 3]
    assert kinds == ["Exp", "Tanh", "Erf"] * 3


@pytest.mark.parametrize("op, attrs", [("sum", {"dim": -1, "keepdim": False}), ("softmax", {"dim": 0})])
def test_a_scalar_is_one_element_along_its_only_dimension(runtime, run, tensor, op, attrs):
    ran = run(runtime, op, [tensor(3.0, "f32")], **attrs)
    assert ran.outputs[0].shape == ()
    assert ran.y.item() == (3 if op == "sum" else 1)


def test_a_tensor_that_is_given_twice_is_two_arguments(runtime, run, tensor):
    x = tensor(SQUARE, "f32")
    assert run(runtime, "cat", [x, x], dim=0).outputs[0].shape == (16, 8)


def test_an_empty_result_is_not_host_work(runtime, run, tensor):
    ran = run(runtime, "slice", [tensor(SQUARE, "f32")], index="x[0:0]")
    assert ran.outputs[0].shape == (0, 8)
    assert executed(ran) == [("Slice", "f32")]


def test_an_absent_argument_keeps_its_place(runtime, run, tensor):
    row = tensor(np.arange(8), "f32")
    ran = run(runtime, "layer_norm", [tensor(np.ones((2, 8)), "f32"), None, row], eps=1.0)
    assert ran.y.tolist() == [list(range(8))] * 2


def test_results_outlive_the_next_run(runtime, run, tensor):
    first = run(runtime, "silu", [tensor([0.0, 0.0], "f32")])
    run(runtime, "silu", [tensor([9.0, 9.0], "f32")])
    assert first.y.tolist() == [0, 0]


@pytest.mark.parametrize(
    "text, words",
    [
        (
            "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Exp(13)",
            "Could not find an implementation for Exp(13)",
        ),
        ("[ONNXRuntimeError] : 1 : FAIL : a : b\nmore", "a : b"),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Status Message: /src/a.h:83 void f() q > 0 was false. Q is 0",
            "Q is 0",
        ),
        ("[ONNXRuntimeError] : 1 : FAIL : /src/a.h:46 void f(T&, int) Opset 27 (new)", "Opset 27 (new)"),
        ("anything else", "anything else"),
        ("", "no reason given"),
    ],
)
def test_the_words_of_an_error_are_those_that_say_what_is_wrong(text, words):
    assert last_words(text) == words


def test_opening_and_running_prints_nothing():
    code = (
        "import sys, numpy as np\n"
        "from parity.backend.registry import create\n"
        "from parity.backend.spec import BackendSpec, Setting\n"
        "from parity.case.case import Step\n"
        "from parity.case.dtype import dtype\n"
        "from parity.case.tensor import HostTensor\n"
        "backend = create(BackendSpec('onnxruntime'), Setting.STRICT)\n"
        "assert not {'onnx', 'onnxruntime', 'torch'} & sys.modules.keys()\n"
        "backend.open()\n"
        "x = backend.put(HostTensor.of(np.ones(3, np.float32), dtype('f32')))\n"
        "backend.run(Step(name='s', op='exp', inputs=('x',), outputs=('y',)), [x])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
