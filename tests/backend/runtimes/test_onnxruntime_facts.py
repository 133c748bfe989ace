"""Each fact of ONNX Runtime's that widens a budget: what it explains is within, a like fault is not."""

import numpy as np
import pytest
import torch

from parity.backend.cpu_profile import cpu_profile
from parity.backend.runtimes.onnxruntime_profile import SIGMOID_OFFSET, onnxruntime_profile
from parity.backend.spec import Setting
from parity.case.dtype import DTYPES, encode
from parity.case.tensor import HostTensor
from parity.judge.compare import compare
from parity.judge.oracle import answers
from parity.judge.verdict import Verdict

RUNTIME, CPU = onnxruntime_profile(Setting.STRICT), cpu_profile(Setting.STRICT)
# Coefficients of MLAS's logistic function, from the highest power of x^2 on.
ABOVE = (4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05, 8.51377133304701e-03)
BELOW = (6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06, 1.70198817374094e-03)
TAILS = ((2.48287947061529e-01,), (1.16817656904453e-01, 9.93151921023180e-01))


def power_sum(square, coefficients):
    """Horner's rule in float32 with fused steps: each product and sum in float64, rounded once."""
    total = np.full_like(square, np.float32(coefficients[0]))
    for each in coefficients[1:]:
        total = (total.astype(np.float64) * square + np.float64(np.float32(each))).astype(np.float32)
    return total


def logistic(x):
    x = np.clip(x, np.float32(-18), np.float32(18))
    square = x * x
    above = power_sum(square, (*ABOVE, *TAILS[0])) * x
    return np.clip(above / power_sum(square, (*BELOW, *TAILS[1])) + np.float32(0.5), 0, 1)


def host(x, name="f32"):
    array = np.asarray(x, np.float64)
    return HostTensor.of(
        encode(array, DTYPES[name]).view(DTYPES[name].storage).reshape(array.shape), DTYPES[name]
    )


def verdict(op, inputs, result, profile, *, name="f32", **attrs):
    tensors = [x if isinstance(x, HostTensor) else host(x, name) for x in inputs]
    judged = [
        compare((host(result, name),), ("y",), answer.expected)[0].verdict
        for answer in answers(op, tensors, attrs, profile)
    ]
    return Verdict.WITHIN if Verdict.WITHIN in judged else judged[0]


ARGUMENTS = np.concatenate(
    # The last is the worst of all arguments.
    [np.linspace(-40, 20, 4096), np.random.default_rng(1).standard_normal(4096) * 6, [15.93478775]]
).astype(np.float32)
UP = np.random.default_rng(2).standard_normal(ARGUMENTS.shape).astype(np.float32)


def test_the_emulation_is_the_runtime_to_the_bit():
    pytest.importorskip("onnxruntime", reason="pip install 'chip-parity[onnxruntime]'")
    from parity.backend.registry import create
    from parity.backend.spec import BackendSpec
    from parity.case.case import Step

    backend = create(BackendSpec("onnxruntime"), Setting.STRICT)
    backend.open()
    step = Step(name="s", op="sigmoid", inputs=("x",), outputs=("y",))
    (made,) = backend.run(step, [backend.put(host(ARGUMENTS))])
    differ = backend.get(made).array() != logistic(ARGUMENTS)
    assert differ.sum() <= 1  # a fused step is rounded twice where float64 meets a tie


def test_the_declared_offset_is_what_the_emulation_errs_by():
    exact = 1 / (1 + np.exp(-ARGUMENTS.astype(np.float64)))
    error = np.abs(logistic(ARGUMENTS) - exact).max()
    assert 0.9 * SIGMOID_OFFSET < error < SIGMOID_OFFSET


@pytest.mark.parametrize("op", ["sigmoid", "silu", "swiglu"])
@pytest.mark.parametrize(
    "profile, coarser, expected",
    [
        (RUNTIME, 0, Verdict.WITHIN),
        (CPU, 0, Verdict.EXCEEDS),
        (RUNTIME, 2.0**-20, Verdict.EXCEEDS),
    ],
)
def test_a_sigmoid_about_one_half_is_within_and_a_coarser_one_exceeds(op, profile, coarser, expected):
    share = logistic(ARGUMENTS).astype(np.float64)
    if coarser:
        share = np.round(share / coarser) * coarser
    result = {
        "sigmoid": share,
        "silu": ARGUMENTS * share,
        "swiglu": ARGUMENTS * share * UP.astype(np.float64),
    }
    inputs = [ARGUMENTS, UP] if op == "swiglu" else [ARGUMENTS]
    assert verdict(op, inputs, result[op], profile) is expected


def stored(x, bits=11):
    """Round float64 to a significand of `bits`, which f16 has 11 of."""
    fraction, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(torch.ldexp(fraction, torch.tensor(bits))), exponent - bits)


def draw(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return stored(torch.randn(*shape, dtype=torch.float64, generator=generator))


def attended(bits, *, cap=None):
    q, k, v = draw(48, 1, 64, seed=1), draw(48, 1, 64, seed=2), draw(48, 1, 64, seed=3)
    scores = stored(0.3 * q[:, 0] @ k[:, 0].T, bits)
    if cap:
        scores = stored(cap * torch.tanh(scores / cap), bits)
    scores = scores.masked_fill(~torch.ones(48, 48, dtype=torch.bool).tril(), -torch.inf)
    return [q, k, v], (stored(scores.softmax(-1), bits) @ v[:, 0])[:, None]


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize(
    "profile, bits, expected",
    [(RUNTIME, 11, Verdict.WITHIN), (CPU, 11, Verdict.EXCEEDS), (RUNTIME, 8, Verdict.EXCEEDS)],
)
def test_scores_and_weights_that_attention_stores_in_float16_are_within(cap, profile, bits, expected):
    inputs, result = attended(bits, cap=cap)
    whole = [HostTensor.of(np.array(a, np.int64), DTYPES["i64"]) for a in (np.arange(48), [[0, 48, 0]])]
    attrs = {"scale": 0.3, "window": None, "softcap": cap}
    assert verdict("paged_attention", [*inputs, *whole], result, profile, name="f16", **attrs) is expected


@pytest.mark.parametrize("bits, expected", [(11, Verdict.WITHIN), (7, Verdict.EXCEEDS)])
def test_the_same_of_attention_as_one_op(bits, expected):
    inputs, result = attended(bits)
    heads = [x.transpose(0, 1)[None] for x in (*inputs, result)]
    attrs = {"causal": True, "window": None, "scale": 0.3}
    assert verdict("attention", heads[:3], heads[3], RUNTIME, name="f16", **attrs) is expected
