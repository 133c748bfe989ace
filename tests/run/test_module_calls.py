# ruff: noqa: PLW0108 - a function of torch takes more arguments than there are tensors
"""Each mapping, by running the op that it names on what was recorded: the bits must be the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from tests.run.observed import Observed, same_bits

pytestmark = pytest.mark.needs_torch

INF = float("inf")


def made(shape, dtype, *, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def given(count, shape, dtype):
    return [made(shape, dtype, seed=n) for n in range(count)]


ROWS = torch.tensor([2, 0, 1])
MASK = torch.tensor([[True, False, True, False]])
# What is called on tensors x, y, … of a shape, and the op that it must be.
MAPPED = {
    "linear": (lambda x, y: F.linear(x, y), (3, 4), "linear"),
    "linear-bias": (lambda x, y: F.linear(x, y, bias=y[:, 0]), (3, 4), "linear"),
    "mm": (lambda x, y: torch.mm(x, y.T), (3, 4), "matmul"),
    "matmul-operator": (lambda x, y: x @ y.transpose(-1, -2), (2, 3, 4), "matmul"),
    "bmm": (lambda x, y: torch.bmm(x, y.mT), (2, 3, 4), "bmm"),
    "aten-mm": (lambda x, y: torch.ops.aten.mm(x, y.T), (3, 4), "matmul"),
    "addmm": (lambda x, y: torch.addmm(x[:, :3], x, y.T, beta=0.5), (3, 4), "addmm"),
    "conv1d": (lambda x, y: F.conv1d(x, y[:, :, :3], padding=1, stride=2), (3, 3, 6), "conv1d"),
    "conv2d": (lambda x, y: F.conv2d(x, y[..., :2, :2], padding=(1, 1)), (3, 3, 5, 5), "conv2d"),
    "sum": (lambda x: x.sum(-1), (3, 4), "sum"),
    "mean-keepdim": (lambda x: torch.mean(x, dim=[1], keepdim=True), (3, 4), "mean"),
    "cumsum": (lambda x: x.cumsum(0), (3, 4), "cumsum"),
    "logsumexp": (lambda x: torch.logsumexp(x, (-1,)), (3, 4), "logsumexp"),
    "softmax": (lambda x: F.softmax(x, dim=-1), (3, 4), "softmax"),
    "softmax-method": (lambda x: x.softmax(0), (3, 4), "softmax"),
    "log_softmax": (lambda x: torch.log_softmax(x, 1), (3, 4), "log_softmax"),
    "layer_norm": (lambda x: F.layer_norm(x, (4,), x[0], x[1], 1e-6), (3, 4), "layer_norm"),
    "layer_norm-bias-only": (lambda x: F.layer_norm(x, [4], None, x[1]), (3, 4), "layer_norm"),
    "rms_norm": (lambda x: F.rms_norm(x, (4,), x[0], 1e-6), (3, 4), "rms_norm"),
    "silu": (lambda x: F.silu(x), (3, 4), "silu"),
    "silu-inplace": (lambda x: F.silu(x + x, inplace=True), (3, 4), "silu"),
    "gelu": (lambda x: F.gelu(x), (3, 4), "gelu_erf"),
    "gelu-tanh": (lambda x: F.gelu(x, approximate="tanh"), (3, 4), "gelu_tanh"),
    "exp": (lambda x: x.exp(), (3, 4), "exp"),
    "exp-in-place": (lambda x: (x + x).exp_(), (3, 4), "exp"),
    "tanh": (lambda x: torch.tanh(x), (3, 4), "tanh"),
    "sigmoid": (lambda x: x.sigmoid(), (3, 4), "sigmoid"),
    "erf": (lambda x: torch.erf(x), (3, 4), "erf"),
    "rsqrt": (lambda x: x.rsqrt(), (3, 4), "rsqrt"),
    "add": (lambda x, y: x + y, (3, 4), "add"),
    "add-number": (lambda x: x + 1.5, (3, 4), "add"),
    "number-add": (lambda x: 1 + x, (3, 4), "add"),
    "add-in-place": (lambda x, y: (x * y).add_(y), (3, 4), "add"),
    "iadd": (lambda x, y: x.__iadd__(y), (3, 4), "add"),
    "subtract-number": (lambda x: x - 2.5, (3, 4), "add"),
    "subtract-zero": (lambda x: (x * 0) - 0, (3, 4), "add"),
    "mul": (lambda x, y: x * y, (3, 4), "mul"),
    "number-mul": (lambda x: 3 * x, (3, 4), "mul"),
    "mul-out": (lambda x, y: torch.mul(x, y, out=torch.empty_like(x)), (3, 4), "mul"),
    "div": (lambda x, y: x / y, (3, 4), "div"),
    "div-power-of-two": (lambda x: x / 4, (3, 4), "div"),
    "embedding": (lambda x: F.embedding(ROWS, x), (3, 4), "embedding"),
    "gather": (lambda x: x.gather(1, ROWS[:, None]), (3, 4), "gather"),
    "index": (lambda x: x[ROWS], (3, 4), "index"),
    "index_select": (lambda x: x.index_select(0, ROWS), (3, 4), "index"),
    "index_put": (lambda x, y: torch.index_put(x, (ROWS,), y), (3, 4), "index_put"),
    "index_put-in-place": (lambda x, y: (x + y).index_put_((ROWS,), y, True), (3, 4), "index_put"),
    "index_add": (lambda x, y: (x + y).index_add_(0, ROWS, y), (3, 4), "index_put"),
    "index_copy": (lambda x, y: x.index_copy(0, ROWS, y), (3, 4), "index_put"),
    "scatter_add": (lambda x, y: x.scatter_add(0, ROWS[:, None].expand(3, 4), y), (3, 4), "scatter_add"),
    "where": (lambda x, y: torch.where(MASK, x, y), (3, 4), "where"),
    "where-number": (lambda x: x.where(MASK, 0.0), (3, 4), "where"),
    "masked_fill": (lambda x: x.masked_fill(MASK, -INF), (3, 4), "where"),
    "masked_fill-in-place": (lambda x: (x + x).masked_fill_(MASK, 2), (3, 4), "where"),
    "cat": (lambda x, y: torch.cat([x, y], -1), (3, 4), "cat"),
    "stack": (lambda x, y: torch.stack((x, y), dim=1), (3, 4), "cat"),
    "tril": (lambda x: x.tril(), (3, 4), "tril"),
    "triu": (lambda x: torch.triu(x, 1), (3, 4), "triu"),
    "topk": (lambda x: torch.topk(x, 2), (3, 4), "topk"),
    "argmax": (lambda x: x.argmax(-1), (3, 4), "argmax"),
    "sort": (lambda x: x.sort(descending=True), (3, 4), "sort"),
    "sort-stable": (lambda x: torch.sort(x, stable=True, dim=0), (3, 4), "sort"),
    "to-double": (lambda x: x.double(), (3, 4), "cast"),
    "to-int": (lambda x: x.to(torch.int32), (3, 4), "cast"),
    "type_as": (lambda x: x.type_as(ROWS.half()), (3, 4), "cast"),
    "clone": (lambda x: x.clone(), (3, 4), "copy"),
    "contiguous": (lambda x: x.T.contiguous(), (3, 4), "copy"),
    "copy-in-place": (lambda x, y: (x + y).copy_(y[0]), (3, 4), "copy"),
    "reshape": (lambda x: x.T.reshape(2, 6), (3, 4), "reshape"),
    "flatten": (lambda x: x.mT.flatten(1), (2, 3, 4), "reshape"),
    "setitem": (lambda x: x.clone().__setitem__((slice(None), 1), x[:, 0]), (3, 4), "slice_assign"),
    "setitem-number": (
        lambda x: x.clone().__setitem__((..., slice(1, None, 2)), 0.0),
        (3, 4),
        "slice_assign",
    ),
    "setitem-rows": (lambda x, y: x.clone().__setitem__(ROWS, y), (3, 4), "index_put"),
    "attention": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), (1, 2, 3, 4), "attention"),
    "attention-causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
        (1, 2, 3, 4),
        "attention",
    ),
    "attention-grouped": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], MASK[:, :3], enable_gqa=True),
        (1, 2, 3, 4),
        "attention",
    ),
}
# Forms that look like an op of the table and mean something else: they must stay calls of torch.
CALLS = {
    "add-alpha": (lambda x, y: torch.add(x, y, alpha=2), (3, 4)),
    "subtract": (lambda x, y: x - y, (3, 4)),
    "number-subtract": (lambda x: 1 - x, (3, 4)),
    "promoted": (lambda x: x + ROWS[:, None], (3, 4)),
    "div-number": (lambda x: x / 3, (3, 4)),
    "div-floor": (lambda x, y: torch.div(x, y, rounding_mode="floor"), (3, 4)),
    "softmax-other-dtype": (lambda x: x.softmax(-1, dtype=torch.float64), (3, 4)),
    "sum-everything": (lambda x: x.sum(), (3, 4)),
    "sum-two-dims": (lambda x: x.sum((0, 1)), (3, 4)),
    "matmul-vector": (lambda x: x @ x[0], (3, 4)),
    "cat-with-nothing": (lambda x: torch.cat([torch.tensor([], dtype=x.dtype), x]), (3, 4)),
    "layer_norm-two-dims": (lambda x: F.layer_norm(x, (3, 4)), (3, 4)),
    "rms_norm-default-eps": (lambda x: F.rms_norm(x, (4,)), (3, 4)),
    "topk-unsorted": (lambda x: torch.topk(x, 2, sorted=False), (3, 4)),
    "argmax-of-all": (lambda x: x.argmax(), (3, 4)),
    "mask-index": (lambda x: x[x > 0], (3, 4)),
    "column-index": (lambda x: x[:, ROWS], (3, 4)),
    "index_add-columns": (lambda x, y: x.index_add(1, ROWS, y[:, :3]), (3, 4)),
    "setitem-mask": (lambda x: x.clone().__setitem__(x > 0, 0.0), (3, 4)),
    "attention-causal-of-cache": (
        lambda q, k, v: F.scaled_dot_product_attention(q[:, :, :2], k, v, is_causal=True),
        (1, 2, 3, 4),
    ),
    "conv-uneven-stride": (lambda x, y: F.conv2d(x, y[..., :2, :2], stride=(1, 2)), (3, 3, 5, 5)),
    "conv-same": (lambda x, y: F.conv1d(x, y[:, :, :3], padding="same"), (3, 3, 6)),
}


def observed(function, shape, dtype):
    tensors = given(function.__code__.co_argcount, shape, dtype)
    run = Observed(function, *tensors)
    return run, run.calls[-1]


def as_op(run, record):
    """Whether the op that a step names gives the recorded bits, from the recorded bits."""
    outputs = [run.tensor(ref) for ref in record.outputs]
    again = run.run_again(record)
    return len(again) == len(outputs) and all(map(same_bits, again, outputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MAPPED)
def test_a_mapped_call_is_its_canonical_op_to_the_bit(name, dtype):
    function, shape, op = MAPPED[name]
    run, record = observed(function, shape, dtype)
    assert record.op == op
    assert record.replayable
    assert as_op(run, record)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_means_something_else_stays_a_call_and_can_be_run_again(name, dtype):
    run, record = observed(*CALLS[name], dtype)
    assert record.op.startswith("torch:")
    assert as_op(run, record)


def test_a_number_that_the_type_would_change_keeps_the_call():
    narrow = observed(lambda x: x * 0.1, (3, 4), torch.bfloat16)[1]
    wide = observed(lambda x: x * 0.1, (3, 4), torch.float32)[1]
    assert (narrow.op, wide.op) == ("torch:Tensor.mul", "mul")


def test_integers_are_added_as_integers_and_truth_values_are_not_added():
    run = Observed(lambda x: (x + 1, (x > 0) + (x > 1)), torch.arange(4))
    assert [op for name, op in run.ops.items() if "add" in name] == ["add", "torch:Tensor.add"]


def test_a_call_under_autocast_is_no_canonical_op():
    def cast(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ x.T

    (record,) = Observed(cast, torch.ones(3, 4)).calls
    assert record.op == "torch:Tensor.matmul"
    assert not record.replayable
    assert record.attrs["reason"] == "ran under autocast, which chooses types by itself"


def test_a_wrong_attribute_would_be_seen():
    run, record = observed(MAPPED["attention-causal"][0], (1, 2, 3, 4), torch.float32)
    attrs = {**record.attrs, "causal": False}
    assert not as_op(
        run, type(record)(**{**{f: getattr(record, f) for f in record.__slots__}, "attrs": attrs})
    )
