from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from parity.backend.base import Unsupported
from parity.backend.torch_call import decode_call, encode_call
from parity.errors import GoldenError

pytestmark = pytest.mark.needs_torch

X = torch.arange(12.0).reshape(3, 4)
Y = torch.arange(4.0)


def text_of(name: str) -> str:
    return f'{{"function":"{name}","args":[],"kwargs":{{}},"writes":[]}}'


def through(function, *args, writes=(), **kwargs):
    """What a call gives, and what it gives once it was written down and read back."""
    text, inputs = encode_call(function, args, kwargs, writes=writes)
    call = decode_call(text)
    return text, inputs, call


def test_a_call_is_written_as_its_name_and_arguments_with_tensors_by_number():
    text, inputs, _ = through(torch.softmax, X, dim=-1)
    assert text == '{"function":"softmax","args":[{"tensor":0}],"kwargs":{"dim":-1},"writes":[]}'
    assert inputs[0] is X


@pytest.mark.parametrize(
    "function,args,kwargs",
    [
        (torch.einsum, ("ij,j->i", X, Y), {}),
        (torch.Tensor.__getitem__, (X, (None, ..., slice(1, None, 2))), {}),
        (torch.Tensor.clamp, (X,), {"max": float("inf")}),
        (torch.Tensor.to, (X, torch.bfloat16), {}),
        (torch.Tensor.permute, (X, [1, 0]), {}),
        (F.pad, (X, (1, 2)), {"value": -1.5}),
        (torch.broadcast_tensors, (X, Y), {}),
        (torch.ops.aten.mm.default, (X, X.T), {}),
        (torch.arange, (1, 9, 2), {"dtype": torch.int32, "device": torch.device("cpu")}),
        (torch.empty_like, (X,), {"memory_format": torch.contiguous_format}),
        (torch.Tensor.T.__get__, (X,), {}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_call_that_is_read_back_gives_the_same(function, args, kwargs):
    _, inputs, call = through(function, *args, **kwargs)
    expected = function(*args, **kwargs)
    outputs = call.run(inputs)
    expected = expected if isinstance(expected, (tuple, list)) else (expected,)
    assert [(t.dtype, t.shape) for t in outputs] == [(t.dtype, t.shape) for t in expected]
    if function is not torch.empty_like:
        assert all(map(torch.equal, outputs, expected))


def test_a_tensor_that_is_given_twice_is_one_input():
    text, inputs, _ = through(torch.mul, X, X)
    assert len(inputs) == 1
    assert '"args":[{"tensor":0},{"tensor":0}]' in text


def test_what_a_call_writes_to_is_given_back_and_the_input_stays_as_it_was():
    x = X.clone()
    text, inputs, call = through(torch.Tensor.__setitem__, x, (slice(None), 0), 7.0, writes=[x])
    (given,) = call.run(inputs)
    assert text.endswith('"writes":[0]}')
    assert given[:, 0].tolist() == [7.0, 7.0, 7.0]
    assert torch.equal(x, X)


def test_a_result_that_is_the_written_input_is_given_once():
    x = X.clone()
    _, inputs, call = through(torch.Tensor.add_, x, 1.0, writes=[x])
    (given,) = call.run(inputs)
    assert torch.equal(given, X + 1)


def test_types_that_a_call_names_can_be_widened():
    _, inputs, call = through(torch.Tensor.sum, X, dtype=torch.float32)
    (given,) = call.run([t.double() for t in inputs], widen=lambda _: torch.float64)
    assert given.dtype == torch.float64
    _, inputs, call = through(torch.Tensor.float, X.bfloat16())
    (given,) = call.run([t.double() for t in inputs], widen=lambda _: torch.float64)
    assert given.dtype == torch.float64


def test_complex_tensors_travel_as_pairs_of_real_ones():
    z = torch.polar(X, X)
    text, _, call = through(torch.mul, z, z)
    (given,) = call.run([torch.view_as_real(z)])
    assert '"complex":true' in text
    assert torch.equal(given, torch.view_as_real(z * z))


def test_the_device_is_the_one_that_the_call_is_run_on():
    _, _, call = through(torch.zeros, (2,), device=torch.device("cpu"))
    assert call.run((), device=torch.device("meta"))[0].device.type == "meta"


@pytest.mark.parametrize(
    "name", ["os.system", "Tensor.numpy", "from_file", "aten.from_file", "Tensor.apply_", "save", "__class__"]
)
def test_only_functions_that_torch_lists_are_found(name):
    with pytest.raises(Unsupported) as caught:
        decode_call(text_of(name))
    assert str(caught.value) == f"torch {torch.__version__} lists no function '{name}' that a step may call"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"function":3,"args":[],"kwargs":{},"writes":[]}',
        '{"function":"add","args":[{"tensor":-1}],"kwargs":{},"writes":[]}',
        '{"function":"add","args":[{"code":"x"}],"kwargs":{},"writes":[]}',
        '{"function":"add","args":[{"dtype":"float31"}],"kwargs":{},"writes":[]}',
        '{"function":"add","args":[{"type":"object"}],"kwargs":{},"writes":[]}',
        '{"function":"add","args":[],"kwargs":{},"writes":["0"]}',
    ],
)
def test_text_that_parity_would_not_write_is_refused(text):
    with pytest.raises(GoldenError, match=r"^a step's call (is not as parity writes calls|has no function)"):
        decode_call(text)


def test_a_call_that_names_an_input_that_is_not_there_says_so():
    with pytest.raises(GoldenError, match=r"^the call of add reads input 1, but there are 1$"):
        decode_call('{"function":"add","args":[{"tensor":0},{"tensor":1}],"kwargs":{},"writes":[]}').run([X])


@pytest.mark.parametrize(
    "function,args",
    [
        (torch.Tensor.apply_, (X, abs)),
        (torch.bernoulli, (X, {"generator": torch.Generator()})),
        (print, (X,)),
    ],
    ids=["calls back", "an object", "not torch"],
)
def test_a_call_that_could_not_be_read_back_is_not_written(function, args):
    with pytest.raises(Unsupported):
        encode_call(function, args, {})
