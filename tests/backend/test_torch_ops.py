import numpy as np
import pytest
import torch

from parity.backend.torch_eager import torch_function
from parity.backend.torch_ops import PLAIN_OPS, TORCH_OPS
from parity.case.case import Step
from parity.case.op import OPS


def test_every_op_of_the_table_is_written_and_tested(op_cases):
    assert sorted(TORCH_OPS) == sorted(PLAIN_OPS) == sorted(OPS) == sorted({case.op for case in op_cases})


def test_torch_computes_in_float64_what_the_op_table_says(cpu, run, op_case):
    ran = run(cpu, op_case.op, op_case.inputs("f64"), **op_case.attrs)
    assert len(ran.outputs) == len(op_case.outputs)
    for output, want in zip(ran.outputs, op_case.outputs, strict=True):
        assert output.shape == want.shape
        # Thousands of roundings of float64; what rounds to float32 has exact intermediates.
        np.testing.assert_allclose(output.array().astype(np.float64), want, rtol=1e-12, atol=1e-12)
    assert ran.witness.executed
    assert ran.witness.host == ()


@pytest.mark.parametrize("op", [op for op in PLAIN_OPS if PLAIN_OPS[op] is not TORCH_OPS[op]])
def test_the_plain_form_of_an_op_computes_the_same(cpu, run, op_cases, monkeypatch, op):
    monkeypatch.setitem(TORCH_OPS, op, PLAIN_OPS[op])
    for case in op_cases:
        if case.op == op:
            ran = run(cpu, op, case.inputs("f64"), **case.attrs)
            assert ran.outputs[0].array().tolist() == case.outputs[0].tolist()


def test_inputs_are_never_written_to(cpu, op_cases):
    for case in op_cases:
        if case.op in ("slice_assign", "index_put", "scatter_add"):
            inputs = case.inputs("f32")
            handles = [cpu.put(x) for x in inputs]
            names = tuple(f"i{n}" for n in range(len(inputs)))
            cpu.run(Step(name="s", op=case.op, inputs=names, outputs=("y",), attrs=case.attrs), handles)
            assert cpu.get(handles[0]).storage.tobytes() == inputs[0].storage.tobytes()


@pytest.mark.parametrize("op, want", [("add", [-(2**63), 2**40, 0]), ("mul", [2**63 - 1, 0, -(2**62)])])
def test_int64_keeps_64_bits_and_wraps(cpu, run, tensor, op, want):
    a = tensor([2**63 - 1, 2**40, 2**62], "i64")
    b = tensor([1, 2**40 * (op == "mul"), -1 if op == "mul" else -(2**62)], "i64")
    assert run(cpu, op, [a, b]).y.tolist() == want


def test_a_causal_convolution_reads_nothing_later(cpu, run, tensor):
    attrs = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "causal": True}
    ran = run(cpu, "conv1d", [tensor([[[1.0, 10.0, 100.0]]], "f32"), tensor([[[1.0, 2.0]]], "f32")], **attrs)
    assert ran.y.tolist() == [[[2.0, 21.0, 210.0]]]


def test_what_an_op_makes_from_nothing_is_made_on_the_device():
    attrs = {"rows": 3, "columns": 4, "offset": 0}
    step = Step(name="s", op="triu_indices", inputs=(), outputs=("y",), attrs=attrs)
    assert torch_function(step, torch.device("meta"))().device.type == "meta"
    assert torch_function(step, torch.device("cpu"))().tolist()[0][:4] == [0, 0, 0, 0]


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_the_native_grouped_product_leaves_nothing_in_rows_that_no_group_owns(cpu, run, tensor, dtype):
    x, w = np.arange(6 * 8).reshape(6, 8) % 5 - 2, np.arange(3 * 8 * 8).reshape(3, 8, 8) % 7 - 3
    ran = run(cpu, "grouped_mm", [tensor(x, dtype), tensor(w, dtype), tensor([2, 2, 4], "i32")])
    assert "aten::_grouped_mm" in {node.kind for node in ran.witness.executed}
    assert ran.y.tolist() == [*(x[:2] @ w[0]).tolist(), *(x[2:4] @ w[2]).tolist(), *np.zeros((2, 8)).tolist()]


@pytest.mark.parametrize("flavour", ["e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz"])
def test_the_native_scaled_product_takes_every_flavour_on_a_cpu(cpu, run, tensor, flavour):
    x, w = [[1.0, 2.0], [-0.5, 1.5]], [[1.0, 1.0], [0.25, -2.0], [2.0, 0.0]]
    scales = [tensor([[2.0], [4.0]], "f32"), tensor([[0.5], [1.0], [2.0]], "f32")]
    ran = run(cpu, "scaled_mm", [tensor(x, flavour), tensor(w, flavour), *scales], out="f32")
    assert "aten::_scaled_mm" in {node.kind for node in ran.witness.executed}
    assert ran.y.tolist() == [[3.0, -7.5, 8.0], [2.0, -12.5, -8.0]]


def test_an_exponent_of_255_is_nan_in_every_product_that_reads_it(cpu, run, tensor):
    for op in (TORCH_OPS["block_scaled_mm"], PLAIN_OPS["block_scaled_mm"]):
        codes = torch.tensor([[127, 255]], dtype=torch.uint8)
        ones = torch.ones(1, 2).to(torch.float8_e4m3fn)
        assert (
            op(ones, ones, codes, codes[:, :1].expand(1, 2), block=1, block_rows=1, out="f32").isnan().all()
        )
        assert op(ones, ones, codes * 0 + 1, codes * 0 + 127, block=1, block_rows=1, out="f32") == 2.0**-125


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_a_part_of_which_a_query_sees_nothing_adds_nothing(parts):
    q, k, v = torch.randn(3, 1, 2, 6, 8, generator=torch.Generator().manual_seed(5))
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    mask[3] = False
    how = {"causal": False, "window": None, "scale": None}
    whole = TORCH_OPS["attention"](q, k, v, mask, **how)
    split = TORCH_OPS["split_attention"](q, k, v, mask, along="keys", parts=parts, **how)
    assert torch.allclose(whole, split, rtol=1e-6, atol=1e-6) and not split[..., 3, :].any()
