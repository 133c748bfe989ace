"""Inductor's generated programs as evidence, whether it can work here, and `cpu+compile` as a whole."""

import shutil
import sysconfig

import numpy as np
import pytest
import torch

from parity.backend import inductor
from parity.backend.base import Availability, Node, Unsupported
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.backend.torch_ops import TORCH_OPS
from parity.case.dtype import DTYPES
from parity.case.op import OPS
from parity.judge.verdict import Verdict
from parity.judge.witness import examine

SQUARE = np.arange(64).reshape(8, 8) / 8


def program(tensors, body, calls="cpp_fused_mul_0(arg0_1, buf0)", name="cpp_fused_mul_0"):
    """A program as Inductor writes it, cut to what is read."""
    return (
        "async_compile = AsyncCompile()\n\n\n"
        f"{name} = async_compile.cpp_pybinding([{tensors}], r'''\n"
        f'#include <torch/csrc/inductor/cpp_prefix.h>\nextern "C"  void  kernel()\n{{\n{body}\n}}\n'
        "''')\n\n\n"
        "class Runner:\n    def call(self, args):\n"
        + "".join(f"        {line}\n" for line in calls.splitlines())
        + "        return (buf0, )\n"
    )


WIDE = """auto tmp0 = at::vec::Vectorized<at::BFloat16>::loadu(in_ptr0 + static_cast<int64_t>(x0), 32);
auto tmp1 = at::vec::convert<float,2,at::BFloat16,1>(tmp0);
auto tmp2 = tmp1.exp();
auto tmp3 = at::vec::convert<at::BFloat16,1,float,2>(tmp2);"""


@pytest.mark.parametrize(
    "tensors, body, kind, precision",
    [
        ("'const at::BFloat16*', 'at::BFloat16*'", WIDE, "inductor:cpp_fused_mul in f32", "bf16"),
        ("'const float*', 'float*'", "at::vec::Vectorized<float>::loadu(p)", "inductor:cpp_fused_mul", "f32"),
        ("'const float*', 'float*'", "static_cast<at::Half>(tmp0)", "inductor:cpp_fused_mul", "f16"),
        ("'const bool*', 'const float*', 'float*'", "", "inductor:cpp_fused_mul", "f32"),
        ("'const int64_t*', 'bool*'", "static_cast<int64_t>(1L)", "inductor:cpp_fused_mul", "bool"),
        ("'const float*', 'at::Unheard*'", "", "inductor:cpp_fused_mul", "?"),
    ],
)
def test_a_generated_kernel_is_as_precise_as_its_coarsest_float(tensors, body, kind, precision):
    (node,) = inductor.kernels(program(tensors, body))
    assert node == Node(kind=kind, device="cpu", precision=precision)


def test_only_kernels_that_are_called_ran():
    text = program("'float*'", "", calls="buf1 = torch.ops.aten.sort.stable(arg0_1)")
    assert inductor.kernels(text) == ()
    assert inductor.borrowed(text) == 1
    twice = program(
        "'float*'", "", calls="cpp_fused_mul_0(a, b)\nextern_kernels.mm(a, b, out=c)\ncpp_fused_mul_0(b, c)"
    )
    assert len(inductor.kernels(twice)) == 2
    assert inductor.borrowed(twice) == 1


@pytest.mark.parametrize("tensors", ["", "'const int64_t*'", "'const int64_t'"])
def test_a_kernel_that_writes_nothing_only_asserted_something(tensors):
    assert inductor.kernels(program(tensors, "throw std::runtime_error(why)")) == ()


# Whether it can work here.


def test_no_compiler_is_said_with_what_to_install(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-g++")
    backend = create(BackendSpec.parse("cpu+compile"), Setting.STRICT)
    assert backend.available() == Availability(
        ok=False,
        reason="torch.compile needs a C++ compiler, and there is no 'no-such-g++'",
        hint="install g++ (apt-get install g++), or name another compiler in CXX",
    )
    assert create(BackendSpec.parse("cpu"), Setting.STRICT).available().ok


def test_no_headers_of_python_are_said_too(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/g++")
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    assert inductor.available().reason == "torch.compile needs Python.h, which this Python came without"


def test_strict_asks_for_what_eager_does_and_no_approximations():
    compiled, eager = (
        create(BackendSpec.parse(text), Setting.STRICT).env() for text in ("cpu+compile", "cpu")
    )
    assert compiled == {**eager, **inductor.STRICT_ENV}
    assert compiled["TORCHINDUCTOR_CPP_ENABLE_UNSAFE_MATH_OPT_FLAG"] == "0"
    assert create(BackendSpec.parse("cpu+compile"), Setting.PRODUCTION).env() == {}


# The whole backend, which needs a compiler.

needs_compiler = pytest.mark.skipif(not inductor.available().ok, reason=inductor.available().reason)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Inductor calls what torch deprecates


@pytest.fixture
def compiled(opened):
    return opened("cpu+compile", Setting.PRODUCTION)


@needs_compiler
def test_provenance_says_what_compiled_and_how(compiled):
    found = compiled.provenance()
    assert found["inductor.emulate_precision_casts"] == "False"
    assert found["inductor.cpp.enable_unsafe_math_opt_flag"] == "False"
    assert found["inductor.cxx"] not in ("", "unknown")
    assert found["torch"] == torch.__version__


@needs_compiler
def test_a_generated_kernel_keeps_float32_inside_bfloat16(compiled, run, tensor):
    seen = []
    compiled.on_phase = seen.append
    ran = run(compiled, "silu", [tensor(SQUARE, "bf16")])
    assert seen == ["compile", "run"]
    assert [(n.kind, n.precision) for n in ran.witness.executed] == [
        ("inductor:cpp_fused_silu in f32", "bf16")
    ]
    assert ran.witness.borrowed == 0
    assert examine(ran.witness, OPS["silu"], [DTYPES["bf16"]] * 2) == (Verdict.WITHIN, "")
    exact = SQUARE / (1 + np.exp(-SQUARE))
    np.testing.assert_allclose(ran.y, exact, rtol=2**-8)


@needs_compiler
def test_a_product_is_borrowed_and_seen_as_it_is_dispatched(compiled, run, tensor):
    ran = run(compiled, "matmul", [tensor(SQUARE, "f32")] * 2)
    assert [(n.kind, n.device, n.precision) for n in ran.witness.executed] == [("aten::mm", "cpu", "f32")]
    assert ran.witness.borrowed == 1
    assert ran.y.tolist() == (SQUARE @ SQUARE).tolist()


@needs_compiler
def test_a_lower_precision_inside_is_substituted(compiled, run, tensor, monkeypatch):
    # Inductor drops a cast there and back; what goes through a library keeps it.
    monkeypatch.setitem(TORCH_OPS, "exp", lambda x: (x.half() @ x.half()).float())
    ran = run(compiled, "exp", [tensor(SQUARE, "f32")])
    verdict, why = examine(ran.witness, OPS["exp"], [DTYPES["f32"]] * 2)
    assert verdict is Verdict.SUBSTITUTED
    assert why == "asked for f32; aten::mm, inductor:cpp_fused__to_copy ran at f16"


@needs_compiler
def test_a_graph_break_is_refused(compiled, run, tensor, monkeypatch):
    def breaks(x):
        torch._dynamo.graph_break()
        return x.exp()

    monkeypatch.setitem(TORCH_OPS, "exp", breaks)
    with pytest.raises(Unsupported, match=r"^torch.compile: Call to `torch._dynamo.graph_break\(\)`$"):
        run(compiled, "exp", [tensor(SQUARE, "f32")])


@needs_compiler
def test_an_index_that_is_one_number_cannot_be_traced(compiled, run, tensor):
    with pytest.raises(Unsupported, match=r"^torch.compile: Could not extract specialized integer"):
        run(compiled, "index", [tensor(np.arange(5.0), "f32"), tensor(-1, "i64")])


@needs_compiler
def test_code_of_assertions_alone_is_seen_by_what_it_dispatched(compiled, run, tensor):
    none = tensor(np.zeros(0), "i64")
    ran = run(compiled, "one_hot", [none], classes=3)
    assert ran.outputs[0].shape == (0, 3)
    assert [n.precision for n in ran.witness.executed] == ["i64"]
    assert examine(ran.witness, OPS["one_hot"], [DTYPES["i64"]] * 2) == (Verdict.WITHIN, "")


@needs_compiler
def test_code_that_gives_back_its_input_is_no_kernel_and_no_host_work(compiled, run, tensor):
    ran = run(compiled, "cast", [tensor(SQUARE, "f32")], to="f32")
    assert ran.witness.host == ()
    assert ran.y.tolist() == SQUARE.tolist()
