"""Each fact of OpenVINO's that widens a budget: what it explains is within, a fault of its size is not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from parity.backend.cpu_profile import cpu_profile
from parity.backend.runtimes.openvino_profile import openvino_profile
from parity.backend.spec import Setting
from parity.case.dtype import DTYPES, encode
from parity.case.tensor import HostTensor
from parity.judge.compare import compare
from parity.judge.oracle import answers
from parity.judge.verdict import Verdict

OPENVINO, CPU = openvino_profile(Setting.STRICT), cpu_profile(Setting.STRICT)


def stored(x, bits=8):
    """Round float64 to a significand of `bits`, which bf16 has 8 of."""
    fraction, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(torch.ldexp(fraction, torch.tensor(bits))), exponent - bits)


def host(x, name="bf16"):
    codes = encode(x.numpy().astype(np.float64), DTYPES[name])
    return HostTensor.of(codes.view(DTYPES[name].storage).reshape(x.shape), DTYPES[name])


def draw(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return stored(torch.randn(*shape, dtype=torch.float64, generator=generator))


def verdict(op, inputs, result, profile, *, name="bf16", **attrs):
    """Return the verdict on a result that is rounded to the output's dtype last."""
    tensors = [
        host(x, name) if isinstance(x, torch.Tensor) else HostTensor.of(x, DTYPES["i64"]) for x in inputs
    ]
    judged = [
        compare((host(result, name),), ("y",), answer.expected)[0].verdict
        for answer in answers(op, tensors, attrs, profile)
    ]
    return Verdict.WITHIN if Verdict.WITHIN in judged else judged[0]


def layer_norm(bits):
    x, g, b = draw(16, 256, seed=1), draw(256, seed=2), 4 * draw(256, seed=3)
    return [x, g, b], stored(F.layer_norm(x, (256,), eps=1e-5), bits) * g + b


def group_norm(bits):
    x, g, b = draw(3, 2, 4, 16, seed=16), draw(2, seed=17), 4 * draw(2, seed=18)
    normal = stored(F.group_norm(x, 1, eps=1e-5), bits)
    return [x, g, b], normal * g[:, None, None] + b[:, None, None]


def linear(bits):
    x, w, b = draw(32, 64, seed=4), draw(48, 64, seed=5), 64 * draw(48, seed=6)
    return [x, w, b], stored(x @ w.T, bits) + b


def addmm(bits):
    c, a, b = 64 * draw(32, 48, seed=7), draw(32, 64, seed=8), draw(64, 48, seed=9)
    return [c, a, b], stored(-0.5 * (a @ b), bits) + 2.5 * c


def capped(bits, *, cap=2.0, scale=0.3):
    """Paged attention of one segment: scaled keys, capped scores and weights are stored."""
    q, k, v = draw(17, 2, 16, seed=13), draw(17, 2, 16, seed=14), draw(17, 2, 16, seed=15)
    # The scale is a constant of the tensors' type.
    keys = stored(k * stored(torch.tensor(scale, dtype=torch.float64)), bits)
    scores = stored(cap * torch.tanh(torch.einsum("thd,shd->hts", q, keys) / cap), bits)
    hidden = torch.ones(17, 17).triu(1).bool()
    weights = stored(scores.masked_fill(hidden, float("-inf")).softmax(-1), bits)
    places = [np.arange(17), np.array([[0, 17, 0]])]
    return [q, k, v, *places], torch.einsum("hts,shd->thd", weights, v)


def attention(bits):
    q, k, v = draw(1, 2, 32, 64, seed=10), draw(1, 2, 48, 64, seed=11), draw(1, 2, 48, 64, seed=12)
    scores = stored(4 * q @ k.transpose(-1, -2), bits)
    return [q, k, v], stored(scores.softmax(-1), bits) @ v


STORED = {
    "layer_norm": (layer_norm, {"eps": 1e-5}),
    "group_norm": (group_norm, {"eps": 1e-5, "groups": 1}),
    "linear": (linear, {}),
    "addmm": (addmm, {"alpha": -0.5, "beta": 2.5}),
    "attention": (attention, {"causal": False, "window": None, "scale": 4.0}),
    "paged_attention": (capped, {"scale": 0.3, "window": None, "softcap": 2.0}),
}


@pytest.mark.parametrize("op", STORED)
def test_what_a_bf16_program_stores_between_nodes_is_within(op):
    make, attrs = STORED[op]
    inputs, result = make(8)
    assert verdict(op, inputs, result, OPENVINO, **attrs) is Verdict.WITHIN


@pytest.mark.parametrize("op", STORED)
def test_three_bits_less_between_nodes_exceed(op):
    make, attrs = STORED[op]
    inputs, result = make(5)
    assert verdict(op, inputs, result, OPENVINO, **attrs) is Verdict.EXCEEDS


@pytest.mark.parametrize("op", ["layer_norm", "group_norm", "linear", "addmm", "paged_attention"])
def test_the_same_on_a_backend_that_does_not_declare_it_exceeds(op):
    make, attrs = STORED[op]
    inputs, result = make(8)
    assert verdict(op, inputs, result, CPU, **attrs) is Verdict.EXCEEDS


@pytest.mark.parametrize(
    "x, profile, expected",
    [
        (-87.0, OPENVINO, Verdict.WITHIN),
        (-86.9, OPENVINO, Verdict.EXCEEDS),
        (-87.0, CPU, Verdict.EXCEEDS),
    ],
)
def test_softmax_may_lose_what_is_below_two_to_the_minus_125_and_a_half(x, profile, expected):
    row = torch.tensor([[0.0, x]], dtype=torch.float64).to(torch.float32).to(torch.float64)
    lost = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert verdict("softmax", [row], lost, profile, name="f32", dim=-1) is expected


# A result beneath the smallest normal of bf16, of an op that is judged to the bit and of one that is not.
BENEATH = {
    "reciprocal": ([2.0**127], {}),
    "sin": ([2.0**-127], {}),
    "sub": ([2.0**-126, 2.0**-127], {}),
    "pow_scalar": ([2.0**-64], {"exponent": 2}),
}


@pytest.mark.parametrize("op", BENEATH)
@pytest.mark.parametrize("profile, expected", [(OPENVINO, Verdict.WITHIN), (CPU, Verdict.EXCEEDS)])
def test_a_subnormal_result_in_bf16_is_flushed_where_that_is_declared(op, profile, expected):
    numbers, attrs = BENEATH[op]
    inputs = [torch.tensor([x], dtype=torch.float64) for x in numbers]
    assert verdict(op, inputs, torch.zeros(1, dtype=torch.float64), profile, **attrs) is expected


@pytest.mark.parametrize("op, x", [("reciprocal", 2.0**126), ("sin", 2.0**-126)])
def test_the_smallest_normal_result_is_not_flushed(op, x):
    inputs = [torch.tensor([x], dtype=torch.float64)]
    assert verdict(op, inputs, torch.zeros(1, dtype=torch.float64), OPENVINO) is Verdict.EXCEEDS


@pytest.mark.parametrize(
    "quotient, expected", [(350.0, Verdict.WITHIN), (348.0, Verdict.WITHIN), (346.0, Verdict.EXCEEDS)]
)
def test_a_quotient_in_bf16_may_be_rounded_before_it_is_truncated(quotient, expected):
    # 35 / 0.10009765625 is 349.66, which bf16 rounds to 350 and whose whole part it rounds to 348.
    a, b = (torch.tensor([x], dtype=torch.float64) for x in (35.0, 0.10009765625))
    assert verdict("trunc_divide", [a, b], torch.tensor([quotient]), OPENVINO) is expected
